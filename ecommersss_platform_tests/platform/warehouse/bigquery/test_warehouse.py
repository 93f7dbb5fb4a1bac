"""The contract of every warehouse on BigQuery, through the official client, on an emulator."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest
from dagster import DagsterInstance, asset, materialize

from ecommersss_platform.partitions import SINGLE_RUN, daily_partitions
from ecommersss_platform.resources import WAREHOUSE_IO_MANAGER
from ecommersss_platform.warehouse import Step, Warehouse
from ecommersss_platform.warehouse.bigquery.config import BigQueryConfig
from ecommersss_platform.warehouse.bigquery.warehouse import BigQueryWarehouse
from ecommersss_platform.warehouse.io_manager import WarehouseIOManager
from ecommersss_platform_tests.support.bigquery_emulator import running_emulator
from ecommersss_platform_tests.support.orders_table import DAY_1, orders, reader
from ecommersss_platform_tests.support.warehouse_contract import WarehouseContract

pytestmark = [pytest.mark.integration, pytest.mark.bigquery, pytest.mark.slow]

OTHERS = [pytest.param(step, marks=pytest.mark.long) for step in (Step.OPENED, Step.AUDITED)]
DATASETS = ("raw", "silver", "staging")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQueryWarehouse]:
    """Yield a warehouse in an empty project of the emulator."""
    with running_emulator(tmp_path_factory.mktemp("bigquery")) as address:
        yield BigQueryWarehouse(BigQueryConfig("test", "US", endpoint=address))


@pytest.fixture
def warehouse(project: BigQueryWarehouse) -> BigQueryWarehouse:
    # One project for all tests: the emulator searches every project it has for a table.
    delete_datasets(project)
    return project


def delete_datasets(warehouse: BigQueryWarehouse) -> None:
    from ecommersss_platform.warehouse.bigquery.session import PlatformBigQuery

    with PlatformBigQuery.of(warehouse.config, {}).get_client() as client:
        for name in DATASETS:
            client.delete_dataset(
                f"{warehouse.config.project}.{name}", delete_contents=True, not_found_ok=True
            )


class TestContract(WarehouseContract):
    """The whole contract. A publication takes a second here, so some parts also have a long version."""

    @pytest.mark.long
    def test_every_contract_can_be_published(self, warehouse: Warehouse) -> None:
        """The tests of dbt on BigQuery publish rows of every raw table, too."""
        super().test_every_contract_can_be_published(warehouse)

    @pytest.mark.parametrize("step", [Step.STAGED, Step.PUBLISHED, *OTHERS])
    def test_killed_after_a_step_the_days_are_old_or_new(self, warehouse: Warehouse, step: Step) -> None:
        super().test_killed_after_a_step_the_days_are_old_or_new(warehouse, step)

    @pytest.mark.parametrize("count", [2, pytest.param(12, marks=pytest.mark.long)])
    def test_runs_at_once_on_different_days_all_succeed(self, warehouse: Warehouse, count: int) -> None:
        super().test_runs_at_once_on_different_days_all_succeed(warehouse, count)

    @pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.long)])
    def test_runs_at_once_on_the_same_day_leave_the_rows_of_one(
        self, warehouse: Warehouse, count: int
    ) -> None:
        super().test_runs_at_once_on_the_same_day_leave_the_rows_of_one(warehouse, count)


def test_a_run_shows_its_jobs_with_links(warehouse: BigQueryWarehouse) -> None:
    @asset(
        key=["raw", "orders"],
        partitions_def=daily_partitions(DAY_1),
        backfill_policy=SINGLE_RUN,
        io_manager_key=WAREHOUSE_IO_MANAGER,
    )
    def raw_orders() -> pa.RecordBatchReader:
        return reader(orders([1, 2], DAY_1))

    with DagsterInstance.ephemeral() as instance:
        result = materialize(
            [raw_orders],
            instance=instance,
            partition_key=str(DAY_1),
            resources={WAREHOUSE_IO_MANAGER: WarehouseIOManager(warehouse)},
        )
    [made] = result.asset_materializations_for_node("raw__orders")
    jobs = made.metadata["jobs"].value
    lines = jobs.splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == [
        *("lock", "load", "audit", "tally", "publish", "count")
    ]
    for line in lines:
        assert f"](https://console.cloud.google.com/bigquery?project={warehouse.config.project}&j=bq:" in line
    assert made.metadata["job_bytes"].value >= 0
    assert made.metadata["job_slot_ms"].value >= 0
    [entry] = warehouse.query("SELECT run_id, checksum FROM raw.load_log").to_pylist()
    assert entry == {"run_id": result.run_id, "checksum": made.metadata["checksum"].value}
