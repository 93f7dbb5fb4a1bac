"""dbt's models as Dagster assets, materialised with the real dbt on a small warehouse."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    AssetSpec,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    materialize,
)
from dagster._core.storage.asset_check_execution_record import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
)
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from ecommersss_platform.assets.analytics import analytics_assets, labelled_assets
from ecommersss_platform.contracts import ORDERS, RAW_TABLES
from ecommersss_platform.dbt.project import PROJECT_DIR, artifacts_dir, ensure_manifest
from ecommersss_platform.dbt.resource import PlatformDbt
from ecommersss_platform.partitions import SINGLE_RUN, Days, daily_partitions
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.resources import POSTGRES, WAREHOUSE
from ecommersss_platform.run_tags import range_tags
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import make_warehouse
from ecommersss_platform_tests.support.raw_days import ORDER_ROWS, order, read, write_raw

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DAYS = Days(date(2024, 2, 28), date(2024, 3, 3))
PARTITIONS = daily_partitions(DAYS.first)
BRONZE = {
    *(f"bronze/stg_{table.name}" for table in RAW_TABLES),
    *("bronze/stg_dispute_versions", "bronze/stg_product_versions", "bronze/stg_user_versions"),
}
DIMENSIONS = {"silver/dim_products", "silver/dim_users"}
HISTORIES = {"silver/dim_products_history", "silver/dim_users_history"}
FACTS = AssetKey(["silver", "fact_orders"])
MARTS = {
    *("gold/cohorts_by_signup_month", "gold/product_freshness"),
    *("gold/customer_lifetime_value", "gold/fulfilment"),
    "gold/most_fraudulent_users",
    "gold/rule_totals",
    "gold/payment_fraud_critical_time",
    "gold/product_and_payment_methods",
    "gold/product_and_users",
    "gold/users_and_blacklist",
}
BY_DAY = {
    *("silver/fact_orders", "silver/order_features", "silver/order_labels"),
    *("gold/daily_fraud_summary", "gold/rule_performance"),
}
OUTCOMES = {"silver/fact_disputes", "silver/fact_shipments", "silver/order_outcomes"}
NOT_LABELLED = {
    *(
        "silver/fact_orders",
        "silver/fact_disputes",
        "silver/order_features",
        "silver/fact_shipments",
        "gold/payment_fraud_critical_time",
    ),
    *("gold/product_and_payment_methods", "gold/product_and_users"),
}
BRONZE_OF_LABELS = {
    f"bronze/stg_{name}" for name in ("dispute_versions", "disputes", "shipments", "verdicts")
}


@pytest.fixture(scope="module")
def assets() -> AssetsDefinition:
    ensure_manifest()
    return analytics_assets(PARTITIONS, "duckdb")


def resources(settings: Settings) -> dict[str, Any]:
    return {
        "dbt": PlatformDbt(settings),
        POSTGRES: PostgresResource(url="postgresql://nobody.invalid/"),  # DuckDB's pool needs no lock
        WAREHOUSE: make_warehouse(settings),
    }


def selected(*names: str) -> AssetSelection:
    """Select assets by name, with their checks."""
    return AssetSelection.assets(*(name.split("/") for name in names))


FACTS_FROM_RAW = selected(
    *("bronze/stg_user_versions", "bronze/stg_product_versions"),
    *("bronze/stg_users", "bronze/stg_products", "bronze/stg_orders"),
    *(*DIMENSIONS, "silver/fact_orders"),
)
FACTS_ALONE = selected("silver/fact_orders")
FACTS_AND_MARTS = selected(*BY_DAY, "silver/order_outcomes", *MARTS)


def test_one_step_of_which_only_the_facts_have_partitions(assets: AssetsDefinition) -> None:
    models = BRONZE | DIMENSIONS | HISTORIES | OUTCOMES | BY_DAY | MARTS
    assert {key.to_user_string() for key in assets.keys} == models
    partitions = {spec.key.to_user_string(): spec.partitions_def for spec in assets.specs}
    assert partitions == {key: PARTITIONS if key in BY_DAY else None for key in models}
    labelled = {key.to_user_string() for key in labelled_assets([assets])}
    assert labelled == (BY_DAY | OUTCOMES | MARTS) - NOT_LABELLED
    assert assets.backfill_policy == SINGLE_RUN
    assert assets.op.pool == "duckdb"
    assert analytics_assets(PARTITIONS, None).op.pool is None


def test_lineage_groups_and_owners(assets: AssetsDefinition, tmp_path: Path) -> None:
    names = [table.name for table in RAW_TABLES]
    raw = [AssetSpec(["raw", name], partitions_def=PARTITIONS) for name in names]
    settings = Settings(home=tmp_path, _env_file=None)
    graph = Definitions([*raw, assets], resources=resources(settings)).resolve_asset_graph()

    def parents(key: str) -> set[str]:
        return {parent.to_user_string() for parent in graph.get(AssetKey(key.split("/"))).parent_keys}

    assert parents("bronze/stg_user_versions") == {"raw/users"}
    assert parents("bronze/stg_users") == {"bronze/stg_user_versions"}
    assert parents("silver/dim_products") == {"bronze/stg_products"}
    # Straight from raw/orders too: a day of the one is a day of the other.
    assert parents("silver/fact_orders") == {"bronze/stg_orders", "raw/orders"} | DIMENSIONS
    assert parents("gold/most_fraudulent_users") == {"gold/users_and_blacklist"}
    assert parents("gold/product_and_users") == {"silver/fact_orders"} | DIMENSIONS
    for spec in assets.specs:
        dataset = spec.key.path[0]
        assert spec.group_name == dataset
        team = "team:fraud-analytics" if dataset == "gold" else "team:data-engineering"
        assert list(spec.owners) == [team]
        assert spec.kinds == {"dbt", "duckdb"}
        assert spec.description is not None
        assert "Grain: one row per" in spec.description
        assert "#### Raw SQL:\n```sql\n    " in spec.description
        assert spec.metadata["dagster/table_name"].endswith(f".{spec.key.to_user_string().replace('/', '.')}")
        described = spec.metadata["dagster/column_schema"].value.columns
        assert described
        assert [column.name for column in described if not column.description] == []


def test_checks_are_dbts_tests_on_the_assets_they_are_about(assets: AssetsDefinition) -> None:
    assert {check.name for check in assets.check_keys if check.asset_key == FACTS} == {
        "fact_orders_amount_is_not_negative",
        "fact_orders_are_fraud_when_a_rule_held",
        "fact_orders_lie_in_their_day",
        "fact_orders_product_is_known",
        "fact_orders_user_is_known",
        "not_null_fact_orders_is_fraud",
        "not_null_fact_orders_order_id",
        "not_null_fact_orders_partition_date",
        "not_null_fact_orders_product_id",
        "not_null_fact_orders_user_id",
        "reconciles_with_raw",
        "unique_fact_orders_order_id",
    }
    descriptions = {check.name: check.description for check in assets.check_specs}
    assert [name for name, description in descriptions.items() if not description] == []
    assert {(c.asset_key.to_user_string(), c.name) for c in assets.check_keys if "every" in c.name} == {
        ("gold/cohorts_by_signup_month", "cohorts_by_signup_month_hold_every_user"),
        ("gold/daily_fraud_summary", "daily_fraud_summary_counts_every_order"),
        ("gold/rule_performance", "rule_performance_has_every_active_reason"),
        ("gold/most_fraudulent_users", "most_fraudulent_users_count_every_fraud_order"),
        ("gold/payment_fraud_critical_time", "payment_fraud_critical_time_counts_every_night_order"),
        ("gold/product_and_payment_methods", "product_and_payment_methods_count_every_order"),
        ("gold/product_and_payment_methods", "product_and_payment_methods_hold_every_rupiah"),
        ("gold/product_and_users", "product_and_users_count_every_order"),
        ("gold/product_freshness", "product_freshness_holds_every_product"),
        ("gold/users_and_blacklist", "users_and_blacklist_count_every_fraud_order"),
        ("gold/users_and_blacklist", "users_and_blacklist_count_every_order"),
        ("gold/customer_lifetime_value", "customer_lifetime_value_counts_every_order"),
        ("gold/fulfilment", "fulfilment_counts_every_order"),
        ("gold/users_and_blacklist", "users_and_blacklist_hold_every_rupiah"),
        ("silver/order_features", "order_features_describe_every_order"),
        ("silver/order_labels", "order_labels_label_every_order"),
        ("gold/rule_totals", "rule_totals_count_every_flagged_order"),
    }
    # Each model's key is unique and not null, by a check of its own.
    keyed = {check.asset_key.to_user_string() for check in assets.check_keys}
    models = BRONZE | DIMENSIONS | HISTORIES | OUTCOMES | BY_DAY | MARTS
    assert keyed == models - {"bronze/stg_orders"}


@pytest.fixture
def nobody_called(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What is sent beyond this machine by any client that honours the proxy variables, as dbt does."""
    heard: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(1000))

        threading.Thread(target=listen, daemon=True).start()
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, address)
            monkeypatch.setenv(name.lower(), address)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        yield heard


