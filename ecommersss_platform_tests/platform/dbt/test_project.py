"""What is decided around dbt: arguments, environment, when the manifest is out of date; facts it repeats."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import MetadataValue

from ecommersss_platform.assets.analytics import analytics_assets, split_totals
from ecommersss_platform.dbt import project as dbt_module
from ecommersss_platform.dbt.project import (
    PROJECT_DIR,
    DbtError,
    build_arguments,
    ensure_manifest,
    environment,
    executable,
    outdated,
    parsed_name,
    parsed_project,
)
from ecommersss_platform.dbt.resource import PlatformDbt, prune
from ecommersss_platform.dbt.results import add_costs, metadata_from_event
from ecommersss_platform.dbt.sources import SOURCES, sources_yaml
from ecommersss_platform.local.locks import FileLock
from ecommersss_platform.partitions import Days, daily_partitions
from ecommersss_platform.settings import Settings
from streaming.business_days import JAKARTA

PARSED = {"metadata": {"dbt_version": "1.11.16", "adapter_type": "duckdb"}, "nodes": {}, "sources": {}}


@pytest.mark.parametrize(
    ("first", "end"),
    [("2024-02-28", "2024-02-29"), ("2024-02-01", "2024-03-02"), ("2023-12-31", "2024-01-01")],
)
def test_a_run_over_days_replaces_exactly_its_window(first: str, end: str) -> None:
    days = Days(date.fromisoformat(first), date.fromisoformat(end))
    *others, flag, variables = build_arguments(days)
    assert others == ["build", "--exclude-resource-type", "unit_test"]
    assert flag == "--vars"
    assert json.loads(variables) == {"first_day": first, "end_day": end}


def test_a_full_refresh_replaces_every_day_in_a_run_of_a_few() -> None:
    day = Days.between(date(2024, 2, 28), date(2024, 2, 28))
    assert build_arguments(day, full_refresh=True) == [*build_arguments(day), "--full-refresh"]
    assert build_arguments(full_refresh=True)[-1] == "--full-refresh"


def test_a_run_without_days_has_no_window() -> None:
    assert build_arguments() == ["build", "--exclude-resource-type", "unit_test"]


def test_dbt_writes_into_the_home_and_tells_nobody(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, _env_file=None)
    assert environment(settings) == {
        "ECOMMERSSS_WAREHOUSE": "duckdb",
        "ECOMMERSSS_DUCKDB_PATH": str(tmp_path / "warehouse.duckdb"),
        "DBT_TARGET_PATH": str(tmp_path / "dbt"),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        # Unset ones are passed too, because the environment of this process may hold other values.
        "ECOMMERSSS_BIGQUERY_PROJECT": "",
        "ECOMMERSSS_BIGQUERY_LOCATION": "asia-southeast2",
        "ECOMMERSSS_BIGQUERY_BILLING_PROJECT": "",
        "ECOMMERSSS_BIGQUERY_KEY_FILE": "",
        "ECOMMERSSS_BIGQUERY_IMPERSONATE": "",
        "ECOMMERSSS_BIGQUERY_MAXIMUM_BYTES_BILLED": "",
        "ECOMMERSSS_BIGQUERY_DAILY_BYTES": "",
        "ECOMMERSSS_BIGQUERY_ENDPOINT": "",
    }


# The profile


def profile(settings: Settings) -> Any:
    """The credentials that dbt makes of `profiles.yml` for these settings."""
    from dbt.config.profile import Profile
    from dbt.config.renderer import ProfileRenderer
    from dbt_common.context import set_invocation_context

    set_invocation_context(environment(settings))
    raw = yaml.safe_load((PROJECT_DIR / "profiles.yml").read_text())["ecommersss"]
    name, rendered = Profile.render_profile(raw, "ecommersss", None, ProfileRenderer({}))
    return Profile._credentials_from_profile(rendered, "ecommersss", name)


def test_bigquery_is_told_to_dbt_as_to_the_warehouse(tmp_path: Path) -> None:
    from ecommersss_platform.warehouse.bigquery.access import SCOPES

    credentials = profile(
        Settings(
            warehouse="bigquery",
            bigquery_project="shop",
            bigquery_location="EU",
            bigquery_billing_project="payer",
            bigquery_key_file=tmp_path / "key.json",
            bigquery_impersonate="dbt@shop.iam.gserviceaccount.com",
            bigquery_maximum_bytes_billed=10**12,
            _env_file=None,
        )
    )
    assert (credentials.type, credentials.method, credentials.keyfile) == ("bigquery", "oauth", None)
    assert credentials.impersonate_service_account == "dbt@shop.iam.gserviceaccount.com"
    assert (credentials.database, credentials.execution_project, credentials.location) == (
        "shop",
        "payer",
        "EU",
    )
    assert (credentials.maximum_bytes_billed, credentials.priority, credentials.job_retries) == (
        10**12,
        "interactive",
        1,
    )
    assert tuple(credentials.scopes) == SCOPES
    assert not credentials.api_endpoint


def test_dbt_signs_in_by_the_key_file_as_the_warehouse_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by one of workload identity federation, which its own method for key files refuses."""
    from dbt.adapters.bigquery.credentials import _create_bigquery_defaults, create_google_credentials

    key_file = tmp_path / "federated.json"
    key_file.write_text(
        json.dumps(
            {
                "type": "external_account",
                "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": "https://sts.googleapis.com/v1/token",
                "credential_source": {"file": str(tmp_path / "token")},
            }
        )
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key_file))  # as `check_access` returns it
    monkeypatch.setattr("google.auth.external_account.Credentials.get_project_id", lambda *_, **__: "shop")
    _create_bigquery_defaults.cache_clear()
    settings = Settings(warehouse="bigquery", bigquery_project="shop", _env_file=None)
    found: Any = create_google_credentials(profile(settings))
    _create_bigquery_defaults.cache_clear()
    assert type(found).__module__ == "google.auth.identity_pool"


