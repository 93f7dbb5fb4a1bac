"""README.md and docs/: every command, setting, path and link in them exists, and JSON examples decode."""

from __future__ import annotations

import json
import pkgutil
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from benchmarks.summary import BEGIN, END, summary
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.commands import check_command
from ecommersss_platform_tests.support.project import PROJECT, make_targets, tracked_files
from streaming.decode import decode
from streaming.orders import FIELDS

README = PROJECT / "README.md"
DOCUMENTS = [
    README,
    *sorted((PROJECT / "docs").rglob("*.md")),
    *sorted((PROJECT / "examples").rglob("*.md")),
    *sorted((PROJECT / "benchmarks").glob("*.md")),
]
SHELLS = {"sh", "bash", "shell", "console"}
OPERATORS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "2>"}
SERVICES = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]


@dataclass(frozen=True)
class Command:
    document: Path
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}: {shlex.join(self.words)}"

    @property
    def program(self) -> str:
        return Path(self.words[0]).name


@dataclass(frozen=True)
class Block:
    """A fenced block: the line its text begins at, its language and its lines."""

    line: int
    language: str
    lines: tuple[str, ...]


def blocks(markdown: str) -> list[Block]:
    found: list[Block] = []
    language, begin, lines = "", 0, []
    for number, line in enumerate(markdown.splitlines(), 1):
        if line.strip().startswith("```"):
            if begin:
                found.append(Block(begin, language, tuple(lines)))
                begin, lines = 0, []
            else:
                language, begin = line.strip().removeprefix("```").strip().lower(), number + 1
        elif begin:
            lines.append(line)
    return found


def prose(markdown: str) -> str:
    """Return the text outside fenced blocks."""
    return re.sub(r"^\s*```.*?^\s*```", "", markdown, flags=re.MULTILINE | re.DOTALL)


def shell_commands(document: Path, markdown: str) -> list[Command]:
    """Return the simple commands in a text's shell blocks: split at pipes, without assigned variables."""
    commands: list[Command] = []
    for block in blocks(markdown):
        text, begin = "", 0
        for number, line in enumerate(block.lines if block.language in SHELLS else (), block.line):
            begin = begin if text else number
            text += line.strip().removeprefix("$ ")
            if text.endswith("\\"):
                text = text[:-1]
                continue
            words: list[str] = []
            lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            for word in [*lexer, ";"]:
                if word not in OPERATORS:
                    words.append(word)
                    continue
                while words and re.match(r"\w+=", words[0]):
                    words.pop(0)
                if words:
                    commands.append(Command(document, begin, tuple(words)))
                words = []
            text = ""
    return commands


COMMANDS = [command for path in DOCUMENTS for command in shell_commands(path, path.read_text())]
OURS = [command for command in COMMANDS if "ecommersss" in [Path(word).name for word in command.words]]
MAKE = [command for command in COMMANDS if command.program == "make"]
COMPOSE = [command for command in COMMANDS if command.words[:2] == ("docker", "compose")]
each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=[str(path.relative_to(PROJECT)) for path in DOCUMENTS]
)

# ---- commands ----


