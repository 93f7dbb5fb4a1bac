"""Old runs go from Dagster's storage, and the state of partitions and checks stays what it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Any
from unittest.mock import patch

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetCheckResult,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    Definitions,
    EventLogEntry,
    JobDefinition,
    RunsFilter,
    asset,
    asset_check,
    define_asset_job,
    job,
    op,
)
from dagster._core.events import DagsterEvent, StepMaterializationData
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from sqlalchemy import text

from ecommersss_platform.instance import pruning
from ecommersss_platform.instance.dagster_home import dagster_instance
from ecommersss_platform.instance.pruning import prune_instance
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform.maintenance import OBSERVATION_DAYS, keep_from, keep_observations_from
from ecommersss_platform.partitions import SINGLE_RUN, Days, daily_partitions
from ecommersss_platform.run_tags import range_tags
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.conftest import administer
from streaming.business_days import JAKARTA
from streaming.errors import PlatformError

pytestmark = [pytest.mark.integration, pytest.mark.slow]

FIRST = date(2025, 1, 1)
KEPT_DAYS = 30
ORDERS, MART = AssetKey(["raw", "orders"]), AssetKey(["gold", "mart"])
CHECK = AssetCheckKey(MART, "totals")
IMPORTED = "2025-01-01"
"""The day that a person reported as materialised in the UI; no run ever did."""

WITHOUT_A_RUN = "SELECT count(*) FROM event_logs WHERE run_id NOT IN (SELECT run_id FROM runs)"


@asset(key=ORDERS, partitions_def=daily_partitions(FIRST), backfill_policy=SINGLE_RUN)
def orders() -> None: ...


@asset(key=MART, deps=[orders])
def mart() -> None: ...


@asset_check(asset=mart)
def totals() -> AssetCheckResult:
    return AssetCheckResult(passed=True)


def definitions(version: int = 0) -> Definitions:
    """Return the code as some version has it, so that its job has a snapshot of its own."""
    days = define_asset_job("days", [orders, mart], description=f"version {version}")
    return Definitions([orders, mart], asset_checks=[totals], jobs=[days])


@cache
def days_job(version: int) -> JobDefinition:
    return definitions(version).resolve_job_def("days")


@job
def hourly() -> None:
    op(name="apply")(lambda: None)()


@dataclass
class Simulation:
    """A platform's runs as Dagster records them, without executing anything."""

    instance: DagsterInstance
    now: datetime = datetime(2025, 1, 1, 12, tzinfo=UTC)

    def move(self, day: date, hour: float) -> None:
        self.now = datetime.combine(day, time.min, JAKARTA) + timedelta(hours=hour)

    def run(
        self, job_def: JobDefinition, days: Days | None = None, fails: bool = False, evaluates: bool = True
    ) -> DagsterRun:
        """Record a run that has just ended. A failed one has materialised nothing."""
        run = self.instance.create_run_for_job(job_def, tags=range_tags(days) if days else {})
        if days and not fails:
            self._materialize(run, ORDERS, [str(day) for day in days])
            self._materialize(run, MART, [None])
            if evaluates:
                data = AssetCheckEvaluation(MART, CHECK.name, passed=True, metadata={})
                self._report(run, DagsterEventType.ASSET_CHECK_EVALUATION, data)
        self._report(run, DagsterEventType.RUN_FAILURE if fails else DagsterEventType.RUN_SUCCESS)
        return run

    def _materialize(self, run: DagsterRun, key: AssetKey, partitions: list[str] | list[None]) -> None:
        self.instance.event_log_storage.store_event_batch(
            [
                EventLogEntry(
                    *(None, 10, "", run.run_id, self.now.timestamp()),
                    step_key=key.to_python_identifier(),
                    job_name=run.job_name,
                    dagster_event=DagsterEvent(
                        DagsterEventType.ASSET_MATERIALIZATION.value,
                        run.job_name,
                        event_specific_data=StepMaterializationData(
                            AssetMaterialization(key, partition=partition)
                        ),
                    ),
                )
                for partition in partitions
            ]
        )

    def _report(self, run: DagsterRun, kind: DagsterEventType, data: Any = None) -> None:
        self.instance.report_dagster_event(
            DagsterEvent(kind.value, run.job_name, event_specific_data=data), run.run_id
        )

    def prune(self) -> pruning.Pruned:
        return prune_instance(self.instance, self.now - timedelta(days=KEPT_DAYS))

    def rows(self, statement: str) -> Any:
        with self.instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
            return connection.execute(text(statement)).scalar_one()