def test_application_default_credentials_are_the_default() -> None:
    credentials = profile(Settings(warehouse="bigquery", bigquery_project="shop", _env_file=None))
    assert (credentials.method, credentials.execution_project, credentials.location) == (
        "oauth",
        "shop",
        "asia-southeast2",
    )
    unset = (
        credentials.keyfile,
        credentials.impersonate_service_account,
        credentials.api_endpoint,
        credentials.maximum_bytes_billed,
    )
    assert [value for value in unset if value] == []


def test_an_emulator_is_sent_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import google.auth
    from dbt.adapters.bigquery.credentials import create_google_credentials

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("credentials were looked for")

    monkeypatch.setattr(google.auth, "default", refused)
    monkeypatch.setattr("dbt.adapters.bigquery.credentials.default", refused)
    credentials = profile(
        Settings(
            warehouse="bigquery",
            bigquery_project="shop",
            bigquery_endpoint="http://127.0.0.1:9050",
            bigquery_key_file=tmp_path / "key.json",
            bigquery_impersonate="dbt@shop.iam.gserviceaccount.com",
            _env_file=None,
        )
    )
    assert credentials.api_endpoint == "http://127.0.0.1:9050"
    found = create_google_credentials(credentials)
    # It is valid as it is, so that nobody is asked for another, and it is no secret.
    assert (type(found).__module__, found.token, found.valid) == (
        "google.oauth2.credentials",
        "emulator",
        True,
    )


def test_the_resource_writes_nothing_when_it_is_made(tmp_path: Path) -> None:
    PlatformDbt(Settings(home=tmp_path / "home", _env_file=None))
    assert not (tmp_path / "home").exists()


