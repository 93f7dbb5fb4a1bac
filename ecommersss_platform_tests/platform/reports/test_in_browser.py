"""A page in headless Chromium, as the webserver sends it: hostile texts, keyboard, phone, print, contrast."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.responses import HTMLResponse

from ecommersss_platform.instance.files import file_address, with_folders
from ecommersss_platform.instance.webserver import folders
from ecommersss_platform.reports.folder import write_index, write_page
from ecommersss_platform.reports.page import day_page
from ecommersss_platform.reports.serving import REPORTS, page_name
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.browser import CHROMIUM, Visitor, chromium
from ecommersss_platform_tests.support.report_rows import (
    DAY_OF_REPORT,
    hostile_figures,
    report_figures,
    report_rows,
    rule,
    rule_totals,
)

pytestmark = [
    pytest.mark.ui,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]

RULES = (
    *("country_change", "extreme_order", "foreign_country"),
    *("night_bulk_order", "rapid_orders", "wallet_limit"),
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a folder with a full page, `hostile.html`, `empty.html` and the index."""
    settings = Settings(home=tmp_path_factory.mktemp("home"), _env_file=None)
    folder = settings.reports_dir
    days = report_rows().rules
    full = report_figures(
        rules={day: [rule(day, name, 3 + place) for place, name in enumerate(RULES)] for day in days},
        totals=[rule_totals(name) for name in RULES],
    )
    write_page(folder, page_name(DAY_OF_REPORT), day_page(full))
    write_page(folder, "hostile.html", day_page(hostile_figures()))
    write_page(folder, "empty.html", day_page(report_figures(summaries={}, methods={}, rules={})))
    write_index(folder)
    app = with_folders(HTMLResponse("the UI"), folders(settings))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(address: str, browser: Any) -> Iterator[Any]:
    """A function that opens a file of the folder in a window with these options."""
    contexts = []

    def visit(name: str, **options: Any) -> Visitor:
        contexts.append(browser.new_context(**options))
        visitor = Visitor(contexts[-1].new_page(), address)
        visitor.visit(file_address(REPORTS, name))
        return visitor

    yield visit
    for context in contexts:
        context.close()


FULL = page_name(DAY_OF_REPORT)
FILES = (FULL, "hostile.html", "empty.html", "index.html")


@pytest.mark.parametrize("name", FILES)
def test_page_loads_without_an_error_and_asks_no_other_host(open_page: Any, name: str) -> None:
    visitor = open_page(name)
    assert visitor.page.locator("h1").count() == 1
    visitor.assert_no_errors()


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        (FULL, "light"),
        (FULL, "dark"),
        ("hostile.html", "light"),
        ("empty.html", "dark"),
        ("index.html", "dark"),
    ],
)
def test_page_is_accessible_in_both_schemes(open_page: Any, name: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    # The policy of the page keeps out axe, too.
    visitor = open_page(name, color_scheme=scheme, bypass_csp=True)
    for details in visitor.page.locator("summary").all():
        details.click()
    found = axe.run(visitor.page)
    assert found.response["testEngine"]["name"] == "axe-core"
    assert len(found.response["passes"]) > 10
    assert found.violations_count == 0, found.generate_report()


def test_colours_follow_the_scheme_also_in_charts(open_page: Any) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        page = open_page(FULL, color_scheme=scheme).page
        line = page.locator(".chart svg .mark-line path").first
        colours.add(line.evaluate("it => getComputedStyle(it).stroke"))
        colours.add(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    assert len(colours) == 4
    assert not {"none", "rgba(0, 0, 0, 0)"} & colours


@pytest.mark.parametrize("name", FILES)
def test_phone_shows_the_page_without_scrolling_sideways(open_page: Any, name: str) -> None:
    page = open_page(name, viewport={"width": 390, "height": 844}).page
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for chart in page.locator(".chart text").all():
        height = chart.evaluate("it => it.getBoundingClientRect().height")
        assert height >= 9, "the text of a chart can be read"


def test_page_prints_on_two_pages(open_page: Any, tmp_path: Path) -> None:
    pdf = open_page(FULL).page.pdf(format="A4", prefer_css_page_size=True)
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 2


def test_tables_sort_and_search_by_keyboard(open_page: Any) -> None:
    page = open_page(FULL).page
    rules = page.locator("table", has_text="Only this rule")

    def names() -> list[str]:
        return [it.inner_text() for it in rules.locator("tbody tr:not([hidden]) th").all()]

    assert names() == ["wallet_limit", "rapid_orders", *reversed(RULES[:4])]
    rules.get_by_role("button", name="Rule", exact=True).focus()
    page.keyboard.press("Enter")
    assert names() == list(RULES)
    assert rules.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # flagged: most first
    assert names() == list(reversed(RULES))
    page.get_by_role("searchbox", name="Search: Rules").fill("FOREIGN")
    assert names() == ["foreign_country"]


def test_page_works_without_its_script(open_page: Any) -> None:
    page = open_page(FULL, java_script_enabled=False).page
    assert page.get_by_text("wallet_limit").count() >= 1
    assert page.locator("input").count() == 0
