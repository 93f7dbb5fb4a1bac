"""Questions to a running Dagster webserver on this machine."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from typing import Any

from ecommersss_platform.local.ports import HOST

_LOCATIONS = """
{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }
"""
_DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { required lastHeartbeatTime } } } }"


def answers(port: int) -> bool:
    """Return whether a Dagster webserver answers on this port."""
    answer = _request(port, "GET", "/server_info")
    return answer is not None and "dagster_webserver_version" in answer


def has_loaded_code(port: int, token: str) -> bool:
    """Return whether the webserver has loaded every code location.

    `token`: the secret that the UI asks for.
    """
    answer = _request(port, "POST", "/graphql", {"query": _LOCATIONS}, token)
    try:
        entries = answer["data"]["workspaceOrError"]["locationEntries"]  # type: ignore[index]
        loaded = [(entry["locationOrLoadError"] or {}).get("__typename") for entry in entries]
    except (KeyError, TypeError):
        return False
    return bool(loaded) and set(loaded) == {"RepositoryLocation"}


def daemons_beat(port: int, token: str, since: float) -> bool:
    """Return whether every daemon that the instance needs has sent a heartbeat since then (epoch seconds).

    `token`: the secret that the UI asks for.
    """
    answer = _request(port, "POST", "/graphql", {"query": _DAEMONS}, token)
    try:
        statuses = answer["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]  # type: ignore[index]
        beats = [status["lastHeartbeatTime"] for status in statuses if status["required"]]
    except (KeyError, TypeError):
        return False
    return bool(beats) and all(beat is not None and beat >= since for beat in beats)


def _request(
    port: int, method: str, path: str, body: object = None, token: str = ""
) -> dict[str, Any] | None:
    connection = HTTPConnection(HOST, port, timeout=2)
    try:
        content = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        connection.request(method, path, content, headers)
        response = connection.getresponse()
        answer = json.loads(response.read()) if response.status == 200 else None
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else None
