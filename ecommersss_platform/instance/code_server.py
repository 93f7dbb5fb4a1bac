"""Dagster's code server on a Unix socket: `python -m ecommersss_platform.instance.code_server SOCKET`.

Dagster's command is a proxy. The process that loads the code and starts the runs is its child. *Reload* in
the UI starts another child, and the old one ends when its runs have. If the child dies, the proxy stays and
answers nothing: so this process ends with its last child, and the supervisor starts both again. Runs are
processes of their own, which survive both.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import time
from pathlib import Path
from threading import Thread

import psutil

import ecommersss_platform
from ecommersss_platform.local.processes import is_alive

LOCATION = "ecommersss_platform"


def main() -> None:
    """Serve the code location on the Unix socket that the command line names."""
    Thread(target=_end_with_last_child, name="end with last child", daemon=True).start()
    sys.argv = [
        *("dagster", "code-server", "start", "--socket", sys.argv[1], "--location-name", LOCATION),
        *("--module-name", "ecommersss_platform.definitions", "--attribute", "defs"),
        # By default it would be the current directory, whose files would win over installed modules.
        *("--working-directory", str(Path(ecommersss_platform.__file__).parents[1])),
    ]
    runpy.run_module("dagster", run_name="__main__", alter_sys=True)


def _end_with_last_child() -> None:
    watched = None
    while True:
        time.sleep(1)
        if watched is not None and is_alive(watched):
            continue
        serving = [child for child in psutil.Process().children() if _serves(child)]
        if watched is not None and not serving:
            sys.stderr.write("the process that serves the code has ended\n")
            sys.stderr.flush()
            os._exit(1)  # an exception would end this thread only
        watched = serving[-1] if serving else None


def _serves(child: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "grpc" in child.cmdline()  # `python -m dagster api grpc ...`; a zombie has no command line
    return False


if __name__ == "__main__":
    main()
