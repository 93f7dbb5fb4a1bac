"""What processes take from the environment of whoever types a command: an allow list, and known settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ecommersss_platform.cli.common import read_settings
from ecommersss_platform.environment import (
    child_environment,
    drop_foreign_variables,
    inherited,
    unknown_settings,
)
from ecommersss_platform.settings import Settings

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
