"""Stream and warehouse decide alike: three consumers of one topic, whose orders the warehouse decides again.

The days have late orders, and in their middle a change of the rule book, of the lists and of the exemptions.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from dagster import (
    AssetCheckSeverity,
    AssetMaterialization,
    AssetSelection,
    DagsterInstance,
    Definitions,
    define_asset_job,
)

from ecommersss_platform.assets.raw import extract
from ecommersss_platform.checks import FEATURES, PARITY, parity
from ecommersss_platform.contracts import ORDERS, RAW_TABLES
from ecommersss_platform.dbt.project import ensure_manifest
from ecommersss_platform.laboratory.parity import EXAMPLES, Parity, compare_verdicts
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform.partitions import Days
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.resources import WAREHOUSE
from ecommersss_platform.warehouse.duckdb.warehouse import DuckDbWarehouse
from ecommersss_platform_tests.conftest import administer
from ecommersss_platform_tests.support.home import Home
from ecommersss_platform_tests.support.memory_queue import MemoryQueue
from ecommersss_platform_tests.support.parity_days import (
    AFTER,
    BEFORE,
    DAYS,
    LINES,
    USERS,
    build_features,
    order_lines,
)
from ecommersss_platform_tests.support.raw_days import read
from ecommersss_platform_tests.support.shop import LONG_AGO, NOON, open_shop, write
from streaming.business_days import business_day
from streaming.database.exemptions import add_exemption
from streaming.database.user_lists import add_entry, remove_entry
from streaming.lists import Exemption
from streaming.rules import RuleBook
from streaming.shared_consumer import SharedConsumer

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def consume(url: str, queue: MemoryQueue, book: RuleBook) -> None:
    """Let three consumers decide all that waits in the queue."""
    consumers = [SharedConsumer(url, queue, None, book, max_lines=20, silence=0.2) for _ in range(3)]
    threads = [threading.Thread(target=consumer.run, kwargs={"once": True}) for consumer in consumers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not queue.waiting


@pytest.fixture(scope="module")
def home(
    postgres: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    """A home whose warehouse has three days of orders."""
    ensure_manifest()
    administer(postgres, f"CREATE DATABASE parity TEMPLATE {migrated_template}")
    url = postgres.client_url("parity", tcp=True)
    open_shop(url, USERS)
    queue = MemoryQueue()
    queue.publish(order_lines(1, 1))
    consume(url, queue, BEFORE)
    for user in range(1, 9):
        add_entry(url, user, "block", "stolen card")
    add_entry(url, 2, "allow", "settled")
    # Expired before some of the orders that are decided with it were placed.
    expiring = [(user, "block", "stolen card", "person", NOON + timedelta(hours=17)) for user in (9, 10, 11)]
    write(url, "INSERT INTO user_lists (user_id, list, reason, source, expires_at) VALUES %s", expiring)
    until = datetime.now(UTC) + timedelta(days=1)
    for rule, user in (("foreign_country", 3), ("blacklisted_user", 4), ("wallet_limit", 5)):
        add_exemption(url, Exemption(rule, user, "agreed", "Sari", until))
    queue.publish(order_lines(2, 1001))
    consume(url, queue, BEFORE)
    remove_entry(url, 6, "block")
    # A price that claims to be old, but was not known when the orders above were decided.
    write(url, "UPDATE products SET price = data.price FROM (VALUES %s) AS data (price)", [(4000,)], LONG_AGO)
    queue.publish(order_lines(3, 2001))
    consume(url, queue, AFTER)

    home = Home(tmp_path_factory.mktemp("files") / "home", ECOMMERSSS_FIRST_DAY=str(DAYS.first))
    source = PostgresResource(url=url)
    ever = Days.between(business_day(LONG_AGO), business_day(datetime.now(UTC)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECOMMERSSS_PSEUDONYM_KEY", "k" * 32)
        rows = {table: extract(table, ever, source).read_all().to_pylist() for table in RAW_TABLES}
    # As if the price had been changed an hour after the first decisions, and an hour before the last ones.
    for row in rows[ORDERS]:
        row["flagged_at"] += timedelta(hours=-1 if row["id"] <= 2000 else 1)
    build_features(home.settings, rows)
    yield home
    postgres.up()
    administer(postgres, "DROP DATABASE parity WITH (FORCE)")


def compared(home: Home) -> Parity:
    return compare_verdicts(DuckDbWarehouse(home.settings.warehouse_path), DAYS)


def test_the_days_have_every_kind_of_reason(home: Home) -> None:
    """Or their parity would say nothing."""
    rows = read(
        home.settings.warehouse_path,
        "SELECT rules_version, unnest(fraud_reasons), 'fraud' FROM silver.fact_orders"
        " UNION ALL SELECT rules_version, unnest(shadow_reasons), 'shadow' FROM silver.fact_orders"
        " UNION ALL SELECT rules_version, unnest(review_reasons), 'review' FROM silver.fact_orders",
    )
    counts = Counter(rows)
    for book, reason, kind in (
        (BEFORE, "blacklisted_user", "shadow"),
        (BEFORE, "rapid_orders", "shadow"),
        (BEFORE, "wallet_limit", "fraud"),
        (AFTER, "blocked", "fraud"),
        (AFTER, "foreign_country", "fraud"),
        (AFTER, "cheap", "review"),
        (AFTER, "random_sample", "review"),
        (AFTER, "newer", "shadow"),
    ):
        assert counts[book.version, reason, kind] > 2, reason
    exempt = "user_id = 3 AND country = 'SG' AND NOT list_contains(fraud_reasons, 'foreign_country')"
    [(before, after)] = read(
        home.settings.warehouse_path,
        "SELECT count(*) FILTER (order_id <= 1000), count(*) FILTER (order_id > 1000)"
        f" FROM silver.fact_orders WHERE {exempt}",
    )
    assert (before, after > 0) == (0, True), "the exemption from foreign_country"


def test_every_order_is_decided_alike(home: Home) -> None:
    found = compared(home)
    assert found.examples == []
    assert (found.compared, found.orders, found.differences) == (3 * LINES, 3 * LINES, 0)
    assert found.summary == f"0 of {3 * LINES} orders of {DAYS} differ"
    assert found.holds


@pytest.fixture
def tampered(home: Home, tmp_path: Path) -> Iterator[Home]:
    """A copy of the home, to be changed."""
    copy = Home(tmp_path / "home", **home.variables | {"ECOMMERSSS_HOME": str(tmp_path / "home")})
    copy.settings.home.mkdir()
    copy.settings.warehouse_path.write_bytes(home.settings.warehouse_path.read_bytes())
    return copy


def change(home: Home, statement: str) -> None:
    with closing(duckdb.connect(str(home.settings.warehouse_path))) as connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    ("table", "tampering"),
    [
        ("fact_orders", "is_fraud = NOT is_fraud"),
        ("fact_orders", "fraud_reasons = ['foreign_country']"),
        ("fact_orders", "shadow_reasons = shadow_reasons[2:]"),
        ("fact_orders", "review_reasons = ['cheap']"),
        ("fact_orders", "amount = amount + 300000000"),
        ("fact_orders", f"rules_version = '{AFTER.version}'"),
        ("order_features", "is_blacklisted = false, list_price = 1"),
    ],
)
def test_a_tampered_row_is_found(tampered: Home, table: str, tampering: str) -> None:
    [(chosen, day)] = read(
        tampered.settings.warehouse_path,
        "SELECT order_id, partition_date FROM silver.fact_orders"
        f" WHERE rules_version = '{BEFORE.version}' AND 'blacklisted_user' IN shadow_reasons"
        " AND NOT is_fraud ORDER BY order_id LIMIT 1",
    )
    change(tampered, f"UPDATE silver.{table} SET {tampering} WHERE order_id = {chosen}")
    found = compared(tampered)
    assert [one.order_id for one in found.examples] == [chosen]
    assert found.differing == {day: 1}
    assert not found.holds


def test_the_command_shows_the_first_differences_and_fails(tampered: Home) -> None:
    change(
        tampered, "UPDATE silver.fact_orders SET fraud_reasons = ['x'], is_fraud = true WHERE NOT is_fraud"
    )
    days = ("--from", str(DAYS.first), "--to", str(DAYS.last))
    found = json.loads(tampered.call("rules", "parity", *days, "--format", "json", exit_code=1).stdout)
    positions = [one["topic_position"] for one in found["first_differences"]]
    assert len(positions) == EXAMPLES
    assert positions == sorted(positions)
    assert found["differences"] == sum(found["days_that_differ"].values()) > EXAMPLES
    first = found["first_differences"][0]
    assert first["stored"].startswith("fraud; active: x")
    assert first["recomputed"].startswith("genuine")
    printed = tampered.call("rules", "parity", *days, exit_code=1).stdout
    assert str(first["order_id"]) in printed
    assert printed.endswith(f"{found['differences']} of {3 * LINES} orders of {DAYS} differ\n")


def test_orders_that_cannot_be_compared_are_counted_apart(tampered: Home) -> None:
    change(tampered, f"DELETE FROM raw.rule_books WHERE version = '{AFTER.version}'")
    change(tampered, "UPDATE silver.fact_orders SET lists_version = NULL WHERE order_id <= 10")
    days = ("--from", str(DAYS.first), "--to", str(DAYS.last))
    printed = tampered.call("rules", "parity", *days).stdout
    assert printed == (
        f"0 of {2 * LINES - 10} orders of {DAYS} differ; {LINES} more were decided by a rule book that is not"
        " kept; 10 more were loaded before the version of the lists was stored\n"
    )
    change(tampered, "DELETE FROM silver.order_features WHERE order_id BETWEEN 11 AND 15")
    change(tampered, f"UPDATE raw.rule_books SET text = text || '#' WHERE version = '{BEFORE.version}'")
    found = compared(tampered)
    assert (found.compared, found.book_not_kept, found.lists_not_known) == (0, LINES, 10)
    assert (found.holds, found.orders) == (False, 3 * LINES)
    assert "its text was changed in the warehouse" in found.summary


@pytest.mark.parametrize(("seconds", "apart"), [(-59, 1), (0, 1), (59, 1), (61, 0), (-61, 0)])
def test_a_price_that_changed_around_the_decision_is_no_difference(
    tampered: Home, seconds: int, apart: int
) -> None:
    """Whether it was committed before the decision cannot be known."""
    [(chosen, product, flagged_at)] = read(
        tampered.settings.warehouse_path,
        "SELECT order_id, product_id, flagged_at FROM silver.fact_orders"
        f" WHERE rules_version = '{AFTER.version}' AND 'cheap' IN review_reasons ORDER BY 1 LIMIT 1",
    )
    change(tampered, f"UPDATE silver.order_features SET list_price = 1 WHERE order_id = {chosen}")
    change(tampered, "UPDATE raw.products SET recorded_at = NULL; UPDATE raw.users SET recorded_at = NULL")
    recorded_at = flagged_at + timedelta(seconds=seconds)
    change(
        tampered,
        f"UPDATE raw.products SET recorded_at = '{recorded_at}' WHERE id = {product} AND price = 4000",
    )
    found = compared(tampered)
    assert (found.changed_meanwhile, found.differences) == (apart, 1 - apart)
    assert (found.compared, found.orders, len(found.examples)) == (3 * LINES - apart, 3 * LINES, 1 - apart)


@pytest.mark.parametrize("different", [False, True])
def test_the_check_says_how_many_orders_differ(tampered: Home, different: bool) -> None:
    if different:
        change(tampered, "UPDATE silver.fact_orders SET is_fraud = true WHERE NOT is_fraud AND order_id < 30")
    defs = Definitions(
        asset_checks=[parity("duckdb")],
        jobs=[define_asset_job("checks", AssetSelection.all_asset_checks())],
        resources={WAREHOUSE: DuckDbWarehouse(tampered.settings.warehouse_path)},
    )
    with DagsterInstance.ephemeral() as instance:
        instance.report_runless_asset_event(AssetMaterialization(FEATURES, partition=str(business_day(NOON))))
        done = defs.resolve_job_def("checks").execute_in_process(instance=instance)
    [result] = done.get_asset_check_evaluations()
    assert (result.check_name, result.passed, result.blocking) == (PARITY, not different, False)
    metadata = {name: value.value for name, value in result.metadata.items()}
    assert metadata["days"] == str(business_day(NOON))
    assert metadata["compared"] > 100
    if different:
        assert result.severity is AssetCheckSeverity.ERROR
        shown = [record.data["order_id"] for record in result.metadata["first_differences"].records]
        assert len(shown) == metadata["differences"] > 0
        assert all(id < 30 for id in shown)
