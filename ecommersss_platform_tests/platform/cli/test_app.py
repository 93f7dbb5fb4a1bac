"""The `ecommersss` command without a platform: help, wrong usage, wrong settings, start-up."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import duckdb
import psycopg2
import pytest
import typer
from typer.testing import CliRunner

from ecommersss_platform.cli.app import app, main


def test_help_describes_each_command() -> None:
    help_text = CliRunner().invoke(app, ["--help"]).output
    for command in (
        *(
            "up",
            "stop",
            "demo",
            "status",
            "health",
            "env",
            "import",
            "produce",
            "consume",
            "materialize",
            "query",
        ),
        *("topics", "db", "rejected", "rules", "lists", "warehouse", "prepare"),
    ):
        assert re.search(rf"^\s+{command}\s+\w+", help_text, re.MULTILINE), command


def test_command_starts_without_heavy_libraries() -> None:
    code = (
        "import sys, ecommersss_platform.cli.app\n"
        "print(set(sys.modules) & {'dagster', 'dbt', 'duckdb', 'faker', 'google.api_core', 'google.auth',"
        " 'pandas', 'polars', 'psycopg2', 'pyarrow', 'pydantic', 'sqlalchemy', 'sqlglot'})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("produce", "--from", "2026-01-01"), "go together"),
        (("produce", "--raw"), "--raw goes with --file"),
        (("produce", "--file", "absent.jsonl"), "does not exist"),
        (("query", "SELECT 1", "--format", "xml"), "'--format': 'xml' is not one of 'table', 'csv', 'json'"),
        (("materialize",), "say which days: --from DAY --to DAY, or --last N for the last N days"),
        (("materialize", "--from", "today"), "--from and --to go together; for the last days: --last N"),
        (("materialize", "--last", "3", "--to", "today"), "leave out --from and --to"),
        (
            ("materialize", "--from", "2026-13-01", "--to", "today"),
            "'--from': 2026-13-01 is not a day: write YYYY-MM-DD, yesterday, today or tomorrow",
        ),
        (("materialize", "--from", "9999-12-31", "--to", "9999-12-31"), "not from 2000-01-01 to 2100-12-31"),
        (("produce", "--from", "0001-01-01", "--to", "2026-01-01"), "not from 2000-01-01"),
        (("produce", "--rate", "1e30"), "'--rate': must be at most 10000, not 1e30"),
        (("produce", "--rate", "0"), "'--rate': must be at least 0.001, not 0"),
        (("produce", "--rate", "nan"), "10000"),
        (("produce", "--rate", "two"), "'--rate': two is not a number"),
        (("produce", "--last", "1.5"), "'--last': 1.5 is not a whole number"),
        (("produce", "--last", "2", "--file", str(Path(__file__))), "choose one"),
        (("up", "--port", "65536"), "'--port': must be at most 65535, not 65536"),
        (("lists", "add", "block", "2147483648", "--reason", "x"), "2147483647"),
        (("lists", "add", "block", "1", "--reason", "x", "--until", "9999-12-31"), "not from 2000-01-01"),
        (("lists", "add", "block", "1", "--reason", "x", "--until", "noon"), "noon is not a day"),
        (("lists", "add", "block", "1", "--reason", "x", "--until", "today 25:00"), "is not a time"),
        (("rejected", "retry", "9223372036854775808"), "9223372036854775807"),
        (("rejected", "list", "--limit", "9223372036854775808"), "1000000"),
    ],
)
def test_wrong_usage_is_explained(arguments: tuple[str, ...], expected: str) -> None:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2
    # Typer may draw a box around a usage error and break its lines.
    assert expected in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("style", "variables"),
    [("table", {"PYTHONIOENCODING": "ascii"}), ("csv", {"LC_ALL": "C", "PYTHONUTF8": "0"})],
)
def test_output_is_utf_8_whatever_the_locale(home: Path, style: str, variables: dict[str, str]) -> None:
    home.mkdir()
    duckdb.connect(str(home / "warehouse.duckdb")).close()
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "ecommersss_platform.cli",
            "query",
            "--format",
            style,
            "SELECT 'Cr' || chr(233)",
        ],
        env={**os.environ, "PYTHONCOERCECLOCALE": "0", **variables},
        capture_output=True,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert "Cré" in result.stdout.decode()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a platform that does not exist yet."""
    monkeypatch.setenv("ECOMMERSSS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that fails with exit code 1, and return its message."""
    with pytest.raises(SystemExit, match="1"):
        main(list(arguments))
    printed = capsys.readouterr().err
    assert printed.startswith("ecommersss: ")
    return printed.removeprefix("ecommersss: ")


def test_every_number_of_the_command_line_has_both_bounds() -> None:
    def functions(group: typer.Typer) -> Iterator[Callable[..., Any]]:
        yield from (command.callback for command in group.registered_commands if command.callback)
        for inner in group.registered_groups:
            assert inner.typer_instance
            yield from functions(inner.typer_instance)

    numbers = [
        (function.__name__, name, parameter)
        for function in functions(app)
        for name, hint in get_type_hints(function, include_extras=True).items()
        if get_origin(hint) is Annotated
        for kind, parameter in [get_args(hint)]
        if {int, float, list[int]} & {kind, *get_args(kind)}
    ]
    assert len(numbers) > 10
    assert [n for n in numbers if None in (n[2].min, n[2].max)] == []


def _fails(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "/x: No space left on device; free space"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "/x: Read-only file system; choose a place"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied; run as the user"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), "/x: No such file or directory"),
        (psycopg2.errors.InsufficientPrivilege("permission denied for schema public"), "Grant the role"),
        (psycopg2.errors.ReadOnlySqlTransaction("cannot execute INSERT"), "Name the primary server"),
        (psycopg2.errors.NumericValueOutOfRange("integer out of range"), "PostgreSQL: integer out of range"),
        (duckdb.IOException("could not write"), "DuckDB: could not write"),
        (UnicodeDecodeError("utf-8", b"a\xff", 1, 2, "invalid start byte"), "invalid start byte at byte 1."),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"), "is not text in UTF-8"),
    ],
)
def test_what_a_user_can_cause_is_a_sentence(
    error: Exception,
    expected: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ecommersss_platform.status.gather", _fails(error))
    assert expected in error_of(capsys, "status")


def test_a_bug_has_a_traceback_only_with_debug(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ecommersss_platform.status.gather", _fails(ZeroDivisionError("division by zero")))
    assert error_of(capsys, "status").startswith("a bug: ZeroDivisionError: division by zero\n")
    with pytest.raises(ZeroDivisionError):
        main(["--debug", "status"])


def test_wrong_settings_are_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECOMMERSSS_TOPIC", "kafka")
    message = error_of(capsys, "status")
    assert message.startswith("wrong settings\n  ECOMMERSSS_TOPIC: ")
    assert "(got 'kafka')" in message


def test_a_wrong_day_in_the_settings_says_how_to_write_one(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECOMMERSSS_FIRST_DAY", "01.06.2025")
    expected = "ECOMMERSSS_FIRST_DAY: is not a day: write it as YYYY-MM-DD (got '01.06.2025')\n"
    assert error_of(capsys, "status").endswith(expected)


def test_status_and_query_of_an_empty_home_say_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "status") == (
        f"there is no platform in {home} yet: start one with `ecommersss up`\n"
    )
    assert str(home) in error_of(capsys, "query", "SELECT 1")
