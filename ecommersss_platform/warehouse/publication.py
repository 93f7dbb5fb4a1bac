"""Write, audit, publish: the order of the steps, the same on every engine."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, date, datetime
from typing import Any, Protocol

import pyarrow as pa

from ecommersss_platform.contracts import RawTable
from ecommersss_platform.days import Days
from ecommersss_platform.warehouse.arrow import CountingReader, conform
from ecommersss_platform.warehouse.audit import findings, per_day
from ecommersss_platform.warehouse.errors import AuditError, WarehouseError
from ecommersss_platform.warehouse.load_log import Entry, log_entries
from ecommersss_platform.warehouse.names import full_name
from ecommersss_platform.warehouse.protocol import Job, OnStep, Published, Step, ignore_step


class Publication(Protocol):
    """One publication as an engine carries it out. Its methods are called once each, in this order."""

    @property
    def jobs(self) -> Sequence[Job]:
        """Return the service's jobs so far."""

    def compare(self) -> None:
        """Raise SchemaError if the existing table cannot follow its contract. Changes nothing."""

    def stage(self, rows: CountingReader) -> None:
        """Read all rows into the staging table."""

    def counts(self) -> Mapping[str, Any]:
        """Return the row of `audit_sql` over the staged rows."""

    def tally(self) -> Sequence[tuple[date, Any, int]]:
        """Return the rows of `tally_sql` over the staged rows."""

    def swap(self, log: Sequence[Entry]) -> None:
        """Publish in one atomic step, these log entries included."""

    def table_rows(self) -> int | None:
        """Return the rows of the published table; None if they are not known."""

    def drop_staging(self) -> None:
        """Drop the staging table. Called at the end in every case; a WarehouseError is ignored."""


class PublishingWarehouse(ABC):
    """The part of a warehouse that all engines share: `publish` and `query`."""

    @abstractmethod
    def stream(self, sql: str) -> pa.RecordBatchReader:
        """Implement `Warehouse.stream`."""

    def query(self, sql: str) -> pa.Table:
        """Implement `Warehouse.query`."""
        return self.stream(sql).read_all()

    @abstractmethod
    def _publication(
        self, table: RawTable, days: Days | None, run_id: str
    ) -> AbstractContextManager[Publication]:
        """Open the warehouse for one publication."""

    def publish(
        self,
        table: RawTable,
        rows: pa.RecordBatchReader,
        days: Days | None,
        run_id: str,
        on_step: OnStep = ignore_step,
    ) -> Published:
        """Implement `Warehouse.publish`."""
        name = full_name(table)
        counted = CountingReader(conform(rows, table.arrow_schema, name))
        with self._publication(table, days, run_id) as publication:
            started = time.monotonic()
            publication.compare()
            on_step(Step.OPENED)
            try:
                publication.stage(counted)
                on_step(Step.STAGED)
                found = findings(table, days, counted.rows, publication.counts())
                if found:
                    raise AuditError(name, days, found)
                rows_per_day: dict[date, int] = {}
                statuses: dict[date, dict[str, int]] = {}
                if days is not None:
                    rows_per_day, statuses = per_day(table, days, publication.tally())
                on_step(Step.AUDITED)
                staged = time.monotonic()
                checksums = counted.checksums.per_day(rows_per_day)
                log = log_entries(name, run_id, rows_per_day, checksums, datetime.now(UTC))
                publication.swap(log)
                published = time.monotonic()
                on_step(Step.PUBLISHED)
                table_rows = None
                with suppress(WarehouseError):  # no reason to fail: the days are published
                    table_rows = publication.table_rows()
            finally:
                with suppress(WarehouseError):
                    publication.drop_staging()
            return Published(
                table=name,
                days=days,
                rows=counted.rows,
                bytes=counted.bytes,
                stage_seconds=staged - started,
                publish_seconds=published - staged,
                rows_per_day=rows_per_day,
                statuses=statuses,
                checksums=checksums,
                table_rows=table_rows,
                jobs=tuple(publication.jobs),
            )
