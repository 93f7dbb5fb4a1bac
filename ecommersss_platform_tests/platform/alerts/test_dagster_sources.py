"""Problems read from Dagster's own tables: checks, late tables, sensors, schedules and the daemon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    DagsterInstance,
    asset,
    asset_check,
    materialize,
)
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.types import DaemonHeartbeat
from dagster._utils.error import SerializableErrorInfo

from ecommersss_platform.alerts.daemon import TOLERANCE, daemon_down, fails, sensors_and_schedules
from ecommersss_platform.alerts.failed_checks import Newest, failed_checks
from ecommersss_platform.alerts.late_tables import GRACE, late_tables
from ecommersss_platform.alerts.look import Look, Undecided
from ecommersss_platform.checks import PARITY, freshness_results
from ecommersss_platform.freshness import BY_DAY, EXPECTED, WHOLE, due_at, newest_due_day
from ecommersss_platform.instance.dagster_home import dagster_instance
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.conftest import administer
from streaming.database import connect

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def storage(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DagsterInstance]:
    """Dagster's storage on PostgreSQL, which all tests of this file fill with things of their own."""
    administer(postgres, "CREATE DATABASE dagster_of_problems")
    url = postgres.url("dagster_of_problems")
    settings = Settings(home=tmp_path_factory.mktemp("home"), dagster_url=url)  # type: ignore[arg-type]
    with dagster_instance(settings, url) as instance:
        yield instance
    administer(postgres, "DROP DATABASE dagster_of_problems WITH (FORCE)")


@pytest.fixture
def look(storage: DagsterInstance, postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Look]:
    settings = Settings(
        home=tmp_path, first_day=newest_due_day(datetime.now(UTC)), ui_url="https://ui.example.com"
    )
    with closing(connect(postgres.url("dagster_of_problems"))) as connection:
        connection.autocommit = True
        yield Look(settings, datetime.now(UTC), LONG_AGO, _connection=connection)


@asset
def sound() -> None: ...


@asset_check(asset=sound)
def warns() -> AssetCheckResult:
    return AssetCheckResult(passed=False, severity=AssetCheckSeverity.WARN)


@asset_check(asset=sound)
def errs() -> AssetCheckResult:
    return AssetCheckResult(passed=False, severity=AssetCheckSeverity.ERROR)


@asset_check(asset=sound, blocking=True)
def blocks() -> AssetCheckResult:
    return AssetCheckResult(passed=False, severity=AssetCheckSeverity.ERROR)


def evaluate(storage: DagsterInstance, name: str, passed: bool) -> None:
    storage.report_runless_asset_event(AssetCheckEvaluation(AssetKey("sound"), name, passed=passed))


@pytest.mark.integration
def test_failed_check_is_a_problem_until_it_passes(storage: DagsterInstance, look: Look) -> None:
    assert failed_checks(look) == []
    materialize([sound, warns, errs], instance=storage, raise_on_error=False)
    [problem] = failed_checks(look)
    assert (problem.kind, problem.subject) == ("check_failed", "sound errs")
    assert problem.summary.startswith("the check errs of sound failed at 20")
    assert problem.link == "https://ui.example.com/assets/sound?view=checks"
    assert [p.subject for p in failed_checks(replace(look, memory={}))] == ["sound errs"], "after a restart"
    # The run that a blocking check stops is told as a failed run.
    assert not materialize([sound, blocks], instance=storage, raise_on_error=False).success
    assert failed_checks(look) == [problem]
    evaluate(storage, "errs", passed=True)
    assert failed_checks(look) == []


@pytest.mark.integration
def test_parity_that_differs_is_a_problem_of_its_own(storage: DagsterInstance, look: Look) -> None:
    key, says = AssetKey(["silver", "order_features"]), "2 of 900 orders of 2026-11-25 differ"

    def compared(passed: bool, severity: AssetCheckSeverity) -> None:
        storage.report_runless_asset_event(
            AssetCheckEvaluation(key, PARITY, passed=passed, severity=severity, description=says)
        )

    compared(False, AssetCheckSeverity.WARN)
    assert failed_checks(look) == []
    compared(False, AssetCheckSeverity.ERROR)
    [problem] = failed_checks(look)
    assert problem.kind == "parity_differs"
    assert problem.summary.startswith(f"stream and warehouse do not decide alike: {says}. `ecommersss rules")
    assert problem.link == "https://ui.example.com/assets/silver/order_features?view=checks"
    compared(True, AssetCheckSeverity.ERROR)
    assert failed_checks(look) == []


