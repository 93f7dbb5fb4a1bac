"""Headless Chromium, and a visitor who notices every error and every host that a page talks to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000
TOASTS = "[data-sonner-toast]"


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser for the block. Skips the test without playwright."""
    reason = "playwright is not installed: make setup"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visitor:
    """A browser page that records every error on it and every host it talks to."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        page.on("pageerror", lambda error: self.errors.append(f"page error: {error}"))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))
        page.on(
            "console",
            lambda message: message.type == "error" and self.errors.append(f"console: {message.text}"),
        )
        page.on(
            "response",
            lambda answer: answer.status >= 500 and self.errors.append(f"{answer.status} {answer.url}"),
        )
        page.on("request", lambda request: self.hosts.add(urlparse(request.url).netloc))

    def visit(self, path: str, *texts: str) -> None:
        """Open a path and wait until all texts are visible."""
        self.page.goto(self.address + path, timeout=PATIENCE_MS)
        self.see(*texts)

    def see(self, *texts: str) -> None:
        for text in texts:
            # The UI writes some texts twice: one of them is hidden, and only measured.
            found = self.page.get_by_text(text, exact=True).locator("visible=true")
            found.first.wait_for(timeout=PATIENCE_MS)

    def assert_no_errors(self) -> None:
        """Fail on any error of the page, its console or the server, and on a request to another host."""
        self.page.wait_for_load_state("networkidle")
        assert self.page.locator(TOASTS).count() == 0
        assert self.errors == []
        assert {host for host in self.hosts if host} == {urlparse(self.address).netloc}
