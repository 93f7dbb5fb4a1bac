"""Changes of an existing table: automatic, by migration, or refused."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from ecommersss_platform.warehouse import SchemaError
from ecommersss_platform.warehouse.dialect import TableColumn
from ecommersss_platform.warehouse.schema_changes import (
    automatic_changes,
    check_losses,
    losses_sql,
    migrated_columns,
    plan_migration,
)
from ecommersss_platform_tests.support.commands import check_command
from ecommersss_platform_tests.support.plain_dialect import PLAIN

A, B = TableColumn("a", "BIGINT", False), TableColumn("b", "VARCHAR", True)


def test_automatic_changes_add_nullable_columns_and_relax_required_ones() -> None:
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
def test_automatic_changes_refuse_what_old_days_cannot_follow(
    existing: list[TableColumn], wanted: list[TableColumn], says: str, command: str
) -> None:
    with pytest.raises(SchemaError) as failure:
        automatic_changes("raw.t", existing, wanted)
    assert says in str(failure.value)
    assert command in str(failure.value)
    if MIGRATE in command:
        check_command(shlex.split(command.split("`")[1])[1:])


def test_migration_makes_each_column_from_the_existing_table() -> None:
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
def test_migration_must_account_for_each_column(
    wanted: list[TableColumn], renames: dict[str, str], drops: list[str], says: str
) -> None:
    with pytest.raises(SchemaError) as failure:
        plan_migration("raw.t", [A, B], wanted, renames, drops)
    assert says in str(failure.value)
