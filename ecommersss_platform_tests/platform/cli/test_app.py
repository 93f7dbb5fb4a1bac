"""The `ecommersss` command without a platform: help, wrong usage, wrong settings, start-up."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ecommersss_platform.cli.app import app, main


def test_help_describes_each_command() -> None:
    help_text = CliRunner().invoke(app, ["--help"]).output
    for command in (
        *("up", "demo", "status", "health", "import", "produce", "consume", "materialize", "query"),
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
        (("query", "SELECT 1", "--format", "xml"), "xml"),
        (("materialize", "--from", "yesterday", "--to", "2026-01-01"), "yesterday"),
    ],
)
def test_wrong_usage_is_explained(arguments: tuple[str, ...], expected: str) -> None:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2
    # Typer may draw a box around a usage error and break its lines.
    assert expected in " ".join(result.stderr.replace("│", " ").split())


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


def test_wrong_settings_are_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECOMMERSSS_TOPIC", "kafka")
    message = error_of(capsys, "status")
    assert message.startswith("wrong settings\n  ECOMMERSSS_TOPIC: ")
    assert "(got 'kafka')" in message


def test_status_and_query_of_an_empty_home_say_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "status") == (
        f"there is no platform in {home} yet: start one with `ecommersss up`\n"
    )
    assert str(home) in error_of(capsys, "query", "SELECT 1")
