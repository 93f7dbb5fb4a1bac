"""Dagster's webserver behind a guard: `python -m ecommersss_platform.instance.webserver`, with its options.

Dagster's own server has no authentication, runs mutations through GET, and answers to any Host. So a page of
any web site could start runs in the browser of whoever has the UI open, and every account of the machine
could use it. The guard lets through only what the UI itself sends, with the secret of the home.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

from ecommersss_platform.dbt.project import DOCS_PAGE
from ecommersss_platform.instance.files import Folder, with_folders
from ecommersss_platform.instance.home import ui_token
from ecommersss_platform.reports.serving import REPORTS, script_source
from ecommersss_platform.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_SAFE = ("GET", "HEAD", "OPTIONS")
_COOKIE_SECONDS = 30 * 86_400
_LOGIN = (
    "This Dagster UI asks for its secret. Open the address with ?token=... that `ecommersss up` and"
    " `ecommersss status` print. If you came from another site with a cookie, reload the page. Scripts send"
    " the header: Authorization: Bearer TOKEN"
)


def refusal(scope: Mapping[str, Any], hosts: frozenset[str]) -> str | None:
    """Return why a request is refused, or None. `hosts` are the names that the UI is reached by.

    `scope` is that of ASGI, for HTTP or a WebSocket. Refused are a foreign Host, a foreign Origin, a GraphQL
    query by GET, and a POST whose body is not declared as exactly `application/json`: a page of another site
    cannot send the last without asking first, which the server does not answer.
    """
    headers = _headers(scope)
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


def cookie_name(token: str) -> str:
    """Return the name of the cookie that holds this secret.

    Browsers share cookies between all ports of a host, so each platform has a name of its own.
    """
    return f"ecommersss_{hashlib.sha256(token.encode()).hexdigest()[:12]}"


def knows(scope: Mapping[str, Any], token: str) -> bool:
    """Return whether a request has the secret, in its cookie or as a bearer token."""
    headers = _headers(scope)
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    given = [bearer.strip()] if scheme.lower() == "bearer" else []
    # By hand, because `http.cookies` drops all cookies if another program of this host sets a strange one.
    cookies = [part.strip().partition("=") for part in headers.get("cookie", "").split(";")]
    given += [value for name, _, value in cookies if name == cookie_name(token)]
    return any(_equal(value, token) for value in given)


def login(scope: Mapping[str, Any], token: str) -> list[tuple[bytes, bytes]] | None:
    """Return the headers that answer a page's address with the secret in it, or None if there is none.

    They set the cookie, and lead to the same address without the secret.
    """
    if scope["type"] != "http" or scope["method"] != "GET":
        return None
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    if not any(name == "token" and _equal(value, token) for name, value in query):
        return None
    rest = urlencode([pair for pair in query if pair[0] != "token"])
    # A path that begins with two slashes would lead to another host.
    place = quote("/" + scope["path"].lstrip("/\\")) + (f"?{rest}" if rest else "")
    attributes = f"Path=/; Max-Age={_COOKIE_SECONDS}; HttpOnly; SameSite=Strict"
    return [
        (b"location", place.encode()),
        (b"set-cookie", f"{cookie_name(token)}={token}; {attributes}".encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-store"),
    ]


def asks_for_the_version(body: bytes) -> bool:
    """Return whether a body is the GraphQL query `{version}` and nothing else."""
    try:
        content = json.loads(body)
    except ValueError:
        return False
    if not isinstance(content, dict) or content.keys() != {"query"}:
        return False
    return "".join(str(content["query"]).split()) == "{version}"


def guarded(app: ASGIApp, hosts: frozenset[str], token: str) -> ASGIApp:
    """Return the app behind the guard: what is refused gets 403 or 401, or for a WebSocket no connection.

    Without the secret, health checks may ask which version runs: GET /server_info, or the query `{version}`.
    """

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await app(scope, receive, send)
        if problem := refusal(scope, hosts):
            return await _answer(scope, send, HTTPStatus.FORBIDDEN, problem)
        if headers := login(scope, token):
            return await _answer(scope, send, HTTPStatus.SEE_OTHER, "", headers)
        if knows(scope, token) or (scope["type"] == "http" and scope["path"] == "/server_info"):
            return await app(scope, receive, send)
        if scope["type"] == "http" and (scope["method"], scope["path"]) == ("POST", "/graphql"):
            message = await receive()
            if not message.get("more_body") and asks_for_the_version(message.get("body", b"")):
                messages = iter([message])

                async def again() -> Message:
                    return next(messages, None) or await receive()

                return await app(scope, again, send)
        return await _answer(scope, send, HTTPStatus.UNAUTHORIZED, _LOGIN)

    return guard


async def _answer(
    scope: Scope, send: Send, status: HTTPStatus, text: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008})
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})


def _headers(scope: Mapping[str, Any]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _equal(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _name(address: str) -> str | None:
    """Return the host name of an address, in lower case; None if it has none."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def folders(settings: Settings) -> dict[str, Folder]:
    """Return the folders of pages that are served at `/files/NAME/`."""
    return {
        # dbt's page is an application that evaluates text as code.
        "dbt": Folder(DOCS_PAGE.parent, "'unsafe-inline' 'unsafe-eval'", sandboxed=True),
        REPORTS: Folder(settings.reports_dir, script_source()),
    }


def main() -> None:
    from dagster_webserver import app, cli

    settings = Settings()
    hosts, token = LOOPBACK | settings.ui_host_names, ui_token(settings)
    create: Any = app.create_app_from_workspace_process_context

    def create_guarded(*arguments: Any, **options: Any) -> Any:
        return guarded(with_folders(create(*arguments, **options), folders(settings)), hosts, token)

    # Upstream has no hook for middleware: its command finds this name in its own module.
    cli.create_app_from_workspace_process_context = create_guarded
    if settings.ui_read_only:
        sys.argv.append("--read-only")
    cli.main()


if __name__ == "__main__":
    main()
