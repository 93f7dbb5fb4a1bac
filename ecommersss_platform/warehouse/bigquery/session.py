"""A client of BigQuery: credentials, jobs under ids of their own, and every refusal as one sentence."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import IO, Any

import google.auth
import google.auth.credentials
import google.auth.exceptions
import google.auth.impersonated_credentials
import google.auth.transport.requests
import google.oauth2.service_account
import pyarrow as pa
import requests.exceptions
from dagster_gcp import BigQueryResource
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.cloud import bigquery
from pydantic import PrivateAttr

from ecommersss_platform.contracts import PARTITION_COLUMN, Column, RawTable, Type
from ecommersss_platform.warehouse import Job, QueryError, TableNotFound, WarehouseBusy, WarehouseError
from ecommersss_platform.warehouse.bigquery.warehouse import (
    TABLE_LABELS,
    TYPES,
    BigQueryWarehouse,
    is_partitioned,
    requires_filter,
    wanted_columns,
)
from ecommersss_platform.warehouse.names import STAGING, full_name
from ecommersss_platform.warehouse.schema_changes import TableColumn, changes

SCOPES = ("https://www.googleapis.com/auth/bigquery", "https://www.googleapis.com/auth/cloud-platform")
STAGING_LIFE = timedelta(hours=24)
"""When a staging table goes away by itself: its run was killed, or could not drop it."""

_LEGACY_TYPES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}
_FIELD_TYPES = {kind: TYPES[kind] for kind in Type} | {Type.STRINGS: "STRING"}
_ARROW_TYPES = {
    "INT64": pa.int64(),
    "FLOAT64": pa.float64(),
    "STRING": pa.string(),
    "BOOL": pa.bool_(),
    "NUMERIC": pa.decimal128(38, 9),
    "BIGNUMERIC": pa.decimal256(76, 38),
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
    "DATETIME": pa.timestamp("us"),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "BYTES": pa.binary(),
    "GEOGRAPHY": pa.string(),
    "JSON": pa.string(),
}

# After these nobody knows whether the request was carried out.
_UNCLEAR = (
    ConnectionError,
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.Timeout,
    exceptions.InternalServerError,
    exceptions.BadGateway,
    exceptions.ServiceUnavailable,
    exceptions.GatewayTimeout,
    exceptions.TooManyRequests,
)
_STARTS = 5
_LOADS = 20
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 20.0

# How a statement fails that lost against another on the same table, or met a limit that passes: it changed
# nothing, so that it may be sent again.
_PASSING_REASONS = {
    "backendError",
    "internalError",
    "jobBackendError",
    "jobInternalError",
    "jobRateLimitExceeded",
    "rateLimitExceeded",
}
_PASSING_WORDS = (
    "could not serialize access",
    "concurrent update",
    "too many dml statements outstanding",
    "transaction is aborted due to concurrent",
)

# Credentials


class PlatformBigQuery(BigQueryResource):
    """dagster-gcp's resource with what it has no setting for: credentials by file or by impersonation, a
    project that pays, labels, an emulator. It leaves the environment of the process alone."""

    _warehouse: BigQueryWarehouse = PrivateAttr()
    _labels: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, warehouse: BigQueryWarehouse, labels: Mapping[str, str]) -> PlatformBigQuery:
        made = cls(project=warehouse.billing_project or warehouse.project, location=warehouse.location)
        made._warehouse, made._labels = warehouse, dict(labels)
        return made

    @contextmanager
    def get_client(self) -> Iterator[bigquery.Client]:
        warehouse = self._warehouse
        queries = bigquery.QueryJobConfig(labels=self._labels)
        if warehouse.maximum_bytes_billed is not None:
            queries.maximum_bytes_billed = warehouse.maximum_bytes_billed
        if warehouse.billing_project not in (None, warehouse.project):
            # A dataset without a project is the warehouse's, not one of the project that pays.
            queries.connection_properties = [
                bigquery.ConnectionProperty("dataset_project_id", warehouse.project)
            ]
        client = bigquery.Client(
            project=self.project,
            location=self.location,
            credentials=credentials(warehouse),
            client_options=ClientOptions(api_endpoint=warehouse.endpoint) if warehouse.endpoint else None,
            default_query_job_config=queries,
            default_load_job_config=bigquery.LoadJobConfig(labels=self._labels),
        )
        with closing(client):
            yield client


def credentials(warehouse: BigQueryWarehouse) -> google.auth.credentials.Credentials:
    """Who the platform is towards Google. Raises WarehouseError, without any part of a secret."""
    if warehouse.endpoint:
        return google.auth.credentials.AnonymousCredentials()
    if warehouse.key_file:
        found = _key_file_credentials(warehouse)
    else:
        try:
            found, _ = google.auth.default(scopes=SCOPES)
        except google.auth.exceptions.DefaultCredentialsError as error:
            raise WarehouseError(
                "no Google credentials were found for BigQuery: run `gcloud auth application-default login`, "
                "or name a service account's key file in ECOMMERSSS_BIGQUERY_KEY_FILE"
                + _why_default_failed(error)
            ) from None
    if warehouse.impersonate:
        return google.auth.impersonated_credentials.Credentials(
            source_credentials=found, target_principal=warehouse.impersonate, target_scopes=list(SCOPES)
        )
    return found


def check_credentials(warehouse: BigQueryWarehouse) -> None:
    """Have Google take the credentials. Raises WarehouseError, without any part of a secret."""
    found = credentials(warehouse)
    if not found.valid:
        with told(warehouse):
            found.refresh(google.auth.transport.requests.Request())


def _why_default_failed(error: google.auth.exceptions.DefaultCredentialsError) -> str:
    message = str(error)
    return f" ({message})" if message.startswith("File ") and "was not found" in message else ""


def _key_file_credentials(warehouse: BigQueryWarehouse) -> google.auth.credentials.Credentials:
    path = warehouse.key_file
    assert path is not None
    place = f"ECOMMERSSS_BIGQUERY_KEY_FILE: {path}"
    try:
        info = json.loads(path.read_text())
        return google.oauth2.service_account.Credentials.from_service_account_info(info, scopes=SCOPES)
    except OSError as error:
        raise WarehouseError(f"{place} cannot be read: {error.strerror}") from None
    # Their texts may quote the file.
    except (ValueError, TypeError, AttributeError, google.auth.exceptions.GoogleAuthError):
        raise WarehouseError(
            f"{place} is not the JSON key of a service account: make one with `gcloud iam service-accounts "
            "keys create`, or leave the setting out to use application default credentials"
        ) from None


# Refusals


@contextmanager
def told(warehouse: BigQueryWarehouse) -> Iterator[None]:
    """Turn what Google's libraries raise into one sentence of ours."""
    try:
        yield
    except google.auth.exceptions.RefreshError as error:
        raise WarehouseError(_refused_credentials(warehouse, error)) from error
    except google.auth.exceptions.TransportError as error:
        raise WarehouseError(f"Google's sign-in could not be reached: {_first_line(error)}") from error
    except exceptions.Unauthorized as error:
        raise WarehouseError(_refused_credentials(warehouse, error)) from error
    except exceptions.NotFound as error:
        raise TableNotFound(
            f"{reason_text(error)}; if that is a table or a dataset, materialise it first (location "
            f"{warehouse.location}, project {warehouse.project})"
        ) from error
    except (*_UNCLEAR, exceptions.RetryError) as error:
        raise WarehouseBusy(f"BigQuery could not be reached: {_first_line(error)}; run again") from error
    except exceptions.GoogleAPICallError as error:
        raise WarehouseError(_refused(warehouse, error)) from error


