"""A run of the daily job that loads the same rows again: it ends at the raw tables."""

# Annotations must be real here: Dagster inspects those of `context`.
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from dagster import (
    AssetCheckKey,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    asset,
)
from dagster._core.storage.asset_check_execution_record import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
)

from ecommersss_platform.assets import analytics
from ecommersss_platform.assets.analytics import analytics_assets
from ecommersss_platform.contracts import ORDERS, PRODUCTS, RAW_TABLES, USERS, RawTable
from ecommersss_platform.dbt.project import DbtError, ensure_manifest
from ecommersss_platform.dbt.resource import PlatformDbt
from ecommersss_platform.dbt.unchanged import REBUILD_TAG
from ecommersss_platform.jobs import daily_pipeline
from ecommersss_platform.partitions import SINGLE_RUN, Days, daily_partitions
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.resources import POSTGRES, WAREHOUSE, WAREHOUSE_IO_MANAGER
from ecommersss_platform.run_tags import range_tags
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import make_warehouse
from ecommersss_platform.warehouse.io_manager import WarehouseIOManager
from ecommersss_platform_tests.support.raw_days import ORDER_ROWS, SAMPLE, order

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FIRST, SECOND = date(2024, 2, 28), date(2024, 2, 29)
BOTH, DAY = Days.between(FIRST, SECOND), Days.between(FIRST, FIRST)
MART = AssetKey(["gold", "product_and_users"])
ALL = [table.name for table in RAW_TABLES]
"""The names of the raw tables, if everything that is made of them is built."""
SOME = [table.name for table in (USERS, PRODUCTS, ORDERS)]
"""Those that one mart is made of."""


class Shop:
    """The daily job over rows that a test changes; what follows from the marts is one asset.

    `raw`: the names of the raw tables, `ALL` or `SOME`.
    """

    def __init__(self, settings: Settings, instance: DagsterInstance, raw: Sequence[str]) -> None:
        self.settings, self.instance, self.raw = settings, instance, {f"raw/{name}" for name in raw}
        self.rows = dict(SAMPLE)
        warehouse = make_warehouse(settings)
        partitions = daily_partitions(FIRST)
        analytics = analytics_assets(partitions, "duckdb")
        tables = (self._raw(table, partitions) for table in RAW_TABLES if table.name in raw)
        assets = [*tables, _follower(), analytics]
        dbt = analytics.keys if raw is ALL else AssetSelection.assets(MART).upstream().resolve([analytics])
        self.assets = [*(a.key for a in assets[:-1]), *dbt]
        self.job = Definitions(
            assets=assets,
            jobs=[daily_pipeline(assets)],
            resources={
                "dbt": PlatformDbt(settings),
                POSTGRES: PostgresResource(url="postgresql://nobody.invalid/"),
                WAREHOUSE: warehouse,
                WAREHOUSE_IO_MANAGER: WarehouseIOManager(warehouse),
            },
        ).resolve_job_def("daily_pipeline")

    def _raw(self, table: RawTable, partitions: Any) -> AssetsDefinition:
        @asset(
            key=table.path,
            partitions_def=partitions,
            backfill_policy=SINGLE_RUN,
            io_manager_key=WAREHOUSE_IO_MANAGER,
        )
        def rows(context: AssetExecutionContext) -> pa.Table:
            days = Days.of_keys(context.partition_key_range)
            mine = [row for row in self.rows[table] if row["partition_date"] in set(days)]
            return pa.Table.from_pylist(mine, schema=table.arrow_schema)

        return rows

    def run(self, days: Days, **options: Any) -> ExecuteInProcessResult:
        options = {
            "asset_selection": self.assets,
            **options,
            "tags": range_tags(days) | options.get("tags", {}),
        }
        return self.job.execute_in_process(instance=self.instance, raise_on_error=False, **options)


def _follower() -> AssetsDefinition:
    @asset(key=["fraud", "user_lists"], deps=[MART])
    def user_lists() -> None: ...

    return user_lists


def materialised(result: ExecuteInProcessResult) -> set[str]:
    return {e.asset_key.to_user_string() for e in result.get_asset_materialization_events() if e.asset_key}


def check_results(shop: Shop) -> dict[AssetCheckKey, list[int]]:
    """Return the ids of all results of each check."""
    storage, keys = shop.instance.event_log_storage, shop.job.asset_layer.asset_graph.asset_check_keys
    done = COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
    return {
        key: [record.id for record in storage.get_asset_check_execution_history(key, limit=9, status=done)]
        for key in keys
    }


