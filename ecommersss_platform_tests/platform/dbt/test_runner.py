"""dbt in this process: what it reports, and that nothing of it stays behind."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ecommersss_platform.dbt.project import (
    DbtError,
    build_arguments,
    ensure_manifest,
)
from ecommersss_platform.dbt.runner import run_dbt
from ecommersss_platform.partitions import Days
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.dbt_runs import dbt_events
from ecommersss_platform_tests.support.raw_days import read, write_raw

pytestmark = [pytest.mark.integration]

DAY = Days(date(2024, 2, 29), date(2024, 3, 1))
FACTS = "SELECT * FROM silver.fact_orders ORDER BY order_id"


class Project:
    """The project on a warehouse of its own, run in this process."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home, _env_file=None)

    def events(self, arguments: Sequence[str], **variables: str) -> Iterator[dict[str, Any]]:
        return dbt_events(self.settings, arguments, **variables)

    def facts(self) -> list[tuple[Any, ...]]:
        return read(self.settings.warehouse_path, FACTS)

    def make_orders_endless(self) -> None:
        """Put a view in the place of raw.orders, for which DuckDB would take an hour."""
        with closing(duckdb.connect(str(self.settings.warehouse_path))) as connection:
            connection.execute("ALTER TABLE raw.orders RENAME TO some_orders")
            connection.execute(
                "CREATE VIEW raw.orders AS SELECT some_orders.* FROM raw.some_orders, range(1000000000000)"
            )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with the facts of all days."""
    ensure_manifest()
    project = Project(tmp_path_factory.mktemp("built"))
    write_raw(project.settings.warehouse_path)
    for _ in project.events([*build_arguments(), "--select", "+fact_orders"]):
        pass
    return project.settings.warehouse_path


@pytest.fixture(scope="module")
def project(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project on a copy of that warehouse."""
    project = Project(tmp_path_factory.mktemp("home"))
    shutil.copy(built, project.settings.warehouse_path)
    return project


def state() -> dict[str, Any]:
    """What dbt changes in a process while it runs."""
    files = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return {
        "environment": dict(os.environ),
        "threads": {thread.name for thread in threading.enumerate()},
        "root handlers": logging.root.handlers[:],
        "directory": Path.cwd(),
        "files": {str(file.readlink()) for file in files if file.is_symlink() and file.exists()},
    }


def test_nothing_of_dbt_stays_behind(project: Project) -> None:
    before = state()
    for _ in project.events(["run", "--select", "dim_users"]):
        assert os.environ["ECOMMERSSS_DUCKDB_PATH"] == str(project.settings.warehouse_path)
        assert "HOME" not in os.environ
    assert state() == before
    # Whatever the process has open, DuckDB's file is free for another configuration.
    with closing(duckdb.connect(str(project.settings.warehouse_path), read_only=True)):
        pass


def test_events_come_while_dbt_works(project: Project) -> None:
    events = project.events(["run", "--select", "dim_users"])
    started = next(event for event in events if event["info"]["name"] == "LogStartLine")
    assert started["data"]["node_info"]["unique_id"] == "model.ecommersss.dim_users"
    assert "dbt" in {thread.name for thread in threading.enumerate()}
    assert [event["data"]["status"] for event in events if event["info"]["name"] == "LogModelResult"] == [
        "OK"
    ]


def test_each_run_has_its_own_days_and_options(project: Project) -> None:
    """Of one parsed project, and without a trace of the run before."""
    everything = project.facts()

    def read_days(*options: str) -> str:
        for _ in project.events(["compile", "--select", "fact_orders_staged", *options]):
            pass
        compiled = project.settings.home / "dbt" / "compiled" / "ecommersss" / "models" / "core"
        return (compiled / "fact_orders_staged.sql").read_text()

    window = json.dumps({"first_day": "2024-02-29", "end_day": "2024-03-01"})
    assert "2024-02-29" in read_days("--vars", window)
    assert "2024-02-29" not in read_days("--vars", window, "--full-refresh")
    assert "2024-02-29" not in read_days()
    assert project.facts() == everything


def test_a_failure_is_told_in_dbts_words(project: Project) -> None:
    before = state()
    with pytest.raises(DbtError, match="the window of days is empty"):
        list(project.events(["build", "--vars", '{"first_day": "2024-03-01", "end_day": "2024-03-01"}']))
    with pytest.raises(DbtError, match=r"No such option.*--nonsense"):
        list(project.events(["build", "--nonsense"]))
    assert state() == before


def test_a_crash_of_dbt_is_an_error(project: Project) -> None:
    with pytest.raises(DbtError, match="unpack"):
        list(run_dbt(["build"], {}, b"not a parsed project"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("stop", ["close", "interrupt"])
def test_a_cancelled_run_ends_at_once_and_leaves_every_day_as_it_was(
    built: Path, tmp_path: Path, stop: str, restarted_calls: None
) -> None:
    project = Project(tmp_path)
    shutil.copy(built, project.settings.warehouse_path)
    published = project.facts()
    project.make_orders_endless()
    before = state()
    events = project.events(build_arguments(DAY))
    while "fact_orders" not in next(events)["info"]["msg"]:
        pass
    began = time.monotonic()
    if stop == "close":
        events.close()
    else:
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.5, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            list(events)
    assert time.monotonic() - began < 10
    assert state() == before
    assert project.facts() == published
