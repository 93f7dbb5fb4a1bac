"""The dbt project on BigQuery and DuckDB: the models give the same rows for the same raw days.

dbt and its adapter are the real ones, on an emulator. The emulator runs BigQuery's SQL on DuckDB too, so
these tests compare what the models mean, not how an engine computes. What BigQuery is asked to do, such as
which partitions it reads, is checked in the statements that dbt sent.
"""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecommersss_platform.contracts import (
    DISPUTES,
    ORDERS,
    PRODUCTS,
    RULE_BOOKS,
    RULE_EXEMPTION_EVENTS,
    SHIPMENTS,
    USER_LIST_EVENTS,
    USERS,
    VERDICTS,
    RawTable,
)
from ecommersss_platform.dbt.project import (
    MANIFEST,
    PROJECT_DIR,
    DbtError,
    artifacts_dir,
    build_arguments,
    ensure_manifest,
    parsed_project,
)
from ecommersss_platform.dbt.resource import PlatformDbt
from ecommersss_platform.laboratory.backtest import run_backtest
from ecommersss_platform.laboratory.backtest_object import as_object
from ecommersss_platform.laboratory.parity import compare_verdicts, recomputed_sql
from ecommersss_platform.laboratory.training_set import TrainingSet, write_training_set
from ecommersss_platform.partitions import Days
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import Warehouse, make_warehouse
from ecommersss_platform_tests.support.bigquery_emulator import running_emulator
from ecommersss_platform_tests.support.dbt_runs import dbt_events, parse_once, with_changed_types
from ecommersss_platform_tests.support.raw_days import MOST, SAMPLE, Row, at, order, product, user
from streaming.rules import RuleBook

pytestmark = [pytest.mark.integration, pytest.mark.bigquery, pytest.mark.slow]

MONTH = Days(date(2024, 2, 15), date(2024, 3, 17))
EMPTY_DAY = date(2024, 2, 20)
MODELS = (
    *("bronze.stg_shipments", "bronze.stg_disputes", "bronze.stg_verdicts"),
    *("bronze.stg_rule_books", "bronze.stg_user_list_events", "bronze.stg_rule_exemption_events"),
    *("silver.dim_users", "silver.dim_products", "silver.fact_orders", "silver.order_labels"),
    "silver.order_features",
    *("silver.dim_users_history", "silver.dim_products_history"),
    *("gold.daily_fraud_summary", "gold.rule_performance", "gold.most_fraudulent_users"),
    *("gold.payment_fraud_critical_time", "gold.product_and_payment_methods"),
    *("gold.product_and_users", "gold.users_and_blacklist"),
    *("gold.cohorts_by_signup_month", "gold.product_freshness", "silver.fact_shipments"),
    "gold.rule_totals",
    "silver.fact_disputes",
    *("silver.order_outcomes", "gold.customer_lifetime_value", "gold.fulfilment"),
)
FACTS = "silver.fact_orders"
KNOWN = {"fact_orders_user_is_known", "fact_orders_product_is_known", "fact_shipments_order_is_known"}
"""The tests that warn: the month has orders of users and of a product that the dimensions lack, and
shipments of other orders."""
STAGED = ("fact_orders", "order_features", "order_labels", "daily_fraud_summary", "rule_performance")
OURS = sorted(path.stem for path in (PROJECT_DIR / "tests" / "generic").glob("*.sql"))
"""The kinds of data tests whose SQL is the project's own."""
BUILD = (
    *("build", "--indirect-selection", "empty", "--select", "resource_type:model"),
    *(f"{model}_staged+1,resource_type:test" for model in STAGED),
)
"""Of the data tests those of staged rows, without which nothing is published."""
RUN = {"DBT_ENV_CUSTOM_ENV_DAGSTER_RUN_ID": "Run-1"}

CLOCKS = ("00:00:00", "00:00:00.000001", "04:59:59.999999", "05:00:00", "12:30:00", "23:59:59.999999")
AMOUNTS = ("0.00", "0.01", "0.10", "0.20", "0.30", "100.10", "33.33", "300000000.00", str(MOST))
METHODS = ("OVO", "DANA", "Gopay", "Kartu ✓ 'x'", 'a "quoted" \\ way', "paylater", "Paylater", " ", "支付宝")
ACTIVE = ("extreme_order", "foreign_country", "night_bulk_order", "wallet_limit")
SHADOW = ("rapid_orders", "spend_burst")