# The manifest


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A project with a manifest that is up to date."""
    project = tmp_path / "project"
    (project / "models" / "marts").mkdir(parents=True)
    (project / "target").mkdir()
    (project / "dbt_project.yml").touch()
    (project / "models" / "marts" / "one.sql").touch()
    manifest = project / "target" / "manifest.json"
    manifest.write_text(json.dumps(PARSED))
    (project / "target" / "parsed-0123.msgpack").touch()
    (project / "target" / "column_lineage.json").touch()
    later = manifest.stat().st_mtime + 10
    os.utime(manifest, (later, later))
    return project


def judged(project: Path, target: str = "duckdb", dbt_version: str = "1.11.16") -> str | None:
    return outdated(project, project / "target" / "manifest.json", target, dbt_version)


def touch_later(path: Path) -> None:
    path.touch()
    os.utime(path, (path.stat().st_mtime + 20,) * 2)


def test_a_manifest_newer_than_the_project_is_up_to_date(small: Path) -> None:
    assert judged(small) is None
    for ignored in (small / "target" / "run_results.json", small / ".user.yml", small / "logs"):
        touch_later(ignored)
    assert judged(small) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: touch_later(p / "models" / "marts" / "one.sql"), "models/marts/one.sql is newer"),
        (lambda p: touch_later(p / "dbt_project.yml"), "dbt_project.yml is newer"),
        (lambda p: touch_later(p / "models" / "marts"), "models/marts is newer"),
        (lambda p: (p / "target" / "manifest.json").unlink(), "there is none yet"),
        (lambda p: (p / "target" / "manifest.json").write_text('{"metad'), "it cannot be read"),
        (lambda p: (p / "target" / "parsed-0123.msgpack").unlink(), "no parsed project is beside it"),
        (
            lambda p: (p / "target" / "column_lineage.json").unlink(),
            "no lineage of columns is beside it",
        ),
    ],
)
def test_a_manifest_is_out_of_date_for_a_reason(
    small: Path, change: Callable[[Path], Any], reason: str
) -> None:
    change(small)
    assert judged(small) == reason


def test_a_manifest_of_another_dbt_or_target_is_out_of_date(small: Path) -> None:
    assert judged(small, dbt_version="1.11.17") == "it was made by dbt 1.11.16 and this is 1.11.17"
    assert judged(small, target="bigquery") == "it was made for duckdb and this is bigquery"


@pytest.fixture
def fake_dbt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of dbt: half a second to write a manifest; returns the log of its calls.

    It edits a model meanwhile when the file `edit` is there, and fails when `fail` is.
    """
    log = tmp_path / "calls"
    script = tmp_path / "dbt"
    script.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> {log}\n'
        f"if [ -e {tmp_path}/fail ]; then echo 'Compilation Error in model one'; exit 2; fi\n"
        "sleep 0.5\n"
        f"if [ -e {tmp_path}/edit ]; then echo changed > models/marts/one.sql; fi\n"
        'while [ "$1" != --target-path ]; do shift; done\n'
        'touch "$2/partial_parse.msgpack"\n'
        f"echo '{json.dumps(PARSED)}' > \"$2/manifest.json\"\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(dbt_module, "executable", lambda: script)
    monkeypatch.setattr(dbt_module, "version", lambda _: "1.11.16")
    return log


