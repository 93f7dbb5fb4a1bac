"""dbt and the report of `status` when another process has the DuckDB file; where the file is."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pydantic import ValidationError

from ecommersss_platform.dbt.project import PROJECT_DIR
from ecommersss_platform.settings import Settings
from ecommersss_platform.status import newest_days
from ecommersss_platform.warehouse import make_warehouse
from ecommersss_platform.warehouse.duckdb import engine
from ecommersss_platform.warehouse.duckdb.engine import DuckDbFile
from ecommersss_platform_tests.support.warehouse_contract import PROCESSES, in_process

if TYPE_CHECKING:
    from dbt.adapters.duckdb.environments.local import LocalEnvironment

pytestmark = pytest.mark.integration

OUTPUTS = yaml.safe_load((PROJECT_DIR / "profiles.yml").read_text())["ecommersss"]["outputs"]
Hold = Callable[[Path, float], Any]


def settings_of(home: Path, **values: Any) -> Settings:
    return Settings(home=home, _env_file=None, **values)  # type: ignore[call-arg]


def hold_file(path: Path, ready: Any, seconds: float) -> None:
    with DuckDbFile(path).writing():
        ready.set()
        time.sleep(seconds)


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Return a function that makes another process hold the file for the given number of seconds."""
    processes = []

    def hold(path: Path, seconds: float) -> Any:
        ready = PROCESSES.Event()
        processes.append(in_process(hold_file, path, ready, seconds))
        assert ready.wait(60)
        return processes[-1]

    yield hold
    for process in processes:
        process.kill()
        process.join()


@pytest.fixture
def dbt_plugin() -> ModuleType:
    from ecommersss_platform.warehouse.duckdb import dbt_plugin

    return dbt_plugin


def connect_as_dbt(settings: Settings) -> LocalEnvironment:
    """Return dbt's own environment for the output of `profiles.yml` that the settings choose."""
    from dbt.adapters.duckdb.credentials import DuckDBCredentials
    from dbt.adapters.duckdb.environments.local import LocalEnvironment

    output = dict(OUTPUTS[make_warehouse(settings).dbt_target])
    path = str(settings.warehouse_path)
    if "attach" in output:
        output["attach"] = [output["attach"][0] | {"path": path}]
    else:
        output["path"] = path
    return LocalEnvironment(DuckDBCredentials.from_dict(output))


@pytest.mark.parametrize("name", ["warehouse.duckdb", "raw.duckdb"])
def test_dbt_waits_for_the_file_and_says_for_whom(
    tmp_path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch, dbt_plugin: ModuleType, name: str
) -> None:
    settings = settings_of(tmp_path, duckdb_path=Path(name))
    holder = hold(settings.warehouse_path, 0.7)
    said: list[str] = []
    monkeypatch.setattr(engine, "NOTICE_SECONDS", 0.2)
    monkeypatch.setattr(dbt_plugin._log, "warning", said.append)
    environment = connect_as_dbt(settings)
    try:
        cursor = environment.handle().cursor()
        cursor.execute("CREATE SCHEMA warehouse.raw; CREATE TABLE warehouse.raw.t AS SELECT 1 AS i")
        assert cursor.execute("SELECT i FROM warehouse.raw.t").fetchall() == [(1,)]
    finally:
        environment.close()
    [text] = said
    assert f"is held by process {holder.pid} (" in text
    # The file is free again, and has what dbt wrote.
    with DuckDbFile(settings.warehouse_path, patience=0).reading() as connection:
        assert connection.execute("SELECT i FROM raw.t").fetchall() == [(1,)]


@pytest.mark.parametrize("name", ["warehouse.duckdb", "raw.duckdb"])
def test_dbt_gives_up_with_the_same_sentence(
    tmp_path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch, dbt_plugin: ModuleType, name: str
) -> None:
    settings = settings_of(tmp_path, duckdb_path=Path(name))
    holder = hold(settings.warehouse_path, 60)
    monkeypatch.setattr(dbt_plugin, "when_free", functools.partial(engine.when_free, patience=0.2))
    # dbt shows the text of a RuntimeError as an error of its database.
    with pytest.raises(RuntimeError, match=rf"was held by process {holder.pid} \(.*\) for over 0.2 s"):
        connect_as_dbt(settings).handle()


def test_status_says_who_has_the_file_instead_of_waiting_for_minutes(tmp_path: Path, hold: Hold) -> None:
    settings = settings_of(tmp_path)
    assert newest_days(settings)[1] is None
    holder = hold(settings.warehouse_path, 60)
    started = time.monotonic()
    newest, busy = newest_days(settings, patience=0.5)
    assert time.monotonic() - started < 3
    assert newest == []
    assert busy is not None
    assert f"held by process {holder.pid}" in busy


def test_dbt_attaches_a_file_that_has_the_name_of_a_dataset(tmp_path: Path) -> None:
    for name, target in (("shop.duckdb", "duckdb"), ("gold.duckdb", "duckdb_attached")):
        assert make_warehouse(settings_of(tmp_path, duckdb_path=Path(name))).dbt_target == target
        assert target in OUTPUTS
    assert OUTPUTS["duckdb_attached"]["plugins"] == OUTPUTS["duckdb"]["plugins"]


@pytest.mark.parametrize("name", ["warehouse.duckdb", "raw.duckdb"])
@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (4, 4), (64, 8)])
def test_dbt_holds_120_megabytes_a_thread(
    name: str,
    cores: int,
    threads: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dbt_plugin: ModuleType,
) -> None:
    monkeypatch.setattr(dbt_plugin.os, "cpu_count", lambda: cores)
    environment = connect_as_dbt(settings_of(tmp_path, duckdb_path=Path(name)))
    sql = "SELECT current_setting('threads'), current_setting('memory_limit')"
    try:
        found = environment.handle().cursor().execute(sql).fetchall()
    finally:
        environment.close()
    megabytes = float(found[0][1].split()[0]) * 1.048576  # "228.8 MiB"
    assert (found[0][0], round(megabytes / threads)) == (threads, 120)


def test_the_path_of_the_file_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/ana")
    for path, expected in {
        None: tmp_path / "warehouse.duckdb",
        "shop.duckdb": tmp_path / "shop.duckdb",
        "~/shop.duckdb": Path("/srv/ana/shop.duckdb"),
        "/data/shop.duckdb": Path("/data/shop.duckdb"),
    }.items():
        assert settings_of(tmp_path, duckdb_path=path).warehouse_path == expected
    with pytest.raises(ValidationError, match="no account has that name"):
        settings_of(tmp_path, duckdb_path="~nobody-has-this-name/shop.duckdb")