def a_month() -> dict[RawTable, list[Row]]:
    """Return a month of awkward rows: 2 to 12 orders a day, except one day without any.

    Users 1 to 10 exist, and 9 and 10 never order; 11 and 12 order but are unknown. Products 1 to 8 exist,
    and 8 is never ordered; 9 is ordered but unknown.
    """
    chosen = random.Random(7)
    names = (
        "siti",
        "budi@mail.id",
        "Ñandú 💸",
        "o'brien",
        "x@",
        "@y",
        "",
        "日本 語",
        "two\nlines",
        "A" * 150,
    )
    users = [
        user(
            n,
            n,
            "2024-02-15",
            username=names[n - 1],
            email=f"{names[n - 1]}@ñ.com" if n != 7 else "",
            email_hash=f"{n:064x}" if n != 7 else None,
            default_payment=None if n % 2 else METHODS[n % len(METHODS)],
        )
        for n in range(1, 11)
    ]
    # Newer versions; of two at one instant the higher number is the newer. One of user 3 is replaced within a
    # microsecond, and one of user 4 changes a name, which is shown nowhere.
    users += [
        user(11, 1, "2024-03-01", username="siti", email="siti@kantor.co.id", default_payment="OVO"),
        user(12, 2, "2024-03-01", "09:00", username="budi2", email="no address"),
        user(13, 2, "2024-03-01", "09:00", username="budi@mail.id", email="budi@mail.id"),
        user(14, 3, "2024-03-02", "09:00:00", username="ñ", email="ñ@ñ.com", email_hash="3" * 64),
        user(15, 3, "2024-03-02", "09:00:00.000001", username="ñ", email="ñ@ñ.com", email_hash="4" * 64),
        users[3]
        | {"version": 16, "valid_from": at("2024-03-02", "09:00"), "partition_date": date(2024, 3, 2)}
        | {"last_name": "Married"},
    ]
    products = [
        product(n, n, "2024-02-15", f"{n * 10}.0{n}", product_name=f"Teh {n} \"x\"; 50% 'y' \\ ☕")
        for n in range(1, 9)
    ]
    products += [
        # Recorded later: orders that were decided before it had the price before.
        product(9, 1, "2024-03-02", "0.01", product_name="Kopi", recorded_at=at("2024-03-02", "12:00")),
        product(10, 1, "2024-03-02", "0.00", product_name="Kopi"),
        product(11, 1, "2024-03-03", "0.00", product_name="Kopi"),
    ]
    orders: list[Row] = []
    for day in MONTH:
        for _ in range(0 if day == EMPTY_DAY else chosen.randint(2, 12)):
            fraud = chosen.random() < 0.4
            orders.append(
                order(
                    1000 + len(orders),
                    chosen.choice((1, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12)),
                    chosen.choice((1, 2, 3, 4, 5, 6, 7, 9)),
                    str(day),
                    chosen.choice(CLOCKS),
                    chosen.choice(AMOUNTS),
                    chosen.choice(METHODS),
                    active=sorted(chosen.sample(ACTIVE, chosen.randint(1, 3))) if fraud else (),
                    shadow=sorted(chosen.sample(SHADOW, chosen.randint(0, 2))),
                )
                | {"country": ("ID", "SG", "ID")[len(orders) % 3]}
                | {"lists_version": (0, 1, 2, 3, None)[len(orders) % 5]}
            )
    others = (SHIPMENTS, DISPUTES, VERDICTS, RULE_BOOKS, USER_LIST_EVENTS, RULE_EXEMPTION_EVENTS)
    truth = {table: SAMPLE[table] for table in others}
    return {USERS: users, PRODUCTS: products, ORDERS: orders, **truth}


