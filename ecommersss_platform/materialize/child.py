"""The child process that executes a run: `python -m ecommersss_platform.materialize`.

A process of its own, because Dagster takes over the standard output of the process that executes a run.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO

from ecommersss_platform.days import Days

STOP_SECONDS = 30


def run_tags(days: Days) -> dict[str, str]:
    """Return the tags of the run. Dagster cannot retry it, because no code server started it."""
    from ecommersss_platform.instance.runs import HOST_TAG
    from ecommersss_platform.reasons import ON_THE_COMMAND_LINE, reason_tag
    from ecommersss_platform.run_tags import range_tags

    return {
        **range_tags(days),
        **reason_tag(ON_THE_COMMAND_LINE),
        HOST_TAG: socket.gethostname(),
        "dagster/max_retries": "0",
    }


@contextmanager
def child_process(
    definitions: str,
    run_id: str,
    days: Days,
    environment: Mapping[str, str],
    output: BinaryIO,
    *,
    rebuild: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """Execute the run in a child process, which is ended with the context if it still runs.

    `definitions`: the module of the code location. `environment`: all its variables. `output` takes
    the standard output and error of the child. `rebuild`: build everything, changed or not.
    """
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", __package__, definitions, run_id, str(days.first), str(days.end)),
            *(["rebuild"] if rebuild else []),
        ],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        process_group=0,  # Ctrl-C is for the parent, which cancels the run
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()  # Dagster records the end of the run; a killed one stays "started"
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
