"""Dagster's storage finds its database by the settings, says what is down, and lets one daemon work."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from dagster import AssetKey, AssetMaterialization, DagsterInstance
from dagster._core.test_utils import create_run_for_test
from sqlalchemy import event

from ecommersss_platform.instance import storage
from ecommersss_platform.instance.dagster_home import dagster_instance, ensure_dagster_home
from ecommersss_platform.instance.storage import (
    InOurDatabase,
    StorageDown,
    be_the_only_daemon,
    runs_the_daemon,
    storage_url,
)
from ecommersss_platform.local.locks import FileLock
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.conftest import administer
from ecommersss_platform_tests.support import shop
from ecommersss_platform_tests.support.project import PROJECT


def test_a_server_that_does_not_run_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path / "home", _env_file=None)
    monkeypatch.setenv("DAGSTER_HOME", str(settings.dagster_home))
    with pytest.raises(StorageDown, match=r"^there is no PostgreSQL in .* yet: run `ecommersss up`$"):
        storage_url(settings)


def test_a_dagster_home_of_another_platform_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "other" / "dagster"))
    with pytest.raises(StorageDown, match=r"/other/dagster, but .*/home/dagster: correct the line"):
        storage_url(Settings(home=tmp_path / "home", _env_file=None))


def test_a_database_that_does_not_answer_is_one_sentence_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dagster tries six times, and waits for seconds in between.
    monkeypatch.setattr("dagster_postgres.utils.calculate_delay", lambda **_: 0)
    settings = Settings(home=tmp_path, _env_file=None)
    with (
        pytest.raises(StorageDown, match=r"^Dagster's storage at 127\.0\.0\.1:1/dagster does not answer"),
        dagster_instance(settings, "postgresql://shop:CANARY@127.0.0.1:1/dagster"),
    ):
        pass


@pytest.mark.integration
def test_libpq_variables_do_not_reach_the_storages(
    postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container or under plain `dagster dev`, where no command of ours runs first."""
    administer(postgres, "CREATE DATABASE dagster_storages")
    settings = Settings(home=tmp_path, dagster_url=postgres.url("dagster_storages"), _env_file=None)
    ensure_dagster_home(settings)
    monkeypatch.setenv("ECOMMERSSS_DAGSTER_URL", postgres.url("dagster_storages"))
    monkeypatch.setenv("DAGSTER_HOME", str(settings.dagster_home))
    for name, value in {"PGSSLMODE": "verify-full", "PGOPTIONS": "-c search_path=other"}.items():
        monkeypatch.setenv(name, value)
    with DagsterInstance.get() as instance:
        assert instance.get_runs() == []
        assert instance.all_instigator_state() == []
        assert instance.all_asset_keys() == []