@pytest.fixture(scope="module")
def instance(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DagsterInstance]:
    administer(postgres, "CREATE DATABASE pruning")
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    with dagster_instance(settings, postgres.url("pruning")) as instance:
        # One connection that stays open, as the webserver has it.
        instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3600, max_overflow=20)
        yield instance
    administer(postgres, "DROP DATABASE pruning WITH (FORCE)")


@pytest.fixture
def simulation(instance: DagsterInstance) -> Iterator[Simulation]:
    instance.wipe()
    simulation = Simulation(instance)
    with (
        patch("dagster._time._mockable_get_current_datetime", lambda: simulation.now),
        patch("dagster._time._mockable_get_current_timestamp", lambda: simulation.now.timestamp()),
    ):
        yield simulation


DEFINITIONS = definitions()
SHOWN = """{ assetNodes {
    assetKey { path }
    partitionStats { numMaterialized numFailed }
    assetMaterializations(limit: 1) { runId partition }
    assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } }
} }"""
RUNS = "{ runsOrError { ... on Runs { results { runId rootRunId executionPlan { steps { key } } } } } }"


def ask(instance: DagsterInstance, query: str) -> dict[str, Any]:
    """Return what the UI gets for a query."""
    from dagster_graphql.test.utils import execute_dagster_graphql

    target = LoadableTargetOrigin(module_name=__name__, attribute="DEFINITIONS")
    workspace = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(target))
    with WorkspaceProcessContext(instance, workspace) as context:
        result = execute_dagster_graphql(context.create_request_context(), query)
    assert result.errors is None
    return dict(result.data)


def state(instance: DagsterInstance) -> dict[str, Any]:
    """Return what the UI shows about assets, partitions and checks, without what Dagster remembers of it."""
    storage = instance.event_log_storage
    instance.wipe_asset_cached_status([ORDERS])
    status = get_and_update_asset_status_cache_value(instance, ORDERS, daily_partitions(FIRST))
    attempts = storage.get_latest_asset_partition_materialization_attempts_without_materializations(ORDERS)
    [checks] = storage.get_asset_check_summary_records([CHECK]).values()
    return {
        "in the UI": ask(instance, SHOWN),
        "status": status,
        "materialized": storage.get_latest_storage_id_by_partition(
            ORDERS, DagsterEventType.ASSET_MATERIALIZATION
        ),
        "failed": attempts,
        "their runs": {
            run_id: (run := instance.get_run_by_id(run_id)) and run.status for run_id, _ in attempts.values()
        },
        "assets": [
            (record.asset_entry.last_run_id, record.asset_entry.last_materialization_storage_id)
            for record in storage.get_asset_records([ORDERS, MART])
        ],
        "check": (checks.last_check_execution_record, checks.last_completed_check_execution_record),
    }


