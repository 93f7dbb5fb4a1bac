"""Who holds the DuckDB file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from ecommersss_platform.warehouse import WarehouseBusy, WarehouseError
from ecommersss_platform.warehouse.duckdb import engine
from ecommersss_platform.warehouse.duckdb.catalog import is_attached
from ecommersss_platform.warehouse.duckdb.engine import DuckDbFile, busy_message, holder, is_taken, when_free


def test_busy_message_names_the_process_that_holds_the_file() -> None:
    message = (
        'IO Error: Could not set lock on file "/w.duckdb": Conflicting lock is held in /usr/bin/python3.11 '
        "(PID 999999999) by user dagster. See also https://duckdb.org/docs/stable/connect/concurrency"
    )
    assert is_taken(message)
    assert not is_taken('IO Error: Cannot open file "/w.duckdb": Permission denied')
    assert "held by process 999999999 (/usr/bin/python3.11) for over 2 s" in busy_message(
        Path("/w.duckdb"), message, 2
    )
    other = (
        "Connection Error: Can't open a connection to same database file with a different configuration than"
    )
    assert is_taken(other)
    assert "another connection of this process" in busy_message(Path("/w.duckdb"), other, 2)


TAKEN = 'IO Error: Could not set lock on file "/w.duckdb": Conflicting lock is held in /usr/bin/python ({})'


def test_holder_is_named_with_its_command() -> None:
    named = holder(TAKEN.format(f"PID {os.getpid()}"))
    assert named.startswith(f"process {os.getpid()} (")
    assert Path(sys.executable).name in named


class Clock:
    """A clock that moves only when somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(engine.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(engine.time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.001)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def taken_until(clock: Clock, end: float) -> Callable[[], str]:
    def connect() -> str:
        if clock.now < end:
            raise duckdb.IOException(TAKEN.format("PID 999999999"))
        return "connected"

    return connect


def test_whoever_waits_says_for_whom_after_three_seconds(clock: Clock) -> None:
    said: list[tuple[float, str]] = []
    connected = when_free(
        taken_until(clock, 200), Path("/w.duckdb"), warn=lambda text: said.append((clock.now, text))
    )
    assert connected == "connected"
    assert 200 <= clock.now < 201
    [(when, text)] = said
    assert 3 <= when < 4
    assert text == (
        "/w.duckdb is held by process 999999999 (/usr/bin/python): waiting for it, for at most 300 s"
    )


def test_a_short_wait_is_silent(clock: Clock) -> None:
    said: list[str] = []
    when_free(taken_until(clock, 2.4), Path("/w.duckdb"), warn=said.append)
    assert said == []


def test_everybody_gives_up_after_the_same_time(clock: Clock) -> None:
    with pytest.raises(WarehouseBusy, match="for over 300 s"):
        when_free(taken_until(clock, 1e9), Path("/w.duckdb"), warn=lambda text: None)
    assert 300 <= clock.now < 301


def test_a_file_that_is_no_database_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    path.write_text("no database" * 1000)
    with pytest.raises(WarehouseError, match="could not be opened"), DuckDbFile(path).reading():
        pass


NAMES = [
    "raw",
    "silver",
    "gold",
    "bronze",
    "staging",
    "System",
    "temp",
    "main",
    "memory",
    "pg_catalog",
    ".raw",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_may_have_the_name_of_a_dataset(tmp_path: Path, name: str) -> None:
    file = DuckDbFile(tmp_path / f"it's {name}" / f"{name}.duckdb")
    assert is_attached(file.path)
    file.path.parent.mkdir()
    with file.writing() as connection:
        connection.execute("CREATE SCHEMA raw; CREATE SCHEMA gold; CREATE TABLE raw.t AS SELECT 1 AS i")
        connection.execute("CREATE VIEW gold.v AS SELECT * FROM raw.t")
    with file.reading() as first, file.reading() as second:
        for connection in (first, second):
            assert connection.execute("SELECT i FROM gold.v").fetchall() == [(1,)]
            assert connection.execute("SELECT current_database()").fetchall() == [("warehouse",)]
        with pytest.raises(duckdb.InvalidInputException, match="read-only"):
            first.execute("CREATE TABLE raw.u (i INT)")
    # Nothing is left beside the file.
    assert [path.name for path in file.path.parent.iterdir()] == [f"{name}.duckdb"]


@pytest.mark.parametrize("name", ["warehouse", "raws", "my_raw", "shop"])
def test_other_files_are_opened_under_their_own_name(tmp_path: Path, name: str) -> None:
    with DuckDbFile(tmp_path / f"{name}.duckdb").writing() as connection:
        assert connection.execute("SELECT current_database()").fetchall() == [(name,)]