def _refused_credentials(warehouse: BigQueryWarehouse, error: Exception) -> str:
    if warehouse.impersonate:
        who = (
            f"ECOMMERSSS_BIGQUERY_IMPERSONATE: Google does not let us act as {warehouse.impersonate}: it "
            "needs to exist, and the caller to have the role Service Account Token Creator on it"
        )
    elif warehouse.key_file:
        who = (
            f"ECOMMERSSS_BIGQUERY_KEY_FILE: Google does not accept the key in {warehouse.key_file}: "
            "make a new one"
        )
    else:
        who = (
            "Google does not accept the application default credentials: run "
            "`gcloud auth application-default login` again"
        )
    return f"{who} ({_first_line(error)})"


def _refused(warehouse: BigQueryWarehouse, error: exceptions.GoogleAPICallError) -> str:
    said = reason_text(error)
    reasons = _reasons(error)
    if "bytesBilledLimitExceeded" in reasons:
        return f"{said}; ask for fewer days or columns, or raise ECOMMERSSS_BIGQUERY_MAXIMUM_BYTES_BILLED"
    if isinstance(error, exceptions.Forbidden) and "accessDenied" in reasons:
        return (
            f"{said}; the account needs the role BigQuery Job User on the project "
            f"{warehouse.billing_project or warehouse.project} and BigQuery Data Editor on the datasets of "
            f"{warehouse.project}"
        )
    return f"BigQuery refused: {said}"


