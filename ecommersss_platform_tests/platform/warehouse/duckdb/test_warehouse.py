"""The contract of every warehouse on DuckDB, and what only DuckDB has: one file with one writer."""

from __future__ import annotations

import gc
import shutil
import signal
import threading
import time
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecommersss_platform.contracts import ORDERS, PARTITION_COLUMN, Column, RawTable, Type
from ecommersss_platform.partitions import Days
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import QueryError, Step, TableNotFound, WarehouseBusy, make_warehouse
from ecommersss_platform.warehouse.duckdb.warehouse import DuckDbWarehouse
from ecommersss_platform_tests.support.orders_table import DAY_1, DAY_2, DAY_3, order, orders
from ecommersss_platform_tests.support.warehouse_contract import (
    ALL,
    ONE,
    WarehouseContract,
    die,
    ended,
    in_process,
    publish,
    publish_and_die,
    stored,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def warehouse(tmp_path: Path) -> DuckDbWarehouse:
    return DuckDbWarehouse(tmp_path / "new" / "warehouse.duckdb", patience=60)


class TestContract(WarehouseContract):
    pass


def staging_tables(warehouse: DuckDbWarehouse) -> list[str]:
    sql = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'staging' ORDER BY 1"
    return [row["table_name"] for row in warehouse.query(sql).to_pylist()]


def test_settings_choose_duckdb(tmp_path: Path) -> None:
    warehouse = make_warehouse(Settings(home=tmp_path))
    assert warehouse == DuckDbWarehouse(tmp_path / "warehouse.duckdb")
    assert warehouse.pool == "duckdb"
    assert list(tmp_path.iterdir()) == []


def publish_and_die_at_statement(
    warehouse: DuckDbWarehouse, rows: list[dict[str, Any]], days: Days, number: int
) -> None:
    """Publish, but die just before the statement of that number."""
    connect = duckdb.connect
    statements = 0

    class Dying:
        def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
            self._connection = connection

        def execute(self, *args: Any) -> Any:
            nonlocal statements
            statements += 1
            if statements == number:
                die()
            return self._connection.execute(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

    duckdb.connect = lambda *args, **kwargs: Dying(connect(*args, **kwargs))  # type: ignore[assignment]
    publish(warehouse, rows, days)


@pytest.mark.faults
def test_kill_before_any_statement_leaves_the_days_as_they_were(tmp_path: Path) -> None:
    old = orders([1, 2], DAY_1) + orders([3], DAY_2)
    new = orders([10, 11, 12], DAY_1) + orders([13], DAY_2)
    both = Days.between(DAY_1, DAY_2)
    publish(DuckDbWarehouse(tmp_path / "old.duckdb"), old, both)
    for number in range(1, 100):
        warehouse = DuckDbWarehouse(shutil.copy(tmp_path / "old.duckdb", tmp_path / f"{number}.duckdb"))
        code = ended(in_process(publish_and_die_at_statement, warehouse, new, both, number))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert stored(warehouse) == old, f"killed before statement {number}"
        publish(warehouse, new, both)
        assert stored(warehouse) == new
        assert staging_tables(warehouse) == []
    assert number > 10  # open, clean, stage, audit, delete, insert, drop, commit
    assert stored(warehouse) == new


@pytest.mark.faults
def test_kill_before_any_statement_of_the_first_publication_leaves_no_day(tmp_path: Path) -> None:
    for number in range(1, 100):
        warehouse = DuckDbWarehouse(tmp_path / f"{number}.duckdb")
        code = ended(in_process(publish_and_die_at_statement, warehouse, orders([1], DAY_1), ONE, number))
        if code == 0:
            break
        assert warehouse.newest_day(ORDERS) is None
        publish(warehouse, orders([1], DAY_1), ONE)
        assert stored(warehouse) == orders([1], DAY_1)
    assert number > 10


def test_next_writer_drops_the_staging_table_of_a_killed_one(warehouse: DuckDbWarehouse) -> None:
    assert (
        ended(in_process(publish_and_die, warehouse, orders([1], DAY_1), ONE, Step.STAGED)) == -signal.SIGKILL
    )
    assert staging_tables(warehouse) == ["raw_orders_killed"]
    publish(warehouse, orders([2], DAY_1), ONE, "next")
    assert staging_tables(warehouse) == []


def test_threads_of_one_process_do_not_drop_each_others_staging(warehouse: DuckDbWarehouse) -> None:
    errors: list[BaseException] = []

    def work(n: int) -> None:
        day = date(2024, 6, 1) + timedelta(days=n)
        try:
            publish(warehouse, orders([n + 1], day), Days.between(day, day), f"run-{n}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [row["id"] for row in stored(warehouse)] == [1, 2, 3, 4, 5, 6]


def hold(path: Path, ready: Any, seconds: float, read_only: bool) -> None:
    with duckdb.connect(str(path), read_only=read_only):
        ready.set()
        time.sleep(seconds)


@pytest.fixture
def held(warehouse: DuckDbWarehouse, request: pytest.FixtureRequest) -> Any:
    """Yield a warehouse with one row that another process holds open for `request.param` seconds."""
    from ecommersss_platform_tests.support.warehouse_contract import PROCESSES

    seconds, read_only = request.param
    publish(warehouse, orders([1], DAY_1), ONE)
    ready = PROCESSES.Event()
    process = in_process(hold, warehouse.path, ready, seconds, read_only)
    assert ready.wait(60)
    yield warehouse, process
    process.kill()
    process.join()


@pytest.mark.parametrize("held", [(0.7, False), (0.7, True)], indirect=True, ids=["writer", "reader"])
def test_publish_waits_until_the_file_is_free(held: Any) -> None:
    warehouse, _ = held
    started = time.monotonic()
    publish(warehouse, orders([2], DAY_1), ONE)
    assert time.monotonic() - started > 0.2
    assert stored(warehouse) == orders([2], DAY_1)


@pytest.mark.parametrize("held", [(60, False)], indirect=True)
def test_busy_error_names_the_process_that_holds_the_file(held: Any) -> None:
    warehouse, process = held
    impatient = DuckDbWarehouse(warehouse.path, patience=0.3)
    for work in (
        lambda: impatient.query("SELECT 1"),
        lambda: impatient.read(ORDERS),
        lambda: publish(impatient, orders([2], DAY_1), ONE),
    ):
        with pytest.raises(WarehouseBusy, match=rf"held by process {process.pid} \(.*\) for over 0.3 s"):
            work()


@pytest.mark.parametrize("held", [(60, True)], indirect=True)
def test_readers_share_the_file(held: Any) -> None:
    warehouse, _ = held
    assert DuckDbWarehouse(warehouse.path, patience=0).query("SELECT 1 AS one").to_pylist() == [{"one": 1}]


def test_missing_file_is_not_created_and_the_error_says_what_to_do(warehouse: DuckDbWarehouse) -> None:
    with pytest.raises(
        TableNotFound, match=r"no warehouse at .*warehouse\.duckdb yet: materialise a day first"
    ):
        warehouse.query("SELECT 1")
    assert not warehouse.path.exists()


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE raw.x (i INT)",
        "COPY (SELECT 1) TO '{place}'",
        "ATTACH '{place}'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM warehouse",
        "SET memory_limit = '1GB'",
        "SELECT 1; DROP TABLE raw.orders",
        "",
    ],
)
def test_a_query_reaches_nothing_but_the_warehouse(
    warehouse: DuckDbWarehouse, tmp_path: Path, sql: str
) -> None:
    publish(warehouse, orders([1], DAY_1), ONE)
    place = tmp_path / "outside"
    with pytest.raises(QueryError):
        warehouse.query(sql.format(place=place))
    assert not place.exists()
    assert stored(warehouse) == orders([1], DAY_1)


def test_a_query_that_fails_in_one_thread_names_the_cause(
    warehouse: DuckDbWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB stops its other threads, and now and then reports only that."""
    warehouse.path.parent.mkdir()
    with warehouse.writing() as connection:
        connection.execute("CREATE TABLE t AS SELECT range AS i FROM range(1000)")
    sql = "SELECT CAST(CASE WHEN i = 999 THEN 'x' ELSE '1' END AS INTEGER) FROM t"
    run = DuckDbWarehouse._stream

    def stopped_first(one: DuckDbWarehouse, sql: str) -> pa.RecordBatchReader:
        if one.threads > 1:
            raise QueryError("INTERRUPT Error: Interrupted!")
        return run(one, sql)

    monkeypatch.setattr(DuckDbWarehouse, "_stream", stopped_first)
    with pytest.raises(QueryError, match="Could not convert string 'x' to INT32"):
        warehouse.stream(sql)


@pytest.mark.long
def test_no_failing_query_says_that_it_was_interrupted(warehouse: DuckDbWarehouse) -> None:
    warehouse.path.parent.mkdir()
    with warehouse.writing() as connection:
        connection.execute("CREATE TABLE t AS SELECT range AS i FROM range(3000000)")
    sql = "SELECT CAST(CASE WHEN i % 1000000 = 999999 THEN 'x' ELSE '1' END AS INTEGER) FROM t"
    for _ in range(60):
        with pytest.raises(QueryError, match="Could not convert string 'x' to INT32"):
            warehouse.stream(sql)


def test_a_query_that_needs_more_than_the_memory_spills(warehouse: DuckDbWarehouse) -> None:
    publish(warehouse, orders([1], DAY_1), ONE)
    small = DuckDbWarehouse(warehouse.path, memory="40MB", threads=1)
    sql = "SELECT count(*) AS n FROM (SELECT DISTINCT range::VARCHAR || 'abcdefgh' AS n FROM range(1500000))"
    assert small.query(sql).to_pylist() == [{"n": 1_500_000}]


def test_a_result_is_streamed_after_the_file_is_free(warehouse: DuckDbWarehouse) -> None:
    publish(warehouse, orders([1], DAY_1), ONE)
    rows = warehouse.stream("SELECT range AS n, range AS n FROM range(25000)")
    publish(replace(warehouse, patience=0), orders([2], DAY_1), ONE)
    assert [batch.num_rows for batch in rows][:2] == [10_000, 10_000]
    with pytest.raises(QueryError, match="Could not convert string 'x'"):
        warehouse.stream("SELECT if(range = 20000, 'x', '1')::INT FROM range(25000)")


def publish_many_twice(warehouse: DuckDbWarehouse, number: int) -> None:
    table = RawTable(
        name="numbers",
        description="",
        source="",
        instant="",
        key=("n",),
        columns=(Column("n", Type.INT64, ""), Column(PARTITION_COLUMN, Type.DATE, "")),
    )
    day = pa.repeat(pa.scalar(DAY_1, pa.date32()), number)
    rows = pa.table([pa.array(range(number), pa.int64()), day], schema=table.arrow_schema)
    for _ in range(2):
        warehouse.publish(table, rows.to_reader(50_000), ONE, "run")


def test_a_day_larger_than_the_memory_is_published_and_replaced(warehouse: DuckDbWarehouse) -> None:
    """Publish in another process, because DuckDB ends the process if the replaced rows do not fit."""
    small = DuckDbWarehouse(warehouse.path, writing_megabytes=16)
    assert ended(in_process(publish_many_twice, small, 2_000_000)) == 0
    rows = warehouse.query("SELECT count(*) AS rows, sum(n)::BIGINT AS sum FROM raw.numbers").to_pylist()
    assert rows == [{"rows": 2_000_000, "sum": 1_999_999_000_000}]


def test_descriptions_are_in_the_catalog(warehouse: DuckDbWarehouse) -> None:
    publish(warehouse, orders([1], DAY_1), ONE)
    sql = "SELECT comment FROM duckdb_columns() WHERE table_name = 'orders' ORDER BY column_index"
    assert [row["comment"] for row in warehouse.query(sql).to_pylist()] == [
        c.description for c in ORDERS.columns
    ]


def test_large_reads_go_through_a_temporary_file(
    warehouse: DuckDbWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ecommersss_platform.warehouse.duckdb.spool._IN_MEMORY_BYTES", 1000)
    rows = orders(range(1, 2000), DAY_1)
    publish(warehouse, rows, ONE)
    gc.collect()  # close what earlier tests left open
    before = open_files()
    assert stored(warehouse) == rows
    assert open_files() == before  # the temporary file is closed


def open_files() -> int:
    descriptors = Path("/proc/self/fd")
    return len(list(descriptors.iterdir())) if descriptors.exists() else 0


DAYS = [DAY_1, DAY_2, DAY_3]
RANGES = [Days.between(first, last) for first in DAYS for last in DAYS if first <= last]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(RANGES), st.dictionaries(st.integers(1, 30), st.sampled_from(DAYS))),
        max_size=5,
    )
)
def test_any_sequence_of_publications_equals_a_dictionary_of_days(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[Days, dict[int, date]]]
) -> None:
    warehouse = DuckDbWarehouse(tmp_path_factory.mktemp("model") / "warehouse.duckdb")
    publish(warehouse, [], ALL)
    model: dict[date, list[dict[str, Any]]] = {day: [] for day in DAYS}
    for days, ids in writes:
        rows = [order(id, day) for id, day in ids.items() if day in days]
        publish(warehouse, rows, days)
        for day in days:
            model[day] = [row for row in rows if row["partition_date"] == day]
    expected = [row for day in DAYS for row in sorted(model[day], key=lambda row: row["id"])]
    assert stored(warehouse) == expected