@pytest.fixture(scope="module", params=[SOME, pytest.param(ALL, marks=pytest.mark.long)], ids=["some", "all"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Two days that were built as a whole."""
    ensure_manifest()
    settings = Settings(home=tmp_path_factory.mktemp("home"), _env_file=None)
    with DagsterInstance.ephemeral() as instance:
        shop = Shop(settings, instance, request.param)
        result = shop.run(BOTH)
        assert result.success
        assert "fraud/user_lists" in materialised(result)
        yield shop


@pytest.fixture
def dbt_fails(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let dbt fail at once, and return its calls: what was built before stays the newest build."""
    calls: list[Any] = []

    def fail(self: PlatformDbt, arguments: Any, *_: object) -> Iterator[Any]:
        calls.append(arguments)
        raise DbtError("dbt was asked to build")
        yield

    monkeypatch.setattr(PlatformDbt, "events", fail)
    return calls


def test_days_with_the_same_rows_end_the_run_and_the_metadata_says_so(
    shop: Shop, dbt_fails: list[Any]
) -> None:
    [before] = shop.instance.get_runs(limit=1)
    results = check_results(shop)
    for days in (BOTH, DAY):
        result = shop.run(days)
        assert result.success
        assert dbt_fails == []
        assert materialised(result) == shop.raw
        assert not result.get_asset_check_evaluations()
        seen = result.get_asset_observation_events()
        facts = {e.partition for e in seen if e.asset_key == AssetKey(["silver", "fact_orders"])}
        assert facts == {str(day) for day in days}
        assert {e.asset_key for e in seen} == {
            key for key in shop.assets if key.path[0] not in ("raw", "fraud")
        }
        for event in seen:
            metadata = event.asset_observation_data.asset_observation.metadata
            assert metadata["unchanged"].value is True
            assert metadata["built_by"].value == before.run_id
    # A check that was not run claims nothing: its newest result is that of the build.
    assert check_results(shop) == results


def test_raw_days_with_the_same_rows_have_the_same_version(shop: Shop, dbt_fails: list[Any]) -> None:
    first, second = (shop.run(DAY).get_asset_materialization_events() for _ in range(2))
    versions = [
        {e.asset_key: e.materialization.tags["dagster/data_version"] for e in events}
        for events in (first, second)
    ]
    assert versions[0] == versions[1]
    checksums = {e.asset_key: e.materialization.metadata["checksum"].value for e in second}
    assert versions[1] == checksums


def changed_order(shop: Shop, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    late = order(113, 1, 1, str(SECOND), "23:59:59.999999", "3.33", "OVO")
    patch.setitem(shop.rows, ORDERS, [*ORDER_ROWS, late])
    return {}


def changed_code(_: Shop, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    patch.setattr(analytics, "parsed_name", lambda settings: "another version")
    return {}


def dropped_mart(shop: Shop, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    with make_warehouse(shop.settings).writing() as connection:  # type: ignore[attr-defined]
        connection.execute("ALTER TABLE gold.product_and_users RENAME TO aside")
    return {}


def asked_to_rebuild(*_: object) -> dict[str, Any]:
    return {"tags": {REBUILD_TAG: "true"}}


def asked_in_the_launchpad(*_: object) -> dict[str, Any]:
    return {"run_config": {"ops": {"dbt_models": {"config": {"rebuild": True}}}}}


def only_marts(*_: object) -> dict[str, Any]:
    return {"asset_selection": [MART]}


@pytest.mark.parametrize(
    "change",
    [only_marts, asked_to_rebuild, asked_in_the_launchpad, changed_code, changed_order, dropped_mart],
)
def test_what_may_have_changed_is_built(
    change: Any, shop: Shop, dbt_fails: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = shop.run(BOTH, **change(shop, monkeypatch))
    assert not result.success
    assert len(dbt_fails) == 1


def test_a_full_refresh_of_the_launchpad_reaches_dbt(shop: Shop, dbt_fails: list[Any]) -> None:
    shop.run(DAY, run_config={"ops": {"dbt_models": {"config": {"full_refresh": True}}}})
    [arguments] = dbt_fails
    assert "--full-refresh" in arguments


def test_the_launchpad_says_what_each_choice_does(shop: Shop) -> None:
    fields = shop.job.get_node_named("dbt_models").definition.config_schema.as_field().config_type.fields
    assert {name: field.default_value for name, field in fields.items()} == {
        "rebuild": False,
        "full_refresh": False,
    }
    assert all(len(field.description) > 50 for field in fields.values())
