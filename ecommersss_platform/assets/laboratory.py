"""The rule laboratory: what people make of orders, rules and labels when they ask for it."""

# Annotations must be real here: Dagster inspects those of `context` and the resources.
import hashlib
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from dagster import (
    AssetKey,
    AssetsDefinition,
    Config,
    Failure,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    asset,
)
from pydantic import Field

from ecommersss_platform.days import Days, launchpad_day
from ecommersss_platform.dbt.project import MANIFEST
from ecommersss_platform.dbt.resource import PlatformDbt
from ecommersss_platform.dbt.specs import table_schema
from ecommersss_platform.dbt.staged import read_manifest
from ecommersss_platform.laboratory import TRAINING_SET
from ecommersss_platform.laboratory import training_set as training_sets
from ecommersss_platform.laboratory.training_set import TrainingSet, columns, write_training_set
from ecommersss_platform.local.whole_files import replacing
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import Warehouse
from streaming.business_days import business_day
from streaming.errors import PlatformError

TABLES = ("silver.fact_orders", "silver.order_features", "bronze.stg_verdicts", "bronze.stg_dispute_versions")
"""The tables of the warehouse that a training set is made of."""


class TrainingSetDays(Config):
    """Which orders and labels a training set has, as the launchpad offers it. Days are written YYYY-MM-DD."""

    first_day: str | None = Field(default="", description="The first business day; empty: the first of all.")
    last_day: str | None = Field(
        default="", description="The last business day; empty: the day of the labels."
    )
    labels_as_of: str | None = Field(
        default="",
        description="The labels are those known at the end of this day, which must be over;"
        " empty: yesterday.",
    )


def laboratory_assets(
    pool: str | None, settings: Settings, first_day: date, manifest: Path = MANIFEST
) -> list[AssetsDefinition]:
    """Return the asset of the training set, which no job makes: people materialise it.

    `pool`: `Warehouse.pool`. `first_day`: the first partition. It needs the resources `dbt` and `warehouse`.
    """

    @asset(
        key=AssetKey(TRAINING_SET),
        description="Orders with the features that the stream knew, its verdicts, and the labels that were"
        " known at the end of a day, as a Parquet file in the folder training_sets of the home. Choose the"
        " days in the launchpad; `ecommersss export training-set` does the same. Grain: one row per order.",
        deps=[AssetKey(table.split(".")) for table in TABLES],
        pool=pool,
        group_name=TRAINING_SET[0],
        kinds={"parquet"},
        owners=["team:fraud-analytics"],
        code_version=hashlib.sha1(
            Path(training_sets.__file__).read_bytes(), usedforsecurity=False
        ).hexdigest(),
        metadata={
            "dagster/column_schema": MetadataValue.table_schema(
                table_schema(columns(read_manifest(manifest)))
            )
        },
    )
    def training_set(
        config: TrainingSetDays, dbt: ResourceParam[PlatformDbt], warehouse: ResourceParam[Warehouse]
    ) -> MaterializeResult:
        try:
            asked = asked_days(config, first_day, business_day(datetime.now(UTC)))
            settings.training_sets_dir.mkdir(parents=True, exist_ok=True)
            path = settings.training_sets_dir / asked.file_name
            with replacing(path) as out:
                written = write_training_set(asked, warehouse, dbt, out)
        except PlatformError as error:
            raise Failure(str(error)) from None
        return MaterializeResult(
            metadata={
                "dagster/row_count": written.rows,
                "path": MetadataValue.path(str(path)),
                "bytes": path.stat().st_size,
                "days": str(asked.days),
                "labels_as_of": str(asked.labels_as_of),
                **{f"label_{label}": written.labels[label] for label in ("fraud", "genuine", "unknown")},
                "rules_versions": sorted(written.rules_versions),
            }
        )

    return [training_set]


def asked_days(config: TrainingSetDays, first_day: date, today: date) -> TrainingSet:
    """Return what the launchpad asks for. Raises `PlatformError` for a text that is no day, or wrong days."""
    labels_as_of = launchpad_day("labels_as_of", config.labels_as_of) or today - timedelta(days=1)
    first = launchpad_day("first_day", config.first_day) or first_day
    last = launchpad_day("last_day", config.last_day) or labels_as_of
    if first > last:
        raise PlatformError(f"the first day, {first}, is after the last, {last}")
    return TrainingSet.of(Days.between(first, last), labels_as_of, today)
