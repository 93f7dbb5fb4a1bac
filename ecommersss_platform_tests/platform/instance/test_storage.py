"""Dagster's storage finds its database by the settings, says what is down, and lets one daemon work."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from dagster import DagsterInstance
from sqlalchemy import event

from ecommersss_platform.environment import inherited
from ecommersss_platform.instance import storage
from ecommersss_platform.instance.dagster_home import dagster_instance, ensure_dagster_home
from ecommersss_platform.instance.storage import StorageDown, be_the_only_daemon, runs_the_daemon, storage_url
from ecommersss_platform.local.locks import FileLock
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.conftest import administer
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


@pytest.mark.integration
def test_dagster_dev_finds_the_home_of_the_directory_and_says_what_is_down(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text((PROJECT / ".env.example").read_text())
    ensure_dagster_home(Settings(home=tmp_path / ".ecommersss", _env_file=None))
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "dev", "--workspace", str(PROJECT / "workspace.yaml")],
        cwd=tmp_path,
        env={**inherited(os.environ), "PWD": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"Error: there is no PostgreSQL in {tmp_path}/.ecommersss/postgres yet: run `ecommersss up`"
    )
    assert "Traceback" not in done.stdout + done.stderr
