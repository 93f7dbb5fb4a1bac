"""How long a run takes to start, and to succeed, from the moment it is asked for in the UI.

The platform is up with default settings, but without orders, so that no run of the sensor's holds the
warehouse. Each run materialises the day of `raw/users` that has a hundred users, alone on the platform. The
moments of the requests are random, so that they do not keep step with the looks of the queue.
"""

from __future__ import annotations

import time
from contextlib import closing
from datetime import date
from random import Random
from statistics import median, quantiles
from typing import Any

from benchmarks.stack import Dagster, platform
from ecommersss_platform.instance.databases import database_url
from ecommersss_platform.partitions import Days
from ecommersss_platform.run_tags import range_tags
from streaming.business_days import business_day
from streaming.database import connect

RUNS = 20
_LAUNCHED = """
query Launched($id: ID!) {
  runOrError(runId: $id) { ... on Run { stats { ... on RunStatsSnapshot { launchTime } } } }
}
"""


def measure(short: bool = False) -> dict[str, Any]:
    """Return medians, 95th percentiles and extremes in seconds."""
    runs, random, began = 3 if short else RUNS, Random(1), time.monotonic()
    with platform("--rate", "0", "--orders-per-day", "0") as running:
        ready = time.monotonic() - began
        day = add_users(database_url(running.settings), 100)
        measured = []
        for _ in range(runs + 1):
            time.sleep(1 + random.random() * 2)
            measured.append(timed_run(running.dagster, day))
    # The first run reads from cold caches.
    return results(measured[1:]) | {"first start of the platform (s)": round(ready, 1)}


def results(measured: list[dict[str, float]]) -> dict[str, Any]:
    """Return the statistics of runs. Each run is the times of its stages, in seconds after the request."""
    stages = {
        "request to start": [run["step"] for run in measured],
        "request to success": [run["success"] for run in measured],
        "request to launch: in the queue": [run["launch"] for run in measured],
        "launch to run: the process starts": [run["run"] - run["launch"] for run in measured],
        "run to start: the first step starts": [run["step"] - run["run"] for run in measured],
    }
    return {"runs": len(measured)} | {
        f"{name} (s)": {
            "median": round(median(values), 2),
            "p95": round(quantiles(values, n=20, method="inclusive")[-1], 2),
            "fastest": round(min(values), 2),
            "slowest": round(max(values), 2),
        }
        for name, values in stages.items()
    }


def add_users(url: str, users: int) -> date:
    """Add users, and return the business day whose partition they are in."""
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO users (id, username, email, first_name, last_name, created_date)"
            " SELECT n, 'user' || n, 'user' || n || '@example.com', 'Siti', 'Rahayu', now()"
            " FROM generate_series(1, %s) n RETURNING created_date",
            (users,),
        )
        return business_day(cursor.fetchone()[0])


def timed_run(dagster: Dagster, day: date) -> dict[str, float]:
    """Run a day of `raw/users`, and return when its stages were reached, in seconds after the request."""
    run = dagster.run("__ASSET_JOB", range_tags(Days.between(day, day)), ["raw/users"])
    moments = {
        "launch": dagster.ask(_LAUNCHED, id=run.id)["runOrError"]["stats"]["launchTime"],
        "run": run.started,
        "step": min(began for began, _ in run.steps.values()),
        "success": run.ended,
    }
    return {name: at - run.requested for name, at in moments.items()}


def files(report: dict[str, Any]) -> dict[str, str]:
    """Return the results as a Markdown table."""
    found = report["results"]
    lines = [
        f"Measured {report['when'][:10]} on {report['machine']}, Python {report['python']};"
        f" {found['runs']} runs of one day of raw/users.",
        "",
        "| seconds | median | p95 | fastest | slowest |",
        "|---|---|---|---|---|",
        *(
            f"| {name.removesuffix(' (s)')} | " + " | ".join(str(value) for value in row.values()) + " |"
            for name, row in found.items()
            if isinstance(row, dict)
        ),
    ]
    return {"launch.md": "\n".join(lines) + "\n"}
