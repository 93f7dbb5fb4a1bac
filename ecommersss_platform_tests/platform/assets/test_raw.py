"""The raw assets and their checks, from PostgreSQL to published days, as Dagster runs them."""

from __future__ import annotations

import hmac
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import psycopg2
import pyarrow as pa
import pytest
import yaml
from dagster import (
    AssetIn,
    AssetKey,
    AssetMaterialization,
    AssetsDefinition,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    PartitionKeyRange,
    asset,
    build_asset_context,
    define_asset_job,
)

from ecommersss_platform.assets.raw import extract, raw_assets
from ecommersss_platform.checks import FACTS, day_checks, freshness, reconciliation
from ecommersss_platform.contracts import ORDERS, RAW_TABLES, USERS, Column, RawTable, Type
from ecommersss_platform.dbt.sources import sources_yaml
from ecommersss_platform.freshness import Expected, newest_due_day
from ecommersss_platform.partitions import SINGLE_RUN, Days, daily_partitions
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.postgres.source_schema import COLUMNS_SCHEMA
from ecommersss_platform.reconciliation import reconcile
from ecommersss_platform.resources import (
    POSTGRES,
    WAREHOUSE,
    WAREHOUSE_IO_MANAGER,
)
from ecommersss_platform.warehouse import Published
from ecommersss_platform.warehouse.duckdb.warehouse import DuckDbWarehouse
from ecommersss_platform.warehouse.io_manager import CONTRACTS, WarehouseIOManager
from ecommersss_platform_tests.support import shop
from ecommersss_platform_tests.support.commands import check_command
from ecommersss_platform_tests.support.orders_table import DAY_1, DAY_2, DAY_3, by_id, order, orders, reader
from streaming.business_days import business_day
from streaming.database import connect
from streaming.database.exemptions import remove_exemption
from streaming.database.store import OrderStore
from streaming.database.user_lists import remove_entry
from streaming.rules import RuleBook

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FIRST = date(2024, 6, 1)
PARTITIONS = daily_partitions(FIRST)
ALL = Days.between(DAY_1, DAY_3)
KEY = "k" * 32


@pytest.fixture(autouse=True)
def _key_of_pseudonyms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOMMERSSS_PSEUDONYM_KEY", KEY)


@pytest.fixture
def warehouse(tmp_path: Path) -> DuckDbWarehouse:
    return DuckDbWarehouse(tmp_path / "warehouse.duckdb", patience=10)


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


class FakePostgres:
    """Stands in for the resource: remembers what was asked, answers with the rows of a table.

    Its tables are what the contracts ask for.
    """

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.asked: list[tuple[str, Mapping[str, Any], pa.Schema]] = []

    def stream(self, sql: str, params: Mapping[str, Any], schema: pa.Schema) -> pa.RecordBatchReader:
        if schema == COLUMNS_SCHEMA:
            table = next(t for t in RAW_TABLES if t.source == params["source"])
            return reader([{"name": c.name, "type": POSTGRES_TYPES[c.type]} for c in table.columns], schema)
        self.asked.append((sql, params, schema))
        return self.answer(reader(self.rows, schema))

    def answer(self, rows: pa.RecordBatchReader) -> pa.RecordBatchReader:
        return rows


POSTGRES_TYPES = {
    Type.INT64: "bigint",
    Type.STRING: "text",
    Type.STRINGS: "text[]",
    Type.BOOL: "boolean",
    Type.MONEY: "numeric(18,2)",
    Type.TIMESTAMP: "timestamp with time zone",
    Type.DATE: "date",
}


def raw(name: str) -> AssetsDefinition:
    return next(a for a in raw_assets(PARTITIONS, "duckdb") if a.key == AssetKey(["raw", name]))


def definitions(
    database: str,
    warehouse: DuckDbWarehouse,
    *more: AssetsDefinition,
    tables: Sequence[RawTable] = RAW_TABLES,
    expected: Sequence[Expected] = (),
) -> Definitions:
    return Definitions(
        assets=[*raw_assets(PARTITIONS, "duckdb", tables), *more],
        asset_checks=[
            reconciliation("duckdb", tables),
            freshness(PARTITIONS, [*(Expected(f"raw/{t.name}", True) for t in tables), *expected]),
        ],
        jobs=[define_asset_job("everything")],
        resources={
            POSTGRES: PostgresResource(url=database),
            WAREHOUSE: warehouse,
            WAREHOUSE_IO_MANAGER: WarehouseIOManager(warehouse),
        },
    )


def run(
    defs: Definitions,
    instance: DagsterInstance,
    days: Days,
    keys: list[AssetKey] | None = None,
    ok: bool = True,
) -> ExecuteInProcessResult:
    return defs.resolve_job_def("everything").execute_in_process(
        instance=instance,
        tags={
            "dagster/asset_partition_range_start": str(days.first),
            "dagster/asset_partition_range_end": str(days.last),
        },
        asset_selection=keys,
        raise_on_error=ok,
    )


def keys_of(*names: str) -> list[AssetKey]:
    """Return the keys of some raw tables: loading all of them takes a second and a half."""
    return [AssetKey(["raw", name]) for name in names]


