"""Fraud: what the marts found out, given back to the stream."""

# Annotations must be real here: Dagster judges the resources by them.
from dagster import AssetKey, AssetsDefinition, MaterializeResult, ResourceParam, asset

from ecommersss_platform.jobs import RETRY
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.warehouse import Warehouse
from streaming.database.user_lists import Synchronised, block_for_platform

GROUP = "fraud"
USERS_AND_BLACKLIST = "gold.users_and_blacklist"
BLACKLIST = f"SELECT user_id, fraud_orders FROM {USERS_AND_BLACKLIST} WHERE status = 'Blacklist'"  # noqa: S608


def fraud_assets(pool: str | None) -> list[AssetsDefinition]:
    """The asset of the block list. `pool` is the warehouse's (`Warehouse.pool`)."""

    @asset(
        key=[GROUP, "user_lists"],
        description=(
            "The platform's own entries of the block list in PostgreSQL: users whose status in"
            f" {USERS_AND_BLACKLIST} is Blacklist. The running consumer takes changes up. Entries by people"
            " are left alone, and an allow entry by a person wins."
        ),
        deps=[AssetKey(USERS_AND_BLACKLIST.split("."))],
        pool=pool,
        group_name=GROUP,
        kinds={"postgres", "table"},
        owners=["team:fraud-analytics"],
        retry_policy=RETRY,
        metadata={"dagster/table_name": "user_lists"},
    )
    def user_lists(postgres: PostgresResource, warehouse: ResourceParam[Warehouse]) -> MaterializeResult:
        lists = block_blacklist(postgres, warehouse)
        return MaterializeResult(
            metadata={
                "dagster/row_count": lists.added + lists.kept,
                "added": lists.added,
                "removed": lists.removed,
                "users_unknown_to_postgres": lists.unknown,
            }
        )

    return [user_lists]


def block_blacklist(postgres: PostgresResource, warehouse: Warehouse) -> Synchronised:
    """Make the platform's block entries the warehouse's blacklist. Doing it twice changes nothing.

    Raises `TableNotFound` before the mart was ever built.
    """
    rows = warehouse.query(BLACKLIST).to_pylist()
    reasons = {row["user_id"]: f"{row['fraud_orders']} fraud orders ({USERS_AND_BLACKLIST})" for row in rows}
    with postgres.connect("ecommersss block list") as connection:
        return block_for_platform(connection, reasons)
