"""What every warehouse must do. A test class of each warehouse inherits `WarehouseContract`.

Its module provides the fixture `warehouse`: an empty one that can be pickled, because other processes use it
too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from ecommersss_platform.contracts import LOAD_LOG, ORDERS, RAW_TABLES, USERS, Column, RawTable, Type
from ecommersss_platform.partitions import Days
from ecommersss_platform.warehouse import (
    AuditError,
    Published,
    QueryError,
    SchemaError,
    Step,
    TableNotFound,
    Warehouse,
)
from ecommersss_platform.warehouse.checksum import checksums
from ecommersss_platform.warehouse.load_log import LoadedDay, loaded_days
from ecommersss_platform_tests.support.orders_table import DAY_1, DAY_2, DAY_3, by_id, order, orders, reader

# Processes are forked from a clean one with the imports, which saves a second each.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "ecommersss_platform_tests.support.warehouse_contract",
        "ecommersss_platform_tests.platform.warehouse.duckdb.test_warehouse",
        *("duckdb", "pandas", "google.cloud.bigquery"),
    ]
)

ONE = Days.between(DAY_1, DAY_1)
TWO = Days.between(DAY_2, DAY_2)
ALL = Days.between(DAY_1, DAY_3)


def publish(
    warehouse: Warehouse,
    rows: list[dict[str, Any]],
    days: Days,
    run_id: str = "run",
    table: RawTable = ORDERS,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Published:
    return warehouse.publish(table, reader(rows, table.arrow_schema), days, run_id, on_step)


def stored(warehouse: Warehouse, days: Days | None = None) -> list[dict[str, Any]]:
    return by_id(warehouse.read(ORDERS, days=days))


def log_entries(warehouse: Warehouse) -> list[dict[str, Any]]:
    """Return the load log: oldest load first, days in order."""
    entries = warehouse.read(LOAD_LOG).read_all().to_pylist()
    return sorted(entries, key=lambda entry: (entry["loaded_at"], entry["partition_date"]))


def logged(warehouse: Warehouse) -> list[tuple[str, int]]:
    return [(entry["run_id"], entry["row_count"]) for entry in log_entries(warehouse)]


def in_process(target: Callable[..., None], *args: Any) -> multiprocessing.process.BaseProcess:
    process = PROCESSES.Process(target=target, args=args)
    process.start()
    return process


def ended(process: multiprocessing.process.BaseProcess, seconds: float = 120) -> int | None:
    process.join(seconds)
    code = process.exitcode
    process.kill()
    return code


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def publish_and_die(warehouse: Warehouse, rows: list[dict[str, Any]], days: Days, step: Step) -> None:
    publish(warehouse, rows, days, "killed", on_step=lambda done: die() if done == step else None)


def publish_and_die_reading(warehouse: Warehouse, rows: list[dict[str, Any]], days: Days) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield from reader(rows)
        die()

    source = pa.RecordBatchReader.from_batches(ORDERS.arrow_schema, batches())
    warehouse.publish(ORDERS, source, days, "killed")


def with_columns(columns: tuple[Column, ...]) -> RawTable:
    return replace(ORDERS, columns=columns)


class WarehouseContract:
    def test_a_day_comes_back_as_it_was_written(self, warehouse: Warehouse) -> None:
        rows = [
            order(1, DAY_1, amount=Decimal("9999999999999999.99"), country="", payment_method="Rp;'\"\n☂"),
            order(2, DAY_1, fraud_reasons=["a", "b"], shadow_reasons=[""], is_fraud=True),
            order(
                3, DAY_1, amount=Decimal("0.00"), created_date=datetime(2024, 6, 9, 17, 0, 0, 1, tzinfo=UTC)
            ),
        ]
        published = publish(warehouse, rows, ONE)
        result = warehouse.read(ORDERS)
        assert result.schema.equals(ORDERS.arrow_schema)
        assert by_id(result) == rows
        assert (published.table, published.days, published.rows) == ("raw.orders", ONE, 3)
        assert published.table_rows == 3
        assert publish(warehouse, orders([4], DAY_2), TWO).table_rows == 4
        assert published.bytes > 0
        assert published.rows_per_day == {DAY_1: 3}
        assert published.statuses == {DAY_1: {"true": 1, "false": 2}}

    def test_every_contract_can_be_published(self, warehouse: Warehouse) -> None:
        noon = datetime(2024, 6, 10, 5, tzinfo=UTC)
        for table in RAW_TABLES:
            values: dict[Type, Any] = {
                Type.INT64: 7,
                Type.STRING: "x",
                Type.STRINGS: ["x", "y"],
                Type.BOOL: True,
                Type.MONEY: Decimal("1.50"),
                Type.TIMESTAMP: noon,
                Type.DATE: DAY_1,
            }
            row = {c.name: None if c.nullable else values[c.type] for c in table.columns}
            publish(warehouse, [row], ONE, table=table)
            assert warehouse.read(table).read_all().to_pylist() == [row]

    def test_writing_again_changes_nothing(self, warehouse: Warehouse) -> None:
        rows = orders(range(1, 11), DAY_1)
        publish(warehouse, rows, ONE, "first")
        publish(warehouse, rows, ONE, "second")
        publish(warehouse, rows, ONE, "second")
        assert stored(warehouse) == rows

    def test_rewriting_a_day_replaces_that_day_only(self, warehouse: Warehouse) -> None:
        publish(warehouse, orders([1, 2], DAY_1) + orders([3], DAY_2) + orders([4], DAY_3), ALL)
        publish(warehouse, orders([5], DAY_2), TWO)
        assert stored(warehouse) == orders([1, 2], DAY_1) + orders([5], DAY_2) + orders([4], DAY_3)

    def test_a_range_is_one_publication_with_its_days_counted(self, warehouse: Warehouse) -> None:
        steps: list[Step] = []
        rows = orders([1, 2], DAY_1) + orders([3], DAY_3, is_fraud=True)
        published = publish(warehouse, rows, ALL, on_step=steps.append)
        assert steps == list(Step)
        assert published.rows_per_day == {DAY_1: 2, DAY_2: 0, DAY_3: 1}
        assert published.statuses == {DAY_1: {"false": 2}, DAY_2: {}, DAY_3: {"true": 1}}

    def test_the_log_has_each_day_of_each_load_with_the_checksum_of_its_rows(
        self, warehouse: Warehouse
    ) -> None:
        rows = [
            order(
                1,
                DAY_1,
                amount=Decimal("-0.01"),
                payment_method="Rp;'\"\n☂" * 9,
                fraud_reasons=["a", "", "b"],
                lists_version=None,
            ),
            order(2, DAY_1, country="", shadow_reasons=[""], lists_version=None),
            *orders([3], DAY_3, is_fraud=True, lists_version=None),
        ]
        began = datetime.now(UTC)
        publish(warehouse, rows, ALL, "first")
        published = publish(warehouse, rows[1::-1], ONE, 'second\'s "run"')
        entries = log_entries(warehouse)
        assert [(*tuple(entry.values())[:4], entry["days"]) for entry in entries] == [
            (DAY_1, "raw.orders", "first", 2, 3),
            (DAY_2, "raw.orders", "first", 0, 3),
            (DAY_3, "raw.orders", "first", 1, 3),
            (DAY_1, "raw.orders", 'second\'s "run"', 2, 1),
        ]
        assert all(began <= entry["loaded_at"] <= datetime.now(UTC) for entry in entries)
        # The same on every warehouse, for the rows written and the rows read.
        sums = ["8f4bf26088623dfe", "0000000000000000", "eeb216b6b0546643"]
        assert [entry["checksum"] for entry in entries] == [*sums, sums[0]]
        assert published.checksums == {DAY_1: sums[0]}
        assert list(checksums(warehouse.read(ORDERS), ALL).values()) == sums
        # The log can be queried without a filter on days.
        [total] = warehouse.query("SELECT count(*) AS n FROM raw.load_log").to_pylist()
        assert total == {"n": 4}

    def test_a_load_of_the_same_rows_is_no_change_of_its_day(self, warehouse: Warehouse) -> None:
        publish(warehouse, orders([1], DAY_1) + orders([2], DAY_2), Days.between(DAY_1, DAY_2), "range")
        publish(warehouse, orders([1], DAY_1), ONE, "same")
        publish(warehouse, orders([2, 3], DAY_2), TWO, 'other\'s "run"')
        times = [entry["loaded_at"] for entry in log_entries(warehouse)]
        assert loaded_days(warehouse) == [
            LoadedDay("raw.orders", DAY_1, 1, times[0], "same"),
            LoadedDay("raw.orders", DAY_2, 2, times[3], 'other\'s "run"'),
        ]
        publish(warehouse, orders([2], DAY_2), TWO, "back")
        assert [(it.changes, it.run_id) for it in loaded_days(warehouse)] == [(1, "same"), (3, "back")]

    def test_a_range_equals_its_days_one_by_one(self, warehouse: Warehouse) -> None:
        rows = orders(range(1, 5), DAY_1) + orders(range(5, 9), DAY_2) + orders(range(9, 13), DAY_3)
        for day in (DAY_3, DAY_1, DAY_2):
            mine = [row for row in rows if row["partition_date"] == day]
            publish(warehouse, mine, Days.between(day, day), "single")
        one_by_one = stored(warehouse)
        publish(warehouse, rows, ALL, "range")
        assert one_by_one == stored(warehouse) == rows
        entries = sorted(log_entries(warehouse), key=lambda entry: str(entry["partition_date"]))
        assert [e["checksum"] for e in entries[::2]] == [e["checksum"] for e in entries[1::2]]

    def test_an_empty_day_is_published_as_empty(self, warehouse: Warehouse) -> None:
        publish(warehouse, orders([1], DAY_1) + orders([2], DAY_2), Days.between(DAY_1, DAY_2))
        published = publish(warehouse, [], ONE)
        assert (published.rows, published.rows_per_day) == (0, {DAY_1: 0})
        assert stored(warehouse) == orders([2], DAY_2)

    def test_the_first_day_may_be_empty(self, warehouse: Warehouse) -> None:
        publish(warehouse, [], ONE)
        assert stored(warehouse) == []
        assert warehouse.newest_day(ORDERS) is None

    def test_bad_rows_are_named_and_leave_the_day_as_it_was(self, warehouse: Warehouse) -> None:
        old = orders([50], DAY_1) + orders([51], DAY_2)
        publish(warehouse, old, Days.between(DAY_1, DAY_2))
        for bad, finding in (
            (order(9, DAY_3), "1 rows have a partition_date outside 2024-06-10, for example id 9"),
            (order(9, DAY_1, partition_date=DAY_3), "1 rows have a partition_date outside 2024-06-10, for"),
            (
                order(9, DAY_2) | {"partition_date": DAY_1},
                "1 rows have a partition_date that is not the business day of created_date, for example id 9",
            ),
            (order(9, DAY_1, id=None), "1 rows have no id"),
            (order(9, DAY_1, amount=None), "1 rows have no amount"),
            (order(9, DAY_1, partition_date=None), "1 rows have no partition_date"),
            (order(1, DAY_1), "1 values of the key (id) occur more than once"),
        ):
            with pytest.raises(AuditError) as failure:
                publish(warehouse, [*orders([1, 2, 3, 4], DAY_1), bad], ONE)
            assert any(f.startswith(finding) for f in failure.value.findings), failure.value.findings
            assert "nothing was published for raw.orders, 2024-06-10" in str(failure.value)
            assert stored(warehouse) == old, finding

    def test_a_day_ends_at_midnight_in_jakarta(self, warehouse: Warehouse) -> None:
        midnight = datetime(2024, 6, 10, 17, tzinfo=UTC)  # 2024-06-11 00:00 there
        last = order(1, DAY_1, created_date=midnight - timedelta(microseconds=1))
        publish(warehouse, [last], ONE)
        with pytest.raises(AuditError):
            publish(warehouse, [order(1, DAY_1, created_date=midnight)], ONE)
        assert stored(warehouse) == [last]
        early = order(1, DAY_1, created_date=midnight - timedelta(days=1, microseconds=1))
        with pytest.raises(AuditError):
            publish(warehouse, [early], ONE)
        with pytest.raises(AuditError):
            publish(warehouse, [order(1, DAY_1, created_date=midnight)], Days.between(DAY_1, DAY_2))
        assert stored(warehouse) == [last]

    def test_a_source_that_fails_leaves_the_day_as_it_was(self, warehouse: Warehouse) -> None:
        publish(warehouse, orders([1], DAY_1), ONE)

        def broken() -> Iterator[pa.RecordBatch]:
            yield from reader(orders(range(2, 30), DAY_1))
            raise ConnectionResetError("the server went away")

        rows = pa.RecordBatchReader.from_batches(ORDERS.arrow_schema, broken())
        with pytest.raises(ConnectionResetError, match="the server went away"):
            warehouse.publish(ORDERS, rows, ONE, "broken")
        assert stored(warehouse) == orders([1], DAY_1)

    def test_a_new_nullable_column_appears_and_old_days_stay_readable(self, warehouse: Warehouse) -> None:
        publish(warehouse, orders([1], DAY_1), ONE)
        grown = with_columns((*ORDERS.columns, Column("coupon", Type.STRING, "Coupon.", nullable=True)))
        assert by_id(warehouse.read(grown))[0]["coupon"] is None
        publish(warehouse, [order(2, DAY_2) | {"coupon": "X1"}], TWO, table=grown)
        assert [row["coupon"] for row in by_id(warehouse.read(grown))] == [None, "X1"]
        assert stored(warehouse) == orders([1], DAY_1) + orders([2], DAY_2)

    def test_a_contract_that_old_days_cannot_follow_stops_before_anything_is_read(
        self, warehouse: Warehouse
    ) -> None:
        publish(warehouse, orders([1], DAY_1), ONE)

        def untouched() -> Iterator[pa.RecordBatch]:
            pytest.fail("rows were read before the columns were compared")
            yield

        columns = ORDERS.columns
        renamed = tuple(replace(c, name="paid_with") if c.name == "payment_method" else c for c in columns)
        retyped = tuple(replace(c, type=Type.INT64) if c.name == "amount" else c for c in columns)
        for new, says in (
            (columns[:-2] + columns[-1:], ["position", "gone from", "--drop position`"]),
            (renamed, ["payment_method", "--rename payment_method=paid_with`"]),
            (retyped, ["amount", "ecommersss warehouse migrate --table raw.orders`"]),
            ((*columns, Column("coupon", Type.STRING, "Coupon.")), ["coupon", "not nullable"]),
        ):
            changed = with_columns(new)
            rows = pa.RecordBatchReader.from_batches(changed.arrow_schema, untouched())
            with pytest.raises(SchemaError) as failure:
                warehouse.publish(changed, rows, ONE, "changed")
            assert all(text in str(failure.value) for text in ["raw.orders", *says]), failure.value
        assert stored(warehouse) == orders([1], DAY_1)

    def test_a_migration_renames_casts_adds_and_drops_in_one_step(self, warehouse: Warehouse) -> None:
        rows = [
            order(1, DAY_1, amount=Decimal("7.00"), fraud_reasons=["a", "b"]),
            order(2, DAY_2, quantity=9_007_199_254_740_991),
        ]
        with pytest.raises(TableNotFound):
            warehouse.migrate(ORDERS, {}, [])
        publish(warehouse, rows, ALL)
        changed = with_columns(
            (
                Column("coupon", Type.STRING, "Coupon.", nullable=True),
                *(
                    replace(c, **new)
                    for c in ORDERS.columns
                    if c.name != "flagged_at"
                    for new in [
                        {
                            "payment_method": {"name": "paid_with"},
                            "quantity": {"type": Type.FLOAT64},
                            "country": {"nullable": True},
                            "position": {"type": Type.STRING},
                        }.get(c.name, {})
                    ]
                ),
            )
        )
        with pytest.raises(SchemaError, match="flagged_at"):
            publish(warehouse, [], ONE, table=changed)
        asked: Any = (changed, {"payment_method": "paid_with"}, ["flagged_at"])
        would = warehouse.migrate(*asked, dry_run=True)
        assert stored(warehouse) == rows
        assert warehouse.migrate(*asked) == would
        assert [clause.split()[0] for clause in would] == [
            "coupon",
            "quantity",
            "payment_method",
            "country",
            "position",
            "flagged_at",
        ]
        expected = [
            {("paid_with" if name == "payment_method" else name): value for name, value in row.items()}
            | {"coupon": None, "position": str(row["position"]), "quantity": float(row["quantity"])}
            for row in rows
        ]
        for row in expected:
            del row["flagged_at"]
        assert by_id(warehouse.read(changed)) == expected
        assert by_id(warehouse.read(changed, days=ONE)) == expected[:1]
        assert warehouse.migrate(changed, {}, []) == ()
        publish(warehouse, expected[1:], TWO, table=changed)
        assert by_id(warehouse.read(changed)) == expected

    def test_a_migration_that_would_lose_values_is_refused(self, warehouse: Warehouse) -> None:
        rows = [order(1, DAY_1), order(2, DAY_2, amount=Decimal("3.00"))]
        publish(warehouse, rows, ALL)
        for column, type_, lost in (
            ("amount", Type.INT64, 1),
            ("created_date", Type.DATE, 2),
            ("country", Type.BOOL, 2),
        ):
            changed = with_columns(
                tuple(replace(c, type=type_) if c.name == column else c for c in ORDERS.columns)
            )
            with pytest.raises(SchemaError, match=f"{lost} values of {column} cannot become"):
                warehouse.migrate(changed, {}, [])
        assert stored(warehouse) == rows

    def test_rows_without_a_required_column_are_refused(self, warehouse: Warehouse) -> None:
        rows = reader(orders([1], DAY_1)).read_all().drop_columns(["amount"])
        with pytest.raises(SchemaError, match=r"raw\.orders needs the column amount"):
            warehouse.publish(ORDERS, rows.to_reader(), ONE, "run")

    def test_reads_columns_and_days(self, warehouse: Warehouse) -> None:
        publish(warehouse, orders([1], DAY_1) + orders([2], DAY_2) + orders([3], DAY_3), ALL)
        result = warehouse.read("raw.orders", ["amount", "id"], TWO).read_all()
        assert result.to_pylist() == [{"amount": Decimal("1500.25"), "id": 2}]
        assert stored(warehouse, Days.between(DAY_2, DAY_3)) == orders([2], DAY_2) + orders([3], DAY_3)
        with pytest.raises(SchemaError, match="nonsense"):
            warehouse.read(ORDERS, ["id", "nonsense"])
        with pytest.raises(SchemaError, match="nonsense"):
            warehouse.read("raw.orders", ["id", "nonsense"])

    def test_a_reader_does_not_hold_the_warehouse(self, warehouse: Warehouse) -> None:
        publish(warehouse, orders(range(1, 8), DAY_1), ONE)
        rows = warehouse.read(ORDERS)
        publish(warehouse, orders([9], DAY_1), ONE)
        assert by_id(rows) == orders(range(1, 8), DAY_1)

    def test_queries_and_the_newest_day(self, warehouse: Warehouse) -> None:
        assert warehouse.newest_day(ORDERS) is None
        with pytest.raises(TableNotFound, match="materialise"):
            warehouse.read(ORDERS)
        publish(warehouse, orders([1, 2], DAY_1) + orders([3], DAY_2), ALL)
        assert warehouse.newest_day(ORDERS) == warehouse.newest_day("raw.orders") == DAY_2
        assert warehouse.newest_day(USERS) is None
        # BigQuery refuses a query of a raw table that does not filter on the partition.
        days = "partition_date >= DATE '2024-01-01'"
        sql = f"SELECT count(*) AS n, sum(amount) AS amount FROM raw.orders WHERE {days}"
        total = warehouse.query(sql).to_pylist()
        assert total == [{"n": 3, "amount": Decimal("4500.75")}]
        with pytest.raises(QueryError, match="nonsense"):
            warehouse.query(f"SELECT nonsense FROM raw.orders WHERE {days}")

    def test_a_query_only_reads(self, warehouse: Warehouse) -> None:
        publish(warehouse, orders([1], DAY_1), ONE)
        for sql in ("DELETE FROM raw.orders WHERE TRUE", "DROP TABLE raw.orders"):
            with pytest.raises(QueryError):
                warehouse.query(sql)
            assert stored(warehouse) == orders([1], DAY_1), sql

    def test_a_whole_table_without_partitions_is_replaced_with_its_columns(
        self, warehouse: Warehouse
    ) -> None:
        def table(*columns: Column) -> RawTable:
            return replace(ORDERS, name="notes", columns=columns, key=(), instant="", status=None)

        first = table(Column("a", Type.INT64, ""), Column("b", Type.FLOAT64, "", nullable=True))
        second = table(Column("b", Type.STRING, ""))
        rows = pa.Table.from_pylist([{"a": 1, "b": 0.5}, {"a": 2, "b": None}], first.arrow_schema)
        warehouse.publish(first, rows.to_reader(), None, "run")
        assert warehouse.read(first).read_all().sort_by("a") == rows
        published = warehouse.publish(
            second, pa.Table.from_pylist([{"b": "x"}], second.arrow_schema).to_reader(), None, "run"
        )
        assert warehouse.read("raw.notes").read_all().to_pylist() == [{"b": "x"}]
        assert (published.rows, published.rows_per_day) == (1, {})

    @pytest.mark.parametrize("step", list(Step))
    def test_killed_after_a_step_the_days_are_old_or_new(self, warehouse: Warehouse, step: Step) -> None:
        old = orders(range(1, 5), DAY_1) + orders([5], DAY_2)
        new = orders(range(10, 20), DAY_1)
        publish(warehouse, old, Days.between(DAY_1, DAY_2))
        killed = in_process(publish_and_die, warehouse, new, ONE, step)
        assert ended(killed) == -signal.SIGKILL
        before = [("run", 4), ("run", 1)]
        if step == Step.PUBLISHED:
            assert stored(warehouse) == new + orders([5], DAY_2)
            assert logged(warehouse) == [*before, ("killed", 10)]
        else:
            assert stored(warehouse) == old
            assert logged(warehouse) == before
        publish(warehouse, new, ONE, "killed")  # the same run, tried again
        assert stored(warehouse) == new + orders([5], DAY_2)
        assert logged(warehouse) == [*before, ("killed", 10)]

    def test_killed_while_rows_arrive_the_days_are_old(self, warehouse: Warehouse) -> None:
        publish(warehouse, orders([1], DAY_1), ONE)
        killed = in_process(publish_and_die_reading, warehouse, orders(range(2, 50), DAY_1), ONE)
        assert ended(killed) == -signal.SIGKILL
        assert stored(warehouse) == orders([1], DAY_1)
        publish(warehouse, orders([2], DAY_1), ONE, "killed")  # the same run, tried again
        assert stored(warehouse) == orders([2], DAY_1)

    @pytest.mark.parametrize("count", [4, pytest.param(12, marks=pytest.mark.long)])
    def test_runs_at_once_on_different_days_all_succeed(self, warehouse: Warehouse, count: int) -> None:
        days = [date(2024, 6, 1) + timedelta(days=n) for n in range(count)]
        runs = [
            in_process(publish, warehouse, orders([n + 1], day), Days.between(day, day), f"run-{n}")
            for n, day in enumerate(days)
        ]
        assert [ended(run) for run in runs] == [0] * count
        assert stored(warehouse) == [order(n + 1, day) for n, day in enumerate(days)]

    @pytest.mark.parametrize("count", [4])
    def test_runs_at_once_on_the_same_day_leave_the_rows_of_one(
        self, warehouse: Warehouse, count: int
    ) -> None:
        choices = [orders(range(100 * n, 100 * n + 40), DAY_1) for n in range(1, count + 1)]
        runs = [in_process(publish, warehouse, rows, ONE, f"run-{n}") for n, rows in enumerate(choices)]
        assert [ended(run) for run in runs] == [0] * count
        assert stored(warehouse) in choices
