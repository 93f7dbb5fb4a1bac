"""How Dagster runs the daily job: ranges, backfills, the pool, sensors in the daemon, dead processes.

The assets are stubs of the same shape (`support/stub_definitions.py`). The instance, the code server and the
iterations of the daemon are real. A run has a process of its own where that is tested; other runs share the
test's process (`runs_here`, `child_here`).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from dagster import AssetKey, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.instance.config import PoolGranularity
from dagster._core.launcher import WorkerStatus
from dagster._core.launcher.sync_in_memory_run_launcher import SyncInMemoryRunLauncher
from dagster._core.scheduler.instigation import SensorInstigatorData
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.test_utils import freeze_time
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._utils.warnings import disable_dagster_warnings
from dagster_postgres import PostgresEventLogStorage, PostgresRunStorage, PostgresScheduleStorage
from msgspec.structs import replace
from pydantic import SecretStr

from ecommersss_platform.alerts.delivery import telling
from ecommersss_platform.alerts.listing import lines as lines_of
from ecommersss_platform.alerts.monitor import tell_failed_runs
from ecommersss_platform.alerts.observe import observe
from ecommersss_platform.alerts.problem import Problem
from ecommersss_platform.assets.sources import FLAGGED_STREAM
from ecommersss_platform.contracts import ORDERS
from ecommersss_platform.environment import child_environment
from ecommersss_platform.instance.dagster_home import announce_pool, dagster_instance, ensure_dagster_home
from ecommersss_platform.instance.runs import fail_orphaned_runs
from ecommersss_platform.jobs import DAILY_PIPELINE
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform.materialize import Kind, Materialized, MaterializeError, Progress, materialize
from ecommersss_platform.materialize.__main__ import execute
from ecommersss_platform.order_stream import Cursor, Request
from ecommersss_platform.partitions import Days
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import flagged_stream
from ecommersss_platform.warehouse import make_warehouse
from ecommersss_platform.warehouse.duckdb.warehouse import DuckDbWarehouse
from ecommersss_platform_tests.conftest import administer
from streaming.business_days import JAKARTA, business_day
from streaming.orders import Order, encode_flagged, flag

STUB = "ecommersss_platform_tests.support.stub_definitions"
FIRST_DAY = date(2025, 1, 1)
MONTH = Days(date(2025, 1, 2), date(2025, 2, 1))
SOME_DAYS = Days(date(2025, 1, 2), date(2025, 1, 5))
SINGLE_DAYS = 30 if os.environ.get("ECOMMERSSS_FAULT_RUNS") else 2
ACTIVE = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
STEPS = [
    {"raw/orders"},
    {"raw/users"},
    {
        *("bronze/stg_orders", "bronze/stg_users", "silver/dim_users"),
        *("silver/fact_orders", "gold/users_and_blacklist"),
    },
]
PARTITIONED = {"raw/orders", "raw/users", "silver/fact_orders"}

pytestmark = [pytest.mark.integration, pytest.mark.slow]


class Platform:
    """A home, its instance, and the code server of the stand-ins; the daemon's loops are stepped by hand."""

    def __init__(self, settings: Settings, url: str, instance: DagsterInstance, context: Any) -> None:
        self.settings, self.url, self.instance, self.context = settings, url, instance, context
        self.ticks = 0
        self.numbers = count()

    @property
    def repository(self) -> Any:
        [repository] = self.context.create_request_context().code_locations[0].get_repositories().values()
        return repository

    def ran(self) -> list[dict[str, Any]]:
        path = self.settings.home / "ran.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def forget(self) -> None:
        for name in ("ran.jsonl", "FAIL", "OLD", "SECONDS"):
            (self.settings.home / name).unlink(missing_ok=True)

    def fail(self, step: str, error: str, day: date | None = None) -> None:
        failure = {"step": step, "error": error, "day": day and day.isoformat()}
        (self.settings.home / "FAIL").write_text(json.dumps(failure))

    def slow(self, seconds: float) -> None:
        (self.settings.home / "SECONDS").write_text(str(seconds))

    def runs(self, **tags: str) -> list[DagsterRun]:
        return list(self.instance.get_runs(RunsFilter(tags={f"dagster/{k}": v for k, v in tags.items()})))

    def dequeue(self) -> None:
        list(QueuedRunCoordinatorDaemon(interval_seconds=1).run_iteration(self.context))

    def work_off(self) -> None:
        """Let the queue launch runs until none is queued or under way."""
        while self.instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.QUEUED, *ACTIVE])):
            self.dequeue()
            time.sleep(0.2)

    def backfill(self, backfill: PartitionBackfill) -> list[DagsterRun]:
        """Work a backfill off as the daemon does; its runs, oldest first."""
        self.instance.add_backfill(backfill)
        while (now := self.instance.get_backfill(backfill.backfill_id)).status == BulkActionStatus.REQUESTED:
            with disable_dagster_warnings():  # Dagster's own calls of functions that it deprecated
                list(execute_backfill_iteration(self.context, logging.getLogger(__name__)))
            self.work_off()
        assert now.status == BulkActionStatus.COMPLETED_SUCCESS
        return self.runs(backfill=backfill.backfill_id)[::-1]

    def add_single_days(self, days: Iterable[date]) -> list[str]:
        """Ask for a run of each day, all at once; the names of their backfills."""
        names = [f"{day}-{next(self.numbers)}" for day in days]
        for name in names:
            day = date.fromisoformat(name[:10])
            self.instance.add_backfill(self.job_backfill(name, [day]))
        with disable_dagster_warnings():
            list(execute_backfill_iteration(self.context, logging.getLogger(__name__)))
        return names

    def missing(self, days: Iterable[date]) -> list[date]:
        """The days that the UI shows as failed or missing, and offers to launch alone."""
        present = self.instance.get_materialized_partitions(AssetKey(["silver", "fact_orders"]))
        return [day for day in days if str(day) not in present]

    def job_backfill(self, name: str, days: Iterable[date]) -> PartitionBackfill:
        """What the UI asks for with "Materialize" on the page of the job, for the days that are picked."""
        graph = self.context.create_request_context().asset_graph
        sets = {found.name: found for found in self.repository.get_partition_sets()}
        return PartitionBackfill(
            backfill_id=name,
            partition_set_origin=sets[f"{DAILY_PIPELINE}_partition_set"].get_remote_origin(),
            status=BulkActionStatus.REQUESTED,
            partition_names=[str(day) for day in days],
            from_failure=False,
            reexecution_steps=None,
            tags={},
            backfill_timestamp=time.time(),
            asset_selection=list(graph.materializable_asset_keys),
        )

    def alerts(self, since: int = 0) -> list[dict[str, Any]]:
        """The alerts that were told, without the first `since` of them."""
        return list(lines_of(self.settings.alerts_path))[since:]

    @property
    def told(self) -> Settings:
        return self.settings.model_copy(update={"dagster_url": SecretStr(self.url)})

    def look(self) -> None:
        """Tell what the monitor would tell of runs."""
        tell_failed_runs(self.told)

    def failed(self, run_id: str) -> list[Problem]:
        """The problems that are about this run."""
        seen = observe(self.told, datetime.now(UTC)).problems
        return [problem for problem in seen if problem.summary.startswith(f"run {run_id[:8]} ")]

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """Return what the UI gets for a query."""
        from dagster_graphql.test.utils import execute_dagster_graphql

        result = execute_dagster_graphql(self.context.create_request_context(), query, variables)
        assert result.errors is None
        return dict(result.data)

    def set_cursor(self, sensor: str, cursor: Cursor) -> None:
        """Put a cursor in place, as one can in the UI."""
        found = self.repository.get_sensor(sensor)
        state = self.instance.get_instigator_state(found.get_remote_origin_id(), found.selector_id)
        data = state.instigator_data
        self.instance.update_instigator_state(
            state.with_data(
                SensorInstigatorData(
                    last_tick_timestamp=data.last_tick_timestamp,
                    last_run_key=data.last_run_key,
                    min_interval=data.min_interval,
                    cursor=cursor.text(),
                    sensor_type=data.sensor_type,
                )
            )
        )

    def tick(self, sensor: str) -> Any:
        """Tick all sensors as the daemon does when their interval has passed; the tick of this one."""
        self.ticks += 1
        with freeze_time(datetime.now(UTC) + timedelta(minutes=self.ticks)):
            list(execute_sensor_iteration(self.context, logging.getLogger(__name__), None, None))
        found = self.repository.get_sensor(sensor)
        [tick] = self.instance.get_ticks(found.get_remote_origin_id(), found.selector_id, limit=1)
        assert tick.error is None
        return tick


