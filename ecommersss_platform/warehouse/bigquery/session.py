"""A session with BigQuery: a client, tables, and jobs under deterministic ids, so that none runs twice."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain, count
from typing import IO, Any

import pyarrow as pa
from dagster_gcp import BigQueryResource
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.cloud import bigquery
from pydantic import PrivateAttr

from ecommersss_platform.contracts import RawTable
from ecommersss_platform.warehouse.bigquery.access import (
    UNCLEAR,
    credentials,
    is_transient,
    readable_errors,
    reason_text,
    reasons,
)
from ecommersss_platform.warehouse.bigquery.config import BigQueryConfig, console_url
from ecommersss_platform.warehouse.bigquery.schema import (
    arrow_field,
    load_config,
    schema_field,
    staging_definition,
    table_columns,
    table_definition,
)
from ecommersss_platform.warehouse.bigquery.sql import DIALECT
from ecommersss_platform.warehouse.dialect import TableColumn
from ecommersss_platform.warehouse.errors import QueryError, TableNotFound, WarehouseBusy, WarehouseError
from ecommersss_platform.warehouse.names import STAGING, full_name
from ecommersss_platform.warehouse.protocol import Job
from ecommersss_platform.warehouse.schema_changes import automatic_changes

_ATTEMPTS = 5
"""How often a request or a change of columns is tried."""
_LOADS = 20
"""How many load jobs one attempt may start."""
_PUBLISHED = {"raw", "bronze", "silver", "gold"}
"""The datasets whose tables must stay."""
_looked_at: set[str] = set()
"""The datasets whose expiration this process has looked at."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 20.0


_log = logging.getLogger("ecommersss.warehouse")


def _pauses() -> Iterator[float]:
    """Yield how many seconds to wait before each retry: random, and twice as long each time."""
    pause = _FIRST_PAUSE
    while True:
        yield random.uniform(pause / 2, pause)  # noqa: S311
        pause = min(2 * pause, _LONGEST_PAUSE)


def _days(milliseconds: int) -> str:
    return f"{milliseconds / 86_400_000:g}"


class PlatformBigQuery(BigQueryResource):
    """dagster-gcp's resource, plus what it has no setting for.

    That is credentials by file or impersonation, a paying project, labels and an emulator. The environment of
    the process is left alone.
    """

    _config: BigQueryConfig = PrivateAttr()
    _labels: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, config: BigQueryConfig, labels: Mapping[str, str]) -> PlatformBigQuery:
        made = cls(project=config.job_project, location=config.location)
        made._config, made._labels = config, dict(labels)
        return made

    @contextmanager
    def get_client(self) -> Iterator[bigquery.Client]:
        config = self._config
        queries = bigquery.QueryJobConfig(labels=self._labels)
        if config.maximum_bytes_billed is not None:
            queries.maximum_bytes_billed = config.maximum_bytes_billed
        if config.job_project != config.project:
            # A dataset named without a project is the warehouse's, not the paying project's.
            queries.connection_properties = [
                bigquery.ConnectionProperty("dataset_project_id", config.project)
            ]
        client = bigquery.Client(
            project=self.project,
            location=self.location,
            credentials=credentials(config),
            client_options=ClientOptions(api_endpoint=config.endpoint) if config.endpoint else None,
            default_query_job_config=queries,
            default_load_job_config=bigquery.LoadJobConfig(labels=self._labels),
        )
        with closing(client):
            yield client


@contextmanager
def open_session(config: BigQueryConfig, labels: Mapping[str, str]) -> Iterator[Session]:
    with PlatformBigQuery.of(config, labels).get_client() as client:
        yield Session(config, client)