def reason_text(error: exceptions.GoogleAPICallError) -> str:
    """What the service said, without the request's URL around it."""
    for one in error.errors or ():
        if isinstance(one, Mapping) and one.get("message"):
            return _first_line(one["message"])
    return _first_line(error.message or str(error))


def _reasons(error: exceptions.GoogleAPICallError) -> set[str]:
    return {one.get("reason", "") for one in error.errors or () if isinstance(one, Mapping)}


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def passes(error: exceptions.GoogleAPICallError) -> bool:
    """Whether a failed job may be sent again as it is: it changed nothing, and met what goes by."""
    if _reasons(error) & _PASSING_REASONS:
        return True
    said = reason_text(error).lower()
    return any(words in said for words in _PASSING_WORDS)


# Definitions


def schema_field(column: Column, *, required: bool = True) -> bigquery.SchemaField:
    """The column. `required=False`: whatever the contract says, it may be NULL."""
    mode = "NULLABLE" if column.nullable or not required else "REQUIRED"
    if column.type is Type.STRINGS:
        mode = "REPEATED"
    field = bigquery.SchemaField(column.name, _FIELD_TYPES[column.type], mode=mode)
    if column.description:
        field = bigquery.SchemaField(field.name, field.field_type, mode, description=column.description)
    return field


def table_definition(table: RawTable, project: str) -> bigquery.Table:
    definition = bigquery.Table(
        f"{project}.{full_name(table)}", schema=[schema_field(c) for c in table.columns]
    )
    definition.description = table.description or None
    definition.labels = TABLE_LABELS
    if is_partitioned(table):
        definition.time_partitioning = bigquery.TimePartitioning(
            type_=bigquery.TimePartitioningType.DAY, field=PARTITION_COLUMN
        )
        definition.require_partition_filter = requires_filter(table)
    if table.clustering:
        definition.clustering_fields = list(table.clustering)
    return definition


def staging_definition(table: RawTable, project: str, name: str, now: datetime) -> bigquery.Table:
    # No column is required: the audit names what is wrong, a load would name only the first.
    definition = bigquery.Table(
        f"{project}.{STAGING}.{name}", schema=[schema_field(c, required=False) for c in table.columns]
    )
    definition.expires = now + STAGING_LIFE
    definition.labels = TABLE_LABELS
    return definition


def load_config(table: RawTable) -> bigquery.LoadJobConfig:
    parquet = bigquery.ParquetOptions()
    parquet.enable_list_inference = True
    return bigquery.LoadJobConfig(
        source_format=bigquery.SourceFormat.PARQUET,
        parquet_options=parquet,
        schema=[schema_field(c, required=False) for c in table.columns],
        create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
        # A second load of the same table is refused, whatever its job's id.
        write_disposition=bigquery.WriteDisposition.WRITE_EMPTY,
    )


def type_name(field: bigquery.SchemaField) -> str:
    """The standard name of a column's type; the service answers with older ones."""
    name = _LEGACY_TYPES.get(field.field_type, field.field_type)
    return f"ARRAY<{name}>" if field.mode == "REPEATED" else name


def table_columns(schema: Sequence[bigquery.SchemaField], contract: RawTable) -> list[TableColumn]:
    """The columns that a table has, as its contract would write them: an array is never NULL here."""
    nullable = {c.name: c.nullable for c in contract.columns}
    return [
        TableColumn(
            f.name, type_name(f), nullable.get(f.name, False) if f.mode == "REPEATED" else f.is_nullable
        )
        for f in schema
    ]


def arrow_field(field: bigquery.SchemaField, table: str) -> pa.Field:
    name = _LEGACY_TYPES.get(field.field_type, field.field_type)
    if name not in _ARROW_TYPES:
        raise WarehouseError(
            f"{table}.{field.name} is a {name}, which is not read as a column: select its parts with a query"
        )
    type_ = _ARROW_TYPES[name]
    if field.mode == "REPEATED":
        return pa.field(field.name, pa.list_(type_), nullable=False)
    return pa.field(field.name, type_, nullable=field.is_nullable)


def console_url(project: str, location: str, job_id: str) -> str:
    return (
        f"https://console.cloud.google.com/bigquery?project={project}"
        f"&j=bq:{location}:{job_id}&page=queryresults"
    )


# Doing


@contextmanager
def open_session(warehouse: BigQueryWarehouse, labels: Mapping[str, str]) -> Iterator[Session]:
    with PlatformBigQuery.of(warehouse, labels).get_client() as client:
        yield Session(warehouse, client)


