"""Whether a run has to build: what changed, what was built from what, and what counts as a build."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
from dagster import AssetKey

from ecommersss_platform.contracts import RAW_TABLES
from ecommersss_platform.dbt.project import MANIFEST
from ecommersss_platform.dbt.staged import read_manifest
from ecommersss_platform.dbt.unchanged import (
    READS_DAYS_OF,
    Build,
    Reads,
    built_from,
    reads_clock,
    why_build,
)
from ecommersss_platform.warehouse.load_log import LoadedDay
from ecommersss_platform.warehouse.names import full_name

DAY_1, DAY_2, DAY_3 = (date(2025, 6, day) for day in (1, 2, 3))
FACTS, MART = AssetKey(["silver", "fact_orders"]), AssetKey(["gold", "users_and_blacklist"])
TARGETS = [(FACTS, DAY_1), (FACTS, DAY_2), (MART, None)]
READS = Reads({FACTS: ["raw.orders"]}, clock=False)
LOADED = [
    LoadedDay(table, day, 1, datetime(2025, 6, day.day, 12, tzinfo=UTC), "this run")
    for table in ("raw.orders", "raw.users")
    for day in (DAY_1, DAY_2)
]


def reason(
    loaded: list[LoadedDay] = LOADED,
    *,
    code: str = "v1",
    reads: Reads = READS,
    today: date = DAY_3,
    run_id: str = "this run",
    builds: Mapping[Any, Build | None] | None = None,
    asked: bool = False,
) -> str | None:
    """Return why a run has to build that was preceded by a whole one; `builds` replaces some of that."""
    before = built_from(TARGETS, LOADED, "v1", reads, DAY_3)
    known = {target: Build("before", str(what), whole=True) for target, what in before.items()}
    changed = {**known, **(builds or {})}
    now = built_from(TARGETS, loaded, code, reads, today)
    found = {target: build for target, build in changed.items() if build is not None}
    return why_build(now, found, loaded, run_id, asked=asked)


def with_change(table: str, day: date) -> list[LoadedDay]:
    """Return the log after a load that changed one day of one table."""
    return [
        replace(it, changes=2, changed_at=datetime(2025, 6, 3, tzinfo=UTC))
        if (it.table, it.day) == (table, day)
        else it
        for it in LOADED
    ]


def test_a_run_that_loaded_the_same_rows_builds_nothing() -> None:
    assert reason() is None


def test_a_late_order_in_one_of_two_days_builds() -> None:
    late = with_change("raw.orders", DAY_2)
    assert reason(late) == "raw rows have changed since silver/fact_orders (2025-06-02) was built"


def test_a_changed_user_builds_the_marts_and_leaves_the_facts_up_to_date() -> None:
    changed = with_change("raw.users", DAY_1)
    assert reason(changed) == "raw rows have changed since gold/users_and_blacklist was built"
    other = built_from(TARGETS, changed, "v1", READS, DAY_3)
    assert {
        target
        for target, what in built_from(TARGETS, LOADED, "v1", READS, DAY_3).items()
        if other[target] != what
    } == {(MART, None)}


def test_a_changed_day_outside_the_run_builds_the_marts() -> None:
    elsewhere = LoadedDay("raw.orders", DAY_3, 1, datetime(2025, 6, 3, 1, tzinfo=UTC), "another run")
    assert reason([*LOADED, elsewhere]) == "raw rows have changed since gold/users_and_blacklist was built"


def test_facts_that_read_more_than_their_day_are_built_when_any_day_changes() -> None:
    changed = with_change("raw.users", DAY_1)
    assert reason(changed, reads=Reads({}, clock=False)) == (
        "raw rows have changed since silver/fact_orders (2025-06-01) was built"
    )


def test_the_same_rows_in_a_new_warehouse_are_no_reason_to_skip() -> None:
    again = [replace(it, changed_at=datetime(2025, 6, 4, tzinfo=UTC)) for it in LOADED]
    assert reason(again) == "raw rows have changed since silver/fact_orders (2025-06-01) was built"


def test_changed_code_builds() -> None:
    assert reason(code="v2") == "the code has changed since silver/fact_orders (2025-06-01) was built"


def test_a_table_that_was_never_built_is_built() -> None:
    assert reason(builds={(MART, None): None}) == "gold/users_and_blacklist was never built"


def test_a_build_whose_run_failed_or_did_less_does_not_count() -> None:
    known = str(built_from(TARGETS, LOADED, "v1", READS, DAY_3)[MART, None])
    failed = {(MART, None): Build("failed", known, whole=False)}
    assert reason(builds=failed) == (
        "run failed, which built gold/users_and_blacklist, failed or was for less than this one"
    )


def test_a_build_by_hand_does_not_count() -> None:
    by_hand = {(MART, None): Build("manual", None, whole=True)}
    assert reason(builds=by_hand) == (
        "gold/users_and_blacklist was last built outside the daily job, by run manual"
    )


def test_a_run_without_raw_days_builds() -> None:
    assert reason(run_id="a person's") == "the run loaded no raw day"


def test_a_run_can_ask_for_a_build() -> None:
    assert reason(asked=True) == "the run asks for it, by its config or its tag ecommersss/rebuild"


def test_models_that_read_the_clock_are_built_again_on_the_next_day() -> None:
    clock = replace(READS, clock=True)
    assert reason(reads=clock) is None
    assert reason(reads=clock, today=date(2025, 6, 4)) == (
        "raw rows have changed since gold/users_and_blacklist was built"
    )


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return read_manifest(MANIFEST)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select current_date as today", True),
        ("select {{ run_started_at }}", True),
        ("select NOW() - interval 60 day", True),
        ("select {{ outer() }}", True),
        ("select known, today from days", False),
    ],
)
def test_the_clock_is_found_in_models_and_in_the_macros_they_call(sql: str, expected: bool) -> None:
    def macro(text: str, *calls: str) -> dict[str, Any]:
        return {"macro_sql": text, "depends_on": {"macros": list(calls)}}

    calls = ["macro.ecommersss.outer"] if "outer" in sql else ["macro.dbt.snapshot"]
    manifest = {
        "metadata": {"project_name": "ecommersss"},
        "nodes": {"model.ecommersss.m": {"raw_code": sql, "depends_on": {"macros": calls}}},
        "macros": {
            "macro.ecommersss.outer": macro("{{ inner() }}", "macro.ecommersss.inner"),
            "macro.ecommersss.inner": macro("current_timestamp()"),
            "macro.dbt.snapshot": macro("current_timestamp()"),
        },
    }
    assert reads_clock(manifest) is expected


def test_models_that_state_the_days_they_read_read_no_others(manifest: dict[str, Any]) -> None:
    days_of = Reads.of(manifest).days_of
    assert days_of == {FACTS: ["raw.orders"]}
    by_name = {node["name"]: node for node in manifest["nodes"].values() if node["resource_type"] == "model"}
    names = {full_name(table) for table in RAW_TABLES}

    def tables(name: str) -> set[str]:
        """Return the raw tables that a model's SQL reads, comments (edges of the lineage alone) left out."""
        sql = re.sub(r"--.*", "", by_name[name]["raw_code"])
        found = {".".join(pair) for pair in re.findall(r"source\('(\w+)', '(\w+)'\)", sql)}
        return found.union(*(tables(other) for other in re.findall(r"ref\('(\w+)'\)", sql)))

    for key, stated in days_of.items():
        node = by_name[key.path[-1]]
        assert node["config"]["materialized"] == "incremental"
        assert set(stated) <= names
        assert tables(node["name"]) == set(node["config"]["meta"][READS_DAYS_OF]) == set(stated)