def test_preparing_parses_once_however_many_ask(small: Path, fake_dbt: Path, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", _env_file=None)
    (small / "target" / "manifest.json").unlink()
    threads = [threading.Thread(target=ensure_manifest, args=(settings, small)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fake_dbt.read_text().splitlines()) == 1
    assert judged(small) is None
    assert ensure_manifest(settings, small) == small / "target" / "manifest.json"
    assert len(fake_dbt.read_text().splitlines()) == 1
    assert {path.name for path in (small / "target").iterdir()} == {
        ".prepare.lock",
        "column_lineage.json",
        "manifest.json",
        "partial_parse.msgpack",
        parsed_name(settings, small),
    }
    assert not (tmp_path / "home").exists()


def test_runs_load_the_parsed_project_of_setup_unless_they_need_another(
    small: Path, fake_dbt: Path, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path / "home", _env_file=None)
    (small / "target" / "manifest.json").unlink()
    ensure_manifest(settings, small)
    assert parsed_project(settings, small) == b""
    assert not settings.home.exists()
    others = [
        Settings(home=tmp_path / "home", duckdb_path=tmp_path / "other.duckdb", _env_file=None),
        Settings(home=tmp_path / "bigquery", warehouse="bigquery", bigquery_project="a", _env_file=None),
        Settings(home=tmp_path / "bigquery", warehouse="bigquery", bigquery_project="b", _env_file=None),
    ]
    names = {parsed_name(settings, small)}
    for calls, other in enumerate(others, start=2):
        for _ in range(2):
            parsed_project(other, small)
        names.add(parsed_name(other, small))
        assert len(fake_dbt.read_text().splitlines()) == calls
        assert [path.name for path in (other.home / "dbt").glob("*.msgpack")] == [parsed_name(other, small)]
    assert len(names) == 4
    # Times do not matter, contents do.
    touch_later(small / "dbt_project.yml")
    assert parsed_name(settings, small) in names
    (small / "dbt_project.yml").write_text("name: changed")
    assert parsed_name(settings, small) not in names


def test_a_file_changed_during_the_parse_is_parsed_the_next_time(
    small: Path, fake_dbt: Path, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path / "home", _env_file=None)
    (small / "target" / "manifest.json").unlink()
    (tmp_path / "edit").touch()
    ensure_manifest(settings, small)
    assert judged(small) == "models/marts/one.sql is newer"
    assert list((small / "target").glob("parsed-*")) == []
    (tmp_path / "edit").unlink()
    ensure_manifest(settings, small)
    assert judged(small) is None


def test_a_wrong_project_is_told_in_dbts_words_and_the_old_manifest_stays(
    small: Path, fake_dbt: Path, tmp_path: Path
) -> None:
    (tmp_path / "fail").touch()
    touch_later(small / "dbt_project.yml")
    with pytest.raises(DbtError, match=r"could not parse .*project:\nCompilation Error in model one"):
        ensure_manifest(Settings(home=tmp_path / "home", _env_file=None), small)
    assert json.loads((small / "target" / "manifest.json").read_text()) == PARSED


def test_a_checkout_that_may_not_be_written_is_said_so(
    small: Path, fake_dbt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(lock: FileLock, **_: bool) -> None:
        raise PermissionError(13, "Permission denied", str(lock._path))

    settings = Settings(home=tmp_path / "home", _env_file=None)
    monkeypatch.setattr(FileLock, "acquire", refused)
    ensure_manifest(settings, small)  # up to date: nothing to write
    touch_later(small / "dbt_project.yml")
    with pytest.raises(
        DbtError, match=r"out of date \(dbt_project.yml is newer\).*\.prepare\.lock.*make setup"
    ):
        ensure_manifest(settings, small)


def test_assets_without_a_manifest_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DbtError, match=r"manifest\.json is missing: run `make setup`"):
        analytics_assets(daily_partitions(date(2024, 1, 1)), None, tmp_path / "manifest.json")


def test_dbt_is_found_without_an_activated_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert executable().is_file()


# What a run leaves and tells


def test_artifacts_of_the_newest_runs_stay(tmp_path: Path) -> None:
    for number in range(5):
        run = tmp_path / f"run{number}"
        (run / "compiled").mkdir(parents=True)
        os.utime(run, (1000 + (number * 7) % 5, 1000 + (number * 7) % 5))  # ages 0, 2, 4, 1, 3
    (tmp_path / "partial_parse.msgpack").touch()
    prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["partial_parse.msgpack", "run2", "run4"]


def event(name: str, message: str) -> dict[str, Any]:
    return {
        "info": {"name": name, "msg": message},
        "data": {"node_info": {"unique_id": "model.ecommersss.fact_orders"}},
    }


def test_metadata_is_what_the_project_logs_after_its_keyword() -> None:
    logged = {"dagster/row_count": 12, "rows_per_day": {"2024-02-28": 3}}
    reported = metadata_from_event(event("JinjaLogInfo", f"metadata {json.dumps(logged)}"))
    assert reported == ("model.ecommersss.fact_orders", logged)
    assert metadata_from_event(event("JinjaLogInfo", "something else")) is None
    assert metadata_from_event(event("LogModelResult", 'metadata {"dagster/row_count": 12}')) is None


def test_preview_is_a_table_whose_values_stay_in_their_cells() -> None:
    logged = {"preview": [{"product": "a|b <script>", "orders": "2"}]}
    _, metadata = metadata_from_event(event("JinjaLogInfo", f"metadata {json.dumps(logged)}")) or ("", {})
    assert metadata["preview"].value == "| product | orders |\n| --- | --- |\n| a\\|b &lt;script> | 2 |"


def test_figures_of_several_days_are_for_the_log() -> None:
    metadata = {
        "dagster/row_count": 12,
        "unique_id": "model.ecommersss.fact_orders",
        "Execution Duration": 0.25,
        "job_bytes": 3175,
    }
    table, totals = split_totals(metadata)
    assert list(table) == ["dagster/row_count", "unique_id"]
    assert totals == "Execution Duration 0.25, job_bytes 3175"


JOB = {
    "_message": "CREATE TABLE (10.0 rows, 3.1 KiB processed)",
    "code": "CREATE TABLE",
    "rows_affected": 10,
    "bytes_processed": 3175,
    "bytes_billed": 10485760,
    "location": "asia-southeast2",
    "project_id": "payer",
    "job_id": "476b6fc3",
    "slot_ms": 1234,
}


def job_metadata(*jobs: dict[str, Any]) -> dict[str, Any]:
    reported = metadata_from_event(event("JinjaLogInfo", f"metadata {json.dumps({'jobs': jobs})}"))
    assert reported is not None
    return reported[1]


def test_a_job_of_bigquery_is_linked_with_what_it_cost() -> None:
    assert job_metadata(JOB) == {
        "job": MetadataValue.url(
            "https://console.cloud.google.com/bigquery?project=payer&j=bq:asia-southeast2:476b6fc3"
            "&page=queryresults"
        ),
        "job_id": "476b6fc3",
        "job_bytes": 3175,
        "job_bytes_billed": 10485760,
        "job_slot_ms": 1234,
    }


def test_a_model_costs_what_all_its_jobs_do_and_what_is_not_said_is_left_out() -> None:
    prepared = JOB | {"job_id": "0", "bytes_billed": None}
    merged = {name: value for name, value in JOB.items() if name not in ("bytes_billed", "slot_ms")}
    found = job_metadata(prepared, merged)
    assert found.pop("job") is not None
    assert found == {"job_id": "476b6fc3", "job_bytes": 6350, "job_slot_ms": 1234}
    assert job_metadata() == {}


def test_the_cost_of_a_staged_model_is_that_of_the_model_that_publishes_it() -> None:
    published = {"job_id": "merge", "job_bytes": 5, "job_slot_ms": 7}
    staged = {"job_id": "staged", "job_bytes": 100, "job_bytes_billed": 200}
    assert add_costs(published, staged) == {
        "job_id": "merge",
        "job_bytes": 105,
        "job_bytes_billed": 200,
        "job_slot_ms": 7,
    }
    assert add_costs({"dagster/row_count": 3}, {}) == {"dagster/row_count": 3}


# Facts that dbt's files repeat, and their owners


def test_dbt_replaces_as_many_days_at_once_as_the_raw_tables() -> None:
    from ecommersss_platform.warehouse.bigquery.warehouse import MOST_DAYS

    text = (PROJECT_DIR / "macros" / "dialect" / "replace_days.sql").read_text()
    assert f"macro bigquery__most_days() -%}}\n    {{{{ return({MOST_DAYS}) }}}}" in text


def test_the_sources_are_generated_from_the_contracts() -> None:
    assert SOURCES.read_text() == sources_yaml(), "run `python -m ecommersss_platform.dbt.sources`"


def test_dbt_knows_the_time_zone_of_the_business() -> None:
    project = yaml.safe_load((PROJECT_DIR / "dbt_project.yml").read_text())
    assert project["vars"]["time_zone"] == str(JAKARTA)
    assert project["flags"]["send_anonymous_usage_stats"] is False


def test_each_model_has_one_yaml_of_its_own_and_no_package_is_downloaded() -> None:
    for sql in sorted((PROJECT_DIR / "models").rglob("*.sql")):
        [model] = yaml.safe_load(sql.with_suffix(".yml").read_text())["models"]
        assert model["name"] == sql.stem
    assert not list(PROJECT_DIR.glob("packages.y*ml")) + list(PROJECT_DIR.glob("dependencies.y*ml"))


def test_partitioned_models_are_replaced_by_day() -> None:
    """A partitioned table that is rebuilt on every run soon meets BigQuery's limit of changed partitions."""
    models = {path.stem: path.read_text() for path in (PROJECT_DIR / "models").rglob("*.sql")}
    partitioned = [name for name, sql in models.items() if "partition_by_day(" in sql]
    assert partitioned
    assert partitioned == [name for name, sql in models.items() if "materialized='incremental'" in sql]


def test_every_macro_for_one_dialect_is_there_for_the_other() -> None:
    text = "".join(path.read_text() for path in sorted((PROJECT_DIR / "macros" / "dialect").iterdir()))
    words = text.split()
    macros = {word.split("(")[0] for before, word in pairwise(words) if before == "macro"}
    duckdb, bigquery = (
        {name.removeprefix(prefix) for name in macros if name.startswith(prefix)}
        for prefix in ("duckdb__", "bigquery__")
    )
    dispatched = set(re.findall(r"adapter\.dispatch\('(\w+)'\)", text))
    assert duckdb == bigquery == dispatched
    assert "money" in dispatched
