"""Metadata for the Dagster UI: what a run published, per run and per day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import pyarrow as pa
from dagster import MetadataValue, TableColumn, TableColumnConstraints, TableSchema

from ecommersss_platform.contracts import RawTable, preview
from ecommersss_platform.warehouse.errors import AuditError, WarehouseError
from ecommersss_platform.warehouse.protocol import Job, Published

PREVIEW_ROWS = 5

_DAYS_LISTED = 31
"""A longer range does not list its days, because the list is on the event of each of them."""


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


def run_metadata(table: RawTable, published: Published, first_rows: pa.Table) -> dict[str, Any]:
    """Return the metadata of a run, the same on each of its partitions except for `day_metadata`."""
    metadata: dict[str, Any] = {
        "dagster/row_count": published.rows,
        "dagster/column_schema": column_schema(table),
        "dagster/table_name": published.table,
        "bytes": published.bytes,
        "extract_and_stage_seconds": round(published.stage_seconds, 3),
        "publish_seconds": round(published.publish_seconds, 3),
        "preview": MetadataValue.md(markdown(preview(first_rows, table, PREVIEW_ROWS))),
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


def day_metadata(table: RawTable, published: Published, day: date) -> dict[str, Any]:
    """Return the metadata of one day of a run."""
    rows = published.rows_per_day[day]
    return {
        "dagster/row_count": rows,
        "dagster/partition_row_count": rows,
        "checksum": published.checksums[day],
        **_status_metadata(table, published.statuses.get(day, {})),
    }


def _status_metadata(table: RawTable, counts: Mapping[str, int]) -> dict[str, int]:
    """Return the rows per status, by the contract's word for it, zeros included."""
    words = dict(table.status_words) or {value: value for value in counts}
    return {f"rows_{word}": counts.get(value, 0) for value, word in words.items()}


def markdown(rows: list[dict[str, str]]) -> str:
    """Write rows as a Markdown table whose values cannot break out of their cells."""
    if not rows:
        return "no rows"
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: str) -> str:
    return " ".join(value.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def failure_metadata(error: WarehouseError) -> Mapping[str, Any]:
    if isinstance(error, AuditError):
        return {
            "table": error.table,
            "findings": MetadataValue.md("\n".join(f"- {f}" for f in error.findings)),
        }
    return {}
