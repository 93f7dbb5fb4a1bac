"""What processes take from the environment of whoever types a command: an allow list, and known settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dotenv import dotenv_values

from ecommersss_platform.cli.common import read_settings
from ecommersss_platform.cli.platform import env
from ecommersss_platform.environment import (
    check_dagster_home,
    child_environment,
    drop_foreign_variables,
    inherited,
    unknown_settings,
)
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.project import PROJECT
from streaming.errors import PlatformError

FOREIGN = {
    "DAGSTER_EVENT_BATCH_SIZE": "1",
    "DAGSTER_WEBSERVER_READ_ONLY": "1",
    "DBT_EMPTY": "true",
    "PGSSLMODE": "verify-full",
    "PGOPTIONS": "-c search_path=other",
    "PYTHONPATH": "/other",
    "PYTHONWARNINGS": "error",
    "ECOMMERSSS_UNKNOWN": "1",
}
ALLOWED = {
    "PATH": "/bin",
    "LC_ALL": "C.UTF-8",
    "HTTPS_PROXY": "http://proxy:1",
    "PGPASSWORD": "secret",
    "GOOGLE_APPLICATION_CREDENTIALS": "/key.json",
}


def test_children_inherit_programs_files_proxies_and_credentials_and_nothing_else() -> None:
    assert inherited(FOREIGN | ALLOWED) == ALLOWED


def test_children_get_every_setting_whatever_the_shell_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (FOREIGN | {"DAGSTER_HOME": "/other", "ECOMMERSSS_UI_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    variables = child_environment(Settings(home=tmp_path, ui_port=4000), "postgresql://127.0.0.1/dagster")
    assert not FOREIGN.keys() & variables.keys()
    assert variables["DAGSTER_HOME"] == str(tmp_path / "dagster")
    assert variables["ECOMMERSSS_HOME"] == str(tmp_path)
    assert variables["ECOMMERSSS_UI_PORT"] == "4000"
    assert variables["ECOMMERSSS_DAGSTER_URL"].startswith("postgresql://127.0.0.1/dagster?")
    assert variables["PATH"] == os.environ["PATH"]


def test_a_command_drops_the_variables_of_dagster_and_dbt(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    drop_foreign_variables()
    assert not [name for name in os.environ if name.startswith(("DAGSTER_", "DBT_"))]
    assert os.environ["PYTHONPATH"] == "/other"


def test_unknown_settings_are_named_with_the_nearest_known_name() -> None:
    known = list(Settings.model_fields)
    fine = ["ecommersss_home", "ECOMMERSSS_UI_PORT", "ECOMMERSSS_SUPERVISED_BY", "ECOMMERSSSHOME", "PATH"]
    assert unknown_settings(fine, known) is None
    assert unknown_settings([*fine, "ECOMMERSSS_UI_PROT", "ECOMMERSSS_QQ"], known) == (
        "no setting has this name, so it has no effect: ECOMMERSSS_QQ,"
        " ECOMMERSSS_UI_PROT (did you mean ECOMMERSSS_UI_PORT?)"
    )


def test_a_command_warns_of_unknown_settings_in_the_environment_and_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_text("ECOMMERSSS_WAREHOSE=bigquery\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ECOMMERSSS_RULE", "rules.yml")
    assert read_settings().warehouse == "duckdb"
    [line] = capsys.readouterr().err.splitlines()
    assert "ECOMMERSSS_RULE (did you mean ECOMMERSSS_RULES?)" in line
    assert "ECOMMERSSS_WAREHOSE (did you mean ECOMMERSSS_WAREHOUSE?)" in line
    monkeypatch.setenv("ECOMMERSSS_LOG_FORMAT", "json")
    read_settings()
    assert capsys.readouterr().err.startswith('{"time": ')


def test_dagster_dev_without_its_home_is_refused() -> None:
    check_dagster_home({})
    check_dagster_home({"DAGSTER_IS_DEV_CLI": "1", "DAGSTER_HOME": "/home/dagster"})
    with pytest.raises(PlatformError, match="ecommersss env"):
        check_dagster_home({"DAGSTER_IS_DEV_CLI": "1"})


def test_a_shell_gets_the_home_in_full_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ECOMMERSSS_HOME", "my home")
    monkeypatch.setenv("ECOMMERSSS_DAGSTER_URL", "postgresql://shop:CANARY@127.0.0.1/dagster")
    env()
    home = tmp_path / "my home"
    assert (
        capsys.readouterr().out == f"export ECOMMERSSS_HOME='{home}'\nexport DAGSTER_HOME='{home}/dagster'\n"
    )
    assert (home / "dagster" / "dagster.yaml").exists()


def test_the_file_for_a_new_checkout_names_the_default_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/checkout")
    assert dotenv_values(PROJECT / ".env.example") == {"DAGSTER_HOME": "/checkout/.ecommersss/dagster"}
