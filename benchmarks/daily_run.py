"""The shares of a run of the daily job: the features of its orders, parity, and the report's page.

The runs are asked for of a running `ecommersss up`, each for a day that is new to the warehouse and whose
simulated orders the consumer has decided. A run's seconds are those of its steps, without the start of its
process. Features are dbt's seconds for the two models that stage and publish them. Parity is the step of the
check. The report compares the day once more: that is measured on the same warehouse after the run.

Shares are of the same run, because machines change their mind. Small and large days take turns.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import Any

from benchmarks.features import MODELS
from benchmarks.stack import Platform, Run, platform
from ecommersss_platform.dbt.project import artifacts_dir
from ecommersss_platform.laboratory.parity import compare_verdicts
from ecommersss_platform.partitions import Days
from ecommersss_platform.warehouse import make_warehouse
from streaming.business_days import business_day

SIZES = (10_000, 200_000)
ROUNDS = 3
FEATURES, PARITY, REPORT, AGAIN = "features", "parity", "report", "parity again, in the report"
PARTS = (FEATURES, PARITY, REPORT, AGAIN)
_STEPS = {PARITY: "parity", REPORT: "reports__fraud_report"}


def measure(short: bool = False) -> dict[str, Any]:
    """All figures. `short`: one day of few orders."""
    sizes, rounds = ((300,), 1) if short else (SIZES, ROUNDS)
    load, yesterday = os.getloadavg()[0], business_day(datetime.now(UTC)) - timedelta(days=1)
    first, *days = [yesterday - timedelta(days=n) for n in reversed(range(1 + rounds * len(sizes)))]
    measured: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    with platform("--rate", "0", "--orders-per-day", "0", first_day=first) as shop:
        shop.dagster.stop_automation()
        shop.fill(Days.between(first, first), sizes[0])
        shop.run(Days.between(first, first))
        for number, day in enumerate(days):
            size = sizes[number % len(sizes)]
            measured[size].append(_seconds(shop, day, size))
    return {
        "load average before": round(load, 2),
        "runs": [row(size, found) for size, found in measured.items()],
    }


def _seconds(shop: Platform, day: date, orders: int) -> dict[str, float]:
    """Run a day of these orders, and return the seconds of the run and of its parts."""
    days = Days.between(day, day)
    shop.fill(days, orders)
    run = shop.run(days)
    [folder] = artifacts_dir(shop.settings).glob(f"{run.id[:8]}-*")
    built = json.loads((folder / "run_results.json").read_text())["results"]
    began = time.monotonic()
    compare_verdicts(make_warehouse(shop.settings), days)
    return {**parts(run, built), AGAIN: time.monotonic() - began}


def parts(run: Run, built: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the seconds of a run and of its parts. `built`: dbt's result of each node."""
    features = sum(it["execution_time"] for it in built if it["unique_id"].split(".")[2] in MODELS)
    steps = {name: run.steps[step][1] - run.steps[step][0] for name, step in _STEPS.items()}
    return {"run": run.ended - run.started, FEATURES: features, **steps}


def row(orders: int, found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return the medians of the runs of a day of these orders: seconds, and shares of the run."""
    return {
        "orders": orders,
        "run (s)": round(median(it["run"] for it in found), 2),
        "parts (s)": {name: round(median(it[name] for it in found), 2) for name in PARTS},
        "shares (%)": {name: round(100 * median(it[name] / it["run"] for it in found), 1) for name in PARTS},
        "runs": len(found),
    }


def files(report: dict[str, Any]) -> dict[str, str]:
    """The results as a Markdown file, by name."""
    lines = [
        f"Measured {report['when'][:10]} on {report['machine']}, Python {report['python']};"
        f" load average before: {report['results']['load average before']}.",
        "",
        f"| a day of | run (s) | {' | '.join(f'{name} (s) | {name} (%)' for name in PARTS)} | runs |",
        "|---|---|" + "---|---|" * len(PARTS) + "---|",
    ]
    for found in report["results"]["runs"]:
        cells = [f"{found['parts (s)'][name]} | {found['shares (%)'][name]}" for name in PARTS]
        cells = [f"{found['orders']:,} orders", found["run (s)"], *cells, found["runs"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return {"daily_run.md": "\n".join(lines) + "\n"}