@dataclass(frozen=True)
class Target:
    """The project on one warehouse."""

    settings: Settings
    warehouse: Warehouse

    def publish(self, tables: Mapping[RawTable, list[Row]], days: Days, run: str) -> None:
        for table, rows in tables.items():
            asked = [row for row in rows if row["partition_date"] in days]
            reader = pa.Table.from_pylist(asked, schema=table.arrow_schema).to_reader()
            self.warehouse.publish(table, reader, days, run)

    @property
    def artifacts(self) -> Path:
        return artifacts_dir(self.settings)

    def dbt(self, *arguments: str) -> dict[str, Any]:
        """Run dbt in this process, and return the results of its nodes by name, whether it fails or not."""
        with suppress(DbtError):
            for _ in dbt_events(self.settings, [*arguments, "--log-level-file", "debug"], **RUN):
                pass
        return self.results()

    def results(self) -> dict[str, Any]:
        run_results = json.loads((self.artifacts / "run_results.json").read_text())
        return {result["unique_id"]: result for result in run_results["results"]}

    def rows(self, table: str, where: str = "TRUE") -> list[dict[str, Any]]:
        rows = self.warehouse.query(f"SELECT * FROM {table} WHERE {where}").to_pylist()
        return sorted(({k: plain(v) for k, v in row.items()} for row in rows), key=repr)

    def executed(self) -> str:
        """Return and clear dbt's log, which holds every statement."""
        log = self.artifacts / "dbt.log"
        text = log.read_text()
        log.write_text("")
        return text


def plain(value: Any) -> Any:
    """Return the value without an engine's own choices: the width of a NUMERIC, the zone of an instant."""
    if isinstance(value, Decimal):
        return value.quantize(Decimal("0.01")) if value == value.quantize(Decimal("0.01")) else value
    return value.astimezone(UTC) if isinstance(value, datetime) else value


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Target, Target]]:
    """DuckDB and BigQuery with the month in their raw tables, and the project built on DuckDB."""
    home = tmp_path_factory.mktemp("homes")
    with running_emulator(tmp_path_factory.mktemp("bigquery")) as address:
        duckdb = Settings(home=home / "duckdb", _env_file=None)
        bigquery = Settings(
            home=home / "bigquery",
            warehouse="bigquery",
            bigquery_project="test-shop",
            bigquery_location="US",
            bigquery_endpoint=address,
            # With an emulator nobody is impersonated.
            bigquery_impersonate="nobody@example.com",
            _env_file=None,
        )
        made = (
            Target(duckdb, make_warehouse(duckdb)),
            Target(bigquery, make_warehouse(bigquery)),
        )
        for target in made:
            target.settings.home.mkdir()
            target.publish(a_month(), MONTH, "first")
        ensure_manifest()
        parse_once(bigquery, tmp_path_factory)
        made[0].dbt(*BUILD)
        yield made


@pytest.fixture(scope="module")
def built_on_bigquery(targets: tuple[Target, Target]) -> dict[str, Any]:
    """Build the project on BigQuery, and return the results of dbt's nodes.

    With the unit tests of models that use dispatched macros, and the data tests whose SQL is ours; of dbt's
    own, which say the same of many columns, only those of staged rows.
    """
    unit_tests = (name.rsplit(".", 1)[1] for name in unit_tests_of_dispatched_macros())
    return targets[1].dbt(*BUILD, *sorted(unit_tests), *(f"test_name:{kind}" for kind in OURS))


def unit_tests_of_dispatched_macros() -> set[str]:
    """Return the unit tests of models whose SQL differs between the two warehouses."""
    manifest = json.loads(MANIFEST.read_text())
    dispatched = {
        name
        for name, macro in manifest["macros"].items()
        if macro["original_file_path"].startswith("macros/dialect/")
    }
    return {
        name
        for name, test in manifest["unit_tests"].items()
        for model in test["depends_on"]["nodes"]
        if dispatched & set(manifest["nodes"][model]["depends_on"]["macros"])
    }


def assert_same(targets: tuple[Target, Target]) -> None:
    duckdb, bigquery = targets
    for model in MODELS:
        expected = duckdb.rows(model)
        assert expected, model
        assert bigquery.rows(model) == expected, model


def test_month_holds_every_awkward_value() -> None:
    orders = a_month()[ORDERS]
    assert {row["payment_method"] for row in orders} == set(METHODS)
    assert {str(row["amount"]) for row in orders} == set(AMOUNTS)
    assert {row["created_date"].time() for row in orders} == {time.fromisoformat(clock) for clock in CLOCKS}
    assert {row["user_id"] for row in orders} == {1, 2, 3, 4, 5, 6, 7, 8, 11, 12}
    assert any(not row["fraud_reasons"] and not row["shadow_reasons"] for row in orders)
    assert {row["partition_date"] for row in orders} == set(MONTH) - {EMPTY_DAY}


