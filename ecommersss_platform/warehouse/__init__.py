"""The warehouse behind one interface: a day is published whole or not at all, whatever the engine.

Writing is *write, audit, publish*. Rows go to a staging table of their run, are audited there, and replace
exactly the requested days in one atomic step. A failure or a crash before that step leaves the days as they
were.

Here: the interface, its errors, and the choice of an engine. Each engine is a folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecommersss_platform.warehouse.errors import (
    AuditError,
    QueryError,
    SchemaError,
    TableNotFound,
    WarehouseBusy,
    WarehouseError,
)
from ecommersss_platform.warehouse.protocol import Job, OnStep, Published, Step, Warehouse, ignore_step

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings

__all__ = [
    "AuditError",
    "Job",
    "OnStep",
    "Published",
    "QueryError",
    "SchemaError",
    "Step",
    "TableNotFound",
    "Warehouse",
    "WarehouseBusy",
    "WarehouseError",
    "ignore_step",
    "make_warehouse",
]


def make_warehouse(settings: Settings, patience: float | None = None) -> Warehouse:
    """Return the warehouse that the settings choose. Opens nothing.

    `patience` is how many seconds it waits for a file that another process has (default: `engine.PATIENCE`).
    """
    # Each engine's client is imported only where that engine is used.
    match settings.warehouse:
        case "duckdb":
            from ecommersss_platform.warehouse.duckdb.engine import PATIENCE
            from ecommersss_platform.warehouse.duckdb.warehouse import DuckDbWarehouse

            return DuckDbWarehouse(
                settings.warehouse_path, patience=PATIENCE if patience is None else patience
            )
        case "bigquery":
            from ecommersss_platform.warehouse.bigquery.warehouse import BigQueryWarehouse

            return BigQueryWarehouse.of(settings)