class Session:
    """A client at work for one publication or one read. Its methods raise WarehouseError alone."""

    def __init__(self, warehouse: BigQueryWarehouse, client: bigquery.Client) -> None:
        self._warehouse = warehouse
        self._client = client
        self.jobs: list[Job] = []
        """What is done: loads, queries and statements."""

    # Tables

    def _table(self, table: RawTable | str) -> bigquery.Table | None:
        try:
            with told(self._warehouse):
                return self._client.get_table(self._reference(table))
        except TableNotFound:
            return None

    def _reference(self, table: RawTable | str) -> bigquery.TableReference:
        return bigquery.TableReference.from_string(f"{self._warehouse.project}.{full_name(table)}")

    def columns(self, table: RawTable) -> list[TableColumn]:
        """The table's columns; none when it does not exist."""
        existing = self._table(table)
        return table_columns(existing.schema, table) if existing else []

    def arrow_schema(self, table: RawTable | str) -> pa.Schema | None:
        """The table's columns as Arrow has them; None when it does not exist."""
        existing = self._table(table)
        return pa.schema([arrow_field(f, full_name(table)) for f in existing.schema]) if existing else None

    def requires_filter(self, table: RawTable | str) -> bool:
        existing = self._table(table)
        return bool(existing and existing.require_partition_filter)

    def ensure_dataset(self, name: str) -> None:
        """Make the dataset if it is missing. Raises WarehouseError for one that is elsewhere."""
        warehouse = self._warehouse
        dataset = bigquery.Dataset(f"{warehouse.project}.{name}")
        dataset.location = warehouse.location
        with told(warehouse):
            # Asked first: an account that may write into datasets need not be allowed to make any.
            try:
                existing = self._client.get_dataset(dataset.reference)
            except exceptions.NotFound:
                existing = self._client.create_dataset(dataset, exists_ok=True)
        if existing.location and existing.location.lower() != warehouse.location.lower():
            raise WarehouseError(
                f"the dataset {name} of {warehouse.project} is in {existing.location}, and "
                f"ECOMMERSSS_BIGQUERY_LOCATION is {warehouse.location}: jobs find data only in their location"
            )

    def ensure_table(self, table: RawTable) -> None:
        """Make the table if it is missing, else give it the nullable columns that its contract gained."""
        for _ in range(_STARTS):
            existing = self._table(table)
            if existing is None:
                self.ensure_dataset(table.dataset)
                with told(self._warehouse):
                    self._client.create_table(
                        table_definition(table, self._warehouse.project), exists_ok=True
                    )
                return
            todo = changes(full_name(table), table_columns(existing.schema, table), wanted_columns(table))
            if not todo.added and not todo.relaxed:
                return
            described = {c.name: c for c in table.columns}
            relaxed = {c.name for c in todo.relaxed}
            existing.schema = [
                *(schema_field(described[f.name]) if f.name in relaxed else f for f in existing.schema),
                *(schema_field(described[c.name]) for c in todo.added),
            ]
            with told(self._warehouse):
                try:
                    self._client.update_table(existing, ["schema"])
                except exceptions.PreconditionFailed:
                    continue  # another run did: look again
            return
        raise WarehouseBusy(f"{full_name(table)}: others kept changing its columns; run again")

    def create_staging(self, table: RawTable, name: str) -> None:
        """Make the staging table, which expires by itself, if it is missing."""
        self.ensure_dataset(STAGING)
        definition = staging_definition(table, self._warehouse.project, name, datetime.now(UTC))
        with told(self._warehouse):
            self._client.create_table(definition, exists_ok=True)

    def drop_staging(self, name: str) -> None:
        with told(self._warehouse):
            self._client.delete_table(self._reference(f"{STAGING}.{name}"), not_found_ok=True)

    # Jobs

    def stage(self, table: RawTable, attempt: str, file: IO[bytes]) -> None:
        """Load a Parquet file into the staging table of this attempt, once.

        The attempt names the content: a job of its that is there already, for an answer got lost or an
        earlier process did it, is waited for instead of loading again.
        """
        reference = self._reference(f"{STAGING}.{attempt}")
        size = file.seek(0, 2)

        def start(job_id: str) -> bigquery.LoadJob:
            return self._client.load_table_from_file(
                file, reference, rewind=True, size=size, job_id=job_id, job_config=load_config(table)
            )

        with told(self._warehouse):
            for number in range(_LOADS):
                self.create_staging(table, attempt)
                job, ours = self._started(f"{attempt}_load_{number}", start)
                try:
                    job.result()
                except exceptions.GoogleAPICallError as error:
                    if ours and not passes(error):
                        raise
                    # A job's id is used up, also by one that failed.
                    time.sleep(random.uniform(0, _FIRST_PAUSE))  # noqa: S311
                    continue
                if ours or self._client.get_table(reference).num_rows == job.output_rows:
                    self.jobs.append(self._done("load", job))
                    return
        raise WarehouseError(f"{attempt}: {_LOADS} loads of the same rows failed or were dropped; run again")

    def execute(self, sql: str, step: str, attempt: str, patience: float) -> None:
        """Run a statement that is a step of an attempt, once.

        It is sent again only after it failed without an effect: another statement on the table was faster, or
        a limit that passes was met. Raises WarehouseBusy after `patience` seconds of that.
        """

        def start(job_id: str) -> bigquery.QueryJob:
            # Without the client's own retries: they do not look for a job whose answer got lost.
            never: Any = None
            return self._client.query(sql, job_id=job_id, retry=never, job_retry=never)

        deadline = time.monotonic() + patience
        pause = _FIRST_PAUSE
        with told(self._warehouse):
            for number in count():
                job, ours = self._started(f"{attempt}_{step}_{number}", start)
                try:
                    job.result(job_retry=None)
                except exceptions.GoogleAPICallError as error:
                    if not ours:
                        continue
                    if not passes(error):
                        raise
                    if time.monotonic() >= deadline:
                        raise WarehouseBusy(
                            f"{reason_text(error)} (for over {patience:g} s); run again"
                        ) from error
                    time.sleep(random.uniform(pause / 2, pause))  # noqa: S311
                    pause = min(2 * pause, _LONGEST_PAUSE)
                    continue
                # An earlier process of this run may have done the same; others may have come since.
                if ours:
                    self.jobs.append(self._done(step, job))
                    return

    def _started(self, job_id: str, start: Callable[[str], Any]) -> tuple[Any, bool]:
        """The job of that id, and whether we started it (and not an earlier process of the same run).

        After an answer that leaves it open whether the job was made, the job is looked for, and only when
        there is none it is started again, under the same id.
        """
        unclear = False
        pause = _FIRST_PAUSE
        for left in reversed(range(_STARTS)):
            try:
                return start(job_id), True
            except exceptions.Conflict:
                return self._client.get_job(job_id, location=self._warehouse.location), unclear
            except _UNCLEAR as error:
                unclear = True
                try:
                    return self._client.get_job(job_id, location=self._warehouse.location), True
                except exceptions.NotFound:
                    if not left:
                        raise error from None
            time.sleep(random.uniform(pause / 2, pause))  # noqa: S311
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError("unreachable")

    def kind(self, sql: str) -> str | None:
        """What a statement is (SELECT, DELETE, SCRIPT...), without running it.

        Raises QueryError for one that BigQuery does not understand, TableNotFound.
        """
        config = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False)
        with told(self._warehouse):
            try:
                return self._client.query(sql, job_config=config).statement_type
            except exceptions.BadRequest as error:
                raise QueryError(reason_text(error)) from error

    def rows(self, sql: str, step: str) -> list[dict[str, Any]]:
        """All rows of a SELECT that has few."""
        with told(self._warehouse):
            return [dict(row.items()) for row in self._select(sql, step)]

    def table(self, sql: str, step: str) -> pa.Table:
        with told(self._warehouse):
            try:
                return self._select(sql, step).to_arrow(create_bqstorage_client=False)
            except exceptions.BadRequest as error:
                if "bytesBilledLimitExceeded" in _reasons(error):
                    raise
                raise QueryError(reason_text(error)) from error

    def batches(self, sql: str, step: str) -> Iterator[pa.RecordBatch]:
        """The rows of a SELECT, a page of the service at a time. It has run when this returns."""
        with told(self._warehouse):
            pages = self._select(sql, step).to_arrow_iterable()

        def told_pages() -> Iterator[pa.RecordBatch]:
            with told(self._warehouse):
                yield from pages

        return told_pages()

    def _select(self, sql: str, step: str) -> bigquery.table.RowIterator:
        # A SELECT has no effect: the client may send it again as it sees fit.
        job = self._client.query(sql)
        rows = job.result()
        self.jobs.append(self._done(step, job))
        return rows

    def _done(self, step: str, job: Any) -> Job:
        scanned = getattr(job, "total_bytes_processed", None)
        return Job(
            step=step,
            id=job.job_id,
            url=console_url(job.project, job.location or self._warehouse.location, job.job_id),
            bytes=job.output_bytes if isinstance(job, bigquery.LoadJob) else scanned,
            slot_ms=getattr(job, "slot_millis", None),
        )