def test_shell_blocks_are_split_into_commands() -> None:
    text = "\n".join(
        [
            "```sh",
            "A=1 make dev  # comment",
            "ecommersss query 'SELECT 1; SELECT 2' --format json | head -1",
            "$ ecommersss \\",
            "  status",
            "```",
            "```python",
            "make('no')",
            "```",
            "make none",
        ]
    )
    assert [(command.line, list(command.words)) for command in shell_commands(README, text)] == [
        (2, ["make", "dev"]),
        (3, ["ecommersss", "query", "SELECT 1; SELECT 2", "--format", "json"]),
        (3, ["head", "-1"]),
        (4, ["ecommersss", "status"]),
    ]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["quary"], "No such command 'quary'"),
        (["query", "SELECT 1", "--form", "json"], "No such option: --form"),
        (["query", "SELECT 1", "--format", "xml"], "Invalid value for '--format'"),
        (["lists", "add", "block", "1"], "Missing option '--reason'"),
        (["produce", "--from", "2025-13-01", "--to", "2025-13-02"], "Invalid value for '--from'"),
        (["import", "users"], "Missing argument 'file'"),
        (["status", "more"], "unexpected extra argument"),
    ],
)
def test_the_check_of_commands_finds_what_does_not_exist(words: list[str], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_command(words)


@pytest.mark.parametrize("command", MAKE, ids=str)
def test_make_target_exists(command: Command) -> None:
    targets = {word for word in command.words[1:] if not word.startswith("-") and "=" not in word}
    assert targets <= make_targets() | {"help"}


@pytest.mark.parametrize("command", OURS, ids=str)
def test_ecommersss_command_exists(command: Command) -> None:
    names = [Path(word).name for word in command.words]
    check_command(list(command.words[names.index("ecommersss") + 1 :]))


@pytest.mark.parametrize("command", COMPOSE, ids=str)
def test_compose_service_exists(command: Command) -> None:
    words = [word for word in command.words[2:] if not word.startswith("-")]
    for verb in {"exec", "run", "logs"} & set(words):
        assert words[words.index(verb) + 1] in SERVICES


def test_documents_show_the_main_commands() -> None:
    assert {"dev", "demo", "test"} <= {command.words[1] for command in MAKE}
    shown = {command.words[1] for command in OURS if command.program == "ecommersss"}
    assert {"status", "import", "produce", "rejected", "materialize", "query"} <= shown


# ---- links, paths, names ----


def headings(document: Path) -> set[str]:
    found = re.findall(r"^#+ (.+)$", prose(document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@each_document
def test_links_lead_to_files_and_headings_of_the_project(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document.read_text())):
        path, _, anchor = link.partition("#")
        if path.startswith("http"):
            continue
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def in_backticks(document: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(document.read_text()))


@each_document
def test_paths_in_backticks_exist(document: Path) -> None:
    """Paths below a folder of the repository, and the bare names of files of code or documents."""
    tracked = {str(path.relative_to(PROJECT)) for path in tracked_files()}
    tops = {name.split("/")[0] for name in tracked if "/" in name}
    names = {Path(name).name for name in tracked}
    for text in in_backticks(document):
        path = re.fullmatch(r"[\w./-]+", text.split(":")[0]) and text.split(":")[0].rstrip("/")
        if path and "/" in path and path.split("/")[0] in tops:
            assert path in tracked or any(name.startswith(f"{path}/") for name in tracked), text
        elif path and re.fullmatch(r"[\w.-]+\.(py|sql|md|tf)", path):
            assert path in names, text


@each_document
def test_python_names_in_backticks_exist(document: Path) -> None:
    for text in in_backticks(document):
        if re.fullmatch(r"(streaming|ecommersss_platform)(\.\w+)+(\(\))?", text):
            pkgutil.resolve_name(text.removesuffix("()"))


@each_document
def test_settings_that_documents_name_exist(document: Path) -> None:
    known = {f"ECOMMERSSS_{field.upper()}" for field in Settings.model_fields} | {"ECOMMERSSS_FAULT_RUNS"}
    named = set(re.findall(r"\bECOMMERSSS_\w+[A-Z]\b(?!\*)", document.read_text()))
    assert named <= known


# ---- examples and figures ----


@each_document
def test_json_examples_decode(document: Path) -> None:
    for block in blocks(document.read_text()):
        if block.language in ("json", "jsonl"):
            text = "\n".join(block.lines)
            values = [text] if text.lstrip().startswith(("{\n", "[")) else filter(None, block.lines)
            for value in values:
                loaded = json.loads(value)
                if isinstance(loaded, dict) and set(FIELDS) <= loaded.keys():
                    assert decode(value.encode()).id == loaded["id"]


def test_the_readme_is_one_page() -> None:
    assert len(README.read_text().splitlines()) <= 150


def test_measured_figures_are_those_of_the_results() -> None:
    shown = [t.split(BEGIN, 1)[1].split(END, 1)[0] for p in DOCUMENTS if BEGIN in (t := p.read_text())]
    assert shown == [f"\n{summary()}\n"]
