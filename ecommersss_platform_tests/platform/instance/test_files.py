"""Folders of pages beside the UI: what is served of them, to whom, and what the pages may do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ecommersss_platform.instance import webserver
from ecommersss_platform.instance.files import Folder, file_address, with_folders

HASH = "'sha256-abc='"


async def ui(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"UI"})


def ask(
    app: Any, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the app's answer."""
    sent: list[Mapping[str, Any]] = []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
    }

    async def receive() -> Mapping[str, Any]:
        await asyncio.Event().wait()  # the client sends nothing, and stays
        return {}

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture
def app(tmp_path: Path) -> Any:
    inside = tmp_path / "reports"
    (inside / "2026").mkdir(parents=True)
    (inside / "2026" / "01.html").write_text("<p>a page")
    (tmp_path / "ui_token").write_text("secret")
    (inside / "link").symlink_to(tmp_path / "ui_token")
    folders = {
        "reports": Folder(inside, HASH),
        "plain": Folder(tmp_path / "later"),
        "loud": Folder(inside, "'unsafe-inline'", sandboxed=True),
    }
    return with_folders(ui, folders)


def test_files_of_each_folder_are_served(app: Any) -> None:
    status, headers, body = ask(app, file_address("reports", "2026/01.html"))
    assert (status, headers["content-type"], body) == (200, "text/html; charset=utf-8", b"<p>a page")
    status, headers, body = ask(app, "/files/loud/2026/01.html", "HEAD")
    assert (status, headers["content-length"], body) == (200, "9", b"")


def test_a_folder_may_be_made_while_it_is_served(app: Any, tmp_path: Path) -> None:
    assert ask(app, "/files/plain/index.html")[0] == 404
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "index.html").write_text("now")
    assert ask(app, "/files/plain/index.html")[2] == b"now"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_files_are_only_read(method: str, app: Any) -> None:
    assert ask(app, "/files/reports/2026/01.html", method)[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        *("", "2026", "2026/", "2026/02.html", "link", "\0", "x" * 300),
        *(
            "../ui_token",
            "2026/../../ui_token",
            "..\\ui_token",
            "//etc/passwd",
            "/etc/passwd",
            "%2e%2e/ui_token",
        ),
    ],
)
def test_nothing_else_is_found(path: str, app: Any) -> None:
    status, _, body = ask(app, f"/files/reports/{path}")
    assert (status, b"secret" in body) == (404, False)


@pytest.mark.parametrize("path", ["/files/", "/files/other/x", "/files/../x", "/files//x"])
def test_other_folders_are_not_found(path: str, app: Any) -> None:
    assert ask(app, path)[0] == 404


@pytest.mark.parametrize("path", ["/", "/files", "/filesystem", "/assets/files/x"])
def test_all_other_paths_are_the_uis(path: str, app: Any) -> None:
    assert ask(app, path) == (200, {}, b"UI")


REST = (
    "; style-src 'unsafe-inline'; img-src 'self' data:; font-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


@pytest.mark.parametrize(
    ("path", "scripts", "sandbox"),
    [
        ("reports/2026/01.html", HASH, ""),
        ("reports/none", HASH, ""),
        ("plain/none", "'none'", ""),
        ("other", "'none'", ""),
        ("loud/2026/01.html", "'unsafe-inline'", "; sandbox allow-scripts"),
    ],
)
def test_each_response_has_the_policy_of_its_folder(path: str, scripts: str, sandbox: str, app: Any) -> None:
    headers = ask(app, f"/files/{path}")[1]
    policy = f"default-src 'none'; script-src {scripts}{REST}{sandbox}"
    assert headers["content-security-policy"] == policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "private, no-cache"


def test_the_webserver_serves_dbts_documentation_to_who_knows_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster_webserver import app as upstream
    from dagster_webserver import cli

    (tmp_path / "page.html").write_text("documentation")
    monkeypatch.setattr(webserver, "DOCS_PAGE", tmp_path / "page.html")
    monkeypatch.setattr(sys, "argv", ["webserver"])
    monkeypatch.setattr(cli, "main", lambda: None)
    monkeypatch.setattr(upstream, "create_app_from_workspace_process_context", lambda: ui)
    monkeypatch.setattr(cli, "create_app_from_workspace_process_context", None)
    monkeypatch.setenv("ECOMMERSSS_HOME", str(tmp_path))
    monkeypatch.setenv("ECOMMERSSS_UI_TOKEN", "a-secret-of-some-length")
    webserver.main()
    app = cli.create_app_from_workspace_process_context()  # type: ignore[call-arg]
    host = {"host": "127.0.0.1:3000"}
    page = file_address("dbt", "page.html")
    assert ask(app, page, headers=host)[0] == 401
    secret = {"authorization": "Bearer a-secret-of-some-length"}
    assert ask(app, page, headers={"host": "evil.example"} | secret)[0] == 403
    status, headers, body = ask(app, page, headers=host | secret)
    assert (status, body) == (200, b"documentation")
    # Its scripts may do anything, so its pages must have no origin.
    assert headers["content-security-policy"].endswith("; sandbox allow-scripts")
    assert ask(app, "/", headers=host | secret)[2] == b"UI"
