"""Every command in the README exists, with its options and values; every link and file leads somewhere."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from benchmarks.summary import summary
from ecommersss_platform.contracts import RAW_TABLES
from ecommersss_platform.dbt.project import PROJECT_DIR
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse.bigquery.warehouse import MOST_DAYS, BigQueryWarehouse
from ecommersss_platform_tests.support.commands import check_command
from ecommersss_platform_tests.support.project import PROJECT, make_targets

README = (PROJECT / "README.md").read_text()
SHELLS = {"sh", "bash", "shell", "console"}
OPERATORS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "2>"}
SERVICES = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]


@dataclass(frozen=True)
class Command:
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"line {self.line}: {shlex.join(self.words)}"


def shell_commands(markdown: str) -> list[Command]:
    """The simple commands in a text's fenced shell blocks: split at pipes and such, without variables set."""
    commands: list[Command] = []
    language: str | None = None
    text, begin = "", 0
    for number, line in enumerate(markdown.splitlines(), 1):
        if line.strip().startswith("```"):
            language = None if language is not None else line.strip().removeprefix("```").strip().lower()
        elif language in SHELLS:
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
                    commands.append(Command(begin, tuple(words)))
                words = []
            text = ""
    return commands


COMMANDS = shell_commands(README)
OURS = [command for command in COMMANDS if "ecommersss" in [Path(word).name for word in command.words]]
MAKE = [command for command in COMMANDS if command.words[0] == "make"]
COMPOSE = [command for command in COMMANDS if command.words[:2] == ("docker", "compose")]


def test_the_reader_of_shell_blocks() -> None:
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
    assert [(command.line, list(command.words)) for command in shell_commands(text)] == [
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
        (["materialize", "--from", "2025-01-01"], "Missing option '--to'"),
        (["produce", "--from", "2025-13-01", "--to", "2025-13-02"], "Invalid value for '--from'"),
        (["import", "users"], "Missing argument 'file'"),
        (["status", "more"], "unexpected extra argument"),
    ],
)
def test_the_check_of_commands_sees_what_does_not_exist(words: list[str], complaint: str) -> None:
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
    verb, *rest = command.words[2:]
    if verb in ("exec", "run", "logs"):
        assert next(word for word in rest if not word.startswith("-")) in SERVICES


def test_the_readme_shows_the_main_commands() -> None:
    assert {"dev", "test", "demo"} <= {command.words[1] for command in MAKE}
    shown = {command.words[1] for command in OURS if command.words[0].endswith("ecommersss")}
    assert {"status", "import", "produce", "rejected", "materialize", "query"} <= shown


def test_links_lead_to_files_and_headings_of_the_project() -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    }
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        if path.startswith("http"):
            continue
        assert not path or (PROJECT / path).exists(), link
        assert path or anchor in headings, link


def test_files_in_the_layout_exist() -> None:
    layout = README.split("## Layout", 1)[1].split("```")[1]
    named = [line.split()[0] for line in layout.splitlines()[1:] if line.strip()]
    assert len(named) > 8
    for name in named:
        assert (PROJECT / name).exists(), name


def test_the_figures_of_bigquery_are_those_of_the_code() -> None:
    section = README.split("### Go to BigQuery", 1)[1].split("\n### ", 1)[0]
    models = {path.stem: path.read_text() for path in (PROJECT_DIR / "models").rglob("*.sql")}
    replaced_by_day = [name for name, sql in models.items() if "materialized='incremental'" in sql]
    # A partitioned table that each run makes anew would soon meet the limit of changed partitions.
    assert [name for name, sql in models.items() if "partition_by_day(" in sql] == replaced_by_day
    numbers = {3: "three", 4: "four", 5: "five"}
    assert f"a run has {numbers[len(RAW_TABLES)]}, each into a staging table" in section
    assert f"one for each of {numbers[len(RAW_TABLES) + len(replaced_by_day)]} tables" in section
    assert f"sent again for {numbers[int(BigQueryWarehouse.patience // 60)]} minutes" in section
    assert f"{MOST_DAYS:,} days at most" in section
    at_once = Settings(warehouse="bigquery", bigquery_project="p").runs_at_once
    assert f"`ECOMMERSSS_CONCURRENT_RUNS` ({at_once}, " in section


def test_the_measured_figures_are_those_of_the_results() -> None:
    shown = README.split("<!-- python -m benchmarks.summary -->\n", 1)[1].split("<!-- -->", 1)[0]
    assert shown == f"\n{summary()}\n"
