"""The warehouse on BigQuery.

Imports no Google library until it is used: choosing this warehouse costs a code location nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa

from ecommersss_platform.contracts import LOAD_LOG, PARTITION_COLUMN, RawTable, Type
from ecommersss_platform.days import Days
from ecommersss_platform.usage import UsageLog
from ecommersss_platform.warehouse.arrow import CountingReader, asked_schema, normalised
from ecommersss_platform.warehouse.audit import audit_sql, day_filter, required_columns, tally_sql
from ecommersss_platform.warehouse.bigquery.config import BigQueryConfig, label
from ecommersss_platform.warehouse.bigquery.spool import spooled
from ecommersss_platform.warehouse.bigquery.sql import (
    ANY_DAY,
    DIALECT,
    counts_sql,
    in_turn_sql,
    is_partitioned,
    lock_name,
    logged_counts_sql,
    merge_sql,
    replace_sql,
)
from ecommersss_platform.warehouse.dialect import Dialect
from ecommersss_platform.warehouse.errors import QueryError, TableNotFound, WarehouseBusy, WarehouseError
from ecommersss_platform.warehouse.load_log import Entry, append_sql
from ecommersss_platform.warehouse.names import STAGING, full_name, split_name, staging_name
from ecommersss_platform.warehouse.protocol import Job
from ecommersss_platform.warehouse.publication import Publication, PublishingWarehouse
from ecommersss_platform.warehouse.schema_changes import (
    Migration,
    automatic_changes,
    check_losses,
    losses_sql,
    migrated_columns,
    plan_migration,
)

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings
    from ecommersss_platform.warehouse.bigquery.session import Session

MOST_DAYS = 4000
"""Partitions that BigQuery lets one job modify."""


def _ignore(billed: int) -> None:
    pass


@dataclass(frozen=True)
class BigQueryWarehouse(PublishingWarehouse):
    """The datasets of a Google Cloud project.

    `patience` is how many seconds a publication waits for others on the same table.
    """

    config: BigQueryConfig
    patience: float = 300.0
    add_billed: Callable[[int], None] = field(default=_ignore, compare=False)
    """Is told how many bytes the jobs of a session were billed."""

    @classmethod
    def of(cls, settings: Settings) -> BigQueryWarehouse:
        return cls(BigQueryConfig.of(settings), add_billed=UsageLog(settings))

    @property
    def dialect(self) -> Dialect:
        return DIALECT

    @property
    def dbt_target(self) -> str:
        return "bigquery"

    @property
    def pool(self) -> str | None:
        return None

    def check_access(self) -> Mapping[str, str]:
        from ecommersss_platform.warehouse.bigquery.access import check_credentials

        return check_credentials(self.config)

    @contextmanager
    def _publication(self, table: RawTable, days: Days | None, run_id: str) -> Iterator[Publication]:
        if days is not None and len(days) > MOST_DAYS:
            raise WarehouseError(
                f"{full_name(table)}: BigQuery replaces at most {MOST_DAYS} partitions at once, and {days} "
                f"has {len(days)}: ask for it in parts"
            )
        labels = {"dagster_run_id": label(run_id), "asset": label(f"{table.dataset}_{table.name}")}
        with self._session(labels) as session:
            yield _Publication(self, session, table, days, run_id)

    def migrate(
        self, table: RawTable, renames: Mapping[str, str], drops: Collection[str], *, dry_run: bool = False
    ) -> tuple[str, ...]:
        name = full_name(table)
        with self._session({"asset": label(name)}) as session:
            existing = session.columns(table)
            if not existing:
                raise self._not_found(name)
            plan = plan_migration(name, existing, DIALECT.columns(table), renames, drops)
            if not plan.descriptions:
                return ()
            where = f" WHERE {ANY_DAY}" if session.requires_filter(table) else ""
            source = f"{self.qualified(*split_name(table))}{where}"
            if is_partitioned(table):
                self._check_partitions(session, name, source)
            if sql := losses_sql(plan, source, DIALECT):
                check_losses(plan, session.rows(sql, "losses")[0])
            if not dry_run:
                self._replace(session, table, plan, source)
            return plan.descriptions

    def _check_partitions(self, session: Session, name: str, source: str) -> None:
        """Raise WarehouseError if the table has more partitions than one statement can rewrite."""
        sql = f"SELECT count(DISTINCT {PARTITION_COLUMN}) AS days FROM {source}"  # noqa: S608
        [row] = session.rows(sql, "partitions")
        if row["days"] > MOST_DAYS:
            raise WarehouseError(
                f"{name} has {row['days']} days, and BigQuery rewrites at most {MOST_DAYS} at once: nothing "
                f"was changed; drop the table and materialise its days again, {MOST_DAYS} at a time"
            )

    def _replace(self, session: Session, table: RawTable, plan: Migration, source: str) -> None:
        """Write, audit and publish the table's own rows. A crash between several ALTERs would leave half."""
        attempt = staging_name(table, f"migration_{uuid4().hex}")
        staging = self.qualified(STAGING, attempt)
        columns = DIALECT.column_list(table)
        session.create_staging(table, attempt)
        try:
            select = migrated_columns(plan, DIALECT)
            insert = f"INSERT INTO {staging} ({columns}) SELECT {select} FROM {source}"  # noqa: S608
            session.execute(insert, "migrate", attempt, self.patience)
            counted = f"SELECT count(*) AS n FROM {staging} UNION ALL SELECT count(*) FROM {source}"  # noqa: S608
            if len({row["n"] for row in session.rows(counted, "audit")}) != 1:
                raise WarehouseBusy(f"{plan.table} gained rows meanwhile; run again when no run loads it")
            select = f"SELECT {columns} FROM {staging}"  # noqa: S608
            replacement = replace_sql(table, self.qualified(*split_name(table)), select)
            session.execute(replacement, "publish", attempt, self.patience)
        finally:
            with suppress(WarehouseError):
                session.drop_staging(attempt)

    def read(
        self, table: RawTable | str, columns: Sequence[str] | None = None, days: Days | None = None
    ) -> pa.RecordBatchReader:
        name = full_name(table)
        with ExitStack() as stack:
            session = stack.enter_context(self._session({"asset": label(name)}))
            existing = session.arrow_schema(table)
            if existing is None:
                raise self._not_found(name)
            schema = asked_schema(table, columns, existing)
            where = f" WHERE {day_filter(days)}" if days else ""
            if not days and session.requires_filter(table):
                where = f" WHERE {ANY_DAY}"
            selected = DIALECT.select_list(schema, existing.names)
            batches = session.batches(
                f"SELECT {selected} FROM {self.qualified(*split_name(table))}{where}",  # noqa: S608
                "read",
            )
            return _cast(batches, schema, stack.pop_all())

    def stream(self, sql: str) -> pa.RecordBatchReader:
        with ExitStack() as stack:
            session = stack.enter_context(self._session({}))
            kind = session.statement_type(sql)
            if kind != "SELECT":
                raise QueryError(f"only one SELECT can be run; this is {kind or 'none'}: {sql.strip()!r}")
            rows = session.reader(sql, "query")
            return _cast(rows, normalised(rows.schema), stack.pop_all())

    def newest_day(self, table: RawTable | str) -> date | None:
        target = self.qualified(*split_name(table))
        with self._session({"asset": label(full_name(table))}) as session:
            sql = f"SELECT max({PARTITION_COLUMN}) AS newest FROM {target} WHERE {ANY_DAY}"  # noqa: S608
            with suppress(TableNotFound):
                newest: date | None = session.rows(sql, "newest day")[0]["newest"]
                return newest
            return None

    def _not_found(self, name: str) -> TableNotFound:
        return TableNotFound(f"{name} is not in the project {self.config.project} yet: materialise it first")

    @contextmanager
    def _session(self, labels: dict[str, str]) -> Iterator[Session]:
        from ecommersss_platform.warehouse.bigquery.session import open_session

        with open_session(self.config, labels) as session:
            try:
                yield session
            finally:
                if session.billed:
                    self.add_billed(session.billed)

    def qualified(self, dataset: str, table: str) -> str:
        return DIALECT.quote(f"{self.config.project}.{dataset}.{table}")


