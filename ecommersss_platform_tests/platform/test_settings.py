"""Settings: secrets stay secret, database URLs are normalised, numbers have bounds."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from ecommersss_platform.cli.errors import known_problem
from ecommersss_platform.environment import child_environment
from ecommersss_platform.settings import SECRETS, Settings

URL = "postgres://shop:CANARY@127.0.0.1:5/x"


def _problem(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """Return what the command line says about these wrong settings, which tells no secret."""
    for name, value in variables.items():
        monkeypatch.setenv(f"ECOMMERSSS_{name.upper()}", value)
    with pytest.raises(ValidationError) as refused:
        Settings(_env_file=None)
    problem = known_problem(refused.value)
    assert problem is not None
    assert "CANARY" not in f"{problem} {refused.value!r} {refused.value}"
    return problem.removeprefix("wrong settings\n  ")


@pytest.mark.parametrize("wrong", [{"topic": "pubsub"}, {"warehouse": "bigquery"}, {"ui_port": "70000"}])
def test_no_error_shows_the_value_of_another_setting(
    wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "ECOMMERSSS_" in _problem(monkeypatch, database_url=URL, dagster_url=URL + "2", **wrong)


def test_a_wrong_url_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _problem(monkeypatch, database_url=URL + "?schema=public") == (
        "ECOMMERSSS_DATABASE_URL: PostgreSQL has no connection parameter schema: remove it"
    )


@pytest.mark.parametrize("token", ["CANARY", "CANARY CANARY CANARY", "CANARY;CANARY;CANARY"])
def test_a_secret_of_the_ui_that_is_short_or_no_cookie_is_refused(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _problem(monkeypatch, ui_token=token) == (
        "ECOMMERSSS_UI_TOKEN: a secret of the UI is 16 or more letters, digits, - or _"
    )


def test_a_key_of_pseudonyms_that_can_be_guessed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _problem(monkeypatch, pseudonym_key="CANARY" * 5) == (
        "ECOMMERSSS_PSEUDONYM_KEY: the key of pseudonyms is 32 or more characters"
    )


def test_the_home_of_an_account_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("home", "rules", "duckdb_path", "bigquery_key_file"):
        with monkeypatch.context() as patched:
            assert _problem(patched, **{name: "~no-such-account/x"}).startswith(
                f"ECOMMERSSS_{name.upper()}: no account has that name"
            )
    settings = Settings(home=Path("~/platform"), bigquery_key_file=Path("~/key.json"), _env_file=None)
    assert settings.home == Path.home() / "platform"
    assert settings.bigquery_key_file == Path.home() / "key.json"


def test_paths_are_those_of_the_directory_in_which_the_settings_were_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(
        home=Path("home"), rules=Path("rules.yml"), bigquery_key_file=Path("k"), _env_file=None
    )
    assert (settings.home, settings.rules, settings.bigquery_key_file) == (
        *(tmp_path / "home", tmp_path / "rules.yml"),
        tmp_path / "k",
    )


def test_one_database_for_both_urls_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = "host=localhost port=5 dbname=x user=dagster password=CANARY"
    assert _problem(monkeypatch, database_url=URL, dagster_url=other) == (
        "ECOMMERSSS_DATABASE_URL and ECOMMERSSS_DAGSTER_URL name the same database:"
        " create a second one for Dagster"
    )


def test_urls_are_normalised_hidden_and_passed_to_children() -> None:
    settings = Settings(
        database_url=URL,
        dagster_url=f"{URL}2",
        ui_token="CANARY-CANARY-CANARY",
        alerts="json://CANARY",
        pseudonym_key="CANARY" * 6,
        _env_file=None,
    )
    assert "CANARY" not in repr(settings) + str(settings.model_dump())
    variables = child_environment(settings, f"{URL}2")
    assert variables["ECOMMERSSS_DATABASE_URL"] == "postgresql://shop:CANARY@127.0.0.1:5/x"
    assert {name for name, value in variables.items() if "CANARY" in value} == {
        f"ECOMMERSSS_{name.upper()}" for name in SECRETS
    }


def test_every_number_has_both_bounds() -> None:
    for name, field in Settings.model_fields.items():
        if {int, float, date} & {field.annotation, *get_args(field.annotation)}:
            bounds = {bound for item in field.metadata for bound in ("ge", "le") if hasattr(item, bound)}
            assert bounds == {"ge", "le"}, name
