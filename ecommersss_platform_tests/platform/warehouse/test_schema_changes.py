"""What the warehouse decides before it touches a database: audits, migrations, names, shapes of rows."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from dagster import AssetKey

from ecommersss_platform.contracts import ORDERS, USERS, Type
from ecommersss_platform.partitions import Days
from ecommersss_platform.warehouse import Job, Published, SchemaError
from ecommersss_platform.warehouse.arrow import CountingReader, conform
from ecommersss_platform.warehouse.audit import audit_sql, findings, required_columns
from ecommersss_platform.warehouse.dialect import Dialect, TableColumn
from ecommersss_platform.warehouse.duckdb.engine import busy_message, is_taken
from ecommersss_platform.warehouse.io_manager import as_reader, table_of
from ecommersss_platform.warehouse.metadata import day_metadata, markdown, run_metadata
from ecommersss_platform.warehouse.names import full_name, split_name, staging_name
from ecommersss_platform.warehouse.schema_changes import (
    automatic_changes,
    check_losses,
    losses_sql,
    migrated_columns,
    plan_migration,
)
from ecommersss_platform_tests.support.commands import check_command

DAY = date(2024, 6, 10)
ONE = Days.between(DAY, DAY)
PLAIN = Dialect(
    quote=str,
    business_day=lambda instant: f"BUSINESS_DAY({instant})",
    try_cast=lambda value, type_: f"TRY({value} AS {type_})",
    types={},
    text=repr,
    instant="INSTANT",
    literal_rows=lambda names, rows: "",
)
SMALL = replace(
    USERS, columns=tuple(c for c in USERS.columns if c.name in ("version", "valid_from", "partition_date"))
)
CLEAN = {"staged_rows": 5, **{f"null_{name}": 0 for name in required_columns(ORDERS)}}


def test_the_audit_is_one_scan_with_constant_bounds() -> None:
    outside = (
        "COALESCE(NOT (partition_date >= DATE '2024-06-10' AND partition_date < DATE '2024-06-11'), TRUE)"
    )
    assert audit_sql(SMALL, "staging.t", ONE, PLAIN) == (
        "SELECT count(*) AS staged_rows, count(*) - count(version) AS null_version, "
        "count(*) - count(valid_from) AS null_valid_from, "
        "count(*) - count(partition_date) AS null_partition_date, "
        f"count(CASE WHEN {outside} THEN 1 END) AS wrong_range, "
        f"min(CASE WHEN {outside} THEN version END) AS wrong_range_key, "
        "count(CASE WHEN partition_date <> BUSINESS_DAY(valid_from) THEN 1 END) AS wrong_day, "
        "min(CASE WHEN partition_date <> BUSINESS_DAY(valid_from) THEN version END) AS wrong_day_key, "
        "(SELECT count(*) FROM (SELECT 1 FROM staging.t GROUP BY version HAVING count(*) > 1) AS repeated) "
        "AS repeated_keys FROM staging.t"
    )


def test_a_table_without_days_or_key_is_audited_for_what_it_has() -> None:
    table = replace(SMALL, key=(), instant="")
    sql = audit_sql(table, "s", None, PLAIN)
    assert "wrong" not in sql
    assert "repeated" not in sql
    assert (
        findings(
            table,
            None,
            2,
            {"staged_rows": 2, "null_version": 0, "null_valid_from": 0, "null_partition_date": 0},
        )
        == []
    )


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, []),
        ({"staged_rows": 4}, ["5 rows were extracted but 4 staged"]),
        ({"null_user_id": 2}, ["2 rows have no user_id"]),
        ({"repeated_keys": 1}, ["1 values of the key (id) occur more than once"]),
        (
            {"wrong_range": 3, "wrong_range_key": 17},
            ["3 rows have a partition_date outside 2024-06-10, for example id 17"],
        ),
        ({"wrong_range": 3, "wrong_range_key": None}, ["3 rows have a partition_date outside 2024-06-10"]),
        (
            {"wrong_day": 1, "wrong_day_key": 8, "null_id": 1},
            [
                "1 rows have no id",
                "1 rows have a partition_date that is not the business day of created_date, for example id 8",
            ],
        ),
    ],
)
def test_findings_are_sentences(counts: dict[str, int], expected: list[str]) -> None:
    assert findings(ORDERS, ONE, 5, CLEAN | counts) == expected


A, B = TableColumn("a", "BIGINT", False), TableColumn("b", "VARCHAR", True)


def test_a_nullable_column_is_added_and_a_required_one_relaxed() -> None:
    assert automatic_changes("raw.t", [A, B], [A, B]) == automatic_changes("raw.t", [B, A], [A, B])
    todo = automatic_changes("raw.t", [A], [replace(A, nullable=True), B])
    assert (todo.added, todo.relaxed) == ((B,), (replace(A, nullable=True),))


MIGRATE = "type `ecommersss warehouse migrate --table raw.t"


@pytest.mark.parametrize(
    ("existing", "wanted", "says", "command"),
    [
        (
            [A, B],
            [A],
            "column b is VARCHAR in the warehouse and gone from the contract",
            f"{MIGRATE} --drop b` (if the values of b may be lost) and run again",
        ),
        (
            [A, B],
            [A, replace(B, name="c")],
            "column b is VARCHAR in the warehouse and gone from the contract",
            f"{MIGRATE} --rename b=c` (if b was renamed to c) and run again",
        ),
        (
            [A],
            [A, replace(B, nullable=False)],
            "column b (VARCHAR) is new in the contract and not nullable",
            "Make b nullable in the contract",
        ),
        (
            [A, B],
            [replace(A, type="VARCHAR"), B],
            "column a is BIGINT in the warehouse and VARCHAR in the contract",
            f"{MIGRATE}` and run again",
        ),
        (
            [A, B],
            [A, replace(B, nullable=False)],
            "column b is nullable in the warehouse and required",
            f"{MIGRATE}` and run again",
        ),
    ],
)
def test_what_old_days_cannot_follow_is_named_with_both_types_and_the_command(
    existing: list[TableColumn], wanted: list[TableColumn], says: str, command: str
) -> None:
    with pytest.raises(SchemaError) as failure:
        automatic_changes("raw.t", existing, wanted)
    assert says in str(failure.value)
    assert command in str(failure.value)
    if MIGRATE in command:
        check_command(shlex.split(command.split("`")[1])[1:])


def test_a_migration_makes_each_column_of_what_there_is() -> None:
    old = [A, B, TableColumn("gone", "DATE", True)]
    wanted = [TableColumn("new", "DATE", True), TableColumn("c", "DOUBLE", False), A]
    plan = plan_migration("raw.t", old, wanted, {"b": "c"}, ["gone"])
    assert plan.descriptions == (
        "new (DATE) is new, and NULL in existing rows",
        "b is renamed to c",
        "c becomes DOUBLE from VARCHAR",
        "c is required",
        "gone (DATE) is dropped with its values",
    )
    assert migrated_columns(plan, PLAIN) == "CAST(NULL AS DATE) AS new, TRY(b AS DOUBLE) AS c, a AS a"
    assert losses_sql(plan, "raw.t WHERE x", PLAIN) == (
        "SELECT count(CASE WHEN b IS NOT NULL AND (TRY(b AS DOUBLE) IS NULL "
        "OR TRY(TRY(b AS DOUBLE) AS VARCHAR) IS DISTINCT FROM b) THEN 1 END) AS lost_c, "
        "count(CASE WHEN b IS NULL THEN 1 END) AS null_c "
        "FROM raw.t WHERE x"
    )
    check_losses(plan, {"lost_c": 0, "null_c": 0})
    with pytest.raises(SchemaError) as failure:
        check_losses(plan, {"lost_c": 2, "null_c": 1})
    assert "2 values of c cannot become DOUBLE and VARCHAR again" in str(failure.value)
    assert "1 rows have no c, which the contract requires" in str(failure.value)
    fits = plan_migration("raw.t", [A, B], [A, B], {}, [])
    assert fits.descriptions == ()
    assert losses_sql(fits, "raw.t", PLAIN) is None


@pytest.mark.parametrize(
    ("wanted", "renames", "drops", "says"),
    [
        ([A], {}, [], "b (VARCHAR) is not in the contract: say --rename b=NEW, or --drop b to lose it"),
        ([A], {"x": "a"}, ["b"], "there is no column x"),
        ([A], {}, ["b", "x"], "there is no column x"),
        ([A, B], {}, ["b"], "b is in the contract, so it stays"),
        ([A], {"b": "x"}, [], "the contract has no column x"),
        ([A], {"b": "a"}, [], "there is a column a already"),
        ([A, replace(B, name="c")], {"b": "c"}, ["b"], "b is both renamed and dropped"),
        ([replace(A, name="c")], {"a": "c", "b": "c"}, [], "two columns would get the same name"),
        ([A, B, replace(A, name="n")], {}, [], "n is required and new: make it nullable in the contract"),
    ],
)
def test_a_migration_is_refused_unless_it_says_what_becomes_of_each_column(
    wanted: list[TableColumn], renames: dict[str, str], drops: list[str], says: str
) -> None:
    with pytest.raises(SchemaError) as failure:
        plan_migration("raw.t", [A, B], wanted, renames, drops)
    assert says in str(failure.value)


def test_names() -> None:
    assert split_name("gold.most_fraudulent_users") == ("gold", "most_fraudulent_users")
    assert full_name(ORDERS) == "raw.orders"
    assert staging_name(ORDERS, "8f-A1'; --") == "raw_orders_8f_a1_"
    for bad in ("orders", "a.b.c", "raw.orders; DROP", "", "raw."):
        with pytest.raises(ValueError, match=r"dataset\.table"):
            split_name(bad)


def test_who_has_the_file() -> None:
    message = (
        'IO Error: Could not set lock on file "/w.duckdb": Conflicting lock is held in /usr/bin/python3.11 '
        "(PID 4242) by user dagster. See also https://duckdb.org/docs/stable/connect/concurrency"
    )
    assert is_taken(message)
    assert not is_taken('IO Error: Cannot open file "/w.duckdb": Permission denied')
    assert "held by process 4242 (/usr/bin/python3.11) for over 2 s" in busy_message(
        Path("/w.duckdb"), message, 2
    )
    other = (
        "Connection Error: Can't open a connection to same database file with a different configuration than"
    )
    assert is_taken(other)
    assert "another connection of this process" in busy_message(Path("/w.duckdb"), other, 2)


WANTED = pa.schema(
    [
        pa.field("n", pa.int64(), nullable=False),
        pa.field("money", pa.decimal128(18, 2)),
        pa.field("t", pa.timestamp("us", tz="UTC")),
        pa.field("text", pa.string()),
        pa.field("list", pa.list_(pa.string())),
    ]
)
ROW = {"n": 1, "money": Decimal("1.50"), "t": datetime(2024, 6, 10, tzinfo=UTC), "text": "x", "list": ["a"]}


@pytest.mark.parametrize("frame", [pl.DataFrame, pd.DataFrame], ids=["polars", "pandas"])
def test_frames_take_the_wanted_types_order_and_missing_columns(frame: type) -> None:
    given = frame([{name: ROW[name] for name in ("list", "t", "text", "n")}])
    result = conform(as_reader(given), WANTED, "raw.t").read_all()
    assert result.schema.equals(WANTED)
    assert result.to_pylist() == [ROW | {"money": None}]


def test_what_is_right_already_is_passed_through() -> None:
    reader = pa.Table.from_pylist([ROW], WANTED).to_reader()
    assert conform(reader, WANTED, "raw.t") is reader


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"n": 1, "more": 2}, "raw.t has no column more; it has n, money"),
        ({"money": Decimal(1)}, "raw.t needs the column n; the rows have only money"),
        ({"n": 1.5}, "raw.t.n: double does not fit int64"),
        ({"n": 1, "money": Decimal("0.125")}, "raw.t.money: decimal128(3, 3) does not fit decimal128(18, 2)"),
    ],
)
def test_rows_that_do_not_fit_are_refused(row: dict[str, object], says: str) -> None:
    with pytest.raises(SchemaError) as failure:
        conform(pa.Table.from_pylist([row]).to_reader(), WANTED, "raw.t").read_all()
    assert says in str(failure.value)


def test_a_counting_reader_keeps_the_error_that_ended_it() -> None:
    def batches():  # type: ignore[no-untyped-def]
        yield pa.record_batch({"n": [1, 2, 3]})
        raise TimeoutError("too slow")

    counted = CountingReader(pa.RecordBatchReader.from_batches(pa.schema([("n", pa.int64())]), batches()))
    with pytest.raises(TimeoutError):
        counted.reader.read_all()
    assert (counted.rows, counted.bytes) == (3, 24)
    assert str(counted.error) == "too slow"


def test_the_table_of_an_asset() -> None:
    schema = pa.schema([("a", pa.int32()), ("f", pa.float32()), ("partition_date", pa.date32())])
    assert table_of(AssetKey(["raw", "orders"]), schema, partitioned=True) is ORDERS
    derived = table_of(AssetKey(["lab", "x"]), schema, partitioned=True)
    assert full_name(derived) == "lab.x"
    assert [c.type for c in derived.columns] == [Type.INT64, Type.FLOAT64, Type.DATE]
    with pytest.raises(SchemaError, match=r"lab\.x\.t has the type timestamp\[us\]; cast it"):
        table_of(AssetKey(["lab", "x"]), pa.schema([("t", pa.timestamp("us"))]), partitioned=False)
    with pytest.raises(SchemaError, match="need the column partition_date"):
        table_of(AssetKey(["lab", "x"]), pa.schema([("a", pa.int64())]), partitioned=True)
    with pytest.raises(ValueError, match="two parts"):
        table_of(AssetKey("x"), schema, partitioned=False)


def test_only_arrow_can_be_published() -> None:
    with pytest.raises(TypeError, match=r"got builtins\.list"):
        as_reader([1, 2])


def test_markdown_keeps_values_in_their_cells() -> None:
    assert markdown([]) == "no rows"
    assert markdown([{"a": "x|y\nz", "b": "<b>"}]) == "| a | b |\n| --- | --- |\n| x\\|y z | &lt;b> |"


def test_a_range_lists_its_days_up_to_a_month() -> None:
    def listed(days: Days) -> str | None:
        published = Published("raw.orders", days, 2, 1, 0.0, 0.0, dict.fromkeys(days, 0) | {DAY: 2})
        shown = run_metadata(ORDERS, published, ORDERS.arrow_schema.empty_table())
        return shown["rows_per_day"].value if "rows_per_day" in shown else None

    month = listed(Days(DAY, DAY + timedelta(days=31)))
    assert month is not None
    assert month.startswith("| day | rows |\n| --- | --- |\n| 2024-06-10 | 2 |\n| 2024-06-11 | 0 |")
    assert listed(Days(DAY, DAY + timedelta(days=32))) is None
    assert listed(ONE) is None


def test_each_day_shows_every_status() -> None:
    published = Published("raw.orders", ONE, 3, 1, 0.0, 0.0, {DAY: 3}, {DAY: {"false": 3}}, {DAY: "00ff"})
    assert day_metadata(ORDERS, published, DAY) == {
        "dagster/row_count": 3,
        "dagster/partition_row_count": 3,
        "checksum": "00ff",
        "rows_fraud": 0,
        "rows_genuine": 3,
    }


def test_jobs_are_shown_with_links_and_what_they_cost() -> None:
    jobs = (Job("load", "j_1", "https://x/?a=b&c=d", 5_000, None), Job("publish", "j_2", "https://y", 11, 12))
    published = Published("raw.orders", ONE, 0, 0, 0.0, 0.0, jobs=jobs)
    shown = run_metadata(ORDERS, published, ORDERS.arrow_schema.empty_table())
    assert (shown["job_bytes"], shown["job_slot_ms"]) == (5_011, 12)
    assert shown["jobs"].value == (
        "| step | job | bytes | slot_ms |\n| --- | --- | --- | --- |\n"
        "| load | [j_1](https://x/?a=b&c=d) | 5,000 |  |\n| publish | [j_2](https://y) | 11 | 12 |"
    )
    without = run_metadata(ORDERS, replace(published, jobs=()), ORDERS.arrow_schema.empty_table())
    assert [name for name in without if "job" in name] == []
