"""The guard before Dagster's webserver: what it lets through, and what it answers to the rest."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from ecommersss_platform.instance import webserver
from ecommersss_platform.instance.home import ui_token
from ecommersss_platform.instance.webserver import LOOPBACK, cookie_name, guarded, refusal
from ecommersss_platform.settings import Settings

HOST = {"host": "127.0.0.1:3000"}
JSON = {"content-type": "application/json"}
OWN = {"origin": "http://127.0.0.1:3000"}
EVIL = {"origin": "https://evil.example"}


def request(
    method: str = "GET",
    path: str = "/",
    headers: Mapping[str, str] = HOST,
    query: str = "",
    kind: str = "http",
) -> dict[str, Any]:
    return {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }


@pytest.mark.parametrize(
    "allowed",
    [
        request(),
        request(headers={"host": "localhost:3000"}),
        request(headers={"host": "[::1]:3000"}),
        request(path="/graphql"),
        request("POST", "/graphql", HOST | JSON),
        request("POST", "/graphql", HOST | JSON | OWN),
        request("POST", "/graphql", HOST | OWN | {"content-type": "application/json; charset=UTF-8"}),
        request("POST", "/report_asset_materialization/raw/orders", HOST | JSON),
        request(kind="websocket", path="/graphql", headers=HOST | OWN),
    ],
)
def test_the_guard_lets_the_ui_through(allowed: dict[str, Any]) -> None:
    assert refusal(allowed, LOOPBACK) is None


@pytest.mark.parametrize(
    ("refused", "says"),
    [
        (request(headers={}), "not reached by the name ''"),
        (request(headers={"host": "evil.example"}), "'evil.example'"),
        (request(headers={"host": "[::1"}), "not reached by the name '[::1'"),
        (request(headers={"host": "127.0.0.1.evil.example:3000"}), "evil.example"),
        (request("POST", "/graphql", HOST | JSON | EVIL), "a page of 'https://evil.example'"),
        (request("POST", "/graphql", HOST | JSON | {"origin": "null"}), "a page of 'null'"),
        (request("POST", "/graphql", HOST | JSON | {"origin": "http://127.0.0.1:8000"}), "8000"),
        (request(path="/graphql", query="query=mutation{x}"), "by POST"),
        (request(path="/graphql", query="query="), "by POST"),
        (
            request("POST", "/graphql", HOST | {"content-type": "text/plain; application/json"}),
            "application/json",
        ),
        (
            request("POST", "/graphql", HOST | {"content-type": "application/json; text/plain"}),
            "application/json",
        ),
        (request("POST", "/graphql", HOST), "application/json"),
        (request("POST", "/report_asset_check/raw/orders", HOST | {"content-type": "text/plain"}), "json"),
        (request(kind="websocket", path="/graphql", headers=HOST | EVIL), "evil.example"),
        (request(kind="websocket", path="/graphql", headers=HOST), "needs an Origin"),
    ],
)
def test_the_guard_refuses_what_other_pages_can_send(refused: dict[str, Any], says: str) -> None:
    assert says in str(refusal(refused, LOOPBACK))


def test_a_reverse_proxys_name_is_a_setting() -> None:
    hosts = Settings(ui_hosts="Dagster.shop.example, other.example", _env_file=None).ui_host_names
    scope = request(headers={"host": "dagster.shop.example"})
    assert refusal(scope, LOOPBACK) is not None
    assert refusal(scope, LOOPBACK | hosts) is None


TOKEN = "a-secret-of-some-length"
COOKIE = {"cookie": f"other=[1]; {cookie_name(TOKEN)}={TOKEN}"}
BEARER = {"authorization": f"Bearer {TOKEN}"}
PASSED_ON = [{"type": "passed on"}]


def answers(scope: dict[str, Any], body: bytes = b"", more: bool = False) -> list[Mapping[str, Any]]:
    """What the guard sends for a request to an app that reads the request and answers nothing itself."""
    sent: list[Mapping[str, Any]] = []
    messages = iter([{"type": "http.request", "body": body, "more_body": more}])

    async def app(_: Any, receive: Any, __: Any) -> None:
        assert (await receive())["body"] == body
        sent.append({"type": "passed on"})

    async def receive() -> Mapping[str, Any]:
        return next(messages)

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(guarded(app, LOOPBACK, TOKEN)(scope, receive, send))
    return sent


def test_refused_requests_never_reach_the_app() -> None:
    assert answers(request(headers=HOST | BEARER)) == PASSED_ON
    start, body = answers(request(headers={"host": "evil.example"} | BEARER))
    assert start["status"] == 403
    assert b"ECOMMERSSS_UI_HOSTS" in body["body"]
    [closed] = answers(request(kind="websocket", headers=HOST | EVIL | COOKIE))
    assert closed == {"type": "websocket.close", "code": 1008}
    assert answers({"type": "lifespan"}) == PASSED_ON


@pytest.mark.parametrize("secret", [COOKIE, BEARER])
@pytest.mark.parametrize(
    "asked",
    [
        request(),
        request(path="/asset-groups"),
        request("POST", "/graphql", HOST | JSON | OWN),
        request("POST", "/report_asset_materialization/raw/orders", HOST | JSON),
        request(kind="websocket", path="/graphql", headers=HOST | OWN),
    ],
)
def test_everything_asks_for_the_secret(asked: dict[str, Any], secret: dict[str, str]) -> None:
    start = answers(asked)[0]
    if asked["type"] == "http":
        assert start["status"] == 401
    else:
        assert start == {"type": "websocket.close", "code": 1008}
    headers = [(name.encode(), value.encode()) for name, value in secret.items()]
    assert answers(asked | {"headers": asked["headers"] + headers}) == PASSED_ON


@pytest.mark.parametrize(
    "wrong",
    [
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer é"},
        {"authorization": "Bearer"},
        {"cookie": f"token={TOKEN}"},
        {"cookie": f"{cookie_name(TOKEN)}=other"},
        {"cookie": f"{cookie_name(TOKEN)}="},
        {"cookie": "{{{"},
    ],
)
def test_a_wrong_secret_is_none(wrong: dict[str, str]) -> None:
    assert answers(request(headers=HOST | wrong))[0]["status"] == 401


def test_the_printed_address_sets_a_cookie_and_leads_to_the_page_without_the_secret() -> None:
    start, _ = answers(request(path="/runs", query=f"view=all&token={TOKEN}"))
    headers = dict(start["headers"])
    assert (start["status"], headers[b"location"]) == (303, b"/runs?view=all")
    cookie, *attributes = headers[b"set-cookie"].decode().split("; ")
    assert cookie == f"{cookie_name(TOKEN)}={TOKEN}"
    assert set(attributes) == {"HttpOnly", "Max-Age=2592000", "Path=/", "SameSite=Strict"}
    assert answers(request(headers=HOST | {"cookie": cookie})) == PASSED_ON


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "/a\r\nset-cookie: b=c"])
def test_the_printed_address_leads_to_no_other_place(path: str) -> None:
    start, _ = answers(request(path=path, query=f"token={TOKEN}"))
    location = dict(start["headers"])[b"location"]
    assert re.fullmatch(rb"/\w[\w.%-]+", location)


@pytest.mark.parametrize(
    ("method", "query"), [("GET", "token=wrong"), ("GET", "token="), ("POST", f"token={TOKEN}")]
)
def test_no_other_request_logs_in(method: str, query: str) -> None:
    assert answers(request(method, "/", HOST | JSON, query))[0]["status"] == 401


def test_health_checks_may_ask_which_version_runs_and_nothing_else() -> None:
    assert answers(request(path="/server_info")) == PASSED_ON
    query = request("POST", "/graphql", HOST | JSON)
    assert answers(query, b'{"query": "{version}"}') == PASSED_ON
    assert answers(query, b'{"query": "{ version }"}') == PASSED_ON
    for body in (
        b'{"query": "{version runsOrError {__typename}}"}',
        b'{"query": "{version}", "operationName": "x"}',
        b'[{"query": "{version}"}]',
        b'{"query": ["{version}"]}',
        b"",
        b"\xff",
    ):
        assert answers(query, body)[0]["status"] == 401, body
    assert answers(query, b'{"query": "{version}"}', more=True)[0]["status"] == 401


def test_the_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", _env_file=None)
    with ThreadPoolExecutor(8) as pool:
        [token] = set(pool.map(lambda _: ui_token(settings), range(8)))
    assert len(token) >= 32
    assert [path.name for path in settings.home.iterdir()] == ["ui_token"]
    assert settings.ui_token_path.stat().st_mode & 0o777 == 0o600
    assert ui_token(settings.model_copy(update={"ui_token": SecretStr(TOKEN)})) == TOKEN


@pytest.mark.parametrize("read_only", [True, False])
def test_the_webserver_is_read_only_if_the_setting_says_so(
    read_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster_webserver import cli

    monkeypatch.setattr(sys, "argv", ["webserver"])
    monkeypatch.setattr(cli, "main", lambda: None)
    monkeypatch.setattr(cli, "create_app_from_workspace_process_context", None)
    monkeypatch.setenv("ECOMMERSSS_HOME", str(tmp_path))
    monkeypatch.setenv("ECOMMERSSS_UI_READ_ONLY", str(read_only))
    webserver.main()
    assert sys.argv[1:] == (["--read-only"] if read_only else [])
