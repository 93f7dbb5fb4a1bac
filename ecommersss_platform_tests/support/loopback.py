"""Keep child processes on this machine: refuse and record every connection to another host."""

from __future__ import annotations

import os
from pathlib import Path

_SITE = """
import os, socket

def near(host):
    return host in (None, "", "localhost", "::1") or str(host).startswith("127.")

def refuse(host):
    with open(os.environ["TEST_OUTSIDE"], "a") as log:
        log.write(f"{host}\\n")
    raise OSError(f"a test must not reach {host}")

look_up, connect, connect_ex = socket.getaddrinfo, socket.socket.connect, socket.socket.connect_ex

def getaddrinfo(host, *arguments, **named):
    return look_up(host, *arguments, **named) if near(host) else refuse(host)

def guarded(function):
    def call(self, address):
        if isinstance(address, tuple) and not near(address[0]):
            refuse(address[0])
        return function(self, address)
    return call

socket.getaddrinfo = getaddrinfo
socket.socket.connect, socket.socket.connect_ex = guarded(connect), guarded(connect_ex)
"""


def loopback_only(outside: Path) -> dict[str, str]:
    """Return the environment that keeps a Python process and all its children on loopback.

    Hosts that they try to reach or look up are written to the file `outside`, which is only created then.
    """
    folder = outside.with_suffix(".site")
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "TEST_OUTSIDE": str(outside)}
