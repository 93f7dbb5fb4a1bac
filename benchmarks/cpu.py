"""The CPU time of all processes of a platform's home, also of those that have ended."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import psutil

from ecommersss_platform.environment import MARK
from ecommersss_platform.instance.databases import embedded_server
from ecommersss_platform.local.stack import running
from ecommersss_platform.settings import Settings


def seconds_by_part(settings: Settings, supervisor: int) -> Counter[str]:
    """Return the seconds of CPU, user and system, of each part of the platform since it was started.

    A part is a supervised process with its descendants. What a descendant used counts for the process that
    waited for its end, as the kernel counts it: two calls differ by all that was used between them, by
    processes that began and ended in between, too.
    """
    found = running(settings)
    assert found is not None
    names = {row["pid"]: row["name"] for row in found["processes"]} | {supervisor: "supervisor"}
    if (server := embedded_server(settings).pid()) is not None:
        names[server] = "postgres"
    used: Counter[str] = Counter()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            name = _part(process, names)
            if name is not None or process.environ().get(MARK) == str(settings.home):
                times = process.cpu_times()
                used[name or "others"] += times.user + times.system
                used[name or "others"] += times.children_user + times.children_system
    return used


def _part(process: psutil.Process, names: dict[int, str]) -> str | None:
    """Return the part whose process this is or descends from, or None."""
    for ancestor in (process, *process.parents()):
        if ancestor.pid in names:
            return names[ancestor.pid]
    return None
