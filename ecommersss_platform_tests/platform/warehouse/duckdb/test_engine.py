"""Who holds the DuckDB file."""

from __future__ import annotations

from pathlib import Path

from ecommersss_platform.warehouse.duckdb.engine import busy_message, is_taken


def test_busy_message_names_the_process_that_holds_the_file() -> None:
    message = (
        'IO Error: Could not set lock on file "/w.duckdb": Conflicting lock is held in /usr/bin/python3.11 '
        "(PID 4242) by user dagster. See also https://duckdb.org/docs/stable/connect/concurrency"
    )
    assert is_taken(message)
    assert not is_taken('IO Error: Cannot open file "/w.duckdb": Permission denied')
    assert "held by process 4242 (/usr/bin/python3.11) for over 2 s" in busy_message(
        Path("/w.duckdb"), message, 2
    )
    other = (
        "Connection Error: Can't open a connection to same database file with a different configuration than"
    )
    assert is_taken(other)
    assert "another connection of this process" in busy_message(Path("/w.duckdb"), other, 2)
