"""`make docs`: dbt's documentation of the models as one page, which works from its folder beside the UI."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecommersss_platform.dbt.project import DOCS_PAGE, PROJECT_DIR
from ecommersss_platform.instance import webserver
from ecommersss_platform.instance.files import file_address, with_folders
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.browser import CHROMIUM, chromium
from ecommersss_platform_tests.support.project import PROJECT

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    shown = subprocess.run(["make", "--dry-run", "docs"], cwd=PROJECT, capture_output=True, text=True).stdout
    assert f"file://{DOCS_PAGE}" in shown
    command = shown[shown.index("ECOMMERSSS_DUCKDB_PATH=") :].split("\nrm ")[0]
    subprocess.run(
        ["bash", "-c", command.replace(str(DOCS_PAGE.parent), str(folder))], cwd=PROJECT, check=True
    )
    return folder / DOCS_PAGE.name


def test_docs_are_one_page_with_every_model_and_open_no_warehouse(page: Path) -> None:
    text = page.read_text()
    models = {path.stem for path in (PROJECT_DIR / "models").rglob("*.sql")}
    assert set(re.findall(r'"unique_id": ?"model\.ecommersss\.(\w+)"', text)) == models
    assert re.findall(r'<(?:script|link)[^>]+(?:src|href)="https?:', text) == []


@pytest.fixture
def address(page: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the address of a server of the page, beside a UI that is empty."""
    import uvicorn
    from starlette.responses import HTMLResponse

    monkeypatch.setattr(webserver, "DOCS_PAGE", page)
    app = with_folders(HTMLResponse("the UI"), webserver.folders(Settings()))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield "http://{}:{}".format(*server.servers[0].sockets[0].getsockname())
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.ui
def test_a_model_has_its_page_and_scripts_of_the_page_cannot_reach_the_ui(address: str) -> None:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with chromium() as browser:
        visited = browser.new_page()
        hosts: set[str] = set()
        visited.on("request", lambda request: hosts.add(request.url.split("/files/")[0]))
        visited.goto(f"{address}{file_address('dbt', DOCS_PAGE.name)}#!/model/model.ecommersss.fact_orders")
        visited.get_by_text("fact_orders").first.wait_for()
        visited.get_by_text("fraud_reasons").first.wait_for()
        origin, answer = visited.evaluate(
            "async () => [self.origin, await fetch('/').then(it => it.status, problem => `${problem}`)]"
        )
        assert (origin, answer) == ("null", "TypeError: Failed to fetch")
        assert hosts == {address}
