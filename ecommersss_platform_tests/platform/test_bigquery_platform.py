"""The platform on BigQuery, chosen by settings alone: the code location as Dagster loads it, and one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ecommersss_platform.contracts import ORDERS, RAW_TABLES
from ecommersss_platform.dbt.project import ensure_manifest
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse.bigquery.config import BigQueryConfig, label
from ecommersss_platform.warehouse.bigquery.warehouse import BigQueryWarehouse
from ecommersss_platform_tests.support import shop
from ecommersss_platform_tests.support.bigquery_emulator import running_emulator
from ecommersss_platform_tests.support.dbt_runs import parse_once
from ecommersss_platform_tests.support.loopback import loopback_only
from ecommersss_platform_tests.support.orders_table import DAY_1, DAY_2, order
from streaming.business_days import JAKARTA
from streaming.database.user_lists import list_entries

pytestmark = [pytest.mark.integration, pytest.mark.bigquery, pytest.mark.slow]

PROJECT = "test-shop"
RAW = {table.name for table in RAW_TABLES}
UP_TO_LIST_AND_REPORT = {
    *(f"raw/{name}" for name in RAW),
    *(f"bronze/stg_{name}" for name in RAW),
    *("bronze/stg_dispute_versions", "bronze/stg_user_versions", "bronze/stg_product_versions"),
    *("silver/dim_users", "silver/dim_products", "silver/fact_orders", "silver/order_labels"),
    *("silver/order_features", "silver/fact_disputes", "silver/fact_shipments", "silver/order_outcomes"),
    *("gold/daily_fraud_summary", "gold/rule_performance", "gold/rule_totals"),
    *("gold/users_and_blacklist", "fraud/user_lists", "reports/fraud_report"),
}
ALL_ELSE = {
    *("silver/dim_users_history", "silver/dim_products_history"),
    *("gold/most_fraudulent_users", "gold/payment_fraud_critical_time", "gold/product_and_payment_methods"),
    *("gold/product_and_users", "gold/cohorts_by_signup_month", "gold/product_freshness"),
    *("gold/customer_lifetime_value", "gold/fulfilment"),
}

RUN = """
import json, sys
from dagster import AssetSelection, DagsterInstance
from ecommersss_platform.definitions import defs, pool
from ecommersss_platform.run_tags import range_tags
from ecommersss_platform.partitions import Days
from datetime import date

job = defs.resolve_job_def("daily_pipeline")
graph = defs.resolve_asset_graph()
clients = ("google.cloud.", "google.auth", "dagster_gcp", "dbt.adapters.bigquery")
loaded = sorted(name for name in sys.modules if name.startswith(clients))
days = Days.between(*map(date.fromisoformat, sys.argv[2:4]))
ends = [name.split("/") for name in sys.argv[4:]]
if ends:
    asked = AssetSelection.assets(*ends).upstream().resolve(graph) & graph.materializable_asset_keys
    checked = {"raw/orders", "silver/fact_orders", "silver/order_features", "gold/users_and_blacklist"}
    checks = {
        key
        for key in job.asset_layer.asset_graph.asset_check_keys
        if key.asset_key.to_user_string() in checked
    }
    job = job.get_subset(asset_selection=asked, asset_check_selection=checks)
with DagsterInstance.ephemeral() as instance:
    result = job.execute_in_process(instance=instance, tags=range_tags(days), raise_on_error=False)
report = {
    "loaded": loaded,
    "pool": pool,
    "pools": sorted({p for key in graph.materializable_asset_keys for p in graph.get(key).pools}),
    "run": result.run_id,
    "success": result.success,
    "made": [
        [
            event.asset_key.to_user_string(),
            event.partition,
            {name: str(value.value) for name, value in event.materialization.metadata.items()},
        ]
        for event in result.get_asset_materialization_events()
    ],
    "failed_checks": sorted(
        f"{check.check_name}: {check.severity.value}"
        for check in result.get_asset_check_evaluations()
        if not check.passed
    ),
}
with open(sys.argv[1], "w") as file:  # standard output belongs to dbt
    json.dump(report, file)
