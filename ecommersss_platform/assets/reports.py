"""Reports: a page for each business day, made of the marts."""

# Annotations must be real here: Dagster inspects those of `context` and the resources.
import hashlib
from datetime import UTC, datetime
from pathlib import Path

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    DailyPartitionsDefinition,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    asset,
)

from ecommersss_platform.assets.fraud import BLOCK_LIST
from ecommersss_platform.assets.sources import table_key
from ecommersss_platform.instance.files import file_address
from ecommersss_platform.jobs import RETRY
from ecommersss_platform.partitions import SINGLE_RUN, Days
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.reports.serving import REPORTS
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import Warehouse

GROUP = "reports"
FRAUD_REPORT = AssetKey([GROUP, "fraud_report"])
TABLES = (
    "gold.daily_fraud_summary",
    "gold.rule_performance",
    "gold.rule_totals",
    "gold.users_and_blacklist",
    "silver.fact_orders",
    "silver.dim_products",
    "silver.fact_disputes",
    "silver.order_features",
    *(f"bronze.stg_{name}" for name in ("rule_books", "rule_exemption_events")),
    *(f"bronze.stg_{name}" for name in ("user_versions", "product_versions")),
)
"""The tables of the warehouse that a page is made of."""


def report_assets(
    partitions_def: DailyPartitionsDefinition, pool: str | None, settings: Settings
) -> list[AssetsDefinition]:
    """Return the asset of the fraud report. `pool` is `Warehouse.pool`."""

    @asset(
        key=FRAUD_REPORT,
        description="A page for each business day: the day against its usual range, fraud by hour and payment"
        " method, the rules, the review queue, backtests, users and products to look at, disputes, and how"
        " far the figures can be trusted."
        " The pages and their index are in the folder reports of the home, and beside the UI."
        " Grain: one page per business day.",
        deps=[
            *(AssetKey(table.split(".")) for table in TABLES),
            BLOCK_LIST,
            *(table_key(name) for name in ("orders", "rejected_orders", "verdicts")),
        ],
        partitions_def=partitions_def,
        backfill_policy=SINGLE_RUN,
        pool=pool,
        group_name=GROUP,
        kinds={"html"},
        owners=["team:fraud-analytics"],
        retry_policy=RETRY,
        code_version=_code_version(),
    )
    def fraud_report(
        context: AssetExecutionContext, postgres: PostgresResource, warehouse: ResourceParam[Warehouse]
    ) -> MaterializeResult:
        # Brings the templates and the charts, which loading the code location does not need.
        from ecommersss_platform.reports.build import build_reports

        days = Days.of_keys(context.partition_key_range)
        for report in build_reports(warehouse, postgres, days, settings, datetime.now(UTC)):
            figures = report.figures
            context.add_asset_metadata(
                {
                    "report": MetadataValue.url(file_address(REPORTS, report.path.name)),
                    "path": MetadataValue.path(str(report.path)),
                    "bytes": report.bytes,
                    **figures.measures,
                },
                FRAUD_REPORT,
                str(figures.day),
            )
        return MaterializeResult()

    return [fraud_report]


def _code_version() -> str:
    """Return a digest of the code that makes a page: queries, figures, templates."""
    files = sorted((Path(__file__).parents[1] / "reports").rglob("*.[phcj][yts]*"))
    return hashlib.sha1(b"".join(file.read_bytes() for file in files), usedforsecurity=False).hexdigest()