def test_every_test_passes_and_every_row_is_the_same(
    targets: tuple[Target, Target], built_on_bigquery: dict[str, Any]
) -> None:
    _, bigquery = targets
    manifest = json.loads(MANIFEST.read_text())
    kinds = {
        name: node["test_metadata"]["name"]
        for name, node in manifest["nodes"].items()
        if node["resource_type"] == "test"
    }
    assert {name for name, kind in kinds.items() if kind in OURS} <= built_on_bigquery.keys()
    assert {kinds[name] for name in built_on_bigquery.keys() & kinds} == set(kinds.values())
    assert len(unit_tests_of_dispatched_macros()) > 15
    assert unit_tests_of_dispatched_macros() <= built_on_bigquery.keys()
    statuses = {name.split(".")[2]: result["status"] for name, result in built_on_bigquery.items()}
    not_passed = {name: status for name, status in statuses.items() if status not in ("pass", "success")}
    assert not_passed == dict.fromkeys(KNOWN & statuses.keys(), "warn")
    assert_same(targets)
    assert len(bigquery.rows("gold.most_fraudulent_users")) == 10
    # A row for each user and product, and one more for each visible change.
    assert len(bigquery.rows("silver.dim_users_history")) == 10 + 4
    assert len(bigquery.rows("silver.dim_products_history")) == 8 + 1


@pytest.mark.usefixtures("built_on_bigquery")
def test_training_sets_are_the_same(targets: tuple[Target, Target], monkeypatch: pytest.MonkeyPatch) -> None:
    # Only its columns are read, which are the same for both. Parsing it for BigQuery takes long, and replaces
    # the one that all other tests use.
    monkeypatch.setattr("ecommersss_platform.laboratory.training_set.ensure_manifest", lambda _: MANIFEST)
    asked = TrainingSet(Days(date(2024, 2, 28), date(2024, 3, 2)), date(2024, 3, 1))
    files = [io.BytesIO(), io.BytesIO()]
    for target, out in zip(targets, files, strict=True):
        write_training_set(asked, target.warehouse, PlatformDbt(target.settings), out)
    duckdb, bigquery = (
        [{name: plain(value) for name, value in row.items()} for row in pq.read_table(out).to_pylist()]
        for out in files
    )
    assert duckdb == bigquery
    assert {row["partition_date"] for row in duckdb} == set(asked.days)


@pytest.mark.usefixtures("built_on_bigquery")
def test_verdicts_are_recomputed_alike(targets: tuple[Target, Target]) -> None:
    """Stored reasons were chosen at random, so that most orders differ."""
    # No arithmetic: the emulator's NUMERIC is too narrow for products of amounts.
    book = RuleBook.parse("""
        sample: 0.2
        rules:
          - {name: foreign_country, description: d, mode: active, when: country <> 'ID'}
          - {name: extreme, description: d, mode: active, when: amount >= 300000000 AND NOT is_blacklisted}
          - {name: again, description: d, mode: shadow, when: user_orders_10m > 2 OR user_age_days < 0}
          - {name: cheap, description: d, mode: review, when: list_price IS NULL OR amount < list_price / 2}
    """)
    book.version = "v1"  # which decided about the orders of the month
    duckdb, bigquery = (
        target.warehouse.query(
            "SELECT id, fraud, shadow, review, differs"
            f" FROM ({recomputed_sql(book, MONTH, target.warehouse.dialect)}) AS recomputed ORDER BY id"
        ).to_pylist()
        for target in targets
    )
    assert duckdb == bigquery
    assert len(duckdb) == len(targets[0].rows(FACTS, "lists_version IS NOT NULL"))
    assert {row["differs"] for row in duckdb} == {False, True}
    assert {("cheap",), ("random_sample",), ("cheap", "random_sample")} <= {
        tuple(r["review"]) for r in duckdb
    }
    found = [compare_verdicts(target.warehouse, MONTH) for target in targets]
    assert found[0] == found[1]
    assert found[0].unusable.total() == len(duckdb), "the text that is kept as v1 is no book"
    assert found[0].orders == len(targets[0].rows(FACTS))