"""


@dataclass(frozen=True)
class Platform:
    database: str
    variables: dict[str, str]
    outside: Path
    warehouse: BigQueryWarehouse

    def run(self, *ends: str) -> dict[str, Any]:
        """Run the job over the two days in its own process, and return its report.

        `ends`: the assets up to which it runs, by default to the end of all. With them, only the checks of a
        few assets run: the tests of dbt on BigQuery run all kinds of data tests.
        """
        report = self.outside.with_name("report.json")
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(report), str(DAY_1), str(DAY_2), *ends],
            env={k: v for k, v in os.environ.items() if not k.startswith(("ECOMMERSSS_", "DAGSTER_"))}
            | loopback_only(self.outside)
            | self.variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(report.read_text())
        assert found["success"], done.stderr
        return found


@pytest.fixture
def platform(database: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Two days of a shop in PostgreSQL, and an empty BigQuery."""
    morning = datetime.combine(DAY_1, datetime.min.time(), JAKARTA).astimezone(UTC)
    shop.add_users(database, range(1, 9), signed_up=morning)
    shop.add_products(database, range(1, 5), listed=morning)
    rows = [order(n, DAY_1 if n < 8 else DAY_2) for n in range(1, 15)]
    for row in rows:
        if row["user_id"] == 3:  # orders 2 and 9
            row |= {"is_fraud": True, "fraud_reasons": ["extreme_order"], "amount": Decimal("300000000.01")}
    rows.append(order(100, DAY_2, user_id=3, is_fraud=True, fraud_reasons=["foreign_country"]))
    names = [name for name in ORDERS.arrow_schema.names if name != "partition_date"]
    shop.write(
        database,
        f"INSERT INTO orders ({', '.join(names)}) VALUES %s",
        [tuple(row[name] for name in names) for row in rows],
    )
    ensure_manifest()
    home = tmp_path / "home"
    parse_once(
        Settings(home=home, warehouse="bigquery", bigquery_project=PROJECT, _env_file=None), tmp_path_factory
    )
    with running_emulator(tmp_path) as address:
        variables = {
            "ECOMMERSSS_HOME": str(home),
            "ECOMMERSSS_FIRST_DAY": str(DAY_1),
            "ECOMMERSSS_DATABASE_URL": database,
            "ECOMMERSSS_WAREHOUSE": "bigquery",
            "ECOMMERSSS_PSEUDONYM_KEY": "k" * 32,
            "ECOMMERSSS_BIGQUERY_PROJECT": PROJECT,
            "ECOMMERSSS_BIGQUERY_LOCATION": "US",
            "ECOMMERSSS_BIGQUERY_ENDPOINT": address,
            "ECOMMERSSS_BIGQUERY_MAXIMUM_BYTES_BILLED": "123456789",
        }
        yield Platform(
            database,
            variables,
            tmp_path / "outside",
            BigQueryWarehouse(BigQueryConfig(PROJECT, "US", endpoint=address)),
        )


@pytest.mark.parametrize(
    ("ends", "more"),
    [
        (["fraud/user_lists", "reports/fraud_report"], set()),
        pytest.param([], ALL_ELSE, id="every asset", marks=pytest.mark.long),
    ],
)
def test_two_days_from_postgres_to_the_block_list_and_the_report(
    platform: Platform, ends: list[str], more: set[str]
) -> None:
    report = platform.run(*ends)

    assert report["loaded"] == [], "loading the code location needs no client"
    assert report["pool"] is None
    assert report["pools"] == []
    assert report["failed_checks"] == []
    assert not platform.outside.exists(), platform.outside.read_text()

    query = platform.warehouse.query
    assert query("SELECT count(*) AS n FROM silver.fact_orders").to_pylist() == [{"n": 15}]
    assert query(
        "SELECT user_id, fraud_orders, fraud_loss FROM gold.users_and_blacklist WHERE status = 'Blacklist'"
    ).to_pylist() == [{"user_id": 3, "fraud_orders": 3, "fraud_loss": Decimal("600001500.27")}]
    assert [(e.user_id, e.list, e.reason) for e in list_entries(platform.database)] == [
        (3, "block", "3 fraud orders (gold.users_and_blacklist)")
    ]

    metadata: dict[str, dict[str, str]] = {key: found for key, _, found in report["made"]}
    days = [day for key, day, _ in report["made"] if key == "silver/fact_orders"]
    assert days == [str(DAY_1), str(DAY_2)]
    assert set(metadata) == UP_TO_LIST_AND_REPORT | more
    assert metadata["silver/fact_orders"]["dagster/row_count"] == "15"
    for key in ("raw/orders", "silver/fact_orders"):
        rows = [found["dagster/partition_row_count"] for name, _, found in report["made"] if name == key]
        assert sum(map(int, rows)) == 15
        assert len(rows) == 2
    assert metadata["raw/orders"]["dagster/row_count"] == "15"
    assert metadata["gold/users_and_blacklist"]["dagster/row_count"] == "8"
    assert "TableColumn(name='user_id', type='INT64'" in metadata["silver/dim_users"]["dagster/column_schema"]
    models = {
        key: found for key, found in metadata.items() if key.split("/")[0] in ("bronze", "silver", "gold")
    }
    by_day = {key for key, day, _ in report["made"] if day}
    for key, found in models.items():
        assert found["job"] == (
            f"https://console.cloud.google.com/bigquery?project={PROJECT}&j=bq:US:{found['job_id']}"
            "&page=queryresults"
        ), key
        # The emulator counts no bytes. Figures of a run over two days belong to neither of them; the bill is
        # shared.
        figures = (found.get("job_bytes"), found.get("job_bytes_billed"))
        assert figures == ((None, "0") if key in by_day else ("0", "0"))
    assert len({found["job_id"] for found in models.values()}) == len(models)

    job = job_of(platform.warehouse, models["silver/fact_orders"]["job_id"])
    assert job.maximum_bytes_billed == 123456789
    assert {name: value for name, value in job.labels.items() if name != "dbt_invocation_id"} == {
        "managed_by": "ecommersss",
        "dagster_run_id": label(report["run"]),
        "asset": "silver_fact_orders",
    }


def job_of(warehouse: BigQueryWarehouse, job_id: str) -> Any:
    from ecommersss_platform.warehouse.bigquery.session import PlatformBigQuery

    with PlatformBigQuery.of(warehouse.config, {}).get_client() as client:
        return client.get_job(job_id)
