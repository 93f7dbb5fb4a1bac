"""The newest builds of tables and days, and which runs count as whole."""

# Annotations must be real here: Dagster inspects those of `context`.
from datetime import date
from typing import Any

import pytest
from dagster import (
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    OpExecutionContext,
    job,
    op,
)

from ecommersss_platform.dbt.unchanged import Build
from ecommersss_platform.instance import builds
from ecommersss_platform.instance.builds import covers, newest_builds

FACTS, MART = AssetKey(["silver", "facts"]), AssetKey(["gold", "mart"])
DAY_1, DAY_2 = date(2025, 6, 1), date(2025, 6, 2)


def build(instance: DagsterInstance, recorded: str, *partitions: date, success: bool = True) -> DagsterRun:
    """Execute a run that materialises the mart and these days of the facts."""

    @op
    def make(context: OpExecutionContext) -> None:
        metadata = {"built_from": recorded} if recorded else {}
        context.log_event(AssetMaterialization(MART, metadata=metadata))
        for day in partitions:
            context.log_event(AssetMaterialization(FACTS, partition=str(day), metadata=metadata))
        assert success

    @job
    def daily() -> None:
        make()

    result = daily.execute_in_process(instance=instance, raise_on_error=False)
    assert result.success is success
    return result.dagster_run


def test_the_newest_build_of_each_table_and_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "_EVENTS_PER_READ", 1)
    targets = [(FACTS, DAY_1), (FACTS, DAY_2), (MART, None)]
    with DagsterInstance.ephemeral() as instance:
        asking = DagsterRun("daily")
        assert newest_builds(instance, asking, targets) == {}
        both = build(instance, "code a", DAY_1, DAY_2)
        again = build(instance, "code b", DAY_1)
        newest = build(instance, "code c", DAY_1)
        assert newest_builds(instance, asking, targets) == {
            (FACTS, DAY_1): Build(newest.run_id, "code c", whole=True),
            (FACTS, DAY_2): Build(both.run_id, "code a", whole=True),
            (MART, None): Build(newest.run_id, "code c", whole=True),
        }
        failed = build(instance, "", success=False)
        found = newest_builds(instance, asking, targets)
        assert found[MART, None] == Build(failed.run_id, None, whole=False)
        assert found[FACTS, DAY_1].run_id == newest.run_id
        instance.delete_run(newest.run_id)
        assert newest_builds(instance, asking, targets)[FACTS, DAY_1].run_id == again.run_id


@pytest.mark.parametrize(
    ("earlier", "wanted", "expected"),
    [
        (None, None, True),
        (None, {MART}, True),
        ({MART}, None, False),
        ({MART, FACTS}, {MART}, True),
        ({MART}, {MART, FACTS}, False),
    ],
)
def test_a_run_covers_another_if_it_was_for_as_much(earlier: Any, wanted: Any, expected: bool) -> None:
    def run(selection: Any, status: DagsterRunStatus) -> DagsterRun:
        chosen = None if selection is None else frozenset(selection)
        return DagsterRun("daily", status=status, asset_selection=chosen)

    asking = run(wanted, DagsterRunStatus.STARTED)
    assert covers(run(earlier, DagsterRunStatus.SUCCESS), asking) is expected
    assert not covers(run(earlier, DagsterRunStatus.FAILURE), asking)
