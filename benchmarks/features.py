"""The features of a day of orders, built by dbt as a run of the day builds them: seconds and memory.

The warehouse is a DuckDB file with two days of made-up orders, whose facts and features are built. Each round
builds the features of the second day again, for each shape of the day in turn, and each time in a process of
its own. Seconds are those that dbt reports of the two models, which stage and publish the day. Memory is the
most that the process ever had resident, dbt included.

A tenth of the orders comes late, by up to half a day. One user in a hundred has been on the block list, and
prices are recorded an hour after they hold. The hot user was blocked and unblocked a hundred times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import duckdb

from benchmarks.loads import peak_megabytes
from ecommersss_platform.contracts import ORDERS, PRODUCTS, RAW_TABLES, USER_LIST_EVENTS, USERS
from ecommersss_platform.days import DAY, Days
from ecommersss_platform.dbt.project import (
    PROJECT_DIR,
    artifacts_dir,
    build_arguments,
    ensure_manifest,
    environment,
    parsed_project,
)
from ecommersss_platform.dbt.runner import run_dbt
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import make_warehouse

SECOND = date(2026, 1, 2)
ROUNDS = 5
HOT = 40_000
MODELS = ("order_features_staged", "order_features")


class Shape(NamedTuple):
    """What a day is like. Of its orders, the hot user places `hot`."""

    name: str
    orders: int
    hot: int = 0
    shuffled: bool = False
    """The hot user's orders are in the topic in no order."""


class Built(NamedTuple):
    seconds: float
    processor: float
    """Processor seconds of the whole process, with dbt's own start."""
    megabytes: float


