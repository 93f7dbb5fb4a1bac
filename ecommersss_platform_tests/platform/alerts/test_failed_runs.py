"""Failed runs as problems: what makes one good, which are retried, and what is said of them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from dagster import AssetKey, DagsterRunStatus, asset, materialize
from dagster._core.test_utils import create_run_for_test

from ecommersss_platform.alerts.failed_runs import RETRY_PATIENCE, Run, failed_runs, not_made_good
from ecommersss_platform.alerts.look import Look
from ecommersss_platform.alerts.observe import observe
from ecommersss_platform.alerts.problem import Problem
from ecommersss_platform.days import Days
from ecommersss_platform.instance.dagster_home import dagster_instance
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform.run_tags import range_tags
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.conftest import administer
from streaming.database import connect

NOW = datetime(2026, 3, 2, 5, tzinfo=UTC)


def run(number: int, first: str, last: str = "", *, assets: str | None = "a b", **tags: str) -> Run:
    """A run of the daily job that ended a minute ago. `assets`: names, separated by spaces."""
    days = Days.between(date.fromisoformat(first), date.fromisoformat(last or first))
    return Run(
        number=number,
        id=f"run {number}",
        job="daily_pipeline",
        ended=NOW - timedelta(minutes=1),
        tags={**range_tags(days), **{f"dagster/{name}": value for name, value in tags.items()}},
        assets=None if assets is None else frozenset(assets.split()),
    )


def test_failed_run_is_good_after_a_later_run_of_the_same_days_succeeds() -> None:
    failed = [run(1, "2026-03-01")]
    assert not_made_good(failed, [], NOW) == failed
    assert not_made_good([run(2, "2026-03-01")], [run(1, "2026-03-01", assets=None)], NOW), "an earlier one"
    assert not_made_good(failed, [run(2, "2026-02-28", assets=None)], NOW) == failed
    assert not_made_good(failed, [run(2, "2026-03-01", assets=None)], NOW) == []


def test_failed_range_is_good_once_each_of_its_days_was_made() -> None:
    failed, first = [run(1, "2026-03-01", "2026-03-03")], run(2, "2026-03-01", "2026-03-02")
    assert not_made_good(failed, [first], NOW) == failed
    assert not_made_good(failed, [first, run(3, "2026-03-03")], NOW) == []
    assert not_made_good([run(1, "2026-03-02")], [run(2, "2026-02-01", "2026-03-31")], NOW) == []


def test_run_of_a_part_of_the_assets_makes_no_whole_job_good() -> None:
    failed = [run(1, "2026-03-01", assets="a b c")]
    assert not_made_good(failed, [run(2, "2026-03-01", assets="a b")], NOW) == failed
    assert not_made_good(failed, [run(2, "2026-03-01", assets="a b c d")], NOW) == []


def test_second_failure_is_the_same_problem() -> None:
    assert not_made_good([run(1, "2026-03-01"), run(2, "2026-03-01")], [], NOW) == [run(2, "2026-03-01")]


def test_run_that_is_retried_is_not_told_unless_the_retry_never_comes() -> None:
    promised = run(1, "2026-03-01", will_retry="true")
    assert not_made_good([promised], [], NOW) == []
    assert not_made_good([promised], [], NOW + RETRY_PATIENCE) == [promised]
    retried = run(1, "2026-03-01", will_retry="true", auto_retry_run_id="run 2")
    assert not_made_good([retried], [], NOW + RETRY_PATIENCE) == []
    assert not_made_good([retried, run(2, "2026-03-01", will_retry="false")], [], NOW) != []


def test_run_that_only_its_launcher_waits_for_is_not_told() -> None:
    """A mistake in a candidate rule book, say, is for whoever wrote it."""
    backtest = replace(run(1, "2026-03-01", assets=None), job="rules_backtest")
    key = AssetKey(["laboratory", "training_set"]).to_string()
    training_set = replace(run(2, "2026-03-01"), assets=frozenset([key]))
    with_others = replace(training_set, assets=frozenset([key, '["silver", "fact_orders"]']))
    assert not_made_good([backtest, training_set], [], NOW) == []
    assert not_made_good([with_others], [], NOW) == [with_others]


@asset
def broken() -> None:
    raise ValueError("no such table: password='s3cret'\nDETAIL: Failing row contains (a@b.id)")


@asset
def sound() -> None: ...


@pytest.mark.integration
def test_failed_run_is_a_problem_with_its_error_until_its_job_succeeds(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    administer(postgres, "CREATE DATABASE dagster_of_failed_runs")
    url = postgres.url("dagster_of_failed_runs")
    settings = Settings(home=tmp_path, dagster_url=url, ui_url="https://dagster.example.com/")  # type: ignore[arg-type]
    with closing(connect(url)) as connection:
        assert failed_runs(Look(settings, NOW, NOW, _connection=connection)) == [], "no run yet, no table"
    with dagster_instance(settings, url) as instance, closing(connect(url)) as connection:
        connection.autocommit = True

        def failures() -> list[Problem]:
            return failed_runs(Look(settings, datetime.now(UTC), NOW, _connection=connection))

        result = materialize(
            [broken, sound],
            instance=instance,
            raise_on_error=False,
            tags={"dagster/sensor_name": "label_sensor"},
        )
        [problem] = failures()
        assert (problem.kind, problem.subject) == ("run_failed", "__ephemeral_asset_job__")
        assert problem.summary == (
            f"run {result.run_id[:8]} started by label_sensor failed:"
            " broken: ValueError: no such table: password=***"
        )
        assert problem.link == f"https://dagster.example.com/runs/{result.run_id}"
        part = frozenset([AssetKey("sound")])
        create_run_for_test(
            instance, job_name=problem.subject, status=DagsterRunStatus.SUCCESS, asset_selection=part
        )
        assert failures() == [problem]
        whole = frozenset([AssetKey("sound"), AssetKey("broken")])
        create_run_for_test(
            instance, job_name=problem.subject, status=DagsterRunStatus.SUCCESS, asset_selection=whole
        )
        assert failures() == []


def test_storage_that_does_not_answer_leaves_failed_runs_unknown(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, dagster_url="postgresql://127.0.0.1:1/none")  # type: ignore[arg-type]
    found = observe(settings, NOW)
    assert found.problems == []
    assert "run_failed" in found.unknown
