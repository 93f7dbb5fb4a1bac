"""The IO manager between Dagster's assets and the warehouse, the same for every engine.

The asset key ["raw", "users"] is the table raw.users. A table with a contract must fit it; any other takes
the columns that the asset returns. A partitioned asset replaces the days of its run in one step; an asset
without partitions replaces its whole table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

import pyarrow as pa
from dagster import AssetKey, DataVersion, Failure, InputContext, IOManager, OutputContext

from ecommersss_platform.contracts import PARTITION_COLUMN, RAW_TABLES, Column, RawTable, Type
from ecommersss_platform.days import Days
from ecommersss_platform.reasons import reason_metadata
from ecommersss_platform.warehouse.arrow import PreviewReader
from ecommersss_platform.warehouse.errors import AuditError, SchemaError
from ecommersss_platform.warehouse.metadata import (
    PREVIEW_ROWS,
    day_metadata,
    failure_metadata,
    load_metadata,
    load_text,
    table_metadata,
)
from ecommersss_platform.warehouse.protocol import Step, Warehouse

CONTRACTS = {table.path: table for table in RAW_TABLES}


class WarehouseIOManager(IOManager):
    """Publishes what assets return, and reads it for assets that take it as an input.

    An output is a `pyarrow.RecordBatchReader` (streamed), or anything that exports Arrow: a `pyarrow.Table`,
    a polars or pandas frame. An input has the type that the parameter is annotated with: `pyarrow.Table` (the
    default), `pyarrow.RecordBatchReader`, `polars.DataFrame` or `pandas.DataFrame`. It has only the columns
    named in its metadata (`AssetIn(metadata={"columns": [...]})`), and only the partitions that the asset
    depends on.
    """

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse

    def handle_output(self, context: OutputContext, obj: object) -> None:
        preview = PreviewReader(as_reader(obj), PREVIEW_ROWS)
        days = _days(context)

        def report(step: Step) -> None:
            context.log.debug(f"{context.asset_key.to_user_string()}: {step}")

        try:
            table = table_of(context.asset_key, preview.reader.schema, partitioned=days is not None)
            published = self.warehouse.publish(table, preview.reader, days, context.run_id, report)
        except (AuditError, SchemaError) as error:
            # No retry: the same rows would fail again until the source or the contract changes.
            raise Failure(str(error), metadata=failure_metadata(error), allow_retries=False) from error
        # Each day has an event of its own, so what the load was as a whole is metadata of a single day only.
        context.add_output_metadata(
            table_metadata(table, published) | reason_metadata(context.step_context.dagster_run.tags)
        )
        if days and len(days) > 1:
            context.log.info(load_text(published))
        else:
            context.add_output_metadata(load_metadata(table, published, preview.rows))
        if days:
            # The same rows are the same version, so the UI calls nothing stale that was built from them.
            version = DataVersion(version_of(published.checksums))
            context.step_context.set_data_version(context.asset_key, version)
        for day in days or ():
            context.step_context.add_asset_metadata(
                day_metadata(table, published, day), context.asset_key, day.isoformat()
            )

    def load_input(self, context: InputContext) -> object:
        key = context.asset_key
        columns = context.definition_metadata.get("columns")
        rows = self.warehouse.read(CONTRACTS.get(_name(key), ".".join(_name(key))), columns, _days(context))
        return as_input(rows, context.dagster_type.typing_type)


def _days(context: InputContext | OutputContext) -> Days | None:
    return Days.of_keys(context.asset_partition_key_range) if context.has_asset_partitions else None


def _name(key: AssetKey) -> tuple[str, str]:
    if len(key.path) != 2:
        raise ValueError(
            "an asset in the warehouse has a key of two parts, dataset and table, like raw/users; got "
            f"{key.to_user_string()}"
        )
    return key.path[0], key.path[1]


def version_of(checksums: Mapping[date, str]) -> str:
    """Return the version of the loaded days: the checksum of a single day, else a digest of all of them."""
    if len(checksums) == 1:
        return next(iter(checksums.values()))
    return hashlib.sha256(" ".join(checksums.values()).encode()).hexdigest()[:16]


def as_reader(obj: object) -> pa.RecordBatchReader:
    """Return an asset's output as a stream of batches. Raises TypeError if it does not export Arrow."""
    if isinstance(obj, pa.RecordBatchReader):
        return obj
    if hasattr(obj, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(obj)
    raise TypeError(
        "an asset in the warehouse returns a pyarrow.RecordBatchReader, a pyarrow.Table, or a polars or "
        f"pandas DataFrame; got {type(obj).__module__}.{type(obj).__qualname__}"
    )


def _polars(rows: pa.RecordBatchReader) -> object:
    import polars

    return polars.from_arrow(rows.read_all())


_INPUTS: dict[str, Callable[[pa.RecordBatchReader], object]] = {
    "pyarrow.lib.RecordBatchReader": lambda rows: rows,
    "pyarrow.lib.Table": lambda rows: rows.read_all(),
    "pandas.core.frame.DataFrame": lambda rows: rows.read_pandas(),
    "polars.dataframe.frame.DataFrame": _polars,
}


def as_input(rows: pa.RecordBatchReader, wanted: object) -> object:
    """Return the rows as the type that the downstream parameter is annotated with."""
    if wanted is None or wanted is Any or not isinstance(wanted, type):
        return rows.read_all()
    name = f"{wanted.__module__}.{wanted.__qualname__}"
    if name not in _INPUTS:
        raise TypeError(
            f"an input from the warehouse cannot be a {name}; annotate it with one of {', '.join(_INPUTS)}"
        )
    return _INPUTS[name](rows)


def table_of(key: AssetKey, schema: pa.Schema, *, partitioned: bool) -> RawTable:
    """Return the table of an asset: its contract, else one made from the columns that the asset returns.

    Raises SchemaError for a column type that the warehouses do not share, and for a partitioned asset whose
    rows have no partition column.
    """
    dataset, name = _name(key)
    contract = CONTRACTS.get((dataset, name))
    if contract:
        return contract
    if partitioned and PARTITION_COLUMN not in schema.names:
        raise SchemaError(
            f"{dataset}.{name} is partitioned, so its rows need the column {PARTITION_COLUMN} (DATE); they "
            f"have {', '.join(schema.names)}"
        )
    columns = tuple(
        Column(f.name, _contract_type(f, f"{dataset}.{name}"), "", nullable=f.nullable) for f in schema
    )
    return RawTable(
        name=name, description="", source="", instant="", key=(), columns=columns, dataset=dataset
    )


def _contract_type(field: pa.Field, table: str) -> Type:
    given = field.type
    if pa.types.is_integer(given):
        return Type.INT64
    if pa.types.is_floating(given):
        return Type.FLOAT64
    if pa.types.is_large_string(given) or pa.types.is_string_view(given):
        return Type.STRING
    if pa.types.is_decimal(given) and given.scale <= Type.MONEY.value.scale:
        return Type.MONEY
    if pa.types.is_timestamp(given) and given.tz:
        return Type.TIMESTAMP
    if pa.types.is_large_list(given):
        return Type.STRINGS
    try:
        return Type(given)
    except ValueError:
        raise SchemaError(
            f"{table}.{field.name} has the type {given}; cast it to one of "
            f"{', '.join(str(t.value) for t in Type)}"
        ) from None
