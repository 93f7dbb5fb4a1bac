"""What one look finds: each outage as one problem that says what to do, and none when it is over."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    asset,
    define_asset_job,
)
from dagster._core.test_utils import create_run_for_test

from ecommersss_platform.alerts import observe
from ecommersss_platform.alerts.disk import GIB, nearly_full
from ecommersss_platform.alerts.look import Database, Look, Undecided
from ecommersss_platform.alerts.observe import DOWN, EXPLAINS, SOURCES, Observer, Source, explained
from ecommersss_platform.alerts.problem import KINDS, Problem
from ecommersss_platform.alerts.text import covers
from ecommersss_platform.checks import FEATURES, PARITY
from ecommersss_platform.freshness import BY_DAY, WHOLE, newest_due_day
from ecommersss_platform.instance.dagster_home import dagster_instance
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform.partitions import SINGLE_RUN, Days, daily_partitions
from ecommersss_platform.run_tags import range_tags
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import CONSUMER, TOPIC, orders_topic
from ecommersss_platform_tests.conftest import administer
from ecommersss_platform_tests.support import shop
from streaming.rules import RULES_PATH

NOW = datetime(2026, 3, 2, 5, tzinfo=UTC)
_numbers = count(1)


@pytest.fixture(scope="module")
def template(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database with the empty tables of Dagster's storage."""
    name = "dagster_of_observations"
    administer(postgres, f"CREATE DATABASE {name}")
    with dagster_instance(Settings(home=tmp_path_factory.mktemp("home")), postgres.url(name)) as instance:
        assert instance.get_runs_count() == 0
    yield name
    administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def settings(postgres: EmbeddedPostgres, template: str, database: str, tmp_path: Path) -> Iterator[Settings]:
    """A platform in which nothing has run, with a rule book of its own and its first day due."""
    name = f"{template}_{next(_numbers)}"
    administer(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    book = tmp_path / "rules.yml"
    shutil.copyfile(RULES_PATH, book)
    yield Settings(
        home=tmp_path,
        database_url=database,  # type: ignore[arg-type]
        dagster_url=postgres.client_url(name, tcp=True),  # type: ignore[arg-type]
        first_day=newest_due_day(datetime.now(UTC)),
        rules=book,
    )
    postgres.up()
    administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def storage(settings: Settings) -> Iterator[DagsterInstance]:
    assert settings.dagster_url
    with dagster_instance(settings, settings.dagster_url.get_secret_value()) as instance:
        yield instance


@pytest.fixture
def observer(settings: Settings) -> Iterator[Observer]:
    """An observer that has watched for hours."""
    observer = Observer(settings)
    observer._began = datetime(2000, 1, 1, tzinfo=UTC)
    yield observer
    observer.close()


def build_everything(storage: DagsterInstance, day: date, but: str = "") -> None:
    for key in (*BY_DAY, *WHOLE):
        if key != but:
            partition = str(day) if key in BY_DAY else None
            storage.report_runless_asset_event(
                AssetMaterialization(AssetKey.from_user_string(key), partition=partition)
            )
    storage.report_runless_asset_event(
        AssetCheckEvaluation(FEATURES, PARITY, passed=True, metadata={"days": str(day)})
    )


def told(observer: Observer, now: datetime) -> list[tuple[str, str]]:
    return [(problem.kind, problem.subject) for problem in observer.look(now).problems]


@pytest.mark.integration
def test_stopped_postgres_is_one_problem_and_none_when_it_is_back(
    observer: Observer, storage: DagsterInstance, settings: Settings, postgres: EmbeddedPostgres
) -> None:
    build_everything(storage, settings.first_partition_day())
    now = datetime.now(UTC)
    assert observer.look(now).problems == []
    postgres.down()
    passing = observer.look(now := now + timedelta(seconds=15))
    assert passing.problems == []
    assert {"postgres_down", "run_failed", "consumer_stalled", "freshness_missed"} <= passing.unknown
    found = observer.look(now := now + DOWN)
    [problem] = found.problems
    assert problem.kind == "postgres_down"
    assert problem.summary.startswith(
        "the operational database and Dagster's storage: no answer from PostgreSQL ("
    )
    assert "Connection refused" in problem.summary
    assert problem.summary.endswith(
        "start it, or see logs/postgres.log; nothing is lost, and orders wait in the topic"
    )
    assert "disk_nearly_full" not in found.unknown, "what needs no database is looked at"
    assert told(Observer(settings, patient=False), now) == [("postgres_down", "PostgreSQL")], "a single check"
    postgres.up()
    over = observer.look(now + timedelta(seconds=15))
    assert (over.problems, over.unknown) == ([], frozenset())


@pytest.mark.integration
def test_consumer_killed_and_never_restarted_is_one_problem_until_another_one_works(
    observer: Observer, storage: DagsterInstance, settings: Settings, database: str
) -> None:
    build_everything(storage, settings.first_partition_day())
    end = orders_topic(settings).publish([b"{}"])
    now = datetime.now(UTC)
    assert told(observer, now) == []
    assert told(observer, now := now + timedelta(seconds=60)) == [("consumer_stalled", "consumer")]
    shop.execute(database, "INSERT INTO topic_positions VALUES (%s, %s, %s)", (TOPIC, CONSUMER, end))
    assert told(observer, now + timedelta(seconds=15)) == []


@pytest.mark.integration
def test_broken_rule_book_is_one_problem_though_no_consumer_can_start_with_it(
    observer: Observer, storage: DagsterInstance, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_everything(storage, settings.first_partition_day())
    now = datetime.now(UTC)
    ended = {"name": "consumer", "restarted_at": [now.isoformat()] * 3, "problem": "ended with exit code 1"}
    state = {"started": (now - timedelta(hours=1)).isoformat(), "processes": [ended]}
    monkeypatch.setattr(observe, "running", lambda _: state)
    orders_topic(settings).publish([b"{}"])
    assert told(observer, now) == [("consumer_restarting", "consumer")]
    book = settings.rules_path.read_text()
    settings.rules_path.write_text("rules:\n  - {name: big, mode: active, when: quantity >}\n")
    found = observer.look(now + timedelta(seconds=60))
    [problem] = found.problems
    assert (problem.kind, problem.subject) == ("rule_book_invalid", "rules.yml")
    assert problem.summary.endswith("correct the file, see `ecommersss rules check`")
    assert {"consumer_restarting", "consumer_stalled"} <= found.unknown
    settings.rules_path.write_text(book)
    ended["problem"] = ""
    assert "rule_book_invalid" not in dict(told(observer, now + timedelta(seconds=120)))


MART = AssetKey(["gold", "users_and_blacklist"])


@pytest.mark.integration
def test_broken_mart_is_one_problem_until_a_run_makes_it(
    observer: Observer, storage: DagsterInstance, settings: Settings
) -> None:
    day = settings.first_partition_day()
    build_everything(storage, day, but=MART.to_user_string())

    @asset(key=["raw", "orders"], partitions_def=daily_partitions(day), backfill_policy=SINGLE_RUN)
    def orders() -> None: ...

    @asset(key=MART, deps=[orders])
    def mart() -> None:
        raise ValueError("no such column")

    defs = Definitions([orders, mart], jobs=[define_asset_job("daily_pipeline")])
    tags = range_tags(Days.between(day, day))
    run = defs.resolve_job_def("daily_pipeline").execute_in_process(
        instance=storage, tags=tags, raise_on_error=False
    )
    assert not run.success
    now = datetime.now(UTC)
    found = observer.look(now)
    assert [(p.kind, p.subject) for p in found.problems] == [("run_failed", f"daily_pipeline {day}")]
    assert "freshness_missed" in found.unknown, "the failed run explains it"
    create_run_for_test(
        storage, job_name="daily_pipeline", tags=tags, status=DagsterRunStatus.SUCCESS, asset_selection=None
    )
    storage.report_runless_asset_event(AssetMaterialization(MART))
    assert told(observer, now + timedelta(seconds=60)) == []


@pytest.mark.integration
def test_day_that_never_ran_is_one_problem_until_it_has(
    observer: Observer, storage: DagsterInstance, settings: Settings
) -> None:
    now = datetime.now(UTC)
    assert told(observer, now) == [("freshness_missed", "newest closed day")]
    build_everything(storage, settings.first_partition_day())
    assert told(observer, now + timedelta(seconds=60)) == []


def test_monitor_loads_no_heavy_library() -> None:
    script = "import sys, ecommersss_platform.alerts.observe; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"dagster", "pyarrow", "sqlalchemy", "sqlglot", "dbt"} & set(done.stdout.split()) == set()


def test_every_kind_of_problem_has_one_source() -> None:
    kinds = [kind for source in SOURCES for kind in sorted(source.kinds)]
    assert sorted([*kinds, "postgres_down"]) == sorted(KINDS)
    assert {kind for (kind, _) in EXPLAINS} | frozenset().union(*EXPLAINS.values()) <= KINDS.keys()


def problem(kind: str, subject: str = "x") -> Problem:
    return Problem(kind, subject, "it is wrong: correct it")


def test_consequences_of_a_problem_are_neither_told_nor_over() -> None:
    found = explained(
        [problem("postgres_down"), problem("producer_silent"), problem("disk_nearly_full")], (), NOW
    )
    assert [p.kind for p in found.problems] == ["postgres_down", "disk_nearly_full"]
    assert {"producer_silent", "consumer_stalled"} <= found.unknown
    assert "disk_nearly_full" not in found.unknown
    silent = [problem("process_restarting", "webserver"), problem("producer_silent")]
    assert explained(silent, (), NOW).problems == silent, "another process explains nothing"
    assert len(explained([problem("process_restarting", "producer"), silent[1]], (), NOW).problems) == 1


def test_failed_run_explains_that_its_day_is_missing() -> None:
    late = problem("freshness_missed", "newest closed day")
    day = newest_due_day(NOW)
    for subject, explains in (
        (f"daily_pipeline {day}", True),
        (f"daily_pipeline {day - timedelta(days=3)} to {day}", True),
        (f"daily_pipeline {day - timedelta(days=1)}", False),
        ("maintenance", False),
    ):
        assert covers(subject, str(day)) is explains
        assert (late not in explained([problem("run_failed", subject), late], (), NOW).problems) is explains


def look_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *sources: Source) -> Observer:
    monkeypatch.setattr(observe, "SOURCES", sources)
    return Observer(Settings(home=tmp_path))


def test_source_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(_: Look) -> list[Problem]:
        raise KeyError("a bug")

    def undecided(_: Look) -> list[Problem]:
        raise Undecided

    observer = look_with(
        monkeypatch,
        tmp_path,
        Source(frozenset({"disk_nearly_full"}), broken),
        Source(frozenset({"lag_rising"}), undecided),
        Source(frozenset({"sensor_off"}), lambda _: [problem("sensor_off")]),
    )
    found = observer.look(NOW)
    assert (found.problems, found.unknown) == ([problem("sensor_off")], {"disk_nearly_full", "lag_rising"})


def test_dear_source_is_asked_again_only_after_its_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[datetime] = []

    def dear(look: Look) -> list[Problem]:
        asked.append(look.now)
        return [problem("disk_nearly_full")]

    minute = timedelta(minutes=1)
    observer = look_with(monkeypatch, tmp_path, Source(frozenset({"disk_nearly_full"}), dear, every=minute))
    for seconds in (0, 15, 45, 60):
        assert observer.look(NOW + timedelta(seconds=seconds)).problems == [problem("disk_nearly_full")]
    assert asked == [NOW, NOW + minute]


def test_database_that_freezes_is_down_and_holds_up_no_look(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    thaw = threading.Event()
    observer = look_with(
        monkeypatch,
        tmp_path,
        Source(frozenset({"daemon_down"}), lambda _: [] * thaw.wait(20), Database.DAGSTER),
    )
    monkeypatch.setattr(observe, "PATIENCE", 0.05)
    monkeypatch.setattr(observe, "dagster_url", lambda _: "")
    monkeypatch.setattr(observe, "connect", lambda *_: FakeConnection())
    assert observer.look(NOW).unknown == {"daemon_down", "postgres_down"}
    [down] = observer.look(NOW + DOWN).problems
    assert "it is connected and does not answer" in down.summary
    thaw.set()
    observer._asked[Database.DAGSTER].join(5)
    assert observer.look(NOW + 2 * DOWN).problems == []


class FakeConnection:
    """A connection that takes every statement."""

    autocommit = False

    def cursor(self) -> Any:
        return nullcontext(SimpleNamespace(execute=lambda _: None))

    def close(self) -> None: ...


def test_disk_is_nearly_full_by_share_unless_much_is_left() -> None:
    assert nearly_full(10 * GIB, int(0.9 * GIB))
    assert not nearly_full(10 * GIB, 2 * GIB)
    assert nearly_full(300 * GIB, 14 * GIB)
    assert not nearly_full(1000 * GIB, 40 * GIB), "four percent, and still a lot"
