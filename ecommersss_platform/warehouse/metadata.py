"""Metadata for the Dagster UI: what a run published, per run and per day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
from dagster import MetadataValue, TableColumn, TableColumnConstraints, TableSchema

from ecommersss_platform.contracts import RawTable, preview
from ecommersss_platform.warehouse.errors import AuditError, WarehouseError
from ecommersss_platform.warehouse.protocol import Job, Published

PREVIEW_ROWS = 5


def column_schema(table: RawTable) -> TableSchema:
    """Return the columns with their types, descriptions, and tags on those that hold personal data."""
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


def table_metadata(table: RawTable, published: Published) -> dict[str, Any]:
    """Return the metadata of the table after the run. It is the same on each of the run's partitions."""
    metadata = {"dagster/column_schema": column_schema(table), "dagster/table_name": published.table}
    return (
        metadata if published.table_rows is None else metadata | {"dagster/row_count": published.table_rows}
    )


def load_metadata(table: RawTable, published: Published, first_rows: pa.Table) -> dict[str, Any]:
    """Return the metadata of the load as a whole: of all days that it published, or of the whole table."""
    return {
        "bytes": published.bytes,
        "extract_and_stage_seconds": round(published.stage_seconds, 3),
        "publish_seconds": round(published.publish_seconds, 3),
        "preview": MetadataValue.md(markdown(preview(first_rows, table, PREVIEW_ROWS))),
        **job_metadata(published.jobs),
        **({} if published.days else billed_metadata(published)),
    }


def load_text(published: Published) -> str:
    """Return what the log of a run says about a load of several days, whose totals belong to none of them."""
    return "\n".join(
        [
            f"{published.table}, {published.days}: {published.rows:,} rows, {published.bytes:,} bytes;"
            f" extracted and staged in {published.stage_seconds:.3f} s,"
            f" published in {published.publish_seconds:.3f} s",
            *(f"{job.step}: {job.url} (bytes {job.bytes}, slot ms {job.slot_ms})" for job in published.jobs),
        ]
    )


def job_metadata(jobs: Sequence[Job]) -> dict[str, Any]:
    """Return the service's jobs with links to its console, and what they cost; nothing without jobs."""
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


def billed_metadata(published: Published) -> dict[str, Any]:
    """Return the bytes billed for each day of a run, or for the whole table; nothing without jobs.

    A service bills the days of a run together: each day has an equal share, so that a plot adds up.
    """
    if not published.jobs:
        return {}
    billed = sum(job.billed for job in published.jobs)
    return {"job_bytes_billed": billed // len(published.days or [None])}


def day_metadata(table: RawTable, published: Published, day: date) -> dict[str, Any]:
    """Return the metadata of one day: its rows, by the contract's word for each status, zeros included.

    Of statuses with words of their own, the first has its share as well: the percentage of fraud.
    """
    rows, counts = published.rows_per_day[day], published.statuses.get(day, {})
    words = dict(table.status_words) or {value: value for value in counts}
    return {
        "dagster/partition_row_count": rows,
        "checksum": published.checksums[day],
        **billed_metadata(published),
        **{f"rows_{word}": counts.get(value, 0) for value, word in words.items()},
        **{
            f"{word}_percentage": round(100 * counts.get(value, 0) / rows, 2)
            for value, word in table.status_words[:1]
            if rows
        },
    }


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Write rows as a Markdown table whose values stay in their cells, with separators in decimals."""
    if not rows:
        return "no rows"
    lines: list[list[object]] = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:,f}" if isinstance(value, Decimal) else str(value)
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def failure_metadata(error: WarehouseError) -> Mapping[str, Any]:
    if isinstance(error, AuditError):
        return {
            "table": error.table,
            "findings": MetadataValue.md("\n".join(f"- {f}" for f in error.findings)),
        }
    return {}
