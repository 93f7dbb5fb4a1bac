"""The resources that assets and checks use, by key."""

from __future__ import annotations

from typing import Any

from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import make_warehouse
from ecommersss_platform.warehouse.io_manager import WarehouseIOManager

POSTGRES = "postgres"
WAREHOUSE = "warehouse"
WAREHOUSE_IO_MANAGER = "warehouse_io_manager"


def platform_resources(settings: Settings) -> dict[str, Any]:
    """Return PostgreSQL, the warehouse, and the IO manager over it. Opens nothing."""
    warehouse = make_warehouse(settings)
    return {
        POSTGRES: PostgresResource(),
        WAREHOUSE: warehouse,
        WAREHOUSE_IO_MANAGER: WarehouseIOManager(warehouse),
    }