@pytest.mark.usefixtures("built_on_bigquery")
def test_backtests_are_the_same(targets: tuple[Target, Target]) -> None:
    """With rules of each mode, and stored reasons that no rule of the book has."""
    book = RuleBook.parse(
        "rules:\n"
        "  - {name: extreme_order, description: d, mode: active, when: amount > 100}\n"
        "  - {name: foreign_country, description: d, mode: active, when: country <> 'ID'}\n"
        "  - {name: again, description: d, mode: review, when: user_orders_24h > 1}\n"
        "  - {name: night, description: d, mode: shadow, when: local_hour < 5}\n"
        "  - {name: asleep, description: d, mode: 'off', when: 'TRUE'}\n"
    )
    now = datetime(2024, 6, 1, tzinfo=UTC)
    duckdb, bigquery = (as_object(run_backtest(it.warehouse, book, MONTH, now)) for it in targets)
    assert plain_object(bigquery) == plain_object(duckdb)
    changed = {it["name"] for it in duckdb["rules"] if it["newly_flagged"] or it["no_longer_flagged"]}
    assert {*ACTIVE, "night"} <= changed


def plain_object(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: plain_object(inner) for name, inner in value.items()}
    return [plain_object(inner) for inner in value] if isinstance(value, list) else plain(value)


@pytest.mark.long
@pytest.mark.usefixtures("built_on_bigquery")
def test_building_again_with_every_test_changes_nothing(targets: tuple[Target, Target]) -> None:
    for target in targets:
        before = {model: target.rows(model) for model in MODELS}
        results = target.dbt("build")
        assert {model: target.rows(model) for model in MODELS} == before
        statuses = {name.split(".")[2]: result["status"] for name, result in results.items()}
        not_passed = {name: status for name, status in statuses.items() if status not in ("pass", "success")}
        exposures = ("block_list", "fraud_report", "rule_laboratory")
        assert {not_passed.pop(name) for name in exposures} == {"no-op"}
        assert not_passed == dict.fromkeys(KNOWN, "warn")


def changed_month() -> dict[RawTable, list[Row]]:
    """Return the month with a late order, without one day, and with changes outside the window."""
    orders = a_month()[ORDERS]
    day_before = next(row for row in orders if row["partition_date"] == date(2024, 2, 28))
    day_before["amount"] = Decimal("7.77")
    orders = [row for row in orders if row["partition_date"] != date(2024, 3, 1)]
    late = order(9001, 3, 3, "2024-02-29", "23:59:59.999999", "1.11", "OVO", active=["wallet_limit"])
    back = order(9002, 9, 8, str(EMPTY_DAY), "00:00:00", "2.22", "OVO")
    return {ORDERS: [*orders, late, back]}


