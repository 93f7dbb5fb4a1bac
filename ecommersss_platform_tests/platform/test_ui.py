"""The Dagster UI of the platform in headless Chromium: the main pages load whole and without errors."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, AssetMaterialization

from ecommersss_platform.dbt.project import ensure_manifest
from ecommersss_platform.environment import child_environment
from ecommersss_platform.instance.dagster_home import dagster_instance
from ecommersss_platform.instance.home import ui_token
from ecommersss_platform.local.ports import free_port
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.conftest import administer
from ecommersss_platform_tests.support.browser import CHROMIUM, PATIENCE_MS, Visitor, chromium
from ecommersss_platform_tests.support.project import PROJECT

pytestmark = [
    pytest.mark.integration,
    pytest.mark.ui,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def ui(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a webserver for the real code location, with one day; its secret is in it."""
    administer(postgres, "CREATE DATABASE dagster_ui")
    url = postgres.url("dagster_ui")
    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=home, first_day=date(2025, 1, 1), dagster_url=url)
    ensure_manifest(settings)
    with dagster_instance(settings, url) as instance:
        instance.report_runless_asset_event(
            AssetMaterialization(
                AssetKey(["raw", "orders"]), partition="2025-01-02", metadata={"dagster/row_count": 42}
            )
        )
    port = free_port(0)
    log = home / "webserver.log"
    with log.open("wb") as output:
        webserver = subprocess.Popen(
            [
                *(sys.executable, "-m", "ecommersss_platform.instance.webserver"),
                *("--host", "127.0.0.1", "--port", str(port), "--workspace", str(PROJECT / "workspace.yaml")),
            ],
            cwd=home,
            env=child_environment(settings, url),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    address, token = f"http://127.0.0.1:{port}", ui_token(settings)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{address}/server_info", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                assert webserver.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
        yield f"{address}/?token={token}"
    finally:
        webserver.terminate()
        try:
            webserver.wait(60)
        except subprocess.TimeoutExpired:
            webserver.kill()
            webserver.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(ui: str, browser: Any, tmp_path: Path) -> Iterator[Visitor]:
    page = browser.new_page(viewport={"width": 2400, "height": 4000})
    page.goto(ui, timeout=PATIENCE_MS)  # the browser keeps the secret in a cookie
    yield Visitor(page, ui.partition("/?")[0], tmp_path)
    page.close()


SCHEDULES_AND_SENSORS = (
    *("daily_close", "marketplace_hourly", "topic_retention", "maintenance"),
    *("order_stream_sensor", "label_sensor"),
)
ASSETS = {
    "raw": ["users", "products", "orders"],
    "bronze": ["stg_users", "stg_products", "stg_orders"],
    "silver": ["dim_users", "dim_products", "fact_orders"],
    "gold": ["users_and_blacklist", "most_fraudulent_users"],
}


def test_lineage_graph_shows_every_layer(visitor: Visitor) -> None:
    visitor.visit("/asset-groups", "Global asset lineage", *ASSETS)
    for group, assets in ASSETS.items():
        # The name is in the list on the left and, last, in the graph, where a click expands the group.
        visitor.page.get_by_text(group, exact=True).last.click()
        visitor.see(*assets)
    visitor.picture("lineage")
    visitor.assert_no_errors()


def test_partitions_page_shows_which_days_are_materialised(visitor: Visitor) -> None:
    visitor.visit("/assets/raw/orders?view=partitions&partition=2025-01-02", "Partitions", "2025-01-02")
    visitor.see("Materialized (1)", "Failed (0)", "dagster/row_count", "42")
    visitor.picture("partitions")
    visitor.assert_no_errors()


def test_automation_page_shows_schedules_and_sensors(visitor: Visitor) -> None:
    visitor.visit("/automation", *SCHEDULES_AND_SENSORS)
    visitor.picture("automation")
    visitor.assert_no_errors()