@pytest.mark.parametrize("runs_a_day", [2, pytest.param(24, marks=pytest.mark.long)])
def test_three_months_of_runs_leave_a_flat_storage_that_knows_every_partition(
    simulation: Simulation, runs_a_day: int
) -> None:
    instance, failed = simulation.instance, set()
    instance.report_runless_asset_event(AssetMaterialization(ORDERS, partition=IMPORTED))
    for number in range(1, 91):
        today = FIRST + timedelta(days=number)
        job_def = days_job(number // 20)
        for turn in range(runs_a_day):
            simulation.move(today, 2 + 20 * turn / runs_a_day)
            simulation.run(job_def, Days.between(today, today))
        if number % 3 == 0:
            simulation.run(hourly)
        simulation.move(today, 23)
        if number % 7 == 3:  # a late order for yesterday and the day before
            late = Days(today - timedelta(days=2), today)
            simulation.run(job_def, late)
            failed -= {str(day) for day in late}
        if number % 11 == 5:  # a failure that nobody repairs
            simulation.run(job_def, Days.between(today, today), fails=True)
            failed.add(str(today))
        if number % 30 == 0:
            before, count = state(instance), instance.get_runs_count()
            pruned = simulation.prune()
            assert state(instance) == before
            since = (simulation.now - timedelta(days=KEPT_DAYS)).astimezone(UTC)
            inside = instance.get_runs_count(RunsFilter(updated_after=since))
            # A run for each day, and for each failure one more.
            assert pruned.runs_kept <= inside + max(0, number - KEPT_DAYS) + len(failed)
            assert pruned.runs_kept == instance.get_runs_count() == count - pruned.runs_removed
            # All but the last run of each day, and those of the other job.
            superseded = 0 if number == 30 else 30 * (runs_a_day - 1) + 10
            assert pruned.runs_removed >= superseded
            assert pruned.runs_removed == 0 or number > 30
    partitions = {str(FIRST + timedelta(days=n)) for n in range(91)}
    assert instance.get_materialized_partitions(ORDERS) == partitions
    known = state(instance)
    assert set(known["failed"]) == failed
    assert set(known["their runs"].values()) == {DagsterRunStatus.FAILURE}
    [_, shown] = known["in the UI"]["assetNodes"]
    assert shown["partitionStats"] == {"numMaterialized": 91 - len(failed), "numFailed": len(failed)}
    # Every run that is left can be opened in the UI, and nothing is left of those that are gone.
    runs = ask(instance, RUNS)["runsOrError"]["results"]
    assert len(runs) == instance.get_runs_count()
    assert all(run["executionPlan"]["steps"] and run["rootRunId"] is None for run in runs)
    for run in instance.get_runs():
        assert run.job_snapshot_id
        assert instance.get_historical_job(run.job_snapshot_id).name == run.job_name
    assert simulation.rows(WITHOUT_A_RUN) == 1, "the one that a person reported"
    old = f"evaluation_event_timestamp < '{(simulation.now - timedelta(days=KEPT_DAYS)).astimezone(UTC)}'"
    assert simulation.rows(f"SELECT count(*) FROM asset_check_executions WHERE {old}") == 0


def test_observations_of_sources_stay_for_two_weeks_and_the_newest_of_each_for_ever(
    simulation: Simulation,
) -> None:
    """Six weeks, in which one source changes every eight hours and another only on the first day."""
    busy, quiet = AssetKey(["stream", "orders"]), AssetKey(["postgres", "products"])
    instance, most = simulation.instance, 0
    settings = Settings(run_retention_days=KEPT_DAYS)
    for number in range(42):
        for hour in (1, 9, 17):
            simulation.move(FIRST + timedelta(days=number), hour)
            instance.report_runless_asset_event(AssetObservation(busy, metadata={"end": 3 * number + hour}))
        if number == 0:
            instance.report_runless_asset_event(AssetObservation(quiet, metadata={"writes": 7}))
        simulation.run(days_job(0), Days.between(FIRST, FIRST)) if number == 1 else None
        prune_instance(
            instance,
            keep_from(settings, simulation.now),
            observed_before=keep_observations_from(settings, simulation.now),
        )
        most = max(most, simulation.rows("SELECT count(*) FROM event_logs WHERE run_id = ''"))
    assert most == 3 * OBSERVATION_DAYS + 3 + 1 - 2, (
        "the days, the one that has not ended, and the quiet source"
    )
    [last] = instance.fetch_observations(quiet, limit=5).records
    assert last.asset_observation
    assert last.asset_observation.metadata["writes"].value == 7
    [newest] = instance.fetch_observations(busy, limit=1).records
    assert newest.asset_observation
    assert newest.asset_observation.metadata["end"].value == 3 * 41 + 17
    for_ever = settings.model_copy(update={"run_retention_days": 0})
    assert keep_observations_from(for_ever) == keep_from(for_ever)


def test_a_second_pruning_finds_nothing_and_so_does_one_after_a_kill(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = simulation.instance
    for number in range(4):
        simulation.move(FIRST + timedelta(days=number), 12)
        simulation.run(days_job(0), Days.between(FIRST, FIRST))
    simulation.move(FIRST + timedelta(days=60), 12)
    before = state(instance)
    with monkeypatch.context() as killed:
        killed.setattr(instance.run_storage, "delete_run", lambda run_id: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            simulation.prune()
    assert state(instance) == before
    assert simulation.rows(WITHOUT_A_RUN) == 0
    assert simulation.prune().runs_removed == 3
    assert state(instance) == before
    nothing = pruning.Pruned(
        0, 0, runs_kept=1, check_executions_removed=0, events_without_run_removed=0, snapshots_removed=0
    )
    assert simulation.prune() == nothing


def test_a_pruning_is_bounded_and_the_next_one_continues(simulation: Simulation) -> None:
    for _ in range(5):
        simulation.run(hourly)
    simulation.move(FIRST + timedelta(days=60), 12)
    before = simulation.now
    first = prune_instance(simulation.instance, before, most_runs=3)
    assert (first.runs_removed, first.runs_removable_later, first.runs_kept) == (3, 2, 2)
    second = prune_instance(simulation.instance, before, most_runs=3)
    assert (second.runs_removed, second.runs_removable_later, second.runs_kept) == (2, 0, 0)


def test_runs_in_progress_and_young_ones_stay(simulation: Simulation) -> None:
    instance = simulation.instance
    waiting = instance.create_run_for_job(hourly)
    simulation.run(hourly)
    simulation.move(FIRST + timedelta(days=2), 12)
    young = simulation.run(hourly)
    simulation.move(FIRST + timedelta(days=31), 12)
    assert simulation.prune().runs_removed == 1
    assert {run.run_id for run in instance.get_runs()} == {waiting.run_id, young.run_id}


def test_newest_execution_and_newest_completed_one_of_a_check_stay(
    simulation: Simulation,
) -> None:
    instance, run_ids = simulation.instance, []
    for evaluates in (True, True, False):
        run_ids.append(simulation.run(days_job(0), Days.between(FIRST, FIRST), evaluates=evaluates).run_id)
    with instance.event_log_storage.index_connection() as connection:  # type: ignore[attr-defined]
        # So that only the check needs a run.
        connection.execute(text("DELETE FROM event_logs WHERE asset_key IS NOT NULL"))
    before = state(instance)["check"]
    simulation.move(FIRST + timedelta(days=60), 12)
    assert simulation.prune().runs_removed == 1
    assert simulation.rows("SELECT count(*) FROM asset_check_executions") == 2
    assert {run.run_id for run in instance.get_runs()} == set(run_ids[1:])
    assert state(instance)["check"] == before


def test_reported_materialisations_go_when_a_newer_one_exists(simulation: Simulation) -> None:
    instance = simulation.instance
    for partition in (IMPORTED, IMPORTED, "2025-01-02"):
        instance.report_runless_asset_event(
            AssetMaterialization(ORDERS, partition=partition, tags={"dagster/data_version": "a"})
        )
    simulation.move(FIRST + timedelta(days=20), 12)
    instance.report_runless_asset_event(AssetMaterialization(ORDERS, partition="2025-01-02"))
    simulation.move(FIRST + timedelta(days=31), 12)
    before = state(instance)
    assert simulation.prune().events_without_run_removed == 2
    assert state(instance) == before
    assert (
        simulation.rows(
            "SELECT count(*) FROM asset_event_tags WHERE event_id NOT IN (SELECT id FROM event_logs)"
        )
        == 0
    )


def test_snapshots_that_no_run_needs_go(simulation: Simulation) -> None:
    instance = simulation.instance
    part = days_job(1).get_subset(asset_selection={ORDERS})
    for number, job_def in enumerate([days_job(0), part, days_job(2)]):
        simulation.move(FIRST + timedelta(days=number), 12)
        kept = simulation.run(job_def, Days.between(FIRST, FIRST))
    simulation.move(FIRST + timedelta(days=60), 12)
    assert simulation.rows("SELECT count(*) FROM snapshots") == 7, (
        "three jobs, their plans, and the whole of one"
    )
    assert simulation.prune().snapshots_removed == 5
    assert instance.get_historical_job(kept.job_snapshot_id).name == "days"


def test_it_refuses_what_it_was_not_tested_with(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation.run(hourly)
    simulation.move(FIRST + timedelta(days=60), 12)
    monkeypatch.setattr(pruning, "version", lambda name: "0.30.1")
    with pytest.raises(PlatformError, match=r"dagster-postgres is 0\.30\.1, .* 0\.29\.27 only"):
        simulation.prune()
    assert simulation.instance.get_runs_count() == 1
    with (
        DagsterInstance.ephemeral() as ephemeral,
        pytest.raises(PlatformError, match="InMemoryEventLogStorage"),
    ):
        prune_instance(ephemeral, simulation.now)


def test_reported_check_results_go_except_the_newest(simulation: Simulation) -> None:
    """Such as the hourly ones of freshness."""
    instance = simulation.instance
    for _ in range(3):
        instance.report_runless_asset_event(AssetCheckEvaluation(MART, "fresh", passed=True))
    simulation.move(FIRST + timedelta(days=31), 12)
    pruned = simulation.prune()
    assert (pruned.check_executions_removed, pruned.events_without_run_removed) == (2, 3)
    [kept] = instance.event_log_storage.get_asset_check_execution_history(
        AssetCheckKey(MART, "fresh"), limit=9
    )
    assert kept.status.value == "SUCCEEDED"
