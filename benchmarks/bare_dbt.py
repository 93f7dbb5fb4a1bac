"""`dbt build` in a process that stays warm: `python -m benchmarks.bare_dbt SOURCE DIRECTORY`.

Each line of standard input is a first and a last day. Their raw rows are copied from the DuckDB file SOURCE.
Then all models are built and tested for them, twice: as `dbtRunner` does it by itself, which parses the
project for each new day, because the days are variables; and with the parsed project kept in memory, which is
the floor. The answer is a line of JSON with the seconds of both. The environment is that of dbt's profile.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
from dbt.cli.main import dbtRunner
from dbt.contracts.graph.manifest import Manifest

from benchmarks.dbt_peers import KEPT, PARSING
from ecommersss_platform.contracts import RAW_TABLES
from ecommersss_platform.dbt.project import PROJECT_DIR, build_arguments
from ecommersss_platform.dbt.runner import release
from ecommersss_platform.partitions import Days


def main(source: str, directory: Path) -> None:
    options = ["--project-dir", str(PROJECT_DIR), "--profiles-dir", str(PROJECT_DIR)]
    options += ["--target-path", str(directory), "--log-path", str(directory), "--log-level", "none"]
    options += ["--log-level-file", "debug"]
    parsed = dbtRunner().invoke(["parse", *options]).result
    assert isinstance(parsed, Manifest)
    parsed.build_flat_graph()
    for line in sys.stdin:
        days = Days.between(*map(date.fromisoformat, line.split()))
        _copy(source, days)
        build = [*build_arguments(days), *options]
        seconds = {PARSING: _seconds(dbtRunner(), build), KEPT: _seconds(dbtRunner(parsed), build)}
        sys.stdout.write(json.dumps(seconds) + "\n")
        sys.stdout.flush()


def _seconds(runner: dbtRunner, arguments: list[str]) -> float:
    began = time.perf_counter()
    result = runner.invoke(arguments)
    seconds = time.perf_counter() - began
    release()
    if not result.success:
        raise SystemExit(f"dbt failed: {result.exception or _failures(result.result)}")
    return seconds


def _failures(results: Any) -> list[str]:
    return [f"{r.node.name}: {r.message}" for r in results if r.status not in ("success", "pass")]


def _copy(source: str, days: Days) -> None:
    with duckdb.connect(os.environ["ECOMMERSSS_DUCKDB_PATH"]) as warehouse:
        warehouse.execute(f"ATTACH '{source}' AS source (READ_ONLY)")
        warehouse.execute("CREATE SCHEMA IF NOT EXISTS raw")
        for table in RAW_TABLES:
            name = f"raw.{table.name}"
            warehouse.execute(f"CREATE TABLE IF NOT EXISTS {name} AS FROM source.{name} LIMIT 0")
            warehouse.execute(
                f"INSERT INTO {name} FROM source.{name} WHERE partition_date >= ? AND partition_date < ?",
                [days.first, days.end],
            )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