def test_result_of_a_run_that_has_not_ended_is_awaited() -> None:
    now = datetime(2026, 3, 2, 5, tzinfo=UTC)

    def row(id_: int, status: str, run: str | None, hours: float = 1) -> dict[str, Any]:
        created = (now - timedelta(hours=hours)).replace(tzinfo=None)
        return {
            "id": id_,
            "asset_key": '["a"]',
            "check_name": "c",
            "execution_status": status,
            "run_status": run,
            "created": created,
        }

    newest = Newest()
    newest.add(
        [row(4, "PLANNED", "STARTED", hours=30), row(3, "FAILED", "STARTED"), row(2, "FAILED", "SUCCESS")],
        now,
    )
    assert (newest.read_to, newest.pending, newest.results) == (4, [3], {('["a"]', "c"): (2, True)})
    newest.add([row(3, "FAILED", "FAILURE")], now)
    assert newest.results == {('["a"]', "c"): (2, True)}, "the failed run says it"
    newest.add([row(5, "SUCCEEDED", "SUCCESS"), row(6, "SKIPPED", "SUCCESS")], now)
    assert (newest.read_to, newest.pending, newest.results) == (6, [], {('["a"]', "c"): (5, False)})


def build(storage: DagsterInstance, keys: Any, day: date | None) -> None:
    for key in keys:
        partition = str(day) if day and key in BY_DAY else None
        storage.report_runless_asset_event(
            AssetMaterialization(AssetKey.from_user_string(key), partition=partition)
        )


def compare(storage: DagsterInstance, days: str) -> None:
    """Report that the check of parity has looked at these days."""
    key = AssetKey(["silver", "order_features"])
    storage.report_runless_asset_event(
        AssetCheckEvaluation(key, PARITY, passed=True, metadata={"days": days})
    )


@pytest.mark.integration
def test_day_that_never_ran_is_one_problem_until_every_table_has_it(
    storage: DagsterInstance, look: Look
) -> None:
    day = newest_due_day(look.now)
    [problem] = late_tables(look)
    assert (problem.kind, problem.subject) == ("freshness_missed", "newest closed day")
    assert problem.summary == (
        f"{day} is over, and {len(EXPECTED)} tables are without it (raw/users, raw/products, raw/orders and"
        f" {len(EXPECTED) - 3} more): `ecommersss materialize --from {day} --to {day}` builds them"
    )
    with pytest.raises(Undecided):
        late_tables(replace(look, since=look.now - GRACE / 2))
    assert late_tables(replace(look, now=due_at(day) - timedelta(seconds=1))) == [], (
        "before the first day is due"
    )
    build(storage, [*BY_DAY, *WHOLE[1:]], day)
    [problem] = late_tables(look)
    assert problem.summary == f"{WHOLE[0]}: it was never built: materialise {day}"
    assert agrees_with_the_checks(storage, look)
    storage.report_runless_asset_event(AssetObservation(AssetKey.from_user_string(WHOLE[0])))
    [problem] = late_tables(look)
    assert problem.summary == f"{PARITY}: the orders of {day} were not compared: materialise {day}"
    compare(storage, str(day - timedelta(days=1)))
    assert late_tables(look) == [problem]
    compare(storage, f"{day - timedelta(days=1)} to {day}")
    assert late_tables(look) == []
    assert agrees_with_the_checks(storage, look)


def agrees_with_the_checks(storage: DagsterInstance, look: Look) -> bool:
    """Return whether the checks of the UI, which ask Dagster, say the same as the monitor."""
    first = look.settings.first_partition_day()
    results = freshness_results(storage, EXPECTED, first, look.now).values()
    return all(result.passed for result in results) == (late_tables(look) == [])


REPOSITORY = RemoteRepositoryOrigin(
    ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(python_file="x.py"), "ecommersss_platform"),
    "__repository__",
)