@pytest.mark.integration
def test_storages_keep_their_connection_and_notice_a_restart_of_the_server(postgres, tmp_path: Path) -> None:
    name = "dagster_connections"
    administer(postgres, f"CREATE DATABASE {name}")
    opened: list[object] = []
    with dagster_instance(Settings(home=tmp_path, _env_file=None), postgres.url(name)) as instance:
        for part in (instance.run_storage, instance.event_log_storage):
            event.listen(part._engine, "connect", lambda connection, _: opened.append(connection))

        def use_all() -> None:
            assert instance.get_runs() == []
            assert instance.all_asset_keys() == []

        for _ in range(5):
            use_all()
        assert len(opened) == 2
        administer(
            postgres, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        use_all()
        assert len(opened) == 4
    administer(postgres, f"DROP DATABASE {name}")  # nobody is connected any more


@pytest.mark.integration
def test_storages_ask_about_their_schema_once(postgres, tmp_path: Path) -> None:
    administer(postgres, "CREATE DATABASE dagster_schema")
    settings = Settings(home=tmp_path, _env_file=None)
    asked: list[str] = []

    def note(_: object, cursor: object, statement: str, *rest: object) -> None:
        if "pg_catalog" in statement:
            asked.append(statement)

    with dagster_instance(settings, postgres.url("dagster_schema")) as instance:
        for part in (instance.run_storage, instance.event_log_storage, instance.schedule_storage):
            event.listen(part._engine, "before_cursor_execute", note)
        for first in (True, False):
            run = create_run_for_test(instance, job_name="daily_pipeline")
            instance.report_run_failed(run, "boom")
            assert instance.get_run_record_by_id(run.run_id).end_time
            instance.report_runless_asset_event(AssetMaterialization("a", tags={"some": "tag"}))
            assert instance.get_asset_records([AssetKey("a")])
            assert instance.schedule_storage.supports_batch_queries
            assert bool(asked) is first, asked
            asked.clear()
    administer(postgres, "DROP DATABASE dagster_schema WITH (FORCE)")


def test_a_table_that_is_missing_is_asked_for_again() -> None:
    class Tables:
        answers = iter([False, True])

        def has_table(self, name: str) -> bool:
            return next(self.answers)

    class Storage(InOurDatabase, Tables):
        pass

    storage = Storage()
    assert [storage.has_table("runs") for _ in range(3)] == [False, True, True]


@pytest.mark.parametrize(
    ("arguments", "is_daemon"),
    [
        (["/venv/lib/dagster/_daemon/__main__.py", "run", "-w", "workspace.yaml"], True),
        (["/venv/bin/dagster-daemon", "run"], True),
        (["/venv/bin/dagster-daemon", "liveness-check"], False),
        (["/venv/lib/dagster_webserver/__main__.py", "run"], False),
        (["/venv/bin/dagster", "dev"], False),
        (["-c"], False),
    ],
)
def test_the_daemon_is_known_by_its_command(arguments: list[str], is_daemon: bool) -> None:
    assert runs_the_daemon(arguments) is is_daemon


def test_a_second_daemon_waits_until_the_first_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(storage, "_daemon_lock", None)
    first = FileLock(tmp_path / "daemon.lock")
    assert first.acquire(wait=False)
    second = threading.Thread(target=be_the_only_daemon, args=(tmp_path, 0.02))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    first.release()
    second.join(10)
    assert not second.is_alive()
    assert not first.acquire(wait=False)
    [warning] = caplog.messages
    assert warning.startswith(f"another daemon of {tmp_path} runs")
    be_the_only_daemon(tmp_path)  # another storage of the same process
    storage._daemon_lock.release()


MODULE = ["--module-name", "ecommersss_platform.definitions"]


def dagster(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Dagster in a shell that knows the virtual environment only."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("dagster")), *arguments],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "PWD": str(directory)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with what Dagster's commands read in that of the project, as `make setup` leaves it."""
    for name in ("pyproject.toml", "workspace.yaml"):
        (tmp_path / name).write_text((PROJECT / name).read_text())
    (tmp_path / ".env").write_text((PROJECT / ".env.example").read_text())
    ensure_dagster_home(Settings(home=tmp_path / ".ecommersss", _env_file=None))
    return tmp_path


@pytest.mark.integration
@pytest.mark.parametrize(
    "command",
    [
        ["dev"],
        ["asset", "materialize", *MODULE, "--select", "raw/orders", "--partition", "2024-06-10"],
    ],
    ids=["dev", "materialize"],
)
def test_dagsters_commands_find_the_home_of_the_directory_and_say_what_is_down(
    checkout: Path, command: list[str]
) -> None:
    done = dagster(checkout, *command)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"Error: there is no PostgreSQL in {checkout}/.ecommersss/postgres yet: run `ecommersss up`"
    )
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.integration
@pytest.mark.slow
def test_dagsters_commands_validate_list_and_materialize(
    checkout: Path, postgres: EmbeddedPostgres, database: str
) -> None:
    administer(postgres, "CREATE DATABASE commands")
    shop.open_shop(database)
    with (checkout / ".env").open("a") as file:
        file.write(f"ECOMMERSSS_DATABASE_URL={database}\nECOMMERSSS_DAGSTER_URL={postgres.url('commands')}\n")
        file.write("ECOMMERSSS_FIRST_DAY=2024-06-01\n")
    listed = dagster(checkout, "asset", "list", *MODULE)
    assert listed.returncode == 0, listed.stderr
    assert {"raw/orders", "silver/fact_orders", "gold/most_fraudulent_users"} <= set(listed.stdout.split())
    valid = dagster(checkout, "definitions", "validate")
    assert valid.returncode == 0, valid.stderr
    assert "Validation successful for code location ecommersss_platform." in valid.stdout + valid.stderr
    done = dagster(
        checkout, "asset", "materialize", *MODULE, "--select", "raw/users", "--partition", "2024-06-10"
    )
    assert done.returncode == 0, done.stderr
    settings = Settings(home=checkout / ".ecommersss", _env_file=None)
    with dagster_instance(settings, postgres.url("commands")) as instance:
        assert instance.get_materialized_partitions(AssetKey(["raw", "users"])) == {"2024-06-10"}
    administer(postgres, "DROP DATABASE commands WITH (FORCE)")