def project_files() -> dict[str, int]:
    """Return the times of all files but those with which any process may prepare the manifest meanwhile."""
    target = PROJECT_DIR / "target"
    prepared = {target, *target.glob("*.json"), *target.glob("*.msgpack"), *target.glob(".p*")}
    paths = [
        path for path in sorted(PROJECT_DIR.rglob("*")) if not prepared & {path, *path.parents} - {target}
    ]
    return {str(path): path.stat().st_mtime_ns for path in paths if path != target}


def run(
    assets: AssetsDefinition,
    settings: Settings,
    days: Days,
    selection: AssetSelection | None = None,
    instance: DagsterInstance | None = None,
    config: dict[str, Any] | None = None,
) -> ExecuteInProcessResult:
    with DagsterInstance.ephemeral() if instance is None else nullcontext(instance) as used:
        return materialize(
            [assets],
            instance=used,
            resources=resources(settings),
            tags=range_tags(days),
            run_config=config,
            selection=selection,
            raise_on_error=False,
        )


def materialised(result: ExecuteInProcessResult) -> list[tuple[str, str | None]]:
    return [
        (event.asset_key.to_user_string(), event.partition)
        for event in result.get_asset_materialization_events()
        if event.asset_key
    ]


def test_a_range_of_days_from_raw_to_marts_in_one_run(
    assets: AssetsDefinition,
    tmp_path: Path,
    nobody_called: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # dbt's own flags, in the environment of whoever starts the run, must not reach dbt.
    for flag, value in {"DBT_EMPTY": "true", "DBT_LOG_LEVEL": "error", "DBT_TARGET": "nowhere"}.items():
        monkeypatch.setenv(flag, value)
    settings = Settings(home=tmp_path / "home", _env_file=None)
    write_raw(settings.warehouse_path)
    before = project_files()
    result = run(assets, settings, DAYS)
    assert result.success

    made = materialised(result)
    # What no fact is made of is built at any time.
    anytime = HISTORIES | BRONZE_OF_LABELS | {"silver/fact_disputes", "silver/fact_shipments"}
    anytime |= {"bronze/stg_rule_books", "bronze/stg_user_list_events", "bronze/stg_rule_exemption_events"}
    later = MARTS | OUTCOMES | BY_DAY - {"silver/fact_orders"}
    facts_at = made.index(("silver/fact_orders", str(DAYS.first)))
    assert {key for key, _ in made[:facts_at]} - anytime == (BRONZE | DIMENSIONS) - anytime
    assert made[facts_at : facts_at + 4] == [("silver/fact_orders", str(day)) for day in DAYS]
    assert {key for key, _ in made[facts_at + 4 :]} - anytime == later - anytime
    assert {partition for key, partition in made if key not in BY_DAY} == {None}

    metadata = {
        event.asset_key.to_user_string(): event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }
    counts = {key: m["dagster/row_count"].value for key, m in metadata.items() if "dagster/row_count" in m}
    assert counts == {
        "silver/dim_users": 3,
        "silver/dim_products": 3,
        "silver/dim_users_history": 4,
        "silver/dim_products_history": 4,
        "silver/fact_orders": 10,
        "silver/fact_shipments": 2,
        "gold/cohorts_by_signup_month": 4,
        "gold/customer_lifetime_value": 16,
        "gold/fulfilment": 5,
        "gold/daily_fraud_summary": 3,
        "gold/most_fraudulent_users": 2,
        "gold/payment_fraud_critical_time": 3,
        "gold/product_and_payment_methods": 6,
        "gold/product_and_users": 5,
        "gold/product_freshness": 1,
        "gold/rule_performance": 8,
        "gold/rule_totals": 6,
        "gold/users_and_blacklist": 4,
        "silver/order_features": 10,
        "silver/order_labels": 10,
    }
    facts = {
        event.partition: {name: value.value for name, value in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
        if event.asset_key == FACTS
    }
    own = "dagster/partition_row_count"
    assert {day: m[own] for day, m in facts.items()} == {
        "2024-02-28": 4,
        "2024-02-29": 4,
        "2024-03-01": 0,
        "2024-03-02": 2,
    }
    for m in facts.values():
        assert {name for name in m if not name.startswith("dagster")} == {
            "unique_id",
            "invocation_id",
            "reason",
        }
    columns = metadata["gold/most_fraudulent_users"]["dagster/column_schema"].value.columns
    assert [(c.name, c.type) for c in columns][:2] == [("fraud_rank", "BIGINT"), ("user_id", "BIGINT")]
    assert columns[1].description == "The user."

    previews = {key: m["preview"].value.splitlines() for key, m in metadata.items() if "preview" in m}
    assert set(previews) == MARTS
    head, _, *rows = previews["gold/most_fraudulent_users"]
    shown = {name.strip() for name in head.strip("|").split("|")}
    assert {c.name for c in columns} - shown == {"username", "email_hash"}
    assert len(rows) == 2

    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert {key.name for key in assets.check_keys} == set(checks)
    # The sample has orders of a user and a product that the dimensions do not have yet.
    failed = {name: check.severity.value for name, check in checks.items() if not check.passed}
    assert failed == {"fact_orders_user_is_known": "WARN", "fact_orders_product_is_known": "WARN"}

    # One day more of orders, and the run leaves the others alone; the file is free in between.
    late = order(113, 1, 1, "2024-03-01", "23:59:59.999999", "3.33", "OVO")
    stale = ORDER_ROWS[0] | {"amount": Decimal("9.99")}
    write_raw(settings.warehouse_path, {ORDERS: [stale, *ORDER_ROWS[1:], late]})
    day = Days.between(date(2024, 3, 1), date(2024, 3, 1))
    users = selected("silver/order_labels", "silver/order_outcomes", "gold/users_and_blacklist")
    result = run(assets, settings, day, FACTS_ALONE | users)
    assert result.success
    [fact] = [e for e in result.get_asset_materialization_events() if e.asset_key == FACTS]
    assert fact.materialization.metadata["dagster/row_count"].value == 11
    assert fact.materialization.metadata["dagster/partition_row_count"].value == 1
    assert read(
        settings.warehouse_path,
        "SELECT order_id, amount FROM silver.fact_orders WHERE order_id IN (101, 113) ORDER BY 1",
    ) == [(101, Decimal("100.10")), (113, Decimal("3.33"))]
    assert read(
        settings.warehouse_path, "SELECT total_orders FROM gold.users_and_blacklist WHERE user_id = 1"
    ) == [(5,)]

    assert project_files() == before
    logs = [path / "dbt.log" for path in artifacts_dir(settings).iterdir() if path.is_dir()]
    assert ["create " in log.read_text() for log in logs] == [True, True]  # every statement
    assert nobody_called == []


@pytest.fixture(scope="module")
def warehouse_with_facts(assets: AssetsDefinition, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = Settings(home=tmp_path_factory.mktemp("home"), _env_file=None)
    write_raw(settings.warehouse_path)
    assert run(assets, settings, DAYS, FACTS_FROM_RAW).success
    return settings.warehouse_path


@pytest.fixture
def with_facts(warehouse_with_facts: Path, tmp_path: Path) -> Settings:
    """The settings of a home with a copy of that warehouse."""
    settings = Settings(home=tmp_path, _env_file=None)
    shutil.copy(warehouse_with_facts, settings.warehouse_path)
    return settings


def test_a_day_that_fails_its_checks_is_not_published_and_stays_failed(
    assets: AssetsDefinition, with_facts: Settings
) -> None:
    settings = with_facts
    bad_day, next_day = (Days.between(day, day) for day in (date(2024, 2, 28), date(2024, 2, 29)))
    statuses = {str(day): AssetPartitionStatus.MATERIALIZED for day in DAYS}
    failed_day = statuses | {str(bad_day): AssetPartitionStatus.FAILED}
    check = AssetCheckKey(FACTS, "fact_orders_are_fraud_when_a_rule_held")
    with DagsterInstance.ephemeral() as instance:

        def status_of_days() -> Mapping[str, Any]:
            found = instance.get_status_by_partition(FACTS, list(statuses), PARTITIONS)
            assert found is not None
            return found

        assert run(assets, settings, DAYS, FACTS_ALONE, instance=instance).success
        assert status_of_days() == statuses
        before = read(settings.warehouse_path, "SELECT * FROM silver.fact_orders ORDER BY order_id")

        # An order of a closed day has the verdict fraud without a reason, and another one is new.
        wrong = ORDER_ROWS[0] | {"is_fraud": True}
        late = order(113, 1, 1, str(next_day), "23:59:59.999999", "3.33", "OVO")
        write_raw(settings.warehouse_path, {ORDERS: [wrong, *ORDER_ROWS[1:], late]})
        result = run(assets, settings, bad_day, FACTS_AND_MARTS, instance=instance)
        assert not result.success
        assert materialised(result) == []
        evaluations = result.get_asset_check_evaluations()
        assert [(c.check_name, c.severity.value) for c in evaluations if not c.passed] == [
            (check.name, "ERROR")
        ]
        assert {c.metadata["days"].value for c in evaluations} == {"2024-02-28"}
        failure = result.failure_data_for_node("dbt_models")
        assert failure is not None
        assert failure.user_failure_data is not None
        message = str(failure.user_failure_data.description)
        left = ", ".join(
            sorted({*MARTS, "silver/order_outcomes", *(f"{name} (2024-02-28)" for name in BY_DAY)})
        )
        assert message.startswith(f"Left as it was: {left}.\n")
        # dbt's error once, and not in its lines of progress too.
        assert message.splitlines()[1:] == [
            f"Failure in test {check.name} (models/core/fact_orders_staged.yml)",
            "  Got 1 result, configured to fail if != 0",
        ]
        assert status_of_days() == failed_day

        # A good run of another day publishes that day, and clears nothing of the bad one.
        summary = selected(
            *BRONZE_OF_LABELS, "silver/fact_orders", "silver/order_labels", "gold/daily_fraud_summary"
        )
        result = run(assets, settings, next_day, summary, instance=instance)
        assert result.success
        assert status_of_days() == failed_day
        history = instance.event_log_storage.get_asset_check_execution_history(
            check, limit=9, status=COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
        )
        assert [(record.status.value, days_of(record)) for record in history] == [
            ("SUCCEEDED", "2024-02-29"),
            ("FAILED", "2024-02-28"),
            ("SUCCEEDED", "2024-02-28 to 2024-03-02"),
        ]
    after = read(settings.warehouse_path, "SELECT * FROM silver.fact_orders ORDER BY order_id")
    assert after[:-1] == before
    assert after[-1][0] == 113
    # The mart counts the new order, and no fraud on the bad day but that of before.
    sql = "SELECT business_day, total_orders, fraud_orders FROM gold.daily_fraud_summary ORDER BY 1 LIMIT 2"
    assert read(settings.warehouse_path, sql) == [(bad_day.first, 4, 1), (next_day.first, 5, 3)]


def days_of(record: Any) -> str:
    """Return the days for which a stored check result speaks."""
    return str(record.event.dagster_event.event_specific_data.metadata["days"].value)


def test_checks_alone_are_about_the_newest_day(assets: AssetsDefinition, with_facts: Settings) -> None:
    settings = with_facts
    checks = AssetSelection.checks(
        *(AssetCheckKey(FACTS, name) for name in ("reconciles_with_raw", "unique_fact_orders_order_id"))
    )
    with DagsterInstance.ephemeral() as instance:
        assert run(assets, settings, DAYS, FACTS_ALONE, instance=instance).success
        before = read(settings.warehouse_path, "SELECT * FROM silver.fact_orders ORDER BY order_id")
        write_raw(settings.warehouse_path, {ORDERS: [*ORDER_ROWS, ORDER_ROWS[-1]]})
        result = materialize(
            [assets], instance=instance, resources=resources(settings), selection=checks, raise_on_error=False
        )
        assert not result.success
        evaluations = result.get_asset_check_evaluations()
        assert {(c.check_name, c.passed, c.metadata["days"].value) for c in evaluations} == {
            ("reconciles_with_raw", True, "2024-03-02"),
            ("unique_fact_orders_order_id", False, "2024-03-02"),
        }
    assert read(settings.warehouse_path, "SELECT * FROM silver.fact_orders ORDER BY order_id") == before


def test_a_full_refresh_builds_every_day_in_raw_in_a_run_of_one(
    assets: AssetsDefinition, with_facts: Settings
) -> None:
    settings = with_facts
    rows = "SELECT partition_date, count(*) AS n FROM silver.fact_orders GROUP BY 1 ORDER BY 1"
    before = read(settings.warehouse_path, rows)
    assert len(before) > 2
    with duckdb.connect(str(settings.warehouse_path)) as connection:
        connection.execute("UPDATE silver.fact_orders SET amount = 1")
    first = Days.between(DAYS.first, DAYS.first)
    amounts = "SELECT count(*) AS n FROM silver.fact_orders WHERE amount = 1"
    assert run(assets, settings, first, FACTS_ALONE).success
    assert read(settings.warehouse_path, amounts) != [(0,)]
    config = {"ops": {"dbt_models": {"config": {"full_refresh": True}}}}
    assert run(assets, settings, first, FACTS_ALONE, config=config).success
    assert read(settings.warehouse_path, amounts) == [(0,)]
    assert read(settings.warehouse_path, rows) == before


def test_a_model_that_dbt_does_not_report_fails_the_step(
    assets: AssetsDefinition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlatformDbt, "events", lambda self, *arguments: iter(()))
    settings = Settings(home=tmp_path / "home", _env_file=None)
    result = run(assets, settings, DAYS, selected(*BRONZE, *DIMENSIONS))
    failure = result.failure_data_for_node("dbt_models")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert failure.user_failure_data.description == (
        "dbt ended without an error, but did not report every table. Not reported as replaced:"
        f" {', '.join(sorted(BRONZE | DIMENSIONS))}."
    )


def test_credentials_that_are_wrong_fail_the_step_in_one_sentence_before_dbt_is_started(
    assets: AssetsDefinition, tmp_path: Path, nobody_called: list[bytes]
) -> None:
    settings = Settings(
        home=tmp_path / "home",
        warehouse="bigquery",
        bigquery_project="shop",
        bigquery_key_file=tmp_path / "key.json",
        _env_file=None,
    )
    (tmp_path / "key.json").write_text('{"key": "s3cret"}')
    result = run(assets, settings, DAYS, selected(*MARTS))
    failure = result.failure_data_for_node("dbt_models")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert failure.user_failure_data.description == (
        f"ECOMMERSSS_BIGQUERY_KEY_FILE: {tmp_path}/key.json is not the JSON key of a service account, nor a "
        "configuration of workload identity federation: create one with `gcloud iam service-accounts keys "
        "create`, or leave the setting out to use application default credentials"
    )
    assert "s3cret" not in str(result.all_events)
    assert not settings.home.exists()
    assert nobody_called == []