class Session:
    """A client at work for one publication or one read. Its methods raise only WarehouseError."""

    def __init__(self, config: BigQueryConfig, client: bigquery.Client) -> None:
        self._config = config
        self._client = client
        self.jobs: list[Job] = []
        """Finished loads, queries and statements."""
        self.billed = 0
        """Bytes billed so far, also for statements that failed and were sent again."""

    # Tables

    def _table(self, table: RawTable | str) -> bigquery.Table | None:
        try:
            with readable_errors(self._config):
                return self._client.get_table(self._reference(table))
        except TableNotFound:
            return None

    def _reference(self, table: RawTable | str) -> bigquery.TableReference:
        return bigquery.TableReference.from_string(f"{self._config.project}.{full_name(table)}")

    def columns(self, table: RawTable) -> list[TableColumn]:
        """Return the table's columns; none if it does not exist."""
        existing = self._table(table)
        return table_columns(existing.schema, table) if existing else []

    def arrow_schema(self, table: RawTable | str) -> pa.Schema | None:
        """Return the table's Arrow schema; None if it does not exist."""
        existing = self._table(table)
        return pa.schema([arrow_field(f, full_name(table)) for f in existing.schema]) if existing else None

    def requires_filter(self, table: RawTable | str) -> bool:
        existing = self._table(table)
        return bool(existing and existing.require_partition_filter)

    def table_rows(self, table: RawTable | str) -> int | None:
        """Return the number of rows that the service keeps with the table. No job is needed for it."""
        existing = self._table(table)
        return existing.num_rows if existing else None

    def ensure_dataset(self, name: str) -> None:
        """Create the dataset if it is missing. Raises WarehouseError for one in another location."""
        config = self._config
        dataset = bigquery.Dataset(f"{config.project}.{name}")
        dataset.location = config.location
        with readable_errors(config):
            # Looked up first: an account that may write to datasets need not be allowed to create any.
            try:
                existing = self._client.get_dataset(dataset.reference)
            except exceptions.NotFound:
                existing = self._client.create_dataset(dataset, exists_ok=True)
        if existing.location and existing.location.lower() != config.location.lower():
            raise WarehouseError(
                f"the dataset {name} of {config.project} is in {existing.location}, and "
                f"ECOMMERSSS_BIGQUERY_LOCATION is {config.location}: jobs find data only in their location"
            )

    def warn_of_expiring_datasets(self) -> None:
        """Log a warning for each dataset whose tables or partitions would be deleted by themselves.

        Looks once in the life of the process.
        """
        config = self._config
        for name in sorted(_PUBLISHED - _looked_at):
            _looked_at.add(name)
            try:
                with readable_errors(config):
                    dataset = self._client.get_dataset(f"{config.project}.{name}")
            except TableNotFound:
                continue
            for what in ("table", "partition"):
                if life := getattr(dataset, f"default_{what}_expiration_ms"):
                    _log.warning(
                        f"BigQuery deletes each new {what} of the dataset {name} after {_days(life)} days: "
                        f"`bq update --default_{what}_expiration 0 {config.project}:{name}` keeps later ones"
                    )

    def _warn_of_expiry(self, existing: bigquery.Table) -> None:
        """Log a warning if the table or its partitions will be deleted by themselves."""
        name, partitioning = f"{existing.dataset_id}.{existing.table_id}", existing.time_partitioning
        if existing.expires:
            _log.warning(
                f"BigQuery deletes {name} on {existing.expires:%Y-%m-%d}: "
                f"`bq update --expiration 0 {existing.project}:{name}` keeps it"
            )
        if partitioning and partitioning.expiration_ms:
            _log.warning(
                f"BigQuery deletes the days of {name} {_days(partitioning.expiration_ms)} days after their "
                f"date: `bq update --time_partitioning_expiration 0 {existing.project}:{name}` keeps them"
            )

    def ensure_table(self, table: RawTable) -> None:
        """Create the table if it is missing, else add the nullable columns that its contract gained."""
        for _ in range(_ATTEMPTS):
            existing = self._table(table)
            if existing is None:
                self.ensure_dataset(table.dataset)
                with readable_errors(self._config):
                    self._client.create_table(table_definition(table, self._config.project), exists_ok=True)
                return
            self._warn_of_expiry(existing)
            todo = automatic_changes(
                full_name(table), table_columns(existing.schema, table), DIALECT.columns(table)
            )
            if not todo.added and not todo.relaxed:
                return
            contract = {c.name: c for c in table.columns}
            relaxed = {c.name for c in todo.relaxed}
            existing.schema = [
                *(schema_field(contract[f.name]) if f.name in relaxed else f for f in existing.schema),
                *(schema_field(contract[c.name]) for c in todo.added),
            ]
            with readable_errors(self._config):
                try:
                    self._client.update_table(existing, ["schema"])
                except exceptions.PreconditionFailed:
                    continue  # another run changed it: look again
            return
        raise WarehouseBusy(f"{full_name(table)}: other runs kept changing its columns; run again")

    def create_staging(self, table: RawTable, name: str) -> None:
        """Create the staging table, which expires by itself, if it is missing."""
        self.ensure_dataset(STAGING)
        definition = staging_definition(table, self._config.project, name, datetime.now(UTC))
        with readable_errors(self._config):
            self._client.create_table(definition, exists_ok=True)

    def drop_staging(self, name: str) -> None:
        with readable_errors(self._config):
            self._client.delete_table(self._reference(f"{STAGING}.{name}"), not_found_ok=True)

    # Jobs

    def stage(self, table: RawTable, attempt: str, file: IO[bytes]) -> None:
        """Load a Parquet file into the staging table of this attempt, once.

        The attempt's name identifies the content. If it already has a load job, because an answer got lost or
        an earlier process started it, that job is waited for instead of loading again.
        """
        reference = self._reference(f"{STAGING}.{attempt}")
        size = file.seek(0, 2)

        def start(job_id: str) -> bigquery.LoadJob:
            return self._client.load_table_from_file(
                file, reference, rewind=True, size=size, job_id=job_id, job_config=load_config(table)
            )

        with readable_errors(self._config):
            for number in range(_LOADS):
                self.create_staging(table, attempt)
                job, ours = self._start_once(f"{attempt}_load_{number}", start)
                try:
                    job.result()
                except exceptions.GoogleAPICallError as error:
                    if ours and not is_transient(error):
                        raise
                    # A failed job has used up its id too.
                    time.sleep(random.uniform(0, _FIRST_PAUSE))  # noqa: S311
                    continue
                if ours or self._client.get_table(reference).num_rows == job.output_rows:
                    self._record("load", job)
                    return
        raise WarehouseError(f"{attempt}: {_LOADS} loads of the same rows failed or were dropped; run again")

    def execute(self, sql: str, step: str, attempt: str, patience: float) -> None:
        """Run a statement that is a step of an attempt, once.

        It is sent again only after it failed without an effect: it lost against another statement on the
        table, or met a temporary limit. Raises WarehouseBusy after `patience` seconds of that.
        """

        def start(job_id: str) -> bigquery.QueryJob:
            # The client's own retries do not look for a job whose answer got lost.
            never: Any = None
            return self._client.query(sql, job_id=job_id, retry=never, job_retry=never)

        deadline = time.monotonic() + patience
        pauses = _pauses()
        with readable_errors(self._config):
            for number in count():
                job, ours = self._start_once(f"{attempt}_{step}_{number}", start)
                try:
                    job.result(job_retry=None)
                except exceptions.GoogleAPICallError as error:
                    if not ours:
                        continue
                    self.billed += job.total_bytes_billed or 0
                    if not is_transient(error):
                        raise
                    if time.monotonic() >= deadline:
                        raise WarehouseBusy(
                            f"{reason_text(error)} (for over {patience:g} s); run again"
                        ) from error
                    time.sleep(next(pauses))
                    continue
                # If an earlier process of this run did it, other runs may have published since: do it again.
                if ours:
                    self._record(step, job)
                    return

    def _start_once(self, job_id: str, start: Callable[[str], Any]) -> tuple[Any, bool]:
        """Return the job of that id, and whether we started it rather than an earlier process of the run.

        If an answer leaves open whether the job was created, look for the job. Start it again, under the same
        id, only if there is none. A start that was refused because of too many requests created none.
        """
        unclear = False
        pauses = _pauses()
        for left in reversed(range(_ATTEMPTS)):
            try:
                return start(job_id), True
            except exceptions.Conflict:
                return self._existing_job(job_id), unclear
            except exceptions.Forbidden as error:
                if not left or not is_transient(error):
                    raise
            except UNCLEAR as error:
                unclear = True
                try:
                    return self._client.get_job(job_id, location=self._config.location), True
                except exceptions.NotFound:
                    if not left:
                        raise error from None
            time.sleep(next(pauses))
        raise AssertionError("unreachable")

    def _existing_job(self, job_id: str) -> Any:
        """Return a job that BigQuery says exists. For some seconds it may not find it yet."""
        pauses = _pauses()
        for _ in range(_ATTEMPTS):
            with suppress(exceptions.NotFound):
                return self._client.get_job(job_id, location=self._config.location)
            time.sleep(next(pauses))
        raise WarehouseBusy(f"BigQuery has a job {job_id} and does not find it; run again")

    def statement_type(self, sql: str) -> str | None:
        """Return the type of a statement (SELECT, DELETE, SCRIPT...) without running it.

        Raises QueryError for one that BigQuery does not understand, TableNotFound.
        """
        config = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False)
        with readable_errors(self._config):
            try:
                return self._client.query(sql, job_config=config).statement_type
            except exceptions.BadRequest as error:
                raise QueryError(reason_text(error)) from error

    def rows(self, sql: str, step: str) -> list[dict[str, Any]]:
        """Return all rows of a SELECT that has few."""
        with readable_errors(self._config):
            return [dict(row.items()) for row in self._select(sql, step)]

    def reader(self, sql: str, step: str) -> pa.RecordBatchReader:
        """Run a SELECT that somebody typed, and return its rows a page of the service at a time."""
        with readable_errors(self._config):
            try:
                rows = self._select(sql, step)
                if not rows.total_rows:
                    return rows.to_arrow(create_bqstorage_client=False).to_reader()
                pages = rows.to_arrow_iterable()
                first = next(pages)
            except exceptions.BadRequest as error:
                if "bytesBilledLimitExceeded" in reasons(error):
                    raise
                raise QueryError(reason_text(error)) from error
        return pa.RecordBatchReader.from_batches(first.schema, chain([first], self._readable(pages)))

    def batches(self, sql: str, step: str) -> Iterator[pa.RecordBatch]:
        """Run a SELECT, and return its rows a page of the service at a time."""
        with readable_errors(self._config):
            pages = self._select(sql, step).to_arrow_iterable()
        return self._readable(pages)

    def _readable(self, pages: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with readable_errors(self._config):
            yield from pages

    def _select(self, sql: str, step: str) -> bigquery.table.RowIterator:
        # A SELECT has no effect, so the client may send it again.
        job = self._client.query(sql)
        rows = job.result()
        self._record(step, job)
        return rows

    def _record(self, step: str, job: Any) -> None:
        scanned = getattr(job, "total_bytes_processed", None)
        billed = getattr(job, "total_bytes_billed", None) or 0
        self.billed += billed
        self.jobs.append(
            Job(
                step=step,
                id=job.job_id,
                url=console_url(job.project, job.location or self._config.location, job.job_id),
                bytes=job.output_bytes if isinstance(job, bigquery.LoadJob) else scanned,
                slot_ms=getattr(job, "slot_millis", None),
                billed=billed,
            )
        )
