"""Dagster's event log in PostgreSQL, with the planned partitions of a run written in batches.

Dagster announces every partition of every asset that a run will materialise in an event of its own. Its
PostgreSQL storage takes a connection and two commits for each (20 to 100 ms), even if they come in a batch.
A run over four years of days has 19,000 such events: half an hour before it begins.

This module is ours only because upstream is not fixed yet: Dagster issue 33831, pull request 33832. Once a
released `dagster-postgres` stores planned materialisations in batches, reduce it to a class without a body,
as in `storage.py`, and delete its test.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

from dagster import DagsterEventType, EventLogEntry
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._serdes import ConfigurableClassData
from dagster_postgres import PostgresEventLogStorage

from ecommersss_platform.instance.storage import KeepsConnection

BATCH_VARIABLE = "DAGSTER_EVENT_BATCH_SIZE"
"""Dagster's own switch: how many events it hands to the storage at once; unset: one by one."""
EVENTS_PER_BATCH = "1000"


class BatchingEventLogStorage(KeepsConnection, PostgresEventLogStorage):
    """An event log that inserts a batch of planned materialisations at once.

    Using it switches batching on, unless `DAGSTER_EVENT_BATCH_SIZE` is set.
    """

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        planned: list[EventLogEntry] = []
        others: list[EventLogEntry] = []
        for event in events:
            is_planned = event.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION_PLANNED
            (planned if is_planned else others).append(event)
        if planned:
            insert = self.prepare_insert_event_batch(planned).returning(SqlEventLogStorageTable.c.id)
            with self._connect() as connection:
                ids = [int(row[0]) for row in connection.execute(insert).fetchall()]
            # An asset remembers only the last run that planned it, so its last event is enough.
            last = {
                event.get_dagster_event().asset_key: (event, id_)
                for event, id_ in zip(planned, ids, strict=True)
            }
            with self.index_transaction() as connection:
                for event, id_ in last.values():
                    self._store_asset_event(connection, event, id_)
        if others:
            super().store_event_batch(others)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        os.environ.setdefault(BATCH_VARIABLE, EVENTS_PER_BATCH)
        return super().from_config_value(inst_data, config_value)