@pytest.mark.usefixtures("built_on_bigquery")
def test_days_are_replaced_whole_and_no_other_is_read_or_written(targets: tuple[Target, Target]) -> None:
    """A late order appears in its day and a day without raw orders is emptied. Other days stay as they were,
    even if raw has changed for them."""
    _, bigquery = targets
    days = Days(date(2024, 2, 29), date(2024, 3, 3))
    inside = f"partition_date >= DATE '{days.first}' AND partition_date < DATE '{days.end}'"
    for target in targets:
        target.publish(changed_month(), MONTH, "second")
        before = target.rows(FACTS, f"NOT ({inside})")
        target.executed()
        results = target.dbt(*build_arguments(days), "--select", "fact_orders_staged fact_orders")
        assert target.rows(FACTS, f"NOT ({inside})") == before
        found = target.rows(FACTS, inside)
        assert {row["partition_date"] for row in found} == {date(2024, 2, 29), date(2024, 3, 2)}
        assert [row["order_id"] for row in found if row["order_id"] > 9000] == [9001]
        assert {row["order_id"] for row in found} == {
            row["id"] for row in changed_month()[ORDERS] if row["partition_date"] in days
        }
        assert [name for name in results if name.startswith("model.")] == [
            "model.ecommersss.fact_orders_staged",
            "model.ecommersss.fact_orders",
        ]
    sent = one_line(bigquery.executed())

    # The raw table is read once, and of it the window, through a view that hides no partition.
    [read] = re.findall(r"create or replace table \S*`fact_orders_staged`.*?\);", sent)
    assert "from `test-shop`.`bronze`.`stg_orders`" in read
    assert "where partition_date >= date '2024-02-29' and partition_date < date '2024-03-03'" in read
    assert "`raw`" not in read
    assert view_sql(bigquery).endswith(
        "as with orders as ( select * from `test-shop`.`raw`.`orders`"
        " where partition_date >= date '0001-01-01' )"
        " select id as order_id, user_id, product_id, quantity, amount, payment_method, country, is_fraud,"
        " fraud_reasons, shadow_reasons, review_reasons, rules_version, lists_version,"
        " created_date as ordered_at, flagged_at, position as topic_position, partition_date from orders;"
    )
    # One MERGE replaces the days. Each bound is a constant beside the bare column, which is what BigQuery
    # needs to leave other partitions alone.
    [merge] = re.findall(r"merge into .*?;", sent)
    assert merge.startswith(
        "merge into `test-shop`.`silver`.`fact_orders` as replaced using (select * from ( select *"
        " from `test-shop`.`silver`.`fact_orders__dbt_tmp"
    )
    assert (
        ") where partition_date >= date '2024-02-29' and partition_date < date '2024-03-03') as staged"
        " on false when not matched by source and replaced.partition_date >= date '2024-02-29'"
        " and replaced.partition_date < date '2024-03-03' then delete"
        " when not matched then insert (`order_id`, `user_id`,"
    ) in merge
    assert "delete from" not in sent
    assert "truncate" not in sent
    # Each of these is a job that says whose it is.
    labels = '/* {"managed_by": "ecommersss", "dagster_run_id": "Run-1", "asset": "silver_fact_orders"} */'
    # A transaction that first takes its turn at the lock of the table.
    lock = "`test-shop`.`silver`.`fact_orders_lock`"
    take = f"update {lock} set taken_at = current_timestamp() where true;"
    assert (
        f"{labels} create table if not exists {lock} as select current_timestamp() as taken_at; "
        f"{take} begin transaction; {take} {merge} commit transaction;"
    ) in " ".join(sent.split())


@pytest.mark.usefixtures("built_on_bigquery")
def test_days_that_fail_a_test_are_not_published(targets: tuple[Target, Target]) -> None:
    """One order has the wrong verdict for its reasons, and the id of an order of another day."""
    _, bigquery = targets
    days = Days(date(2024, 3, 5), date(2024, 3, 6))
    orders = changed_month()[ORDERS]
    wrong = next(row for row in orders if row["partition_date"] == days.first)
    wrong |= {"is_fraud": not wrong["is_fraud"], "id": orders[0]["id"]}
    bigquery.publish({ORDERS: orders}, days, "third")
    before = bigquery.rows(FACTS)
    select = "fact_orders_staged fact_orders daily_fraud_summary"
    results = bigquery.dbt(*build_arguments(days), "--select", select)
    statuses = {name.split(".")[2]: result["status"] for name, result in results.items()}
    assert {name for name, status in statuses.items() if status == "fail"} == {
        "fact_orders_are_fraud_when_a_rule_held",
        "unique_fact_orders_order_id",
    }
    assert statuses["reconciles_with_raw"] == "pass"
    assert {statuses["fact_orders"], statuses["daily_fraud_summary"]} == {"skipped"}
    assert bigquery.rows(FACTS) == before


@pytest.mark.usefixtures("built_on_bigquery")
def test_a_model_that_breaks_its_contract_is_not_built(targets: tuple[Target, Target]) -> None:
    bigquery = targets[1]
    before = bigquery.rows("silver.dim_products")
    changed = with_changed_types(parsed_project(bigquery.settings), "dim_products", list_price="string")
    with pytest.raises(DbtError, match="This model has an enforced contract that failed") as refused:
        list(dbt_events(bigquery.settings, ["run", "--select", "dim_products"], changed))
    assert re.search(r"list_price *\| *NUMERIC *\| *STRING", str(refused.value)), refused.value
    assert bigquery.rows("silver.dim_products") == before


def view_sql(target: Target) -> str:
    path = target.artifacts / "run" / "ecommersss" / "models" / "staging" / "stg_orders.sql"
    return one_line(path.read_text())


def one_line(sql: str) -> str:
    """The text without comments and line breaks."""
    return " ".join(re.sub(r"--.*", "", sql).split())
