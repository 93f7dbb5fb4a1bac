"""Table definitions and column types, between contracts, Google's client and Arrow."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pyarrow as pa
from google.cloud import bigquery

from ecommersss_platform.contracts import PARTITION_COLUMN, Column, RawTable, Type
from ecommersss_platform.warehouse.bigquery.config import TABLE_LABELS
from ecommersss_platform.warehouse.bigquery.sql import DIALECT, is_partitioned, requires_filter
from ecommersss_platform.warehouse.dialect import TableColumn
from ecommersss_platform.warehouse.errors import WarehouseError
from ecommersss_platform.warehouse.names import STAGING, full_name

STAGING_LIFE = timedelta(hours=24)
"""When a staging table expires, if its run was killed or could not drop it."""

_LEGACY_TYPES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}
"""Standard names by the older names that the service answers with."""

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


def schema_field(column: Column, *, required: bool = True) -> bigquery.SchemaField:
    """Return the column's field. With `required=False` it may be NULL, whatever the contract says."""
    mode = "NULLABLE" if column.nullable or not required else "REQUIRED"
    name = DIALECT.types[column.type]
    if column.type is Type.STRINGS:
        mode, name = "REPEATED", DIALECT.types[Type.STRING]
    if column.description:
        return bigquery.SchemaField(column.name, name, mode, description=column.description)
    return bigquery.SchemaField(column.name, name, mode)


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
    # No column is required: the audit names every missing value, a load would name only the first.
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


def table_columns(schema: Sequence[bigquery.SchemaField], contract: RawTable) -> list[TableColumn]:
    """Return the columns of an existing table.

    BigQuery stores no NULL array, so an array is as nullable as the contract says.
    """
    nullable = {c.name: c.nullable for c in contract.columns}
    return [
        TableColumn(f.name, f"ARRAY<{_standard_type(f)}>", nullable.get(f.name, False))
        if f.mode == "REPEATED"
        else TableColumn(f.name, _standard_type(f), f.is_nullable)
        for f in schema
    ]


def arrow_field(field: bigquery.SchemaField, table: str) -> pa.Field:
    name = _standard_type(field)
    if name not in _ARROW_TYPES:
        raise WarehouseError(
            f"{table}.{field.name} is a {name}, which cannot be read as a column: select its parts in a query"
        )
    type_ = _ARROW_TYPES[name]
    if field.mode == "REPEATED":
        return pa.field(field.name, pa.list_(type_), nullable=False)
    return pa.field(field.name, type_, nullable=field.is_nullable)


def _standard_type(field: bigquery.SchemaField) -> str:
    return _LEGACY_TYPES.get(field.field_type, field.field_type)
