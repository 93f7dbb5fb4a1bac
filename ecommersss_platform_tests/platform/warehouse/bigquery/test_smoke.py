"""The smoke test of BigQuery: what only the real service can show, as the account that Terraform made.

`make smoke-bigquery` runs it on the project of the settings, which has Terraform's datasets and no days of
its own; it removes what it made. `make smoke-bigquery DRY=1` prints every request that it would send. That,
and an ordinary test run, use the emulator.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
from google.api_core import exceptions
from google.cloud import bigquery

from ecommersss_platform.contracts import LOAD_LOG, ORDERS, RAW_TABLES
from ecommersss_platform.days import Days
from ecommersss_platform.dbt.project import PROJECT_DIR, build_arguments, environment, parsed_project
from ecommersss_platform.dbt.runner import run_dbt
from ecommersss_platform.environment import inherited
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import Step, TableNotFound, Warehouse, make_warehouse
from ecommersss_platform.warehouse.bigquery.session import PlatformBigQuery
from ecommersss_platform.warehouse.bigquery.sql import ANY_DAY, lock_name
from ecommersss_platform.warehouse.bigquery.warehouse import BigQueryWarehouse
from ecommersss_platform.warehouse.names import STAGING, full_name
from ecommersss_platform_tests.dbt.test_on_bigquery import MODELS, a_month, plain
from ecommersss_platform_tests.support.bigquery_emulator import running_emulator
from ecommersss_platform_tests.support.orders_table import by_id, orders, reader

pytestmark = [pytest.mark.integration, pytest.mark.bigquery, pytest.mark.long]

MODE = os.environ.get("ECOMMERSSS_SMOKE_BIGQUERY", "")
"""real: the project of the settings. dry: print every request. Empty: an ordinary test."""

DATASETS = ("raw", "bronze", "silver", "gold", STAGING)
RUN = f"smoke-{secrets.token_hex(4)}"
"""Ids of jobs follow from those of runs, and no id is used twice, so that each smoke test has its own."""
EMPTY_DAY, NEW_DAY = date(2024, 2, 1), date(2024, 2, 2)
TWO_DAYS = Days(date(2024, 2, 28), date(2024, 3, 1))
USD_PER_TEBIBYTE = 6.25


@dataclass
class Place:
    """The project under test, and what was billed there."""

    settings: Settings
    warehouse: BigQueryWarehouse
    billed: list[int] = field(default_factory=list)

    def client(self) -> Any:
        return PlatformBigQuery.of(self.warehouse.config, {}).get_client()


@pytest.fixture(scope="module")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that prints to the terminal, past pytest's capture, unless this is an ordinary test."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def printed(line: str) -> None:
        if MODE:
            with capture.global_and_fixture_disabled():
                print(line, flush=True)

    return printed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, say: Callable[[str], None]) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("home")
    if MODE == "real":
        given = Settings(warehouse="bigquery")
        settings = given.model_copy(update={"home": home})
        yield from _used(settings, say)
        return
    directory = tmp_path_factory.mktemp("bigquery")
    with running_emulator(directory) as address, pytest.MonkeyPatch.context() as patch:
        settings = Settings(
            home=home,
            warehouse="bigquery",
            bigquery_project=(MODE and Settings().bigquery_project) or "smoke",
            bigquery_location="US",
            bigquery_endpoint=address,
            _env_file=None,  # type: ignore[call-arg]
        )
        with PlatformBigQuery.of(BigQueryWarehouse.of(settings).config, {}).get_client() as client:
            for name in DATASETS:  # Terraform's part
                client.create_dataset(name)
        if MODE == "dry":
            patch.setattr(requests.Session, "request", _printing(requests.Session.request, say))
        yield from _used(settings, say)


def _used(settings: Settings, say: Callable[[str], None]) -> Iterator[Place]:
    """Check that the project may be used, yield it, and remove what was made in it."""
    place = Place(settings, BigQueryWarehouse.of(settings))
    place.warehouse = replace(place.warehouse, add_billed=place.billed.append)
    with place.client() as client:
        missing = [name for name in DATASETS if not _exists(client, settings, name)]
        if missing:
            pytest.fail(f"there is no dataset {', '.join(missing)}: apply Terraform first")
        for table in RAW_TABLES:
            if foreign := _days(place.warehouse, full_name(table)) - {EMPTY_DAY, NEW_DAY, *TWO_DAYS}:
                pytest.fail(
                    f"{full_name(table)} of {settings.bigquery_project} holds {min(foreign)}, and these "
                    "tests drop the table: name a project without days in ECOMMERSSS_BIGQUERY_PROJECT"
                )
        _drop_tables(client, settings)
        yield place
        _drop_tables(client, settings)
    total = sum(place.billed)
    dollars = total / (1 << 40) * USD_PER_TEBIBYTE
    say(f"billed: {total:,} bytes, at most {dollars:.2f} USD on demand ({USD_PER_TEBIBYTE} USD a TiB)")


def _days(warehouse: Warehouse, table: str) -> set[date]:
    sql = f"SELECT DISTINCT partition_date AS day FROM {table} WHERE {ANY_DAY}"
    try:
        return {row["day"] for row in warehouse.query(sql).to_pylist()}
    except TableNotFound:
        return set()


def _exists(client: bigquery.Client, settings: Settings, dataset: str) -> bool:
    try:
        client.get_dataset(f"{settings.bigquery_project}.{dataset}")
    except exceptions.NotFound:
        return False
    return True


def _drop_tables(client: bigquery.Client, settings: Settings) -> None:
    """Drop the tables and views of the platform, and no others."""
    facts = ["silver.fact_orders_lock", "silver.fact_orders_staged"]
    raw = [name for table in RAW_TABLES for name in (full_name(table), f"raw.{lock_name(table)}")]
    views = [f"bronze.stg_{table.name}" for table in RAW_TABLES]
    for name in (*MODELS, *facts, *views, *raw, full_name(LOAD_LOG)):
        client.delete_table(f"{settings.bigquery_project}.{name}", not_found_ok=True)


def _printing(send: Callable[..., Any], say: Callable[[str], None]) -> Callable[..., Any]:
    """Return the function that sends a request, with one that prints it before it."""

    def printed(session: Any, method: str, url: str, *args: Any, **named: Any) -> Any:
        body = named.get("data") or ""
        if isinstance(body, bytes) and (part := re.search(rb"\r\n\r\n(\{.*?\})\r\n--", body, re.DOTALL)):
            body = f"{part[1].decode()} and Parquet, {len(body):,} bytes"
        path = url.split("/bigquery/v2/", 1)[-1].split("?")[0]
        say(f"{method} {path} {body if isinstance(body, str) else body.decode(errors='replace')}")
        return send(session, method, url, *args, **named)

    return printed


# ---- the steps ----


@pytest.mark.skipif(MODE != "real", reason="the emulator refuses nobody")
def test_the_account_may_do_no_more_than_terraform_granted(place: Place) -> None:
    project = place.settings.bigquery_project
    with place.client() as client:
        name = f"{project}.smoke_{secrets.token_hex(4)}"
        try:
            client.create_dataset(name)
        except exceptions.Forbidden:
            pass
        else:
            client.delete_dataset(name)
            pytest.fail("the account may create datasets: use the one that Terraform made")
        for dataset in DATASETS:
            policy = client.get_dataset(f"{project}.{dataset}")
            with pytest.raises(exceptions.Forbidden):  # no right to grant rights
                client.update_dataset(policy, ["access_entries"])


def test_an_empty_day_is_published(place: Place) -> None:
    """Its rows are a Parquet file with none, and it is the first load of the table."""
    day = Days.between(EMPTY_DAY, EMPTY_DAY)
    published = place.warehouse.publish(ORDERS, reader([]), day, f"{RUN}-empty")
    assert (published.rows, published.rows_per_day) == (0, {EMPTY_DAY: 0})
    assert by_id(place.warehouse.read(ORDERS)) == []


def test_two_loads_of_a_new_day_at_once_leave_the_rows_of_one(place: Place) -> None:
    day = Days.between(NEW_DAY, NEW_DAY)
    choices = [orders(range(first, first + 5), NEW_DAY) for first in (100, 200)]
    audited = threading.Barrier(2, timeout=300)

    def publish(number: int) -> None:
        def wait(step: Step) -> None:
            if step == Step.AUDITED:
                audited.wait()  # so that both publish at the same time

        place.warehouse.publish(ORDERS, reader(choices[number]), day, f"{RUN}-pair-{number}", wait)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(publish, number) for number in range(2)]:
            done.result()
    assert by_id(place.warehouse.read(ORDERS, days=day)) in choices
    entries = place.warehouse.read(LOAD_LOG, days=day).read_all().to_pylist()
    assert sorted(entry["run_id"] for entry in entries) == [f"{RUN}-pair-0", f"{RUN}-pair-1"]


def test_the_marts_of_two_days_equal_those_of_duckdb(place: Place, tmp_path: Path) -> None:
    local = Settings(home=tmp_path, _env_file=None)  # type: ignore[call-arg]
    month = a_month()
    rows: dict[str, Mapping[str, Any]] = {}
    for settings, warehouse in ((local, make_warehouse(local)), (place.settings, place.warehouse)):
        for table in RAW_TABLES:
            made = [row for row in month[table] if row["partition_date"] in TWO_DAYS]
            source = pa.Table.from_pylist(made, schema=table.arrow_schema).to_reader()
            warehouse.publish(table, source, TWO_DAYS, f"{RUN}-{settings.warehouse}")
            # The days of the tests before hold other orders, which DuckDB does not have.
            if table is ORDERS:
                warehouse.publish(table, reader([]), Days.between(EMPTY_DAY, NEW_DAY), f"{RUN}-clear")
        for arguments in (build_arguments(), build_arguments(TWO_DAYS)):
            place.billed.append(_build(settings, warehouse, arguments))
        rows[settings.warehouse] = {model: _rows(warehouse, model) for model in MODELS}
    assert rows["duckdb"]["silver.fact_orders"]
    assert rows["bigquery"] == rows["duckdb"]


def _build(settings: Settings, warehouse: Warehouse, arguments: list[str]) -> int:
    """Run dbt in this process, as the assets do. Return the bytes that its models and tests were billed."""
    target = settings.home / "dbt" / "smoke"
    options = [
        *("--project-dir", str(PROJECT_DIR), "--profiles-dir", str(PROJECT_DIR)),
        *("--target", warehouse.dbt_target, "--target-path", str(target), "--log-path", str(target)),
        *("--log-level", "none"),
    ]
    variables = {**inherited(os.environ), **environment(settings), **warehouse.check_access()}
    for _ in run_dbt([*arguments, *options], variables, parsed_project(settings)):
        pass
    results = json.loads((target / "run_results.json").read_bytes())["results"]
    return sum(int(result["adapter_response"].get("bytes_billed", 0)) for result in results)


def _rows(warehouse: Warehouse, model: str) -> list[dict[str, Any]]:
    rows = warehouse.query(f"SELECT * FROM {model}").to_pylist()
    return sorted(({name: plain(value) for name, value in row.items()} for row in rows), key=repr)
