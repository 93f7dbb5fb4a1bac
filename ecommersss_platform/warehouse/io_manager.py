"""Between Dagster's assets and the warehouse: one IO manager, whatever the engine.

The asset key ["raw", "users"] is the table raw.users. A table with a contract is held to it; any other takes
the columns of what the asset returns. A partitioned asset replaces the days of its run, all in one go; an
asset without partitions replaces its whole table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import pyarrow as pa
from dagster import (
    AssetKey,
    Failure,
    InputContext,
    IOManager,
    MetadataValue,
    OutputContext,
    TableColumn,
    TableColumnConstraints,
    TableSchema,
)

from ecommersss_platform.contracts import PARTITION_COLUMN, RAW_TABLES, Column, RawTable, Type, preview
from ecommersss_platform.partitions import Days
from ecommersss_platform.warehouse import (
    AuditError,
    Job,
    Published,
    SchemaError,
    Step,
    Warehouse,
    WarehouseError,
)

_PREVIEW_ROWS = 5
# The list is on the event of every day of a range, each of which shows its own rows anyway.
_DAYS_LISTED = 31
_STATUS_WORDS = {"is_fraud": {"true": "fraud", "false": "genuine"}}
CONTRACTS = {(table.dataset, table.name): table for table in RAW_TABLES}


class WarehouseIOManager(IOManager):
    """Publishes what assets return, and reads it back for those that take it as an input.

    Outputs: a `pyarrow.RecordBatchReader` (streamed), or anything that exports Arrow: `pyarrow.Table`, polars
    and pandas frames. Inputs, as the parameter's annotation says: `pyarrow.Table` (also without an
    annotation), `pyarrow.RecordBatchReader`, `polars.DataFrame` or `pandas.DataFrame`; only the columns named
    in the input's metadata (`AssetIn(metadata={"columns": [...]})`), and only the partitions that the asset
    depends on.
    """

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse

    def handle_output(self, context: OutputContext, obj: object) -> None:
        head = Head(as_reader(obj))
        days = _days(context)

        def report(step: Step) -> None:
            context.log.debug(f"{context.asset_key.to_user_string()}: {step}")

        try:
            table = table_of(context.asset_key, head.reader.schema, partitioned=days is not None)
            published = self.warehouse.publish(table, head.reader, days, context.run_id, report)
        except (AuditError, SchemaError) as error:
            # The same rows fail again: only a changed source or contract helps, not a retry.
            raise Failure(str(error), metadata=_failure_metadata(error), allow_retries=False) from error
        metadata = run_metadata(table, published, head.rows)
        if days and len(days) == 1:
            metadata |= day_metadata(table, published, days.first)
        elif days:
            # A range is one output but an event for each partition, which should show its own rows.
            for day in days:
                context.step_context.add_asset_metadata(
                    day_metadata(table, published, day), context.asset_key, day.isoformat()
                )
        context.add_output_metadata(metadata)

    def load_input(self, context: InputContext) -> object:
        key = context.asset_key
        columns = context.definition_metadata.get("columns")
        rows = self.warehouse.read(CONTRACTS.get(_name(key), ".".join(_name(key))), columns, _days(context))
        return as_input(rows, context.dagster_type.typing_type)


def _days(context: InputContext | OutputContext) -> Days | None:
    return Days.of_window(context.asset_partitions_time_window) if context.has_asset_partitions else None


def _name(key: AssetKey) -> tuple[str, str]:
    if len(key.path) != 2:
        raise ValueError(
            "an asset in the warehouse has a key of two parts, dataset and table, like raw/users; got "
            f"{key.to_user_string()}"
        )
    return key.path[0], key.path[1]


def as_reader(obj: object) -> pa.RecordBatchReader:
    """What an asset returned as a stream of batches. Raises TypeError for what does not export Arrow."""
    if isinstance(obj, pa.RecordBatchReader):
        return obj
    if hasattr(obj, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(obj)
    raise TypeError(
        "an asset in the warehouse returns a pyarrow.RecordBatchReader, a pyarrow.Table, or a polars or "
        f"pandas DataFrame; got {type(obj).__module__}.{type(obj).__qualname__}"
    )


_INPUTS: dict[str, Callable[[pa.RecordBatchReader], object]] = {
    "pyarrow.lib.RecordBatchReader": lambda rows: rows,
    "pyarrow.lib.Table": lambda rows: rows.read_all(),
    "pandas.core.frame.DataFrame": lambda rows: rows.read_pandas(),
    "polars.dataframe.frame.DataFrame": lambda rows: _polars(rows),
}


def _polars(rows: pa.RecordBatchReader) -> object:
    import polars

    return polars.from_arrow(rows.read_all())


def as_input(rows: pa.RecordBatchReader, wanted: object) -> object:
    """The rows as the type that the downstream parameter is annotated with."""
    if wanted is None or wanted is Any or not isinstance(wanted, type):
        return rows.read_all()
    name = f"{wanted.__module__}.{wanted.__qualname__}"
    if name not in _INPUTS:
        raise TypeError(
            f"an input from the warehouse cannot be a {name}; annotate it with one of {', '.join(_INPUTS)}"
        )
    return _INPUTS[name](rows)


def table_of(key: AssetKey, schema: pa.Schema, *, partitioned: bool) -> RawTable:
    """The table of an asset: its contract, or else one made from the columns of what the asset returns.

    Raises SchemaError for a column of a type that the warehouses do not share, and for a partitioned asset
    whose rows do not say which day they belong to.
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
    columns = tuple(Column(f.name, _type(f, f"{dataset}.{name}"), "", nullable=f.nullable) for f in schema)
    return RawTable(
        name=name, description="", source="", instant="", key=(), columns=columns, dataset=dataset
    )


