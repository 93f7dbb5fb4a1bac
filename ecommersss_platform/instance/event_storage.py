"""Dagster's event log in PostgreSQL, with the planned partitions of a run written in batches.

Dagster announces each partition of each asset that a run is going to materialise, in an event of its own, and
its PostgreSQL storage takes a connection and two commits for each of them, whatever batch they come in (20 to
100 ms). Before a run over four years of days begins, that is 19,000 events and half an hour.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from dagster import DagsterEventType, EventLogEntry
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._serdes import ConfigurableClassData
from dagster_postgres import PostgresEventLogStorage
from dagster_postgres.utils import pg_url_from_config

BATCH_VARIABLE = "DAGSTER_EVENT_BATCH_SIZE"
"""Dagster's own switch: how many events of a batch are handed to the storage together; unset: one by one."""
EVENTS_A_BATCH = "1000"


class BatchingEventLogStorage(PostgresEventLogStorage):
    """Takes a batch of planned materialisations in one insert, as its base takes materialisations.

    Whoever uses this storage has its events batched, unless `DAGSTER_EVENT_BATCH_SIZE` says otherwise.
    """

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        planned = [
            event
            for event in events
            if event.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION_PLANNED
        ]
        if planned:
            insert = self.prepare_insert_event_batch(planned).returning(SqlEventLogStorageTable.c.id)
            with self._connect() as connection:
                ids = [int(row[0]) for row in connection.execute(insert).fetchall()]
            # An asset keeps the last run that planned it: the last event of each is enough.
            last = {
                event.get_dagster_event().asset_key: (event, id_)
                for event, id_ in zip(planned, ids, strict=True)
            }
            with self.index_transaction() as connection:
                for event, id_ in last.values():
                    self._store_asset_event(connection, event, id_)
        others = [
            event
            for event in events
            if event.dagster_event_type != DagsterEventType.ASSET_MATERIALIZATION_PLANNED
        ]
        if others:
            super().store_event_batch(others)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> BatchingEventLogStorage:
        os.environ.setdefault(BATCH_VARIABLE, EVENTS_A_BATCH)
        return cls(
            postgres_url=pg_url_from_config(config_value),
            should_autocreate_tables=config_value.get("should_autocreate_tables", True),
            inst_data=inst_data,
        )