def shapes(orders: int, hot: int) -> list[Shape]:
    """Return the day to measure, and the days that it is compared with."""
    return [
        Shape(f"{orders:,} orders", orders),
        Shape(f"{orders // 10:,} orders", orders // 10),
        Shape(f"{hot:,} of them by one user", orders, hot),
        Shape(f"{hot:,} of them by one user, in no order", orders, hot, shuffled=True),
    ]


def measure(short: bool = False) -> dict[str, Any]:
    """All figures. `short`: a fiftieth of the orders, each shape once."""
    days = shapes(20_000, 800) if short else shapes(1_000_000, HOT)
    ensure_manifest()
    measured: dict[Shape, list[Built]] = {shape: [] for shape in days}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        homes = {shape: Path(name) / str(number) for number, shape in enumerate(days)}
        for shape, home in homes.items():
            home.mkdir()
            fill(_settings(home).warehouse_path, shape)
            _built(home, "every day")
        for turn in range(1 if short else ROUNDS):
            for shape in days if turn % 2 == 0 else reversed(days):
                measured[shape].append(_built(homes[shape], str(SECOND)))
                print(f"{shape.name}: {measured[shape][-1]}", file=sys.stderr)
    return results(measured)


def results(measured: dict[Shape, list[Built]]) -> dict[str, Any]:
    """Return the figures of each shape, and how they compare within rounds."""
    whole, *others = measured

    def ratios(shape: Shape) -> list[float]:
        pairs = zip(measured[whole], measured[shape], strict=True)
        return [
            a.seconds / b.seconds if shape.orders < whole.orders else b.seconds / a.seconds for a, b in pairs
        ]

    compared = {
        f"{whole.name} / {it.name}" if it.orders < whole.orders else f"{it.name} / {whole.name}": ratios(it)
        for it in others
    }
    return {
        "orders": whole.orders,
        "days": [_row(shape, built) for shape, built in measured.items()],
        "ratios": {name: round(median(found), 2) for name, found in compared.items()},
        "ratios, least and most": {
            name: [round(min(found), 2), round(max(found), 2)] for name, found in compared.items()
        },
    }


def _row(shape: Shape, built: Sequence[Built]) -> dict[str, Any]:
    seconds = [it.seconds for it in built]
    return {
        "day": shape.name,
        "seconds": round(median(seconds), 2),
        "slowest and fastest (s)": [round(max(seconds), 2), round(min(seconds), 2)],
        "processor (s)": round(median(it.processor for it in built), 2),
        "peak MB": round(max(it.megabytes for it in built)),
        "rounds": len(built),
    }


def fill(path: Path, shape: Shape) -> None:
    """Write raw tables with the day and the day before, which has as many orders."""
    with duckdb.connect(str(path)) as connection:
        connection.execute("SET TimeZone = 'UTC'; SELECT setseed(0.5); CREATE SCHEMA raw")
        for table in RAW_TABLES:
            connection.register("no_rows", table.arrow_schema.empty_table())
            connection.execute(f"CREATE TABLE raw.{table.name} AS FROM no_rows")
        values: dict[str, Any] = {"orders": shape.orders, "hot": shape.hot, "users": shape.orders // 4 + 2}
        values |= {"shuffled": shape.shuffled, "first": SECOND - DAY}
        for table, select in _ROWS.items():
            used = {name: value for name, value in values.items() if f"${name}" in select}
            connection.execute(f"INSERT INTO raw.{table.name} BY NAME {select}", used)


_USERS = """
SELECT n AS id, 'user' || n AS username, username || '@example.com' AS email, 'Siti' AS first_name,
       'Rahayu' AS last_name, TIMESTAMPTZ '2025-01-01 00:00:00+07' AS created_date,
       created_date AS updated_at, n AS version, created_date AS valid_from,
       DATE '2025-01-01' AS partition_date
FROM range(1, $users + 1) AS r(n)
"""
_PRODUCTS = """
SELECT 1 + n % 5000 AS id, 'Product ' || id AS product_name, 'Toys' AS category, 1000 + n AS price,
       TIMESTAMPTZ '2025-01-01 00:00:00+07' AS created_date, n + 1 AS version,
       timezone('Asia/Jakarta', $first + to_days(20 * ((n // 5000) - 18)::INTEGER) + to_seconds(n % 86400))
       AS valid_from, valid_from AS updated_at, valid_from + INTERVAL 1 HOUR AS recorded_at,
       timezone('Asia/Jakarta', valid_from)::DATE AS partition_date
FROM range(20 * 5000) AS r(n)
"""
_ORDERS = """
SELECT id, user_id, 1 + id % 5000 AS product_id, 1 AS quantity,
       cast(1000000 * random() AS DECIMAL(18, 2)) AS amount, 'OVO' AS payment_method,
       CASE WHEN random() < 0.02 THEN 'SG' ELSE 'ID' END AS country, FALSE AS is_fraud,
       []::VARCHAR[] AS fraud_reasons, []::VARCHAR[] AS shadow_reasons, []::VARCHAR[] AS review_reasons,
       'book' AS rules_version, 1 + id % 300 AS lists_version, created_date,
       created_date + INTERVAL 1 SECOND AS flagged_at,
       200 * row_number() OVER (ORDER BY created_date + to_microseconds(cast(CASE
           WHEN $shuffled AND user_id = 1 THEN 172800e6 * random()
           WHEN random() < 0.1 THEN 43200e6 * random() ELSE 0 END AS BIGINT))) AS position,
       partition_date
FROM (SELECT n + 1 AS id, CASE WHEN n % $orders < $hot THEN 1
          ELSE 2 + cast(floor(pow(random(), 1.5) * ($users - 2)) AS BIGINT) END AS user_id,
          $first + cast(n // $orders AS INTEGER) AS partition_date,
          timezone('Asia/Jakarta', partition_date::TIMESTAMP)
          + to_microseconds(cast(floor(86400e6 * random()) AS BIGINT)) AS created_date
      FROM range(2 * $orders) AS r(n)) AS placed
ORDER BY partition_date, random()
"""
_LISTS = """
SELECT 2 * entry + CASE event WHEN 'added' THEN 0 ELSE 1 END AS event_id, entry, event,
       1 + (2 * entry + CASE event WHEN 'added' THEN 0 ELSE 1 END) % 300 AS lists_version,
       TIMESTAMPTZ '2025-06-01 00:00:00+07' AS event_at, user_id, 'block' AS list, 'platform' AS source,
       'fraud' AS reason, DATE '2025-06-01' AS partition_date
FROM (SELECT n AS entry, CASE WHEN n < 100 THEN 1 ELSE 2 + 100 * (n - 100) END AS user_id
      FROM range(100 + $users // 100) AS r(n)) AS entries,
     (VALUES ('added'), ('removed')) AS events(event)
"""
_ROWS = {USERS: _USERS, PRODUCTS: _PRODUCTS, ORDERS: _ORDERS, USER_LIST_EVENTS: _LISTS}


def _settings(home: Path) -> Settings:
    return Settings(home=home)


def build(home: Path, days: Days | None) -> float:
    """Build the features of these days (None: all, and what they need), and return the seconds of it."""
    settings = _settings(home)
    variables = environment(settings)
    folder = variables["DBT_TARGET_PATH"]
    options = [
        *("--project-dir", str(PROJECT_DIR), "--profiles-dir", str(PROJECT_DIR)),
        *("--target", make_warehouse(settings).dbt_target),
        *("--log-path", folder, "--log-level", "none", "--log-level-file", "none"),
    ]
    needed = ["+order_features_staged,resource_type:model"] if days is None else []
    tests = [f"{model},resource_type:test" for model in ("fact_orders_staged+1", "order_features_staged+1")]
    select = ["--indirect-selection", "empty", "--select", *needed, *MODELS, *tests[0 if needed else 1 :]]
    arguments = [*build_arguments(days), *select, *options]
    for _ in run_dbt(arguments, {"PATH": os.environ["PATH"], **variables}, parsed_project(settings)):
        pass
    done = json.loads((artifacts_dir(settings) / "run_results.json").read_text())["results"]
    return float(sum(it["execution_time"] for it in done if it["unique_id"].split(".")[2] in MODELS))


def _built(home: Path, days: str) -> Built:
    """Build features in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.features", str(home), days]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return Built(**json.loads(done.stdout.splitlines()[-1]))


def main(home: Path, days: str) -> None:
    """Build the features of a day or of "every day", and print what it took."""
    seconds = build(home, Days.between(SECOND, SECOND) if days == str(SECOND) else None)
    print(json.dumps(Built(seconds, time.process_time(), peak_megabytes())._asdict()))


# What is shown of it.


def files(report: dict[str, Any]) -> dict[str, str]:
    """The results as a Markdown file, by name."""
    results = report["results"]
    lines = [
        f"Measured {report['when'][:10]} on {report['machine']}, Python {report['python']}.",
        "",
        "| the features of a day of | median (s) | fastest | slowest | processor (s) | peak MB | times |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["days"]:
        slowest, fastest = row["slowest and fastest (s)"]
        lines.append(
            f"| {row['day']} | {row['seconds']} | {fastest} | {slowest} | {row['processor (s)']}"
            f" | {row['peak MB']:,} | {row['rounds']} |"
        )
    lines += ["", "| how many times the seconds | median | least | most |", "|---|---|---|---|"]
    for name, ratio in results["ratios"].items():
        least, most = results["ratios, least and most"][name]
        lines.append(f"| {name} | {ratio} | {least} | {most} |")
    return {"features.md": "\n".join(lines) + "\n"}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
