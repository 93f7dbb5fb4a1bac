"""Names of tables in a warehouse: "dataset.table", and a staging table for each run."""

from __future__ import annotations

import re

from ecommersss_platform.contracts import RawTable

STAGING = "staging"
"""The schema (dataset) of staging tables."""

_PART = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def split_name(table: RawTable | str) -> tuple[str, str]:
    """Return (dataset, table). Raises ValueError for a name that is not of the form "dataset.table"."""
    if isinstance(table, RawTable):
        return table.path
    parts = table.split(".")
    if len(parts) != 2 or not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(f'a table is named "dataset.table", like "raw.orders"; got {table!r}')
    return parts[0], parts[1]


def full_name(table: RawTable | str) -> str:
    return ".".join(split_name(table))


def staging_name(table: RawTable, run_id: str) -> str:
    """Name the staging table of a run: letters, digits and underscores, the same for a retry of the run."""
    return re.sub(r"[^a-z0-9]+", "_", f"{table.dataset}_{table.name}_{run_id}".lower())