def tick(storage: DagsterInstance, name: str, type_: InstigatorType, status: TickStatus, at: float) -> None:
    origin = RemoteInstigatorOrigin(REPOSITORY, name)
    if storage.get_instigator_state(origin.get_id(), origin.get_selector().get_id()) is None:
        data = ScheduleInstigatorData("0 3 * * *", at) if type_ is InstigatorType.SCHEDULE else None
        storage.add_instigator_state(InstigatorState(origin, type_, InstigatorStatus.DECLARED_IN_CODE, data))
    failed = status is TickStatus.FAILURE
    cause = SerializableErrorInfo(
        "psycopg2.OperationalError: password=s3cret is wrong\n", [], "OperationalError"
    )
    error = SerializableErrorInfo("SensorExecutionError", [], "Error", cause=cause) if failed else None
    storage.create_tick(
        TickData(
            origin.get_id(), name, type_, status, at, selector_id=origin.get_selector().get_id(), error=error
        )
    )


@pytest.mark.integration
def test_failing_and_switched_off_sensors_and_schedules_are_problems(
    storage: DagsterInstance, look: Look
) -> None:
    ok, failed = TickStatus.SKIPPED, TickStatus.FAILURE
    for n, status in enumerate([ok, failed, failed]):
        tick(storage, "label_sensor", InstigatorType.SENSOR, status, 1000.0 + n)
    tick(storage, "a_sensor_of_the_past", InstigatorType.SENSOR, failed, 1000.0)
    assert list(sensors_and_schedules(look)) == []
    tick(storage, "label_sensor", InstigatorType.SENSOR, failed, 1010.0)
    tick(storage, "label_sensor", InstigatorType.SENSOR, TickStatus.STARTED, 1020.0)
    tick(storage, "daily_close", InstigatorType.SCHEDULE, failed, 1000.0)
    found = {problem.subject: problem for problem in sensors_and_schedules(look)}
    assert {name: problem.kind for name, problem in found.items()} == dict.fromkeys(
        ("label_sensor", "daily_close"), "sensor_failing"
    )
    assert found["label_sensor"].summary == (
        "the newest evaluations of the sensor label_sensor failed (psycopg2.OperationalError: password=*** is"
        " wrong): correct the cause; it goes on by itself"
    )
    assert found["label_sensor"].link == (
        "https://ui.example.com/locations/__repository__@ecommersss_platform/sensors/label_sensor"
    )
    tick(storage, "label_sensor", InstigatorType.SENSOR, ok, 1030.0)
    state = next(s for s in storage.all_instigator_state() if s.instigator_name == "daily_close")
    storage.update_instigator_state(state.with_status(InstigatorStatus.STOPPED))
    assert [(p.kind, p.subject) for p in sensors_and_schedules(look)] == [("sensor_off", "daily_close")]
    storage.update_instigator_state(state.with_status(InstigatorStatus.DECLARED_IN_CODE))
    tick(storage, "daily_close", InstigatorType.SCHEDULE, ok, 1010.0)
    assert list(sensors_and_schedules(look)) == []


def test_sensor_fails_three_times_before_it_is_told_and_a_daily_schedule_once() -> None:
    assert not fails(["FAILURE", "FAILURE"], "SENSOR")
    assert fails(["FAILURE"] * 3, "SENSOR")
    assert not fails(["FAILURE", "SUCCESS", "FAILURE"], "SENSOR")
    assert fails(["FAILURE", "SUCCESS"], "SCHEDULE")
    assert not fails([], "SCHEDULE")


@pytest.mark.integration
def test_silent_daemon_is_a_problem_once_it_had_time_to_start(storage: DagsterInstance, look: Look) -> None:
    assert daemon_down(look) == [], "no daemon has ever run"
    for part in ("SENSOR", "SCHEDULER", "QUEUED_RUN_COORDINATOR"):
        storage.add_daemon_heartbeat(DaemonHeartbeat(look.now.timestamp() - 10, part, "id", []))
    assert daemon_down(look) == []
    later = replace(look, now=look.now + timedelta(hours=8))
    [problem] = daemon_down(later)
    assert "no sign of life for 480 min" in problem.summary
    with pytest.raises(Undecided):  # the platform was down overnight, and has just begun
        daemon_down(replace(later, since=later.now - TOLERANCE / 2))
