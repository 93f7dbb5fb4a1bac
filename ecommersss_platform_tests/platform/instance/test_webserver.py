"""The guard before Dagster's webserver: what it lets through, and what it answers to the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from ecommersss_platform.instance.webserver import LOOPBACK, guarded, refusal
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


def answers(scope: dict[str, Any]) -> list[Mapping[str, Any]]:
    """What the guard sends for a request to an app that answers nothing itself."""
    sent: list[Mapping[str, Any]] = []

    async def app(*_: Any) -> None:
        sent.append({"type": "passed on"})

    async def receive() -> Mapping[str, Any]:
        return {}

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(guarded(app, LOOPBACK)(scope, receive, send))
    return sent


def test_refused_requests_never_reach_the_app() -> None:
    assert answers(request()) == [{"type": "passed on"}]
    start, body = answers(request(headers={"host": "evil.example"}))
    assert start["status"] == 403
    assert b"ECOMMERSSS_UI_HOSTS" in body["body"]
    [closed] = answers(request(kind="websocket", headers=HOST | EVIL))
    assert closed == {"type": "websocket.close", "code": 1008}
    assert answers({"type": "lifespan"}) == [{"type": "passed on"}]