def _type(field: pa.Field, table: str) -> Type:
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


class Head:
    """A reader that keeps the first few rows of what passes, for the preview."""

    def __init__(self, reader: pa.RecordBatchReader, size: int = _PREVIEW_ROWS) -> None:
        self._kept: list[pa.RecordBatch] = []
        self._size = size
        self.reader = pa.RecordBatchReader.from_batches(reader.schema, self._passed(reader))

    def _passed(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        wanted = self._size
        for batch in reader:
            if wanted > 0:
                self._kept.append(batch.slice(0, wanted))
                wanted -= batch.num_rows
            yield batch

    @property
    def rows(self) -> pa.Table:
        return pa.Table.from_batches(self._kept, schema=self.reader.schema)


def column_schema(table: RawTable) -> TableSchema:
    """The table's columns for Dagster's UI: types, descriptions, and which hold personal data."""
    return TableSchema(
        columns=[
            TableColumn(
                c.name,
                type=str(c.type.value),
                description=c.description or None,
                constraints=TableColumnConstraints(nullable=c.nullable, unique=table.key == (c.name,)),
                tags={"pii": ""} if c.pii else None,
            )
            for c in table.columns
        ]
    )


def run_metadata(table: RawTable, published: Published, head: pa.Table) -> dict[str, Any]:
    """What a run published: the same on each of its partitions, but for what `day_metadata` says of each."""
    metadata: dict[str, Any] = {
        "dagster/row_count": published.rows,
        "dagster/column_schema": column_schema(table),
        "dagster/table_name": published.table,
        "bytes": published.bytes,
        "extract_and_stage_seconds": round(published.stage_seconds, 3),
        "publish_seconds": round(published.publish_seconds, 3),
        "preview": MetadataValue.md(markdown(preview(head, table, _PREVIEW_ROWS))),
    }
    metadata |= _status_metadata(table, published.rows_per_status) | job_metadata(published.jobs)
    if published.days and len(published.days) > 1:
        metadata["range"] = str(published.days)
        metadata["range_rows"] = published.rows
        if len(published.days) <= _DAYS_LISTED:
            per_day = [{"day": str(day), "rows": str(n)} for day, n in published.rows_per_day.items()]
            metadata["rows_per_day"] = MetadataValue.md(markdown(per_day))
    return metadata


def job_metadata(jobs: Sequence[Job]) -> dict[str, Any]:
    """What a service did for a run, with links to its console, and what it cost; nothing without jobs."""
    if not jobs:
        return {}
    rows = [
        {
            "step": job.step,
            "job": f"[{job.id}]({job.url})",
            "bytes": "" if job.bytes is None else f"{job.bytes:,}",
            "slot_ms": "" if job.slot_ms is None else f"{job.slot_ms:,}",
        }
        for job in jobs
    ]
    return {
        "jobs": MetadataValue.md(markdown(rows)),
        "job_bytes": sum(job.bytes or 0 for job in jobs),
        "job_slot_ms": sum(job.slot_ms or 0 for job in jobs),
    }


def day_metadata(table: RawTable, published: Published, day: date) -> dict[str, Any]:
    """What a run published for one day."""
    rows = published.rows_per_day[day]
    return {
        "dagster/row_count": rows,
        "dagster/partition_row_count": rows,
        "checksum": published.checksums[day],
        **_status_metadata(table, published.statuses.get(day, {})),
    }


def _status_metadata(table: RawTable, counts: Mapping[str, int]) -> dict[str, int]:
    """Rows per status, by the words that the flagged stream has for it; also those with no row."""
    words = _STATUS_WORDS.get(table.status or "", {value: value for value in counts})
    return {f"rows_{word}": counts.get(value, 0) for value, word in words.items()}


def markdown(rows: list[dict[str, str]]) -> str:
    """Rows as a Markdown table; values cannot break out of their cell."""
    if not rows:
        return "no rows"
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: str) -> str:
    return " ".join(value.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _failure_metadata(error: WarehouseError) -> Mapping[str, Any]:
    if isinstance(error, AuditError):
        return {
            "table": error.table,
            "findings": MetadataValue.md("\n".join(f"- {f}" for f in error.findings)),
        }
    return {}