def _cast(batches: Iterable[pa.RecordBatch], schema: pa.Schema, held: ExitStack) -> pa.RecordBatchReader:
    """Return the batches with this schema, and close what is held after the last one."""

    def cast_batches() -> Iterator[pa.RecordBatch]:
        with held:
            for batch in batches:
                yield batch.cast(schema)

    return pa.RecordBatchReader.from_batches(schema, cast_batches())


@dataclass
class _Publication:
    """A publication in an open session."""

    _warehouse: BigQueryWarehouse
    _session: Session
    _table: RawTable
    _days: Days | None
    _run_id: str
    _attempt: str = ""
    _nulls: dict[str, int] = field(default_factory=dict)
    """Missing values per staged column."""

    @property
    def jobs(self) -> Sequence[Job]:
        return self._session.jobs

    def compare(self) -> None:
        if self._days is not None:
            self._session.warn_of_expiring_datasets()
            existing = self._session.columns(self._table)
            if existing:
                automatic_changes(full_name(self._table), existing, DIALECT.columns(self._table))
            else:
                # Where DML is refused, it is refused before anything is loaded.
                self._session.ensure_dataset(self._table.dataset)
                attempt = staging_name(self._table, self._run_id)
                self._session.execute(in_turn_sql(self._lock, []), "lock", attempt, self._warehouse.patience)

    def stage(self, rows: CountingReader) -> None:
        with spooled(rows.reader) as spool:
            # The same rows of the same run are the same attempt, in whichever process.
            self._attempt = f"{staging_name(self._table, self._run_id)}_{spool.digest[:16]}"
            self._nulls = spool.nulls
            self._session.stage(self._table, self._attempt, spool.file)

    @property
    def _lock(self) -> str:
        return self._warehouse.qualified(self._table.dataset, lock_name(self._table))

    @property
    def _staging(self) -> str:
        return self._warehouse.qualified(STAGING, self._attempt)

    def counts(self) -> dict[str, Any]:
        sql = audit_sql(self._table, self._staging, self._days, DIALECT)
        [counts] = self._session.rows(sql, "audit")
        # BigQuery stores a NULL array as an empty one, so missing arrays are counted before the load.
        arrays = {c.name for c in self._table.columns if c.type is Type.STRINGS}
        missing = [name for name in required_columns(self._table) if name in arrays]
        return counts | {f"null_{name}": self._nulls[name] for name in missing}

    def tally(self) -> list[tuple[Any, ...]]:
        sql = tally_sql(self._table, self._staging, DIALECT)
        return [tuple(row.values()) for row in self._session.rows(sql, "tally")]

    def swap(self, log: Sequence[Entry]) -> None:
        qualified, execute = self._warehouse.qualified, self._session.execute
        target, patience = qualified(*split_name(self._table)), self._warehouse.patience
        if self._days is None:
            self._session.ensure_dataset(self._table.dataset)
            columns = DIALECT.column_list(self._table)
            sql = replace_sql(self._table, target, f"SELECT {columns} FROM {self._staging}")  # noqa: S608
            execute(sql, "publish", self._attempt, patience)
            return
        self._session.ensure_table(LOAD_LOG)
        self._session.ensure_table(self._table)
        merge = merge_sql(self._table, target, self._staging, self._days)
        append = append_sql(qualified(*split_name(LOAD_LOG)), log, self._days, DIALECT)
        execute(in_turn_sql(self._lock, [merge, append]), "publish", self._attempt, patience)
        self._check_counts(self._days, {entry[PARTITION_COLUMN]: entry["row_count"] for entry in log})

    def _check_counts(self, days: Days, published: Mapping[Any, Any]) -> None:
        """Raise WarehouseError for a day whose rows are neither as many as we published nor as others logged.

        Only something outside the platform writes a table without taking its turn.
        """
        qualified, name = self._warehouse.qualified, full_name(self._table)
        counts = self._session.rows(counts_sql(qualified(*split_name(self._table)), days), "count")
        found = {row["day"]: row["n"] for row in counts}
        wrong = {day for day, rows in published.items() if found.get(day, 0) != rows}
        if wrong:
            sql = logged_counts_sql(qualified(*split_name(LOAD_LOG)), name, days)
            wrong -= {
                row["day"] for row in self._session.rows(sql, "count") if found.get(row["day"], 0) == row["n"]
            }
        if wrong:
            day = min(wrong)
            raise WarehouseError(
                f"{name}: {day} has {found.get(day, 0)} rows after {published[day]} were published, and no "
                f"load logged as many ({len(wrong)} such days): find what else writes this table, then "
                "materialise the days again"
            )

    def table_rows(self) -> int | None:
        return self._session.table_rows(self._table)

    def drop_staging(self) -> None:
        # A table that cannot be dropped now expires.
        if self._attempt:
            self._session.drop_staging(self._attempt)
