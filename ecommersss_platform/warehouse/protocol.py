"""The interface of a warehouse, and the values that it returns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Protocol

import pyarrow as pa

from ecommersss_platform.contracts import RawTable
from ecommersss_platform.days import Days
from ecommersss_platform.warehouse.dialect import Dialect


class Step(StrEnum):
    """The step that `publish` has just finished, in order."""

    OPENED = "opened"
    STAGED = "staged"
    AUDITED = "audited"
    PUBLISHED = "published"


@dataclass(frozen=True)
class Job:
    """A job that a warehouse ran for us, as its own console knows it."""

    step: str
    """Its purpose: lock, load, audit, tally, publish or count."""
    id: str
    url: str
    bytes: int | None
    """Bytes loaded or scanned; None if the service did not report them."""
    slot_ms: int | None
    """Computing time in slot milliseconds; None if the service did not report it."""
    billed: int = 0
    """Bytes that are charged for. Loads are free."""


@dataclass(frozen=True)
class Published:
    """The result of one `publish`."""

    table: str
    days: Days | None
    """The days that were replaced; None: the whole table."""
    rows: int
    bytes: int
    """Size of the rows as Arrow data."""
    stage_seconds: float
    """Extraction, staging and audit. They overlap because rows are streamed."""
    publish_seconds: float
    rows_per_day: Mapping[date, int] = field(default_factory=dict)
    """Every day of `days`, including days without rows. Empty if the whole table was replaced."""
    statuses: Mapping[date, Mapping[str, int]] = field(default_factory=dict)
    """Per day, rows per value of the contract's status column. Empty if it has none."""
    checksums: Mapping[date, str] = field(default_factory=dict)
    """Per day, the checksum of `warehouse/checksum.py`, as the load log keeps it."""
    table_rows: int | None = None
    """Rows of the whole table afterwards; None if the warehouse does not say."""
    jobs: tuple[Job, ...] = ()
    """The service's jobs; empty if the warehouse is a library in this process."""


OnStep = Callable[[Step], None]


def ignore_step(step: Step) -> None:
    """Ignore every step (the default)."""


class Warehouse(Protocol):
    """Where tables live. An implementation is a small value that can be pickled and opens nothing until used.

    Tables are named "dataset.table". Instants come back in UTC.
    """

    @property
    def pool(self) -> str | None:
        """The Dagster concurrency pool of every step that opens the warehouse; None: no limit."""

    @property
    def dialect(self) -> Dialect:
        """The SQL of `query` and `stream`."""

    @property
    def dbt_target(self) -> str:
        """The output of `dbt_project/profiles.yml` that is this warehouse."""

    def check_access(self) -> Mapping[str, str]:
        """Check the credentials on behalf of dbt, which opens the warehouse itself.

        Return the environment variables by which dbt signs in as we do, besides the settings. Raises
        WarehouseError, whose message names the setting to change.
        """

    def publish(
        self,
        table: RawTable,
        rows: pa.RecordBatchReader,
        days: Days | None,
        run_id: str,
        on_step: OnStep = ignore_step,
    ) -> Published:
        """Replace exactly these days of the table (None: all of it) with the rows, atomically.

        The reader is consumed once, batch by batch. A missing table is created; an existing one gains the
        nullable columns that the contract gained. Idempotent. `raw.load_log` gains an entry for each day in
        the same step, and a retry of the run that loads the same rows adds none. Of publications of a table
        at once, by whichever process, each is whole and the last one stays.

        Raises SchemaError for columns that do not fit, AuditError for rows that must not be published,
        WarehouseBusy, and whatever the reader raises. The table is then as it was, with one exception: a
        WarehouseError that says what the days hold after they were published.
        """

    def migrate(
        self, table: RawTable, renames: Mapping[str, str], drops: Collection[str], *, dry_run: bool = False
    ) -> tuple[str, ...]:
        """Rebuild the table to fit its contract, atomically. Return the changes (made or planned) as clauses.

        `renames` maps old names to new ones; `drops` names columns to lose. Nothing else is lost. Nothing
        changes if the table fits its contract.

        Raises TableNotFound, WarehouseBusy, and SchemaError for a change that was not asked for or that would
        lose values.
        """

    def read(
        self, table: RawTable | str, columns: Sequence[str] | None = None, days: Days | None = None
    ) -> pa.RecordBatchReader:
        """Return the rows of these days (None: all), in no order. The warehouse is free again on return.

        Raises TableNotFound, SchemaError for a column that does not exist, WarehouseBusy.
        """

    def query(self, sql: str) -> pa.Table:
        """Return the whole result of `stream`, for a query with few rows."""

    def stream(self, sql: str) -> pa.RecordBatchReader:
        """Return the result of one statement that only reads, in the warehouse's dialect.

        Two columns may have one name. The warehouse is free again on return. Raises TableNotFound if nothing
        has been published yet, QueryError, WarehouseBusy.
        """

    def newest_day(self, table: RawTable | str) -> date | None:
        """Return the newest partition that has rows; None if there is none, or no table yet."""
