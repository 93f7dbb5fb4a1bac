"""Take the screenshots of README from a running platform: `python docs/images/screenshots.py ADDRESS`.

ADDRESS is what `ecommersss up` prints, with its secret. Materialise a day first. Needs Chromium on the path.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def lineage(page: Page, address: str) -> None:
    """Show the groups of the asset graph, from the topic to the report."""
    page.set_viewport_size({"width": 1500, "height": 900})
    page.goto(f"{address}/asset-groups")
    page.wait_for_timeout(6_000)
    page.mouse.move(900, 60)
    page.screenshot(path=HERE / "lineage.png", clip={"x": 550, "y": 400, "width": 950, "height": 140})
    page.set_viewport_size({"width": 2400, "height": 1500})


def run(page: Page, address: str) -> None:
    """Show the first successful run of the daily pipeline, which made every table, step by step."""
    page.goto(f"{address}/runs?q[0]=job%3Adaily_pipeline&q[1]=status%3ASUCCESS")
    page.locator("a[href^='/runs/']").last.click()
    page.wait_for_timeout(5_000)
    # Make room for the steps: drag the border between them and the events down.
    height = page.viewport_size["height"] if page.viewport_size else 1000
    border = page.get_by_text("Events", exact=True).bounding_box()
    assert border is not None
    page.mouse.move(700, border["y"] - 22)
    page.mouse.down()
    page.mouse.move(700, 0.6 * height, steps=5)
    page.mouse.up()
    page.wait_for_timeout(1_000)
    page.screenshot(path=HERE / "run.png", clip={"x": 240, "y": 0, "width": 1510, "height": 0.38 * height})


def report(page: Page, address: str) -> None:
    """Show the beginning of a fraud report, on a desk and on a phone. `address`: of the page."""
    for name, width, height in (("report", 1200, 1130), ("report-phone", 390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        page.goto(address)
        page.screenshot(path=HERE / f"{name}.png")


def newest_report(page: Page, address: str) -> str:
    """Return the address of the newest report of a day that is over."""
    index = f"{address}/files/reports/index.html"
    page.goto(index)
    return index.replace("index.html", page.locator("tbody a").nth(1).get_attribute("href") or "")


def main(address: str) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 2400, "height": 1500}, timezone_id="Asia/Jakarta")
        page.goto(address)  # the browser keeps the secret in a cookie
        place = address.partition("/?")[0]
        lineage(page, place)
        run(page, place)
        report(page, newest_report(page, place))
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
