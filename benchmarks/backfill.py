"""A month through the whole platform: backfilled in one run and in a run a day, and dbt on one new day.

The platform's home is a temporary directory, with an embedded PostgreSQL, a simulated marketplace, and every
order flagged by the consumer. A run is what `ecommersss materialize` makes: a process of its own that loads
the code location, publishes the raw tables and builds, tests and checks every model. `dbt build` is dbt's
process alone, for all models, their tests, and the newest day of the month that is there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from ecommersss_platform.dbt import project as dbt
from ecommersss_platform.instance.databases import dagster_storage, operational_database
from ecommersss_platform.instance.home import record_first_day
from ecommersss_platform.local.stack import prepare_home
from ecommersss_platform.materialize import materialize
from ecommersss_platform.partitions import Days
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import fraud_consumer, orders_topic
from ecommersss_platform.warehouse import make_warehouse
from streaming.business_days import business_day
from streaming.simulator.history import simulate_history

DBT_ROUNDS = 3


def measure(short: bool = False) -> dict[str, Any]:
    """Return all figures. With `short`, measure two days with few orders."""
    days, orders_per_day = (2, 300) if short else (30, 3_000)
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o711)  # PostgreSQL's account must reach its data
        settings = Settings(
            home=Path(home), first_day=None, database_url=None, dagster_url=None, _env_file=None
        )
        return _measured(settings, days, orders_per_day)


def _measured(settings: Settings, days: int, orders_per_day: int) -> dict[str, Any]:
    now = datetime.now(UTC)
    last = business_day(now) - timedelta(days=1)
    month = Days.between(last - timedelta(days=days - 1), last)
    record_first_day(settings, month.first)
    with operational_database(settings) as url, dagster_storage(settings) as dagster:
        prepare_home(settings)
        simulate_history(url, orders_topic(settings), month.first, month.end_instant, orders_per_day)
        fraud_consumer(settings, url).run(once=True)

        def run(some: Days) -> float:
            return materialize(settings, some, dagster_url=dagster).seconds

        each = [run(Days.between(day, day)) for day in month]
        by_day = _totals(settings)
        settings.warehouse_path.unlink()
        at_once = run(month)
        assert _totals(settings) == by_day
        builds = [dbt_build(settings, last) for _ in range(DBT_ROUNDS)]
    return {
        "days": days,
        "orders": by_day["raw.orders"],
        "backfill in one run (s)": round(at_once, 1),
        "a run a day, all of them (s)": round(sum(each), 1),
        "a run a day, each (s)": round(median(each), 1),
        "a run a day / one run": round(sum(each) / at_once, 1),
        "dbt build of one new day (s)": round(median(builds), 1),
    }


def dbt_build(settings: Settings, day: date) -> float:
    """Return the seconds of a `dbt build` for the day. Only the first one parses the project."""
    folder = dbt.artifacts_dir(settings) / "benchmark"
    command = [str(dbt.executable()), "--no-use-colors", "--quiet"]
    command += dbt.build_arguments(Days.between(day, day))
    command += ["--project-dir", str(dbt.PROJECT_DIR), "--profiles-dir", str(dbt.PROJECT_DIR)]
    command += ["--target", settings.warehouse, "--log-path", str(folder)]
    variables = dbt.environment(settings) | {"DBT_TARGET_PATH": str(folder)}
    began = time.perf_counter()
    subprocess.run(command, env=os.environ | variables, stdout=sys.stderr, check=True)
    return time.perf_counter() - began


def _totals(settings: Settings) -> dict[str, int]:
    """Return the row counts of some tables, which must not depend on how the days were loaded."""
    warehouse = make_warehouse(settings)
    tables = ("raw.users", "raw.products", "raw.orders", "silver.fact_orders", "gold.users_and_blacklist")
    return {t: warehouse.query(f"SELECT count(*) AS n FROM {t}").to_pylist()[0]["n"] for t in tables}


def files(report: dict[str, Any]) -> dict[str, str]:
    """Return the results as a Markdown table."""
    lines = [
        f"Measured {report['when'][:10]} on {report['machine']}, Python {report['python']}.",
        "",
        "| a month of orders, PostgreSQL to the marts | |",
        "|---|---|",
        *(f"| {name} | {value:,} |" for name, value in report["results"].items()),
    ]
    return {"backfill.md": "\n".join(lines) + "\n"}