def metadata(result: ExecuteInProcessResult, name: str) -> dict[str | None, dict[str, Any]]:
    """The metadata values of a raw table's materialisations, by partition."""
    found: list[AssetMaterialization] = [
        e.materialization
        for e in result.get_asset_materialization_events()
        if e.asset_key == AssetKey(["raw", name])
    ]
    return {m.partition: {k: v.value for k, v in m.metadata.items()} for m in found}


def store(database: str, rows: list[dict[str, Any]]) -> None:
    names = [name for name in ORDERS.arrow_schema.names if name != "partition_date"]
    shop.write(
        database,
        f"INSERT INTO orders ({', '.join(names)}) VALUES %s",
        [tuple(row[name] for name in names) for row in rows],
    )


@pytest.fixture
def marketplace(database: str) -> str:
    shop.open_shop(database)
    store(
        database,
        orders([1, 2], DAY_1)
        + orders([3], DAY_2, is_fraud=True, fraud_reasons=["extreme_order"], amount=Decimal("300000000.01")),
    )
    return database


def test_an_asset_function_asks_for_its_day_and_returns_the_stream() -> None:
    postgres = FakePostgres(orders([1, 2], DAY_1))
    result = raw("orders")(build_asset_context(partition_key="2024-06-10"), postgres=postgres)
    assert isinstance(result, pa.RecordBatchReader)
    assert by_id(result) == orders([1, 2], DAY_1)
    sql, params, schema = postgres.asked[0]
    assert "FROM orders WHERE created_date >= %(start)s AND created_date < %(end)s" in sql
    assert params == {
        "start": datetime(2024, 6, 9, 17, tzinfo=UTC),
        "end": datetime(2024, 6, 10, 17, tzinfo=UTC),
    }
    assert schema == ORDERS.arrow_schema


@pytest.mark.parametrize(("name", "source"), [("users", "users_history"), ("products", "products_history")])
def test_an_asset_function_asks_once_for_a_range(name: str, source: str) -> None:
    postgres = FakePostgres([])
    context = build_asset_context(partition_key_range=PartitionKeyRange("2024-06-10", "2024-06-12"))
    raw(name)(context, postgres=postgres)
    ((sql, params, _),) = postgres.asked
    assert f"FROM {source} WHERE valid_from >=" in sql
    assert params["end"] - params["start"] == timedelta(days=3)


def test_definitions_of_the_raw_assets() -> None:
    assets = raw_assets(PARTITIONS, "duckdb")
    assert [a.key.to_user_string() for a in assets] == [f"raw/{table.name}" for table in RAW_TABLES]
    for a in assets:
        assert a.partitions_def == PARTITIONS
        assert a.backfill_policy == SINGLE_RUN
        assert a.op.pool == "duckdb"
        assert a.group_names_by_key[a.key] == "raw"
        columns = a.metadata_by_key[a.key]["dagster/column_schema"].columns
        assert all(c.description for c in columns)
    tagged = {
        c.name
        for c in assets[0].metadata_by_key[AssetKey(["raw", "users"])]["dagster/column_schema"].columns
        if "pii" in c.tags
    }
    assert tagged == {"username", "email", "email_hash", "first_name", "last_name"}


def test_a_day_of_all_three_twice(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance
) -> None:
    defs = definitions(marketplace, warehouse)
    signed_up = shop.LONG_AGO.astimezone(UTC)
    day_of_users = Days.between(signed_up.date(), signed_up.date())
    contents = []
    for _ in range(2):
        run(defs, instance, Days.between(DAY_1, DAY_1), keys_of("orders"))
        run(defs, instance, day_of_users, keys_of("users", "products"))
        contents.append([by_id(warehouse.read(name)) for name in ("raw.users", "raw.products", "raw.orders")])
    assert contents[0] == contents[1]
    users, products, stored = contents[0]
    assert [(u["email"], u["email_hash"]) for u in users] == [
        (f"user{i}@example.com", hmac.new(KEY.encode(), b"user%d@example.com" % i, "sha256").hexdigest())
        for i in range(1, 11)
    ]
    assert {p["price"] for p in products} == {shop.PRICE}
    assert stored == orders([1, 2], DAY_1)


CHECKSUMS = """
    SELECT table_name, partition_date, checksum, count(DISTINCT run_id) AS loads FROM raw.load_log
    GROUP BY ALL ORDER BY ALL
"""


