"""The name of a DuckDB file's catalog: that of the file, unless the file is attached under another name."""

from __future__ import annotations

from pathlib import Path

CATALOG = "warehouse"
"""The name under which a file is attached whose own name cannot be the catalog's."""

# `raw.orders` would be ambiguous in raw.duckdb, and DuckDB refuses its own names.
_NO_CATALOGS = frozenset(
    {"raw", "bronze", "silver", "gold", "staging", "main", "system", "temp", "memory"}
    | {"information_schema", "pg_catalog"}
)


def is_attached(path: Path) -> bool:
    """Return whether the file is attached as `CATALOG`, because its own name cannot be the catalog's."""
    return path.name.lstrip(".").split(".")[0].lower() in _NO_CATALOGS
