"""Progress of a run, from its events."""

from __future__ import annotations

import logging
from datetime import date
from types import SimpleNamespace
from typing import Any

from dagster import AssetKey, DagsterEventType

from ecommersss_platform.materialize.follower import Kind, Materialized, Progress, RunFollower
from ecommersss_platform.partitions import Days


class Storage:
    """Dagster's storage with the log entries of one run."""

    def __init__(self, entries: list[tuple[int, str]]) -> None:
        self._entries = entries

    def get_records_for_run(self, run_id: str, cursor: str | None, limit: int) -> Any:
        records = [
            SimpleNamespace(
                event_log_entry=SimpleNamespace(
                    dagster_event=None, level=level, user_message=text, step_key="raw__orders"
                )
            )
            for level, text in self._entries
        ]
        return SimpleNamespace(records=records, cursor=None, has_more=False)


def test_warnings_of_a_step_are_shown_and_lesser_messages_are_not() -> None:
    storage = Storage([(logging.INFO, "loaded"), (logging.WARNING, "w.duckdb is held by process 1")])
    shown: list[Progress] = []
    day = date(2025, 6, 1)
    RunFollower(storage, Materialized("run", Days.between(day, day)), shown.append).follow()  # type: ignore[arg-type]
    assert shown == [Progress(Kind.WARNING, "raw__orders", 0, 0, "w.duckdb is held by process 1")]


def test_tables_that_were_not_built_again_are_in_the_result() -> None:
    event = SimpleNamespace(
        event_type=DagsterEventType.ASSET_OBSERVATION, asset_key=AssetKey(["gold", "users_and_blacklist"])
    )
    entry = SimpleNamespace(event_log_entry=SimpleNamespace(dagster_event=event))
    storage = SimpleNamespace(
        get_records_for_run=lambda *_, **__: SimpleNamespace(records=[entry], cursor=None, has_more=False)
    )
    result = Materialized("run", Days.between(date(2025, 6, 1), date(2025, 6, 2)))
    RunFollower(storage, result, lambda progress: None).follow()  # type: ignore[arg-type]
    assert result.unchanged == {"gold/users_and_blacklist"}