def test_a_past_day_is_the_same_day_whatever_changed_since(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance
) -> None:
    defs = definitions(marketplace, warehouse)
    signed_up = shop.LONG_AGO.astimezone(UTC).date()
    past = Days.between(signed_up, signed_up)
    today = business_day(datetime.now(UTC))
    keys = keys_of("users", "products")
    run(defs, instance, past, keys)
    before = [by_id(warehouse.read(name)) for name in ("raw.users", "raw.products")]
    assert all(before)
    logged = warehouse.query(CHECKSUMS).to_pylist()

    with closing(connect(marketplace)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE products SET price = price * 2")
        cursor.execute("UPDATE users SET email = 'moved.' || email")
    result = run(defs, instance, past, keys)
    assert [by_id(warehouse.read(name, days=past)) for name in ("raw.users", "raw.products")] == before
    # So says the load log, too, and so does the run.
    assert warehouse.query(CHECKSUMS).to_pylist() == [row | {"loads": 2} for row in logged]
    [shown] = metadata(result, "products").values()
    assert shown["checksum"] == next(row["checksum"] for row in logged if row["table_name"] == "raw.products")

    # The change is a version of the day on which it was made, and only of that.
    run(defs, instance, Days.between(today, today), keys)
    changed = by_id(warehouse.read("raw.products", days=Days.between(today, today)))
    assert {p["price"] for p in changed} == {2 * shop.PRICE}
    assert len(changed) == len(before[1])


def test_what_an_order_was_is_in_the_days_on_which_it_became_known(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance
) -> None:
    morning, next_day = (datetime(2024, 6, day, 1, tzinfo=UTC) for day in (10, 11))
    packed = "INSERT INTO shipments (order_id, status, packed_at) VALUES %s"
    shipped = f"{packed} ON CONFLICT (order_id) DO UPDATE SET status = 'shipped', shipped_at = now()"
    shop.write(marketplace, packed, [(1, "packed", morning), (2, "packed", morning)], clock=morning)
    shop.write(marketplace, shipped, [(1, "packed", morning)], clock=next_day)
    dispute = "INSERT INTO disputes (id, order_id, kind, amount, opened_at) VALUES %s"
    shop.write(marketplace, dispute, [(5, 3, "fraud", Decimal("300000000.01"), morning)], clock=next_day)
    verdict = "INSERT INTO verdicts (order_id, verdict, reviewer) VALUES %s"
    shop.write(marketplace, verdict, [(3, "fraud", "Sari")], clock=next_day)
    keys = [AssetKey(["raw", name]) for name in ("shipments", "disputes", "verdicts")]
    result = run(definitions(marketplace, warehouse), instance, Days.between(DAY_1, DAY_2), keys)
    versions = "SELECT partition_date, order_id, status FROM raw.shipments ORDER BY version"
    assert [tuple(row.values()) for row in warehouse.query(versions).to_pylist()] == [
        (DAY_1, 1, "packed"),
        (DAY_1, 2, "packed"),
        (DAY_2, 1, "shipped"),
    ]
    rows = {name: checks(result)[name, "reconciles_with_postgres"] for name in ("disputes", "verdicts")}
    assert {name: (check.passed, check.metadata["rows"].value) for name, check in rows.items()} == {
        "disputes": (True, 1),
        "verdicts": (True, 1),
    }
    assert metadata(result, "disputes")[str(DAY_2)]["rows_open"] == 1


def test_a_day_of_the_lists_and_the_books_stays_the_same(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance
) -> None:
    """Although an entry is removed later, and a book decides again."""
    before = datetime.now(UTC) - timedelta(days=1)
    yesterday = business_day(before)
    names = ("rule_books", "user_list_events", "rule_exemption_events")
    keys = [AssetKey(["raw", name]) for name in names]
    entry = "INSERT INTO user_lists (user_id, list, reason, source, added_at) VALUES %s"
    shop.write(marketplace, entry, [(1, "block", "chargebacks", "person", before)])
    exemption = "INSERT INTO rule_exemptions (rule, user_id, reason, author, expires_at, added_at) VALUES %s"
    until = datetime.now(UTC) + timedelta(days=1)
    shop.write(marketplace, exemption, [("a", 1, "a reseller", "Sari", until, before)])
    book = RuleBook.parse("rules: [{name: a, description: 'Ñ; \"x\"', mode: active, when: quantity > 1}]\r\n")

    def decide(id: int) -> None:
        with OrderStore(marketplace) as store:
            store.commit(store.open(), id + 1, [shop.flagged(id, id, flagged_at=before)], book=book)

    decide(7)
    defs = definitions(marketplace, warehouse)
    found = checks(run(defs, instance, Days.between(yesterday, yesterday), keys))
    assert all(found[key.path[-1], "reconciles_with_postgres"].passed for key in keys)
    events = "SELECT event_id, event, lists_version, list FROM raw.user_list_events ORDER BY event_id"
    books = "SELECT version, text, first_position, number FROM raw.rule_books"
    exempt = (
        "SELECT event_id, event, lists_version, rule, expires_at FROM raw.rule_exemption_events ORDER BY 1"
    )
    loaded = [warehouse.query(rows).to_pylist() for rows in (events, books, exempt)]
    assert loaded == [
        [{"event_id": 2, "event": "added", "lists_version": 1, "list": "block"}],
        [{"version": book.version, "text": book.text, "first_position": 7, "number": 1}],
        [{"event_id": 2, "event": "added", "lists_version": 2, "rule": "a", "expires_at": until}],
    ]
    remove_entry(marketplace, 1, "block")
    remove_exemption(marketplace, "a", 1)
    decide(8)
    run(defs, instance, Days.between(yesterday, yesterday), keys)
    of_yesterday = [
        rows.replace(" ORDER", f" WHERE partition_date = '{yesterday}' ORDER")
        for rows in (events, books, exempt)
    ]
    assert [warehouse.query(rows).to_pylist() for rows in of_yesterday] == loaded


def test_a_run_also_loads_the_other_days_on_which_lists_changed_and_books_were_first_used(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance
) -> None:
    """Orders of any day may be decided with them. Orders are loaded before, and of no other day."""
    now = datetime.now(UTC)
    added = [now - timedelta(days=n) for n in (40, 38, 2)]
    entry = "INSERT INTO user_lists (user_id, list, reason, source, added_at) VALUES %s"
    shop.write(marketplace, entry, [(n, "block", "x", "person", at) for n, at in enumerate(added, 1)])
    book = RuleBook.parse("rules: [{name: a, description: b, mode: active, when: quantity > 1}]")
    with OrderStore(marketplace) as orders_of_today:
        orders_of_today.commit(orders_of_today.open(), 8, [shop.flagged(7, 7, flagged_at=now)], book=book)
    defs = definitions(marketplace, warehouse)
    loads = "SELECT partition_date AS day FROM raw.load_log WHERE table_name = 'raw.{}'"
    decide = ("rule_books", "user_list_events", "rule_exemption_events")
    keys = keys_of("users", "orders", *decide)

    def loaded(table: str) -> list[date]:
        return sorted(row["day"] for row in warehouse.query(loads.format(table)).to_pylist())

    run(defs, instance, Days.between(DAY_1, DAY_1), keys)
    in_turn = "SELECT table_name FROM raw.load_log GROUP BY 1 ORDER BY min(loaded_at)"
    first, second, *others = warehouse.query(in_turn).column(0).to_pylist()
    assert {first, second} == {"raw.users", "raw.orders"}
    assert set(others) == {f"raw.{name}" for name in decide}
    assert len(warehouse.query("SELECT event_id FROM raw.user_list_events")) == 3
    assert len(warehouse.query("SELECT number FROM raw.rule_books")) == 1
    span = list(Days.between(business_day(added[0]), business_day(added[2])))
    assert loaded("user_list_events") == [DAY_1, *span]
    assert loaded("orders") == [DAY_1]
    assert instance.get_materialized_partitions(AssetKey(["raw", "user_list_events"])) == {str(DAY_1)}

    remove_entry(marketplace, 1, "block")
    for _ in range(2):  # the second run finds nothing
        run(defs, instance, Days.between(DAY_1, DAY_1), keys)
    assert len(warehouse.query("SELECT event_id FROM raw.user_list_events")) == 4
    assert loaded("user_list_events") == [*[DAY_1] * 3, *span, business_day(now)]


def test_each_day_of_a_range_shows_its_own_rows_and_no_total_of_the_range(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance
) -> None:
    store(marketplace, orders([4], DAY_3))
    defs = definitions(marketplace, warehouse)
    run(defs, instance, Days.between(DAY_3, DAY_3), keys_of("orders"))
    result = run(defs, instance, Days.between(DAY_1, DAY_2), keys_of("orders"))
    shown = metadata(result, "orders")
    own = ("dagster/row_count", "dagster/partition_row_count", "rows_fraud", "rows_genuine")
    own += ("fraud_percentage", "reason")
    assert {day: tuple(m[name] for name in own) for day, m in shown.items()} == {
        "2024-06-10": (4, 2, 0, 2, 0, "asked for by a person"),
        "2024-06-11": (4, 1, 1, 0, 100, "asked for by a person"),
    }
    assert [m["checksum"] for m in shown.values()] == warehouse.query(
        "SELECT checksum FROM raw.load_log WHERE table_name = 'raw.orders' AND partition_date < '2024-06-12'"
        " ORDER BY partition_date"
    ).column(0).to_pylist()
    one = shown["2024-06-11"]
    assert one["dagster/table_name"] == "raw.orders"
    assert [c.name for c in one["dagster/column_schema"].columns] == ORDERS.arrow_schema.names
    assert one.keys() - {*own, "checksum", "dagster/table_name", "dagster/column_schema"} == set()
    [total] = [
        entry.user_message
        for entry in instance.all_logs(result.run_id)
        if entry.user_message.startswith("raw.orders, 2024-06-10 to 2024-06-11: 3 rows, ")
    ]
    assert "published in" in total


def test_a_single_day_shows_its_rows_and_a_preview_without_personal_data(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance
) -> None:
    day = shop.LONG_AGO.date()
    result = run(definitions(marketplace, warehouse), instance, Days.between(day, day), keys_of("users"))
    shown = metadata(result, "users")
    (values,) = shown.values()
    assert values["bytes"] > 0
    assert values["extract_and_stage_seconds"] >= 0
    assert values["publish_seconds"] >= 0
    assert (values["dagster/row_count"], values["dagster/partition_row_count"]) == (10, 10)
    assert values["preview"].startswith("| id | default_payment | created_date |")
    assert values["preview"].count("\n") == 6
    for text in ("user1", "example.com", "Siti", "Rahayu"):
        assert text not in values["preview"]


def test_rows_that_fail_their_audit_fail_the_step_without_a_retry(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance
) -> None:
    defs = definitions(marketplace, warehouse)
    run(defs, instance, ALL, keys_of("orders"))
    bad = FakePostgres([order(7, DAY_3), order(7, DAY_3)])
    broken = Definitions(
        assets=[raw("orders")],
        jobs=[define_asset_job("everything")],
        resources={POSTGRES: bad, WAREHOUSE_IO_MANAGER: WarehouseIOManager(warehouse)},
    )
    result = run(broken, instance, Days.between(DAY_3, DAY_3), ok=False)
    assert not result.success
    assert len(bad.asked) == 1
    failure = result.all_node_events[-1].step_failure_data.user_failure_data
    assert "1 values of the key (id) occur more than once" in str(failure.description)
    assert [row["id"] for row in by_id(warehouse.read(ORDERS))] == [1, 2, 3]


def test_a_lost_connection_is_tried_again(
    warehouse: DuckDbWarehouse, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flaky(FakePostgres):
        def answer(self, rows: pa.RecordBatchReader) -> pa.RecordBatchReader:
            def batches() -> Iterator[pa.RecordBatch]:
                yield rows.read_next_batch()
                if len(self.asked) == 1:
                    raise psycopg2.OperationalError("server closed the connection unexpectedly")
                yield from rows

            return pa.RecordBatchReader.from_batches(rows.schema, batches())

    monkeypatch.setattr(
        "ecommersss_platform.assets.raw.RETRY", raw("orders").op.retry_policy._replace(delay=0)
    )
    postgres = Flaky(orders(range(1, 10), DAY_1))
    defs = Definitions(
        assets=[raw("orders")],
        jobs=[define_asset_job("everything")],
        resources={POSTGRES: postgres, WAREHOUSE_IO_MANAGER: WarehouseIOManager(warehouse)},
    )
    assert run(defs, instance, Days.between(DAY_1, DAY_1)).success
    assert len(postgres.asked) == 2
    assert by_id(warehouse.read(ORDERS)) == orders(range(1, 10), DAY_1)


@pytest.mark.parametrize(
    ("annotation", "ids"),
    [
        (pa.Table, lambda rows: rows.column("id").to_pylist()),
        (pa.RecordBatchReader, lambda rows: rows.read_all().column("id").to_pylist()),
        (pl.DataFrame, lambda rows: rows["id"].to_list()),
        (pd.DataFrame, lambda rows: rows["id"].tolist()),
    ],
    ids=["table", "reader", "polars", "pandas"],
)
def test_inputs_come_as_annotated_with_the_days_and_columns_asked_for(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance, annotation: type, ids: Any
) -> None:
    seen: list[Any] = []

    def mart(rows: Any) -> pa.Table:
        seen.append(sorted(ids(rows)))
        return pa.table({"n": [len(seen[-1])], "partition_date": pa.array([DAY_2], pa.date32())})

    mart.__annotations__["rows"] = annotation
    defs = definitions(
        marketplace,
        warehouse,
        asset(
            key=["lab", "mart"],
            partitions_def=PARTITIONS,
            backfill_policy=SINGLE_RUN,
            io_manager_key=WAREHOUSE_IO_MANAGER,
            ins={
                "rows": AssetIn(
                    ["raw", "orders"], metadata={"columns": ["id"]}, input_manager_key=WAREHOUSE_IO_MANAGER
                )
            },
        )(mart),
    )
    run(defs, instance, ALL, [AssetKey(["raw", "orders"])])
    run(defs, instance, Days.between(DAY_2, DAY_3), [AssetKey(["lab", "mart"])])
    assert seen == [[3]]
    assert warehouse.read("lab.mart").read_all().to_pylist() == [{"n": 1, "partition_date": DAY_2}]


@pytest.mark.parametrize("frame", [pl.DataFrame, pd.DataFrame, pa.table], ids=["polars", "pandas", "arrow"])
def test_an_unpartitioned_asset_replaces_its_whole_table(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance, frame: Any
) -> None:
    values = {"name": ["a", "b"], "share": [0.5, 1.0], "n": [1, 2]}

    @asset(key=["lab", "notes"], io_manager_key=WAREHOUSE_IO_MANAGER)
    def notes():  # type: ignore[no-untyped-def]
        return frame(values)

    @asset(
        key=["lab", "copy"],
        io_manager_key=WAREHOUSE_IO_MANAGER,
        ins={"notes": AssetIn(["lab", "notes"], input_manager_key=WAREHOUSE_IO_MANAGER)},
    )
    def copy(notes):  # type: ignore[no-untyped-def]
        return notes

    defs = Definitions(
        assets=[notes, copy],
        jobs=[define_asset_job("everything")],
        resources={WAREHOUSE_IO_MANAGER: WarehouseIOManager(warehouse)},
    )
    for _ in range(2):
        assert defs.resolve_job_def("everything").execute_in_process(instance=instance).success
    assert warehouse.read("lab.copy").read_all().sort_by("n").to_pydict() == values


def test_a_partitioned_asset_must_say_each_rows_day(
    warehouse: DuckDbWarehouse, instance: DagsterInstance
) -> None:
    @asset(
        key=["lab", "mart"],
        partitions_def=PARTITIONS,
        backfill_policy=SINGLE_RUN,
        io_manager_key=WAREHOUSE_IO_MANAGER,
    )
    def mart() -> pa.Table:
        return pa.table({"n": [1]})

    defs = Definitions(
        assets=[mart],
        jobs=[define_asset_job("everything")],
        resources={WAREHOUSE_IO_MANAGER: WarehouseIOManager(warehouse)},
    )
    result = run(defs, instance, Days.between(DAY_1, DAY_1), ok=False)
    failure = result.all_node_events[-1].step_failure_data.user_failure_data
    assert "its rows need the column partition_date" in str(failure.description)
    assert not warehouse.path.exists()


def checks(result: ExecuteInProcessResult) -> dict[tuple[str, str], Any]:
    return {(e.asset_key.path[-1], e.check_name): e for e in result.get_asset_check_evaluations()}


def test_checks_pass_on_what_was_just_loaded(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance
) -> None:
    result = run(definitions(marketplace, warehouse), instance, ALL)
    found = checks(result)
    assert {check for _, check in found} == {"newest_closed_day_present", "reconciles_with_postgres"}
    for table in (table.name for table in RAW_TABLES):
        assert found[table, "reconciles_with_postgres"].passed
        assert found[table, "reconciles_with_postgres"].blocking
        # These days are long past, and those since are not loaded.
        assert not found[table, "newest_closed_day_present"].passed
        assert not found[table, "newest_closed_day_present"].blocking
    assert found["orders", "reconciles_with_postgres"].metadata["rows"].value == 3
    steps = [e.step_key for e in result.all_events if e.is_step_success and "reconcile" in str(e.step_key)]
    assert steps == ["reconcile_raw_tables"]  # however many tables


def test_the_newest_closed_day_counts_as_present_when_it_is_materialised(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance
) -> None:
    due = newest_due_day(datetime.now(UTC))
    found = checks(
        run(definitions(marketplace, warehouse), instance, Days.between(due, due), keys_of("orders"))
    )
    assert found["orders", "newest_closed_day_present"].passed
    assert found["orders", "newest_closed_day_present"].metadata["newest_due_day"].value == str(due)


def reconciled(database: str, warehouse: DuckDbWarehouse, today: date = date(2024, 6, 20)) -> Any:
    return reconcile(ORDERS, ALL, PostgresResource(url=database), warehouse, today)


def test_an_order_that_the_warehouse_lacks_is_an_error(marketplace: str, warehouse: DuckDbWarehouse) -> None:
    warehouse.publish(ORDERS, reader(orders([2], DAY_1) + orders([3], DAY_2)), ALL, "run")
    result = reconciled(marketplace, warehouse)
    assert (result.passed, result.severity.value) == (False, "ERROR")
    assert "2024-06-10: PostgreSQL has 2 rows, 3000.50 rupiah, the warehouse 1 rows, 1500.25 rupiah" in str(
        result.description
    )
    assert "2024-06-11: PostgreSQL has 1 rows, 300000000.01 rupiah, the warehouse 1 rows, 1500.25" in str(
        result.description
    )


def test_orders_since_the_load_warn_on_closed_days_only(marketplace: str, warehouse: DuckDbWarehouse) -> None:
    loaded = orders([1, 2], DAY_1) + orders(
        [3], DAY_2, is_fraud=True, fraud_reasons=["extreme_order"], amount=Decimal("300000000.01")
    )
    warehouse.publish(ORDERS, reader(loaded), ALL, "run")
    store(marketplace, orders([4], DAY_3))
    assert reconciled(marketplace, warehouse, today=DAY_3).passed
    store(marketplace, orders([5], DAY_1))
    result = reconciled(marketplace, warehouse, today=DAY_3)
    assert (result.passed, result.severity.value) == (False, "WARN")
    assert result.description == "rows were written after the load, materialise again: 2024-06-10 (1)"


def test_users_reconcile_by_version(marketplace: str, warehouse: DuckDbWarehouse) -> None:
    day = Days.between(shop.LONG_AGO.date(), shop.LONG_AGO.date())
    postgres = PostgresResource(url=marketplace)
    warehouse.publish(USERS, extract(USERS, day, postgres), day, "run")
    result = reconcile(USERS, day, postgres, warehouse, today=date(2024, 6, 20))
    assert result.passed
    assert result.metadata["rows"].value == 10


# A new raw table

PARCELS = RawTable(
    name="parcels",
    description="Every version of every parcel, in the partition of the day on which it was written.",
    source="parcels_history",
    instant="valid_from",
    key=("version",),
    high_water="version",
    status="status",
    columns=(
        Column("order_id", Type.INT64, "The order."),
        Column("status", Type.STRING, "How far the parcel is."),
        Column("recipient", Type.STRING, "Who receives it.", pii=True),
        Column("refund_amount", Type.MONEY, "Rupiah paid back."),
        Column("version", Type.INT64, "Number of this version; a later one has a higher number."),
        Column("valid_from", Type.TIMESTAMP, "When this version was written."),
        Column("partition_date", Type.DATE, "Business day (Asia/Jakarta) of the row."),
    ),
)


def test_a_contract_is_all_that_a_new_raw_table_needs(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The asset, its checks, its metadata and dbt's source all follow from the contract."""
    monkeypatch.setitem(CONTRACTS, ("raw", "parcels"), PARCELS)
    shop.execute(
        marketplace,
        "CREATE TABLE parcels_history (order_id BIGINT, status TEXT, recipient TEXT,"
        " refund_amount NUMERIC(18, 2), version BIGSERIAL, valid_from TIMESTAMPTZ)",
    )
    insert = "INSERT INTO parcels_history VALUES (%s, %s, 'Siti', %s, DEFAULT, %s)"
    shop.execute(marketplace, insert, (1, "packed", 0, datetime(2024, 6, 10, 3, tzinfo=UTC)))
    shop.execute(marketplace, insert, (1, "returned", 250, datetime(2024, 6, 10, 17, tzinfo=UTC)))
    defs = definitions(marketplace, warehouse, tables=[*RAW_TABLES, PARCELS])
    key = AssetKey(["raw", "parcels"])
    result = run(defs, instance, Days.between(DAY_1, DAY_2), [key])
    shown = metadata(result, "parcels")
    assert (shown[str(DAY_1)]["rows_packed"], shown[str(DAY_2)]["rows_returned"]) == (1, 1)
    assert "Siti" not in str(shown)
    found = checks(result)
    assert found["parcels", "reconciles_with_postgres"].passed
    assert not found["parcels", "newest_closed_day_present"].passed

    shop.execute(marketplace, insert, (2, "packed", 0, datetime(2024, 6, 10, 4, tzinfo=UTC)))
    late = reconcile(PARCELS, ALL, PostgresResource(url=marketplace), warehouse, today=DAY_3)
    assert (late.severity.value, late.metadata["rows_since_the_load"].value) == ("WARN", 1)
    shop.execute(marketplace, "UPDATE parcels_history SET refund_amount = 1 WHERE version = 1")
    wrong = reconcile(PARCELS, ALL, PostgresResource(url=marketplace), warehouse, today=DAY_3)
    assert str(wrong.description).startswith("2024-06-10: PostgreSQL has 1 rows, 1.00 rupiah, the warehouse")

    [source] = yaml.safe_load(sources_yaml([PARCELS]))["sources"]
    [table] = source["tables"]
    assert [column["name"] for column in table["columns"]] == PARCELS.arrow_schema.names
    assert table["columns"][2]["config"] == {"meta": {"pii": True}}


# Schema evolution, from the source to what is read


def test_a_nullable_column_of_contract_and_source_appears_by_itself(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = Days.between(DAY_1, DAY_1), Days.between(DAY_2, DAY_2)
    key = keys_of("orders")
    run(definitions(marketplace, warehouse), instance, one, key)
    shop.execute(marketplace, "ALTER TABLE orders ADD COLUMN coupon TEXT")
    shop.execute(marketplace, "UPDATE orders SET coupon = 'X' || id")
    # The source is ahead of the contract: nothing happens.
    run(definitions(marketplace, warehouse), instance, two, key)
    assert by_id(warehouse.read(ORDERS, ["id", "partition_date"]))[-1]["id"] == 3

    grown = replace(
        ORDERS, columns=(*ORDERS.columns, Column("coupon", Type.STRING, "Coupon.", nullable=True))
    )
    monkeypatch.setitem(CONTRACTS, ("raw", "orders"), grown)
    before = warehouse.query(CHECKSUMS).to_pylist()
    result = run(definitions(marketplace, warehouse, tables=[grown]), instance, two)
    assert [row["coupon"] for row in by_id(warehouse.read(grown))] == [None, None, "X3"]
    assert by_id(warehouse.read(ORDERS))[:2] == orders([1, 2], DAY_1)
    shown = metadata(result, "orders")[str(DAY_2)]
    assert shown["dagster/column_schema"].columns[-1].name == "coupon"
    assert shown["checksum"] not in {row["checksum"] for row in before}


def test_days_loaded_before_there_were_hashes_have_none_until_they_are_loaded_again(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_up = shop.LONG_AGO.astimezone(UTC).date()
    past, today = Days.between(signed_up, signed_up), business_day(datetime.now(UTC))
    with monkeypatch.context() as before:
        old = replace(USERS, columns=USERS.source_columns)
        before.setitem(CONTRACTS, ("raw", "users"), old)
        run(definitions(marketplace, warehouse, tables=[old]), instance, past)
    shop.execute(marketplace, "UPDATE users SET username = 'renamed' WHERE id = 1")
    defs = definitions(marketplace, warehouse, tables=[USERS])
    run(defs, instance, Days.between(today, today))

    def hashed() -> list[bool]:
        rows = warehouse.read("raw.users").read_all().to_pylist()
        return [row["email_hash"] is not None for row in sorted(rows, key=lambda row: row["version"])]

    assert hashed() == [False] * 10 + [True]
    run(defs, instance, past)
    assert hashed() == [True] * 11


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("ALTER TABLE orders DROP COLUMN country", ["column country (STRING) is gone", "--drop country`"]),
        (
            "ALTER TABLE orders RENAME COLUMN payment_method TO paid_with",
            ["column payment_method (STRING) is gone", "--rename payment_method=paid_with`"],
        ),
        (
            "ALTER TABLE orders ALTER COLUMN quantity TYPE TEXT USING quantity::text",
            ["column quantity is text, and INT64 in the contract", "warehouse migrate --table raw.orders`"],
        ),
        (
            "ALTER TABLE orders ALTER COLUMN amount TYPE NUMERIC(18, 4)",
            ["column amount is numeric(18,4), and MONEY in the contract"],
        ),
    ],
    ids=["removed", "renamed", "retyped", "more places"],
)
def test_a_changed_source_stops_the_run_before_anything_is_published(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance, change: str, says: list[str]
) -> None:
    key = AssetKey(["raw", "orders"])
    run(definitions(marketplace, warehouse), instance, ALL, [key])
    shop.execute(marketplace, change)
    result = run(definitions(marketplace, warehouse), instance, ALL, [key], ok=False)
    [failure] = [e.step_failure_data for e in result.all_node_events if e.is_step_failure]
    message = str(failure.user_failure_data.description)
    assert all(text in message for text in ["raw.orders", *says]), message
    assert result.retry_attempts_for_node("raw__orders") == 0
    assert [row["id"] for row in by_id(warehouse.read(ORDERS))] == [1, 2, 3]
    command = message.split("`")[1]
    check_command(shlex.split(command)[1:])


# Backfills


def test_twelve_days_in_one_go_equal_the_days_one_by_one(database: str, tmp_path: Path) -> None:
    """By extraction and warehouse alone; the next test does it with Dagster runs."""
    shop.open_shop(database)
    span = Days(FIRST, FIRST + timedelta(days=12))
    store(database, [order(n, day) for n, day in enumerate(span, 1) if n % 5])
    postgres = PostgresResource(url=database)
    whole, single = (DuckDbWarehouse(tmp_path / name) for name in ("whole.duckdb", "single.duckdb"))

    def load(warehouse: DuckDbWarehouse, days: Days) -> Published:
        rows = postgres.stream(*ORDERS.select(days), ORDERS.arrow_schema)
        return warehouse.publish(ORDERS, rows, days, f"run of {days}")

    published = load(whole, span)
    for day in span:
        load(single, Days.between(day, day))
    assert published.rows == 10
    assert by_id(whole.read(ORDERS)) == by_id(single.read(ORDERS))
    sql = "SELECT partition_date, row_count, checksum FROM raw.load_log ORDER BY 1"
    logged = whole.query(sql)
    assert logged == single.query(sql)
    assert (len(logged), len(set(logged.column("checksum").to_pylist()))) == (12, 11)


def test_runs_of_single_days_leave_what_a_run_of_the_range_does(
    marketplace: str, tmp_path: Path, instance: DagsterInstance
) -> None:
    whole, single = (DuckDbWarehouse(tmp_path / name) for name in ("whole.duckdb", "single.duckdb"))
    keys = keys_of("orders")
    run(definitions(marketplace, whole), instance, ALL, keys)
    for day in reversed(list(ALL)):
        run(definitions(marketplace, single), instance, Days.between(day, day), keys)
    for key in keys:
        assert by_id(whole.read(".".join(key.path))) == by_id(single.read(".".join(key.path)))
    sql = "SELECT partition_date, table_name, row_count, checksum FROM raw.load_log ORDER BY ALL"
    assert whole.query(sql) == single.query(sql)


def test_a_range_that_fails_publishes_none_of_its_days_and_is_run_again_whole(
    warehouse: DuckDbWarehouse, instance: DagsterInstance
) -> None:
    key = AssetKey(["raw", "orders"])
    postgres = FakePostgres([*orders([1], DAY_1), *orders([2], DAY_2), order(7, DAY_3), order(7, DAY_3)])
    defs = Definitions(
        assets=[raw("orders")],
        jobs=[define_asset_job("everything")],
        resources={POSTGRES: postgres, WAREHOUSE_IO_MANAGER: WarehouseIOManager(warehouse)},
    )
    assert not run(defs, instance, ALL, ok=False).success
    assert instance.get_materialized_partitions(key) == set()
    assert warehouse.newest_day(ORDERS) is None
    postgres.rows.pop()
    assert run(defs, instance, ALL).success
    assert instance.get_materialized_partitions(key) == {str(day) for day in ALL}
    assert [row["id"] for row in by_id(warehouse.read(ORDERS))] == [1, 2, 7]


def test_the_newest_closed_day_must_be_in_the_facts_too(
    marketplace: str, warehouse: DuckDbWarehouse, instance: DagsterInstance
) -> None:
    @asset(key=FACTS, deps=[["raw", "orders"]], partitions_def=PARTITIONS, backfill_policy=SINGLE_RUN)
    def facts() -> None:
        """Stand in for dbt's facts."""

    defs = definitions(marketplace, warehouse, facts, expected=[Expected("silver/fact_orders", True)])
    due = newest_due_day(datetime.now(UTC))
    for day, fresh in ((DAY_1, False), (due, True)):
        found = checks(run(defs, instance, Days.between(day, day), [*keys_of("orders"), FACTS]))[
            "fact_orders", "newest_closed_day_present"
        ]
        assert (found.passed, found.blocking, found.severity.value) == (fresh, False, "WARN")


def test_on_bigquery_no_step_is_in_a_pool() -> None:
    steps = [*raw_assets(PARTITIONS, None), *day_checks(PARTITIONS, None)]
    assert {step.op.pool for step in steps} == {None}
    assert {step.op.pool for step in raw_assets(PARTITIONS, "duckdb")} == {"duckdb"}
