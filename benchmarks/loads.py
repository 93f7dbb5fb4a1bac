"""One load in its own process: `python -m benchmarks.loads WAY DIRECTORY DAY`.

The database's URL comes in the environment, because it holds a password. Modules are imported before the
clock starts. At the end it prints, as JSON, the seconds that passed, the processor seconds of this process,
the rows, and the most memory that the process ever had resident, in megabytes, the libraries that it maps
included. The platform's load also prints what each of its steps took.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import date
from functools import partial
from pathlib import Path

import duckdb

from ecommersss_platform.contracts import ORDERS
from ecommersss_platform.partitions import Days
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.warehouse import OnStep, Step, ignore_step
from ecommersss_platform.warehouse.duckdb.warehouse import DuckDbWarehouse
from streaming.database import connect

Load = Callable[[str, Path, Days], int]


def platform(url: str, directory: Path, days: Days, on_step: OnStep = ignore_step) -> int:
    """Load as the platform does: extract, stage, audit, publish."""
    sql, params = ORDERS.select(days)
    rows = PostgresResource(url=url).stream(sql, params, ORDERS.arrow_schema)
    warehouse = DuckDbWarehouse(directory / "platform.duckdb")
    return warehouse.publish(ORDERS, rows, days, "benchmark", on_step).rows


def extraction(url: str, directory: Path, days: Days) -> int:
    """Extract as the platform does, and discard the typed Arrow batches."""
    sql, params = ORDERS.select(days)
    return sum(b.num_rows for b in PostgresResource(url=url).stream(sql, params, ORDERS.arrow_schema))


def copy(url: str, directory: Path, days: Days) -> int:
    """Extract at the floor: COPY TO STDOUT of the same SELECT through psycopg2, discarded."""
    sql, params = ORDERS.select(days)
    with (
        closing(connect(url)) as connection,
        connection.cursor() as cursor,
        Path(os.devnull).open("wb") as sink,
    ):
        query = cursor.mogrify(sql, params).decode()
        cursor.copy_expert(f"COPY ({query}) TO STDOUT", sink)
        return cursor.rowcount


def floor(url: str, directory: Path, days: Days) -> int:
    """Load at the floor: COPY TO STDOUT, then DuckDB reads the same rows from a Parquet file."""
    rows = copy(url, directory, days)
    with duckdb.connect(str(directory / "floor.duckdb")) as warehouse:
        warehouse.execute(
            f"CREATE OR REPLACE TABLE orders AS FROM read_parquet('{directory / 'orders.parquet'}')"
        )
    return rows


def dumped_json(url: str, directory: Path, days: Days) -> int:
    """Fetch all rows, dump them as JSON, load the file."""
    sql, params = ORDERS.select(days)
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(sql, params)
        rows = cursor.fetchall()
    names = ORDERS.arrow_schema.names
    path = directory / "orders.json"
    with path.open("w") as file:
        for row in rows:
            file.write(json.dumps(dict(zip(names, row, strict=True)), default=str) + "\n")
    with duckdb.connect(str(directory / "json.duckdb")) as warehouse:
        warehouse.execute(f"CREATE OR REPLACE TABLE orders AS FROM read_json('{path}')")
    path.unlink()
    return len(rows)


LOADS: dict[str, Load] = {load.__name__: load for load in (platform, extraction, copy, floor, dumped_json)}


def main(way: str, directory: Path, day: date) -> None:
    load, url, days = LOADS[way], os.environ["BENCHMARK_URL"], Days.between(day, day)
    whole, lap = Stopwatch(), Stopwatch()
    steps: dict[Step, dict[str, float]] = {}

    def on_step(step: Step) -> None:
        steps[step] = lap.read()

    rows = (partial(load, on_step=on_step) if way == "platform" else load)(url, directory, days)
    print(json.dumps({**whole.read(), "rows": rows, "megabytes": peak_megabytes(), "steps": steps}))


class Stopwatch:
    """Measures the time that passes, and the processor time of all threads of this process."""

    def __init__(self) -> None:
        self._before = self._now()

    def read(self) -> dict[str, float]:
        """Return the seconds, and the processor seconds, since the last reading."""
        before, self._before = self._before, self._now()
        return {key: self._before[key] - before[key] for key in before}

    @staticmethod
    def _now() -> dict[str, float]:
        return {"seconds": time.perf_counter(), "processor": time.process_time()}


def peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), date.fromisoformat(sys.argv[3]))
