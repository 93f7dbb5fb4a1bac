"""TCP ports on the loopback address: free ones, and who listens on the others."""

from __future__ import annotations

import random
import socket

import psutil

from streaming.errors import PlatformError

HOST = "127.0.0.1"
_LAST_PORT = 65_535

# Below the range from which Linux takes ports for outgoing connections, so that the port of a stopped server
# is still free when it starts again.
_SERVER_PORTS = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Return whether a server could listen on the port.

    Raises `PlatformError` for a port that this account may not use, whether it is free or not.
    """
    with socket.socket() as probe:
        # As servers do: connections that are only in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except PermissionError:
            raise PlatformError(
                f"port {port} is for root only: choose one from 1024 to {_LAST_PORT}"
            ) from None
        except OSError:
            return False
    return True


def free_port(wanted: int, tries: int = 50) -> int:
    """Return `wanted` if it is free, else the next free port. For 0 return any free port.

    Raises `PlatformError` if all of the next `tries` ports are taken too.
    """
    if wanted == 0:
        with socket.create_server((HOST, 0)) as probe:
            return int(probe.getsockname()[1])
    last = min(wanted + tries, _LAST_PORT)
    for port in range(wanted, last + 1):
        if is_free(port):
            return port
    raise PlatformError(f"the ports {wanted} to {last} are all taken: choose another one in the settings")


def free_server_port() -> int:
    """Return a random free port that stays free while its server is stopped. Raises `OSError` if none is."""
    for port in random.sample(_SERVER_PORTS, 100):
        if is_free(port):
            return port
    raise OSError(f"no free port found between {_SERVER_PORTS.start} and {_SERVER_PORTS.stop} on {HOST}")


def listener(port: int) -> str:
    """Return who listens on a local port, for people, as far as this account may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            local = connection.laddr
            if connection.status == psutil.CONN_LISTEN and local and local.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()}, process {connection.pid}"
    except psutil.Error:
        pass
    return "another program"
