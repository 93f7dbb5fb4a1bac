"""The daily job that removes what is older than the setting: files here, Dagster's storage in `instance/`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import ExecuteInProcessResult

from ecommersss_platform.dbt.project import parsed_name
from ecommersss_platform.instance import pruning
from ecommersss_platform.instance.dagster_home import dagster_instance
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform.maintenance import (
    Removed,
    keep_from,
    maintenance_job,
    remove_old,
    remove_old_logs,
)
from ecommersss_platform.reports.folder import write_page
from ecommersss_platform.reports.serving import page_name, pages
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.conftest import administer
from ecommersss_platform_tests.support.shop import execute, query
from streaming.business_days import business_day

NOW = datetime.now(UTC)
DAY = 24 * 3600
# Still young if the next day begins meanwhile.
YOUNG_DAY = business_day(NOW) - timedelta(days=399)
OLD_RUN, YOUNG_RUN = "0b5c7e0a-0000-4000-8000-000000000001", "0b5c7e0a-0000-4000-8000-000000000002"


def file(path: Path, days: float, text: str = "12345") -> Path:
    """Write a file that was last changed `days` days ago, in folders of the same age."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    age(path, days)
    age(path.parent, days)
    return path


def age(path: Path, days: float) -> None:
    when = time.time() - days * DAY
    os.utime(path, (when, when))


def test_everything_before_the_window_is_too_old_and_nothing_is_if_all_is_kept(tmp_path: Path) -> None:
    assert keep_from(Settings(home=tmp_path), NOW) == NOW - timedelta(days=30)
    assert keep_from(Settings(home=tmp_path, run_retention_days=1), NOW) == NOW - timedelta(days=1)
    assert keep_from(Settings(home=tmp_path, run_retention_days=0), NOW) == datetime.min.replace(tzinfo=UTC)


def test_old_files_go_and_folders_in_which_nothing_is_young(tmp_path: Path) -> None:
    file(tmp_path / "old" / "a" / "out", 31)
    age(tmp_path / "old", 31)
    file(tmp_path / "still written" / "a" / "out", 29)
    age(tmp_path / "still written", 31)
    file(tmp_path / "young file", 29)
    file(tmp_path / "old file", 31)
    size = sum(path.lstat().st_size for path in [tmp_path / "old", *(tmp_path / "old").rglob("*")])
    assert size > 5
    paths = [*sorted(tmp_path.iterdir()), tmp_path / "removed by a run just now"]
    assert remove_old(paths, NOW - timedelta(days=30)) == Removed(2, size + 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["still written", "young file"]


def test_old_logs_are_emptied_for_whoever_has_them_open_and_old_copies_removed(tmp_path: Path) -> None:
    quiet = file(tmp_path / "consumer.log", 31)
    file(tmp_path / "consumer.log.1", 31)
    busy, copy = file(tmp_path / "producer.log", 29), file(tmp_path / "producer.log.1", 29)
    with quiet.open("a") as writer:
        assert remove_old_logs(tmp_path, NOW - timedelta(days=30)) == Removed(2, 10)
        writer.write("later")
    assert quiet.read_text() == "later"
    assert sorted(tmp_path.iterdir()) == [quiet, busy, copy]
    assert remove_old_logs(tmp_path / "none", NOW) == Removed(0, 0)


@pytest.fixture
def settings(database: str, postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Settings]:
    """A platform with two runs' folders, two rejected orders, logs and reports, one of each old."""
    name = f"dagster_{database.rpartition('/')[2]}"
    administer(postgres, f"CREATE DATABASE {name}")
    settings = Settings(home=tmp_path, database_url=database, dagster_url=postgres.url(name))
    for days, run_id in [(31, OLD_RUN), (29, YOUNG_RUN)]:
        file(settings.dagster_home / "storage" / run_id / "out", days)
        file(settings.home / "dbt" / f"models-{run_id}" / "run_results.json", days)
        file(settings.logs_dir / f"{days}.log", days)
        execute(
            database,
            "INSERT INTO rejected_orders VALUES (%s, '{', 'malformed_json', '', %s)",
            (days, NOW - timedelta(days=days)),
        )
    for day in (YOUNG_DAY, YOUNG_DAY - timedelta(days=2)):
        write_page(settings.reports_dir, page_name(day), "")
    file(settings.dagster_home / "storage" / "not_a_run" / "result", 31)
    for kept in (parsed_name(settings), "parsed-old.msgpack", ".parse.lock"):
        file(settings.home / "dbt" / kept, 31)
    yield settings
    administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def run_job(settings: Settings) -> ExecuteInProcessResult:
    assert settings.dagster_url
    with dagster_instance(settings, settings.dagster_url.get_secret_value()) as instance:
        return maintenance_job(settings).execute_in_process(instance=instance, raise_on_error=False)


def metadata(result: ExecuteInProcessResult, step: str) -> dict[str, object]:
    [output] = [e for e in result.events_for_node(step) if e.is_successful_output]
    return {name: value.value for name, value in output.step_output_data.metadata.items()}


@pytest.mark.integration
def test_job_removes_what_is_old_and_says_how_much(settings: Settings) -> None:
    result = run_job(settings)
    assert result.success
    assert metadata(result, "prune_runs")["runs_removed"] == 0
    assert metadata(result, "prune_runs")["runs_kept"] == 1, "that of the job itself"
    files = metadata(result, "prune_files")
    counts = {name: files[f"{name}_removed"] for name in ("run_folders", "dbt_artefacts", "logs")}
    assert counts == {"run_folders": 1, "dbt_artefacts": 2, "logs": 1}
    assert files["logs_bytes"] == 5
    assert metadata(result, "prune_reports") == {"reports_removed": 1}
    assert list(pages(settings.reports_dir)) == [YOUNG_DAY]
    assert metadata(result, "prune_rejected_orders") == {"rejected_orders_removed": 1}
    assert not (settings.dagster_home / "storage" / OLD_RUN).exists()
    assert (settings.dagster_home / "storage" / YOUNG_RUN / "out").exists()
    assert (settings.dagster_home / "storage" / "not_a_run" / "result").exists()
    names = {path.name for path in (settings.home / "dbt").iterdir()}
    assert names == {f"models-{YOUNG_RUN}", parsed_name(settings), ".parse.lock"}
    assert settings.database_url
    assert query(settings.database_url.get_secret_value(), "SELECT position FROM rejected_orders") == [(29,)]


@pytest.mark.integration
def test_job_removes_nothing_if_everything_is_kept(settings: Settings) -> None:
    result = run_job(settings.model_copy(update={"run_retention_days": 0, "report_retention_days": 0}))
    assert result.success
    found = metadata(result, "prune_files") | metadata(result, "prune_rejected_orders")
    assert set((found | metadata(result, "prune_reports")).values()) == {0}
    assert (settings.dagster_home / "storage" / OLD_RUN / "out").exists()


@pytest.mark.integration
def test_job_fails_with_a_sentence_on_untested_storage_and_still_removes_the_rest(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "version", lambda name: "0.30.1")
    result = run_job(settings)
    assert not result.success
    [failure] = [event for event in result.events_for_node("prune_runs") if event.is_step_failure]
    assert str(failure.step_failure_data.user_failure_data.description).startswith(
        "dagster-postgres is 0.30.1, and removing old runs was tested with 0.29.27 only"
    )
    assert metadata(result, "prune_rejected_orders") == {"rejected_orders_removed": 1}
    assert not (settings.dagster_home / "storage" / OLD_RUN).exists()
