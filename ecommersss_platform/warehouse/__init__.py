"""The warehouse behind one interface: days are published whole or not at all, whatever the engine.

Writing is *write, audit, publish*: rows go to a staging table of their run, are audited there, and replace
exactly the asked days in one atomic step. A failure or a crash before that step leaves the days as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from ecommersss_platform.contracts import RawTable
from ecommersss_platform.partitions import Days
from streaming.errors import PlatformError

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings


class WarehouseError(PlatformError):
    """Anything that a warehouse refuses or cannot do; the message says what to do next."""


class AuditError(WarehouseError):
    """Staged rows that must not be published. `findings` has one sentence for each broken rule."""

    def __init__(self, table: str, days: Days | None, findings: Sequence[str]) -> None:
        self.table, self.days, self.findings = table, days, tuple(findings)
        what = f"{table}, {days}" if days else table
        super().__init__(
            f"nothing was published for {what}, the rows failed their audit: {'; '.join(self.findings)}"
        )


class SchemaError(WarehouseError):
    """Columns that fit the contract, or the existing table, only by losing or guessing data."""


class TableNotFound(WarehouseError):
    """A table, or the whole warehouse, that nothing has been published to yet."""


class WarehouseBusy(WarehouseError):
    """Another process held the warehouse for longer than we wait; the message names it."""


class QueryError(WarehouseError):
    """SQL that the warehouse refused: wrong, or not only reading."""


class Step(StrEnum):
    """What `publish` has just finished, in order."""

    OPENED = "opened"
    STAGED = "staged"
    AUDITED = "audited"
    PUBLISHED = "published"
    LOGGED = "logged"


@dataclass(frozen=True)
class Job:
    """A job that a warehouse ran for us, as its own console knows it."""

    step: str
    """What it was for: load, audit, tally, publish, log."""
    id: str
    url: str
    bytes: int | None
    """Bytes loaded or scanned; None: it did not say."""
    slot_ms: int | None
    """Computing time, in milliseconds of a slot; None: it did not say, or is not charged for it."""


@dataclass(frozen=True)
class Published:
    """What one `publish` did."""

    table: str
    days: Days | None
    """The days that were replaced; None: the whole table."""
    rows: int
    bytes: int
    """Size of the rows as Arrow data."""
    stage_seconds: float
    """Extraction, staging and audit: they overlap, for rows are streamed."""
    publish_seconds: float
    rows_per_day: Mapping[date, int] = field(default_factory=dict)
    """Every asked day, also those without rows. Empty when the whole table was replaced."""
    statuses: Mapping[date, Mapping[str, int]] = field(default_factory=dict)
    """Per day, rows per value of the contract's status column. Empty when it has none."""
    checksums: Mapping[date, str] = field(default_factory=dict)
    """Of every asked day, as `warehouse/checksum.py` makes them and the load log keeps them."""
    jobs: tuple[Job, ...] = ()
    """What a service did for it; empty where the warehouse is a library in this process."""

    @property
    def rows_per_status(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for counts in self.statuses.values():
            for status, rows in counts.items():
                total[status] = total.get(status, 0) + rows
        return total


OnStep = Callable[[Step], None]


def no_report(step: Step) -> None:
    """The `on_step` of who does not care."""


class Warehouse(Protocol):
    """Where tables live. Implementations are small values that can be pickled and open nothing until used.

    Tables are named "dataset.table". Instants come back in UTC.
    """

    @property
    def pool(self) -> str | None:
        """The Dagster concurrency pool of every step that opens the warehouse; None: no limit."""

    def check_access(self) -> None:
        """Whether we are let in, asked on behalf of who opens the warehouse by other means, as dbt does.

        Raises WarehouseError, whose message names the setting to change.
        """

    def publish(
        self,
        table: RawTable,
        rows: pa.RecordBatchReader,
        days: Days | None,
        run_id: str,
        on_step: OnStep = no_report,
    ) -> Published:
        """Replace exactly these days of the table (None: all of it) with the rows, atomically.

        The reader is consumed once, batch by batch. The table is made if it is missing, and gains the
        nullable columns that the contract gained. Idempotent. `raw.load_log` gains an entry for each day,
        never of a load that did not happen; a retry of the run that loads the same rows adds none.

        Raises SchemaError for columns that do not fit, AuditError for rows that must not be published,
        WarehouseBusy, and whatever the reader raises. After any of them the table is as it was, but for a
        WarehouseError of the log, which a service writes after the days: publish the same again.
        """

    def migrate(
        self, table: RawTable, renames: Mapping[str, str], drops: Collection[str], *, dry_run: bool = False
    ) -> tuple[str, ...]:
        """Make the table anew as its contract says, atomically; what changes (or would), each a clause.

        `renames` are new names by old names, `drops` columns to lose. Nothing else is lost. Nothing changes
        when the table fits its contract.

        Raises TableNotFound, SchemaError for what is not said or would lose values, WarehouseBusy.
        """

    def read(
        self, table: RawTable | str, columns: Sequence[str] | None = None, days: Days | None = None
    ) -> pa.RecordBatchReader:
        """The rows of these days (None: of all), in no order. The warehouse is free again on return.

        Raises TableNotFound, SchemaError for a column that does not exist, WarehouseBusy.
        """

    def query(self, sql: str) -> pa.Table:
        """The result of one reading statement in the warehouse's dialect.

        Raises TableNotFound when nothing was published yet, QueryError, WarehouseBusy.
        """

    def newest_day(self, table: RawTable | str) -> date | None:
        """The newest partition that has rows; None when there is none, or no table yet."""


def make_warehouse(settings: Settings) -> Warehouse:
    """The warehouse that the settings choose. Opens nothing."""
    # Each engine's client is imported only where that engine is used.
    match settings.warehouse:
        case "duckdb":
            from ecommersss_platform.warehouse.duckdb.warehouse import DuckDbWarehouse

            return DuckDbWarehouse(settings.warehouse_path)
        case "bigquery":
            from ecommersss_platform.warehouse.bigquery.warehouse import BigQueryWarehouse

            return BigQueryWarehouse.of(settings)
