"""Where the Dagster UI listens, and whether it and the daemon behind it do their work."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from typing import Any

import psutil

HOST = "127.0.0.1"

_DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { required lastHeartbeatTime } } } }"


def free_port(wanted: int, tries: int = 50) -> int:
    """`wanted` if nobody listens on it, else the next one that is free; for 0 any that is free.

    Raises `OSError` when all of the next `tries` are taken too.
    """
    for port in _candidates(wanted, tries):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                probe.listen()
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(
        f"the ports {wanted} to {wanted + tries} are all taken: choose another one with ECOMMERSSS_UI_PORT"
    )


def listener(port: int) -> str:
    """Who listens on a local port, as far as this account may know: for people."""
    try:
        for connection in psutil.net_connections("tcp"):
            local = connection.laddr
            if connection.status == psutil.CONN_LISTEN and local and local.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()}, process {connection.pid}"
    except psutil.Error:
        pass
    return "another program"


def answers(port: int) -> bool:
    """Whether a Dagster webserver answers on this port."""
    answer = _request(port, "GET", "/server_info")
    return answer is not None and "dagster_webserver_version" in answer


def daemons_beat(port: int, since: float) -> bool:
    """Whether all daemons that the instance needs have said since then (epoch seconds) that they live."""
    answer = _request(port, "POST", "/graphql", {"query": _DAEMONS})
    try:
        statuses = answer["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]  # type: ignore[index]
        required = [status["lastHeartbeatTime"] for status in statuses if status["required"]]
    except (KeyError, TypeError):
        return False
    return bool(required) and all(beat is not None and beat >= since for beat in required)


def _candidates(wanted: int, tries: int) -> Iterator[int]:
    return iter(range(wanted, min(wanted + tries, 65_535) + 1) if wanted else [0])


def _request(port: int, method: str, path: str, body: object = None) -> dict[str, Any] | None:
    connection = HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request(
            method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        answer = json.loads(response.read()) if response.status == 200 else None
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else None