@pytest.fixture(scope="module")
def platform(
    postgres: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    administer(postgres, "CREATE DATABASE dagster_runs")
    administer(postgres, f"CREATE DATABASE orders_of_runs TEMPLATE {migrated_template}")
    url = postgres.url("dagster_runs")
    settings = Settings(
        home=tmp_path_factory.mktemp("home"),
        first_day=FIRST_DAY,
        dagster_url=url,
        database_url=postgres.client_url("orders_of_runs", tcp=True),
    )
    settings.home.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in child_environment(settings, url).items():
            patch.setenv(name, value)
        patch.setenv("TEST_PROCESS", str(os.getpid()))
        target = ModuleTarget(
            STUB, attribute="defs", working_directory=None, location_name="ecommersss_platform"
        )
        with (
            dagster_instance(settings, url) as instance,
            WorkspaceProcessContext(instance, target) as context,
        ):
            announce_pool(instance, make_warehouse(settings).pool)
            yield Platform(settings, url, instance, context)


@pytest.fixture(autouse=True)
def _clean(platform: Platform) -> None:
    platform.forget()


@pytest.fixture
def runs_here(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the queue execute each run in this process, to its end, when it launches it."""
    launcher = SyncInMemoryRunLauncher()
    launcher.register_instance(platform.instance)
    monkeypatch.setattr(platform.instance, "_run_launcher", launcher)


@pytest.fixture
def child_here(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `materialize` execute its run in this process, and not in a child."""

    @contextmanager
    def child(
        definitions: str, run_id: str, days: Days, *_: object, rebuild: bool
    ) -> Iterator[SimpleNamespace]:
        code = 0 if execute(definitions, run_id, days, rebuild=rebuild) else 1
        yield SimpleNamespace(poll=lambda: code, returncode=code)

    monkeypatch.setattr("ecommersss_platform.materialize.child_process", child)


def test_the_instance_is_what_its_template_says(platform: Platform) -> None:
    instance = platform.instance
    assert isinstance(instance.run_storage, PostgresRunStorage)
    assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
    assert isinstance(instance.schedule_storage, PostgresScheduleStorage)
    assert not instance.telemetry_enabled
    assert not instance.nux_enabled
    assert instance.run_monitoring_enabled
    concurrency = instance.get_concurrency_config()
    assert concurrency.pool_config.default_pool_limit == 1
    assert concurrency.pool_config.pool_granularity == PoolGranularity.RUN
    assert concurrency.run_queue_config is not None
    assert concurrency.run_queue_config.max_concurrent_runs == 2
    assert "postgresql://" not in (platform.settings.dagster_home / "dagster.yaml").read_text()


@pytest.mark.parametrize(
    ("wanted", "at_once"),
    [
        ({}, 2),
        ({"warehouse": "bigquery", "bigquery_project": "p"}, 10),
        ({"warehouse": "bigquery", "bigquery_project": "p", "concurrent_runs": 30}, 30),
    ],
)
def test_runs_at_once_are_a_setting(wanted: dict[str, Any], at_once: int, tmp_path: Path) -> None:
    ensure_dagster_home(Settings(home=tmp_path, concurrent_runs=7))
    settings = Settings(home=tmp_path, **wanted)
    ensure_dagster_home(settings)
    written = yaml.safe_load((settings.dagster_home / "dagster.yaml").read_text())
    assert written["concurrency"]["runs"] == {"max_concurrent_runs": at_once}


def test_a_backfill_of_the_job_is_one_run(platform: Platform, runs_here: None) -> None:
    [run] = platform.backfill(platform.job_backfill("month", MONTH))
    assert run.job_name == DAILY_PIPELINE
    assert run.tags["dagster/asset_partition_range_start"] == "2025-01-02"
    assert run.tags["dagster/asset_partition_range_end"] == "2025-01-31"
    ran = platform.ran()
    assert {line["run"] for line in ran} == {run.run_id}
    assert sorted(set(line["assets"]) for line in ran[:2]) == sorted(STEPS[:2])
    assert [set(line["assets"]) for line in ran[2:]] == STEPS[2:]
    assert {tuple(line["days"]) for line in ran} == {("2025-01-02", "2025-01-31")}


@pytest.mark.long
def test_a_backfill_of_the_assets_builds_each_of_them_once_in_lineage_order(
    platform: Platform, runs_here: None
) -> None:
    """What the UI requests with "Materialize all" on the lineage page, which knows no job.

    Dagster starts a new run where partitioned assets meet unpartitioned ones. Without its direct edge from
    `raw/orders`, Dagster would silently leave out `fact_orders`.
    """
    graph = platform.context.create_request_context().asset_graph
    with disable_dagster_warnings():  # as in Platform.backfill
        backfill = PartitionBackfill.from_asset_partitions(
            backfill_id="assets",
            asset_graph=graph,
            backfill_timestamp=time.time(),
            tags={},
            asset_selection=list(graph.materializable_asset_keys),
            partition_names=[str(day) for day in MONTH],
            dynamic_partitions_store=platform.instance,
            all_partitions=False,
            title=None,
            description=None,
            run_config=None,
        )
    runs = platform.backfill(backfill)
    ran = platform.ran()
    assert sorted(set(line["assets"]) for line in ran[:2]) == sorted(STEPS[:2])
    assert [set(line["assets"]) for line in ran[2:]] == [
        {"bronze/stg_orders", "bronze/stg_users", "silver/dim_users"},
        {"silver/fact_orders"},
        {"gold/users_and_blacklist"},
    ]
    for line in ran:
        assert line["days"] == (["2025-01-02", "2025-01-31"] if set(line["assets"]) <= PARTITIONED else None)
    assert [line["run"] for line in ran[1:]] == [run.run_id for run in runs]
    assert len(runs) == 4


@pytest.mark.faults
def test_runs_of_single_days_take_turns_in_the_queue_and_the_failed_ones_are_asked_for_again(
    platform: Platform, request: pytest.FixtureRequest
) -> None:
    """Two runs; thirty with `make faults`."""
    days = Days(date(2025, 3, 1), date(2025, 3, 1) + timedelta(days=SINGLE_DAYS))
    platform.slow(0.1)
    failing = days.last
    platform.fail("models", "no such column", failing)
    names = platform.add_single_days(days)
    platform.dequeue()
    statuses = [run.status for name in names for run in platform.runs(backfill=name)]
    assert statuses.count(DagsterRunStatus.QUEUED) == len(days) - 1  # though two may be under way at once
    platform.work_off()
    statuses = [run.status for name in names for run in platform.runs(backfill=name)]
    assert statuses == [*[DagsterRunStatus.SUCCESS] * (len(days) - 1), DagsterRunStatus.FAILURE]
    # What is published before the step that failed is whole; what comes after it is missing.
    warehouse = DuckDbWarehouse(platform.settings.warehouse_path)
    stored = warehouse.read(ORDERS, ["partition_date"], days).read_all()
    assert sorted(stored.column(0).to_pylist()) == list(days)
    assert platform.missing(days) == [failing]

    spans: dict[str, tuple[float, float]] = {}
    for line in platform.ran():
        began, _ = spans.get(line["run"], (line["began"], 0))
        spans[line["run"]] = (began, line["ended"])
    ordered = sorted(spans.values())
    assert len(ordered) == len(days)
    assert all(ended <= began for (_, ended), (began, _) in pairwise(ordered))

    # The cause is gone. What the UI calls "missing" is one backfill: a run for each stretch of such days.
    platform.forget()
    request.getfixturevalue("runs_here")
    [run] = platform.backfill(platform.job_backfill("rest", platform.missing(days)))
    assert run.tags["dagster/asset_partition_range_start"] == str(failing)
    assert run.tags["dagster/asset_partition_range_end"] == str(failing)
    assert platform.missing(days) == []


@pytest.fixture(scope="module")
def materialized(platform: Platform) -> tuple[Materialized, list[Progress], list[dict[str, Any]]]:
    """What `materialize` returned for some days, its progress, and what ran; one check failed."""
    platform.forget()
    (platform.settings.home / "OLD").touch()
    reports: list[Progress] = []
    result = materialize(
        platform.settings,
        SOME_DAYS,
        rebuild=True,
        progress=reports.append,
        dagster_url=platform.url,
        definitions=STUB,
    )
    return result, reports, platform.ran()


def test_materialize_runs_the_job_once_for_the_range(
    platform: Platform, materialized: tuple[Materialized, list[Progress], list[dict[str, Any]]]
) -> None:
    result, reports, ran = materialized
    assert {line["run"] for line in ran} == {result.run_id}
    assert len(ran) == 3
    run = platform.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert (run.job_name, run.status) == (DAILY_PIPELINE, DagsterRunStatus.SUCCESS)
    assert run.tags["days"] == "2025-01-02..2025-01-04"
    assert result.rows == dict.fromkeys(set.union(*STEPS), 3)
    [failed] = result.failed_checks
    assert (failed.asset, failed.check, failed.message) == (
        "gold/users_and_blacklist",
        "not_too_old",
        "too old",
    )
    done = [(p.name, p.done, p.total) for p in reports if p.kind is Kind.MATERIALIZED]
    assert [number for _, number, _ in done] == list(range(1, 8))
    assert {total for _, _, total in done} == {7}
    assert done[-1][0] == "gold/users_and_blacklist"
    assert [p.name for p in reports if p.kind is Kind.CHECK_FAILED] == [
        "gold/users_and_blacklist: not_too_old"
    ]


RUN_AS_SHOWN = """
query($run: ID!) {
  runOrError(runId: $run) { ... on Run { tags { key value } } }
  logsForRun(runId: $run, limit: 1000) { ... on EventConnection { events {
    ... on AssetMaterializationPlannedEvent { assetKey { path } }
    ... on MaterializationEvent { assetKey { path } partition }
  } } }
}
"""
CHECK_AS_SHOWN = """
query($key: AssetKeyInput!, $name: String!) {
  assetCheckExecutions(assetKey: $key, checkName: $name, limit: 10) { runId status }
}
"""


def test_run_over_a_range_shows_its_days_and_each_check_once(
    platform: Platform, materialized: tuple[Materialized, list[Progress], list[dict[str, Any]]]
) -> None:
    result, _, _ = materialized
    for asset, check, status in (
        ("silver/fact_orders", "is_whole", "SUCCEEDED"),
        ("gold/users_and_blacklist", "not_too_old", "FAILED"),
    ):
        shown = platform.graphql(CHECK_AS_SHOWN, key={"path": asset.split("/")}, name=check)
        of_run = [row["status"] for row in shown["assetCheckExecutions"] if row["runId"] == result.run_id]
        assert of_run == [status]

    shown = platform.graphql(RUN_AS_SHOWN, run=result.run_id)
    tags = {tag["key"]: tag["value"] for tag in shown["runOrError"]["tags"]}
    # The UI hides Dagster's own tags but for the partition, until a person pins them.
    assert tags["days"] == "2025-01-02..2025-01-04"
    assert [key for key in tags if not key.startswith("dagster/")] == [
        "days",
        "ecommersss/host",
        "ecommersss/rebuild",
        "reason",
    ]
    assert tags["reason"] == "asked for on the command line"
    events = [event for event in shown["logsForRun"]["events"] if event]
    made = Counter("/".join(event["assetKey"]["path"]) for event in events if "partition" in event)
    planned = Counter("/".join(event["assetKey"]["path"]) for event in events if "partition" not in event)
    assert planned == made == {key: 3 if key in PARTITIONED else 1 for key in set.union(*STEPS)}


def test_failed_materialize_raises_one_alert_and_says_which_step_failed_and_why(
    platform: Platform, child_here: None
) -> None:
    platform.look()
    before = len(platform.alerts())
    platform.fail("raw_orders", "nothing was published: password='s3cret' for 2025-01-02")
    with pytest.raises(MaterializeError) as caught:
        materialize(platform.settings, SOME_DAYS, dagster_url=platform.url, definitions=STUB)
    assert list(caught.value.steps) == ["raw_orders"]
    assert "raw_orders: ValueError: nothing was published" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.run_id is not None
    run = platform.instance.get_run_by_id(caught.value.run_id)
    assert run is not None
    assert run.status == DagsterRunStatus.FAILURE

    [written] = platform.alerts(before)  # by the command itself
    assert (written["alert"], written["event"]) == ("run_failed", "opened")
    assert written["subject"] == "daily_pipeline 2025-01-02 to 2025-01-04"
    assert written["message"] == (
        f"run {run.run_id[:8]} failed:"
        " raw_orders: ValueError: nothing was published: password=*** for 2025-01-02"
    )
    platform.look()  # as a monitor would
    assert platform.alerts(before) == [written]

    platform.forget()
    materialize(platform.settings, SOME_DAYS, dagster_url=platform.url, definitions=STUB)
    [_, over] = platform.alerts(before)
    assert (over["event"], over["subject"]) == ("resolved", written["subject"])


def test_materialize_tells_nothing_while_a_monitor_does(platform: Platform, child_here: None) -> None:
    platform.look()
    before = len(platform.alerts())
    platform.fail("raw_orders", "boom")
    with telling(platform.settings), pytest.raises(MaterializeError):
        materialize(platform.settings, SOME_DAYS, dagster_url=platform.url, definitions=STUB)
    assert platform.alerts(before) == []
    platform.look()
    assert [line["event"] for line in platform.alerts(before)] == ["opened"]


def test_materialize_says_that_its_process_died(platform: Platform) -> None:
    platform.fail("models", "exit")
    with pytest.raises(
        MaterializeError, match="did not finish: its process ended with exit code 7"
    ) as caught:
        materialize(platform.settings, SOME_DAYS, dagster_url=platform.url, definitions=STUB)
    assert caught.value.run_id is not None
    run = platform.instance.get_run_by_id(caught.value.run_id)
    assert run is not None
    assert run.status == DagsterRunStatus.FAILURE  # and not "started" for ever, holding the pool


def test_materialize_says_that_the_code_location_is_broken(platform: Platform) -> None:
    with pytest.raises(MaterializeError, match="No module named 'no_such_module'") as caught:
        materialize(platform.settings, SOME_DAYS, dagster_url=platform.url, definitions="no_such_module")
    assert "before it began" in str(caught.value)
    [run] = platform.instance.get_runs(limit=1)  # the UI lists it, too
    assert (run.job_name, run.status) == ("daily_pipeline", DagsterRunStatus.FAILURE)
    assert run.tags["dagster/will_retry"] == "false", "Dagster could not"
    [problem] = platform.failed(run.run_id)
    assert problem.summary.endswith("ModuleNotFoundError: No module named 'no_such_module'")
    assert caught.value.run_id is None


@pytest.mark.parametrize(
    ("days", "message"),
    [
        (Days(date(2024, 12, 31), date(2025, 1, 3)), "2024-12-31 is before the first partition, 2025-01-01"),
        (Days(date(2025, 1, 1), date(9999, 1, 1)), "9998-12-31 has not begun"),
    ],
)
def test_materialize_refuses_days_without_a_partition(platform: Platform, days: Days, message: str) -> None:
    with pytest.raises(MaterializeError, match=message):
        materialize(platform.settings, days, dagster_url=platform.url, definitions=STUB)
    assert platform.ran() == []


def start_worker(platform: Platform, run_id: str) -> subprocess.Popen[bytes]:
    """A process as `materialize` starts it, whose run takes long, once the run is under way."""
    platform.slow(30)
    worker = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ecommersss_platform.materialize",
            STUB,
            run_id,
            "2025-01-02",
            "2025-01-03",
        ],
        env=child_environment(platform.settings, platform.url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def started() -> bool:
        run = platform.instance.get_run_by_id(run_id)
        return run is not None and any(
            "Executing steps" in (entry.message or "") for entry in platform.instance.all_logs(run_id)
        )

    wait_until(started)
    return worker


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.1)


def test_materialize_waits_for_its_turn_and_a_run_whose_process_was_killed_is_marked_as_failed(
    platform: Platform, child_here: None
) -> None:
    other = "6f1c5a52-0000-4000-8000-000000000001"
    worker = start_worker(platform, other)
    platform.forget()
    reports: list[Progress] = []

    def tell(progress: Progress) -> None:
        reports.append(progress)
        if progress.kind is Kind.WAITING:
            assert_run_ends_with_its_process(platform, other, worker)

    try:
        materialize(platform.settings, SOME_DAYS, progress=tell, dagster_url=platform.url, definitions=STUB)
    finally:
        worker.kill()
        worker.wait()
    assert (reports[0].kind, reports[0].name) == (Kind.WAITING, other)
    assert Kind.WAITING not in [progress.kind for progress in reports[1:]]


def assert_run_ends_with_its_process(
    platform: Platform, run_id: str, worker: subprocess.Popen[bytes]
) -> None:
    """Kill the process of a run: the run is then marked as failed, and not before."""
    launcher = platform.instance.run_launcher
    run = platform.instance.get_run_by_id(run_id)
    assert run is not None
    assert fail_orphaned_runs(platform.instance) == []
    assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    # Run monitoring asks this of every run. It cannot see the processes of another container.
    assert launcher.supports_check_run_worker_health
    assert launcher.check_run_worker_health(run).status == WorkerStatus.FAILED
    elsewhere = run._replace(tags={GRPC_INFO_TAG: '{"host": "code", "port": 4000}'})
    assert launcher.check_run_worker_health(elsewhere).status == WorkerStatus.RUNNING
    assert fail_orphaned_runs(platform.instance) == [run_id]
    run = platform.instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status == DagsterRunStatus.FAILURE
    assert fail_orphaned_runs(platform.instance) == []
    [problem] = platform.failed(run_id)  # its command is gone too
    assert "failed: The process of this run is gone" in problem.summary
    assert problem.subject == "daily_pipeline 2025-01-02"


def test_interrupted_materialize_is_a_cancelled_run_without_an_alert(platform: Platform) -> None:
    platform.slow(30)

    def interrupt(progress: Progress) -> None:
        if progress.kind is Kind.STARTED:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        materialize(
            platform.settings, SOME_DAYS, progress=interrupt, dagster_url=platform.url, definitions=STUB
        )
    [run] = platform.instance.get_runs(limit=1)
    assert run.status == DagsterRunStatus.CANCELED
    assert platform.failed(run.run_id) == []


def lines(*days: date) -> list[bytes]:
    """A flagged line for noon of each of these days, written ten minutes ago."""
    return [
        encode_flagged(
            flag(
                Order(
                    number + 1,
                    1,
                    1,
                    1,
                    Decimal(1000),
                    "OVO",
                    "ID",
                    datetime(day.year, day.month, day.day, 12, tzinfo=JAKARTA).astimezone(UTC),
                ),
                [],
                [],
                "v1",
                datetime.now(UTC) - timedelta(minutes=10),
                number,
                [],
            )
        )
        for number, day in enumerate(days)
    ]


def test_the_order_stream_sensor_in_the_daemon(platform: Platform, runs_here: None) -> None:
    stream = flagged_stream(platform.settings)
    today = business_day(datetime.now(UTC))
    late = date(2025, 1, 20)
    first = stream.publish(lines(late, today, late))
    tick = platform.tick("order_stream_sensor")
    requests = tuple(Request(day, day, 1, read_to=first) for day in (late, today))
    assert Cursor.parse(tick.cursor).pending == requests
    runs = {run.tags["dagster/run_key"]: run for run in platform.runs(sensor_name="order_stream_sensor")}
    # Behind those of people in the queue.
    assert {run.tags["dagster/priority"] for run in runs.values()} == {"-1"}
    assert {run.tags["dagster/partition"] for run in runs.values()} == {str(late), str(today)}
    assert set(runs) == {request.key for request in requests}
    assert {run.tags["reason"] for run in runs.values()} == {"the flagged stream is read for the first time"}
    [seen] = platform.instance.fetch_observations(FLAGGED_STREAM, limit=5).records
    assert seen.asset_observation is not None
    assert seen.asset_observation.metadata["orders"].value == 3

    # While they are under way nothing more is asked for, however many orders come.
    stream.publish(lines(today))
    tick = platform.tick("order_stream_sensor")
    assert Cursor.parse(tick.cursor).pending == requests
    assert f"{late}: the run is under way (attempt 1)" in tick.skip_reason

    # They fail: their days stay with the cursor, and alerts are written.
    platform.fail("models", "no such column: password='s3cret'")
    platform.work_off()
    tick = platform.tick("order_stream_sensor")
    cursor = Cursor.parse(tick.cursor)
    assert cursor.position == 0
    assert [request.again_at is not None for request in cursor.pending] == [True, True]
    assert "attempt 1 failed or was cancelled, the next is due at" in tick.skip_reason
    for run in runs.values():
        [problem] = platform.failed(run.run_id)
        assert problem.subject == f"daily_pipeline {run.tags['dagster/partition']}"
        assert problem.summary == (
            f"run {run.run_id[:8]} started by order_stream_sensor failed:"
            " models: ValueError: no such column: password=***"
        )

    # The cause is gone: one day is made by hand, which does no harm, and both are asked for again when due.
    platform.forget()
    platform.backfill(platform.job_backfill("by_hand", Days.between(late, late)))
    again = tuple(replace(request, again_at=datetime.now(UTC)) for request in cursor.pending)
    platform.set_cursor("order_stream_sensor", replace(cursor, pending=again))
    tick = platform.tick("order_stream_sensor")
    assert [request.attempt for request in Cursor.parse(tick.cursor).pending] == [2, 2]
    assert len(platform.runs(sensor_name="order_stream_sensor")) == 4
    last = stream.publish(lines(late))
    platform.work_off()

    # They succeed: the cursor moves past them and on to what came since.
    tick = platform.tick("order_stream_sensor")
    cursor = Cursor.parse(tick.cursor)
    assert (cursor.position, cursor.read_to) == (cursor.pending[0].begin, last)
    assert [(request.first, request.key) for request in cursor.pending] == [
        (late, f"{late}..{late}@{last}#1")
    ]
    platform.work_off()
    tick = platform.tick("order_stream_sensor")
    cursor = Cursor.parse(tick.cursor)
    assert (cursor.position, cursor.pending, cursor.waiting) == (last, (), {})
    assert tick.skip_reason == f"no new flagged orders (position {last})"
