"""The guard that other tests rely on: it allows loopback, and refuses and records any other host."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from ecommersss_platform_tests.support.loopback import loopback_only

TRY = """
import socket, subprocess, sys
socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()
for host in ("169.254.169.254", "bigquery.googleapis.com"):
    try:
        socket.create_connection((host, 80), timeout=1)
    except OSError:
        pass
subprocess.run([sys.executable, "-c", "import socket; socket.getaddrinfo('oauth2.googleapis.com', 443)"],
               stderr=subprocess.DEVNULL)
"""


def test_loopback_is_reached_and_other_hosts_are_recorded(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    variables = os.environ | loopback_only(outside)
    assert not outside.exists()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        subprocess.run([sys.executable, "-c", TRY, port], env=variables, check=True, timeout=60)
    assert outside.read_text().split() == [
        "169.254.169.254",
        "bigquery.googleapis.com",
        "oauth2.googleapis.com",
    ]
