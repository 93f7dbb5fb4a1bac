"""`ecommersss rejected export`: every rejected line in full, readable only by its owner."""

from __future__ import annotations

import json
import stat
from base64 import b64decode
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ecommersss_platform.cli.app import main
from ecommersss_platform_tests.support.shop import execute, write
from streaming.database import connect
from streaming.errors import PlatformError
from streaming.rejected import export_rejected, list_rejected, remove_rejected

pytestmark = pytest.mark.integration

LINES = [b"{", b"\xff\x00", "Rp. 火 \x1b[31m".encode(), b""]


@pytest.fixture
def rejected(database: str) -> str:
    rows = [(100 - 10 * i, raw, "malformed_json", "detail", None) for i, raw in enumerate(LINES)]
    rows.append((7, b"late", "unknown_user", "user 9: ...", 9))
    write(database, "INSERT INTO rejected_orders (position, raw, reason, detail, missing_id) VALUES %s", rows)
    return database


def test_every_line_is_exported_exactly_and_oldest_first(rejected: str, tmp_path: Path) -> None:
    file = tmp_path / "rejected.jsonl"
    assert export_rejected(rejected, file) == 5
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert [line["position"] for line in lines] == [7, 70, 80, 90, 100]
    assert [b64decode(line["raw_base64"]) for line in lines] == [b"late", *reversed(LINES)]
    assert [line["text"] for line in lines] == ["late", "", "Rp. 火 \x1b[31m", None, "{"]
    assert [line["missing_id"] for line in lines] == [9, None, None, None, None]
    assert list(lines[0]) == [
        *("position", "reason", "detail", "missing_id", "rejected_at", "retried_at", "text", "raw_base64")
    ]
    newest = list_rejected(rejected, 1)[0]
    assert lines[-1]["rejected_at"].endswith("+07:00")
    assert newest.rejected_at.microsecond == int(lines[-1]["rejected_at"][20:26])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes().isascii()
    assert list(tmp_path.iterdir()) == [file]


def test_an_export_overwrites_nothing(rejected: str, tmp_path: Path) -> None:
    file = tmp_path / "rejected.jsonl"
    file.write_text("of somebody else")
    with pytest.raises(
        PlatformError, match=r"rejected\.jsonl exists already: remove it, or name another file"
    ):
        export_rejected(rejected, file)
    assert file.read_text() == "of somebody else"
    assert list(tmp_path.iterdir()) == [file]


def test_an_export_can_exceed_a_page(database: str, tmp_path: Path) -> None:
    rows = [(i, b"x%d" % i, "malformed_json", "") for i in range(2_500)]
    write(database, "INSERT INTO rejected_orders (position, raw, reason, detail) VALUES %s", rows)
    file = tmp_path / "rejected.jsonl"
    assert export_rejected(database, file) == 2_500
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    assert texts == [f"x{i}" for i in range(2_500)]


def test_an_export_that_cannot_be_written_leaves_no_file(rejected: str, tmp_path: Path) -> None:
    file = tmp_path / "none" / "rejected.jsonl"
    with pytest.raises(PlatformError, match=r"cannot write .*rejected\.jsonl: No such file or directory"):
        export_rejected(rejected, file)
    assert list(tmp_path.iterdir()) == []


def test_old_lines_are_removed(rejected: str) -> None:
    age = "timestamptz '2025-01-31 00:00:00+07' + (position - 80) * interval '1 second'"
    execute(rejected, f"UPDATE rejected_orders SET rejected_at = {age}")
    with closing(connect(rejected)) as connection:
        assert remove_rejected(connection, datetime(2025, 1, 30, 17, tzinfo=UTC)) == 2
        assert remove_rejected(connection, datetime(2025, 1, 30, 17, tzinfo=UTC)) == 0
    assert [line.position for line in list_rejected(rejected)] == [100, 90, 80]


@pytest.mark.parametrize("style", ["table", "json"])
def test_the_rejected_commands(
    rejected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    style: str,
) -> None:
    monkeypatch.setenv("ECOMMERSSS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ECOMMERSSS_DATABASE_URL", rejected)
    file = tmp_path / "out.jsonl"

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["rejected", *arguments, "--format", style])
        assert ended.value.code == 0
        return capsys.readouterr().out

    exported = run("export", str(file))
    listed = run("list", "--limit", "2")
    retried = run("retry", "7", "100")
    assert len(file.read_text().splitlines()) == 5
    if style == "json":
        assert json.loads(exported) == {"exported": 5, "file": str(file)}
        assert [line["position"] for line in json.loads(listed)] == [100, 90]
        assert json.loads(retried) == {"retried": 2}
    else:
        assert exported == f"wrote 5 rejected lines to {file}\n"
        assert "malformed_json" in listed
        assert retried == "published 2 rejected lines again\n"
