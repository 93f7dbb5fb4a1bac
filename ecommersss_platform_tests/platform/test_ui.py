"""The Dagster UI of a running platform in headless Chromium: what people click works, without errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from benchmarks.stack import Platform, platform, wait_until
from ecommersss_platform_tests.support.browser import CHROMIUM, PATIENCE_MS, Visitor, chromium
from streaming.business_days import JAKARTA, business_day

pytestmark = [
    pytest.mark.integration,
    pytest.mark.ui,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def running() -> Iterator[Platform]:
    """A platform as `make dev` starts it, with a week of few orders, which its sensor materialises.

    Then its automation is stopped, which would start more runs: for labels, and for the hour that begins.
    """
    with platform("--rate", "0", "--orders-per-day", "100") as running:
        asked = ("QUEUED", "STARTING", "STARTED", "SUCCESS")
        wait_until(lambda: running.dagster.runs(*asked), "the sensor asks for no run")
        running.dagster.stop_automation()
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(running: Platform, browser: Any) -> Iterator[Visitor]:
    dagster = running.dagster
    # The UI offers the days up to today where the browser is.
    page = browser.new_page(viewport={"width": 1600, "height": 1200}, timezone_id=str(JAKARTA))
    # The browser keeps the secret in a cookie.
    page.goto(f"{dagster.address}/?token={dagster.token}", timeout=PATIENCE_MS)
    yield Visitor(page, dagster.address)
    page.close()


SCHEDULES_AND_SENSORS = (
    *("daily_close", "marketplace_hourly", "topic_retention", "maintenance"),
    *("order_stream_sensor", "label_sensor"),
)
LAUNCH = re.compile("^Launch ")
ASSETS = {
    "stream": ["orders", "flagged_orders"],
    "raw": ["users", "products", "orders"],
    "bronze": ["stg_users", "stg_products", "stg_orders"],
    "silver": ["dim_users", "dim_products", "fact_orders"],
    "gold": ["users_and_blacklist", "most_fraudulent_users"],
    "reports": ["fraud_report"],
}


def test_lineage_graph_shows_every_layer(visitor: Visitor) -> None:
    visitor.visit("/asset-groups", "Global asset lineage", *ASSETS)
    for group in ("stream", "gold", "reports"):
        visitor.visit(f"/locations/ecommersss_platform/asset-groups/{group}/lineage", *ASSETS[group])
    visitor.assert_no_errors()


def test_automation_page_shows_schedules_and_sensors(visitor: Visitor) -> None:
    visitor.visit("/automation", *SCHEDULES_AND_SENSORS)
    visitor.assert_no_errors()


def test_sensor_page_shows_its_ticks_and_the_run_that_one_asked_for(visitor: Visitor) -> None:
    visitor.visit("/locations/ecommersss_platform/sensors/order_stream_sensor", "Latest tick", "Cursor")
    visitor.see("1 run requested")
    visitor.assert_no_errors()


def launch(visitor: Visitor) -> None:
    """Press the last button that launches something, and wait for the server's answer.

    Leaving the page earlier would cancel the request.
    """
    mutation = re.compile("mutation .*[Ll]aunch", re.DOTALL)
    with visitor.page.expect_response(
        lambda answer: mutation.search(answer.request.post_data or "") is not None, timeout=PATIENCE_MS
    ):
        visitor.page.get_by_role("button", name=LAUNCH).last.click()


def test_a_partition_and_a_backfill_are_launched_by_clicks_and_watched_to_their_end(
    visitor: Visitor, running: Platform
) -> None:
    page = visitor.page
    visitor.visit("/assets/raw/products", "Materialize…")
    page.get_by_role("button", name="Materialize…").click()
    page.get_by_role("button", name="Latest", exact=True).click()
    launch(visitor)
    visitor.visit("/locations/ecommersss_platform/jobs/daily_pipeline", "Materialize all…")
    page.get_by_role("button", name="Materialize all…").click()
    page.get_by_role("button", name="All", exact=True).click()
    launch(visitor)
    visitor.visit("/runs?tab=backfills", "8 partitions")
    visitor.visit("/runs", "Manually launched")
    page.get_by_text("Started").or_(page.get_by_text("Queued")).first.wait_for(timeout=PATIENCE_MS)
    # The daemon launches the backfill's run when it gets to it, perhaps after the others have ended.
    wait_until(lambda: running.dagster.runs("SUCCESS") >= 3, "the backfill's run has not succeeded", 300)
    # The page follows the runs by itself.
    page.wait_for_function(
        "() => /Manually launched/.test(document.body.innerText)"
        " && !/\\b(Started|Starting|Queued|In progress|Requested)\\b(?! \\()/.test(document.body.innerText)",
        timeout=4 * PATIENCE_MS,
        polling=500,  # by default on every frame, each time with a layout of the whole page
    )
    assert page.get_by_text("Success", exact=True).count() >= 2, "the sensor's run and that of the partition"
    assert page.get_by_text("Failed", exact=True).count() == 1, "the name of the tab"
    visitor.assert_no_errors()


def test_asset_pages_show_partitions_checks_and_figures_that_plot(visitor: Visitor) -> None:
    visitor.visit("/assets/raw/orders?view=partitions", "Materialized (8)", "Failed (0)", "Missing (0)")
    visitor.visit("/assets/raw/orders?view=checks", "reconciles_with_postgres", "Succeeded")
    visitor.page.locator("canvas").first.wait_for(timeout=PATIENCE_MS)
    visitor.visit("/assets/raw/orders?view=overview", "dagster/partition_row_count")
    visitor.assert_no_errors()


def test_the_report_is_opened_by_its_link(visitor: Visitor) -> None:
    yesterday = business_day(datetime.now(UTC)) - timedelta(days=1)
    visitor.visit(f"/assets/reports/fraud_report?view=partitions&partition={yesterday}", "report")
    with visitor.page.context.expect_page() as opened:
        visitor.page.locator("a[href*='/files/reports/']").first.click()
    report = Visitor(opened.value, visitor.address)
    report.page.wait_for_load_state()
    assert report.page.title().startswith("Fraud report, ")
    report.see("The day in five numbers", "Rules")
    assert report.page.locator(".numbers .value").first.inner_text() == "100"
    report.page.set_viewport_size({"width": 390, "height": 844})
    assert report.page.evaluate("document.documentElement.scrollWidth") == 390
    report.page.get_by_role("link", name="All days").click()
    report.see("Fraud reports")
    assert report.page.locator("tbody tr").count() == 8
    report.assert_no_errors()
    visitor.assert_no_errors()
