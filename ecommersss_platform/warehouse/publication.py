"""Write, audit, publish: the order of the steps, the same on every engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, date, datetime
from typing import Any, Protocol

import pyarrow as pa

from ecommersss_platform.contracts import RawTable
from ecommersss_platform.partitions import Days
from ecommersss_platform.warehouse import AuditError, Job, OnStep, Published, Step, WarehouseError
from ecommersss_platform.warehouse.arrow import Tally, conformed
from ecommersss_platform.warehouse.audit import findings, per_day
from ecommersss_platform.warehouse.load_log import Entry, entries
from ecommersss_platform.warehouse.names import full_name


class Publication(Protocol):
    """One publication as an engine carries it out; its methods are called once each, in this order."""

    jobs: Sequence[Job]
    """What a service did for it so far."""

    def compare(self) -> None:
        """Raise SchemaError when the existing table cannot follow its contract. Nothing changes yet."""

    def stage(self, tally: Tally) -> None:
        """Read all rows into the staging table."""

    def counts(self) -> Mapping[str, Any]:
        """The row of `audit_sql` over what is staged."""

    def tally(self) -> Sequence[tuple[date, Any, int]]:
        """The rows of `tally_sql` over what is staged."""

    def swap(self, log: Sequence[Entry]) -> None:
        """Publish in one atomic step, with these entries of the load log where that step can hold them."""

    def log(self, log: Sequence[Entry]) -> None:
        """Append the entries that `swap` could not."""

    def drop_staging(self) -> None:
        """Called at the end whatever happened. May raise WarehouseError, which nobody hears."""


def write_audit_publish(
    opened: Callable[[RawTable, Days | None, str], AbstractContextManager[Publication]],
    table: RawTable,
    rows: pa.RecordBatchReader,
    days: Days | None,
    run_id: str,
    on_step: OnStep,
) -> Published:
    """`Warehouse.publish` with the publication that `opened` gives of the table, the days and the run."""
    name = full_name(table)
    tally = Tally(conformed(rows, table.arrow_schema, name))
    with opened(table, days, run_id) as publication:
        started = time.monotonic()
        publication.compare()
        on_step(Step.OPENED)
        try:
            publication.stage(tally)
            on_step(Step.STAGED)
            found = findings(table, days, tally.rows, publication.counts())
            if found:
                raise AuditError(name, days, found)
            rows_per_day: dict[date, int] = {}
            statuses: dict[date, dict[str, int]] = {}
            if days is not None:
                rows_per_day, statuses = per_day(table, days, publication.tally())
            on_step(Step.AUDITED)
            staged = time.monotonic()
            checksums = tally.checksums.per_day(rows_per_day)
            log = entries(name, run_id, rows_per_day, checksums, datetime.now(UTC))
            publication.swap(log)
            on_step(Step.PUBLISHED)
            publication.log(log)
            published = time.monotonic()
        finally:
            with suppress(WarehouseError):
                publication.drop_staging()
        on_step(Step.LOGGED)
        return Published(
            table=name,
            days=days,
            rows=tally.rows,
            bytes=tally.bytes,
            stage_seconds=staged - started,
            publish_seconds=published - staged,
            rows_per_day=rows_per_day,
            statuses=statuses,
            checksums=checksums,
            jobs=tuple(publication.jobs),
        )
