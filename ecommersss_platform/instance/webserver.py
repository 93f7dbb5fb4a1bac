"""Dagster's webserver behind a guard: `python -m ecommersss_platform.instance.webserver`, with its options.

Dagster's own server has no authentication, runs mutations through GET, and answers to any Host. So a page of
any web site could start runs in the browser of whoever has the UI open. The guard lets through only what the
UI itself sends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ecommersss_platform.settings import Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_SAFE = ("GET", "HEAD", "OPTIONS")


def refusal(scope: Mapping[str, Any], hosts: frozenset[str]) -> str | None:
    """Return why a request is refused, or None. `hosts` are the names that the UI is reached by.

    `scope` is that of ASGI, for HTTP or a WebSocket. Refused are a foreign Host, a foreign Origin, a GraphQL
    query by GET, and a POST whose body is not declared as exactly `application/json`: a page of another site
    cannot send the last without asking first, which the server does not answer.
    """
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get("host", "")
    if _name(f"//{host}") not in hosts:
        return f"the UI is not reached by the name {host!r}: name it in ECOMMERSSS_UI_HOSTS"
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return f"a page of {origin!r} may not use the UI at {host}"
    if scope["type"] == "websocket":
        return None if origin is not None else "a WebSocket needs an Origin"
    if scope["method"] in _SAFE:
        asks = "query" in parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        graphql = scope["path"].endswith("/graphql")
        return "GraphQL queries are sent by POST" if graphql and asks else None
    kind, *parameters = headers.get("content-type", "").lower().replace(" ", "").split(";")
    if kind != "application/json" or parameters not in ([], ["charset=utf-8"]):
        return "the body must be application/json"
    return None


def _name(address: str) -> str | None:
    """Return the host name of an address, in lower case; None if it has none."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def guarded(app: App, hosts: frozenset[str]) -> App:
    """Return the app behind the guard: what is refused gets 403, or for a WebSocket no connection."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        problem = refusal(scope, hosts) if scope["type"] in ("http", "websocket") else None
        if problem is None:
            return await app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": HTTPStatus.FORBIDDEN, "headers": headers})
        await send({"type": "http.response.body", "body": f"{problem}\n".encode()})

    return guard


def main() -> None:
    from dagster_webserver import app, cli

    hosts = LOOPBACK | Settings().ui_host_names
    create: Any = app.create_app_from_workspace_process_context

    def create_guarded(*arguments: Any, **options: Any) -> Any:
        return guarded(create(*arguments, **options), hosts)

    # Upstream has no hook for middleware: its command finds this name in its own module.
    cli.create_app_from_workspace_process_context = create_guarded
    cli.main()


if __name__ == "__main__":
    main()
