"""Fraud: what the marts found, fed back to the stream."""

# Annotations must be real here: Dagster inspects those of `context` and the resources.
import hashlib
from pathlib import Path

from dagster import AssetExecutionContext, AssetKey, AssetsDefinition, MaterializeResult, ResourceParam, asset

from ecommersss_platform.assets.sources import BLOCK_LIST, USER_LISTS
from ecommersss_platform.code_links import code_references
from ecommersss_platform.jobs import RETRY
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.reasons import reason_metadata
from ecommersss_platform.warehouse import Warehouse
from ecommersss_platform.warehouse.metadata import column_schema
from streaming.database.user_lists import Synchronised, block_for_platform
from streaming.roles import Role

GROUP = "fraud"
USERS_AND_BLACKLIST = "gold.users_and_blacklist"
BLACKLIST = f"SELECT user_id, fraud_orders FROM {USERS_AND_BLACKLIST} WHERE status = 'Blacklist'"  # noqa: S608


def fraud_assets(pool: str | None) -> list[AssetsDefinition]:
    """Return the asset of the block list. `pool` is `Warehouse.pool`."""

    @asset(
        key=BLOCK_LIST,
        description=(
            "The platform's own entries in PostgreSQL's block list: users with the status Blacklist in"
            f" {USERS_AND_BLACKLIST}. The running consumer picks up changes. Entries made by people are left"
            " alone, and an allow entry made by a person wins. Grain: one row per entry."
        ),
        deps=[AssetKey(USERS_AND_BLACKLIST.split("."))],
        pool=pool,
        group_name=GROUP,
        kinds={"postgres", "table"},
        owners=["team:fraud-analytics"],
        retry_policy=RETRY,
        code_version=hashlib.sha1(BLACKLIST.encode(), usedforsecurity=False).hexdigest(),
        metadata={
            "dagster/table_name": USER_LISTS.name,
            "dagster/column_schema": column_schema(USER_LISTS),
            **code_references(Path(__file__)),
        },
    )
    def user_lists(
        context: AssetExecutionContext, postgres: PostgresResource, warehouse: ResourceParam[Warehouse]
    ) -> MaterializeResult:
        lists = block_blacklist(postgres, warehouse)
        return MaterializeResult(
            metadata={
                "dagster/row_count": lists.added + lists.kept,
                "added": lists.added,
                "removed": lists.removed,
                "users_unknown_to_postgres": lists.unknown,
                **reason_metadata(context.run.tags),
            }
        )

    return [user_lists]


def block_blacklist(postgres: PostgresResource, warehouse: Warehouse) -> Synchronised:
    """Set the platform's block entries to the blacklist of the warehouse. Repeating it changes nothing.

    Raises `TableNotFound` if the mart has never been built.
    """
    rows = warehouse.query(BLACKLIST).to_pylist()
    reasons = {row["user_id"]: f"{row['fraud_orders']} fraud orders ({USERS_AND_BLACKLIST})" for row in rows}
    with postgres.connect("ecommersss block list", Role.OWNER) as connection:
        return block_for_platform(connection, reasons)
