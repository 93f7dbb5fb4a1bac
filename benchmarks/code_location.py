"""How long the code location takes to load, beside importing only dagster.

Each load is a new interpreter. The two kinds alternate, so that a busy machine slows both.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

FLOOR = "import dagster"
LOCATION = f"{FLOOR}; from ecommersss_platform.definitions import defs; defs.get_repository_def()"


def seconds(statement: str, home: str) -> float:
    """Return the wall time of a new interpreter that runs the statement, in seconds."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", statement],
        check=True,
        env={"PATH": "/usr/bin:/bin", "ECOMMERSSS_HOME": home, "DAGSTER_DISABLE_TELEMETRY": "1"},
    )
    return time.perf_counter() - began


def measure(short: bool = False) -> dict[str, float]:
    """Return the medians in seconds, after one round that fills the caches."""
    rounds = 1 if short else 5
    floor, location = [], []
    with tempfile.TemporaryDirectory() as home:
        for _ in range(rounds + 1):
            floor.append(seconds(FLOOR, home))
            location.append(seconds(LOCATION, home))
    floor_s, location_s = statistics.median(floor[1:]), statistics.median(location[1:])
    return {
        "import dagster (s)": round(floor_s, 2),
        "load the code location (s)": round(location_s, 2),
        "the platform's share (s)": round(location_s - floor_s, 2),
    }
