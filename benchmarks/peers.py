"""A peer's load in its own process, in the peers' environment: `python peers.py WAY DIRECTORY DAY`.

It imports nothing of the platform. The environment holds the database's URL and the SELECT of the day, with
`start` and `end` as parameters. It prints what `benchmarks.loads` prints.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

URL, START, END = os.environ["BENCHMARK_URL"], os.environ["BENCHMARK_START"], os.environ["BENCHMARK_END"]


def dlt_default(directory: Path) -> int:
    """Replace the table with dlt, as in its first example: rows through SQLAlchemy."""
    return _dlt(directory, "sqlalchemy")


def dlt_pyarrow(directory: Path) -> int:
    return _dlt(directory, "pyarrow")


def dlt_connectorx(directory: Path) -> int:
    """Replace the table with the backend that dlt calls its fastest, streamed to fit in memory."""
    return _dlt(directory, "connectorx", backend_kwargs={"return_type": "arrow_stream"})


def _dlt(directory: Path, backend: Any, **options: Any) -> int:
    import dlt
    from dlt.sources.sql_database import sql_table
    from sqlalchemy import text

    def day(query: Any, table: Any) -> Any:
        # Written out, because connectorx takes no parameters.
        return query.where(text(f"created_date >= '{START}' AND created_date < '{END}'"))

    pipeline = dlt.pipeline(
        f"peer_{backend}",
        pipelines_dir=str(directory / "dlt"),
        destination=dlt.destinations.duckdb(str(directory / f"dlt_{backend}.duckdb")),
        dataset_name="raw",
    )
    orders = sql_table(URL, "orders", backend=backend, query_adapter_callback=day, **options)
    pipeline.run(orders, write_disposition="replace").raise_on_failed_jobs()
    return int(pipeline.last_trace.last_normalize_info.row_counts["orders"])


def duckdb_pandas(directory: Path) -> int:
    """Store a frame of pandas's read_sql with the IO manager of dagster-duckdb-pandas."""
    import pandas
    from dagster import asset, materialize
    from dagster_duckdb_pandas import DuckDBPandasIOManager
    from sqlalchemy import create_engine

    rows: list[int] = []

    # Dagster reads annotations, which are text here; the IO manager goes by what it is given.
    def orders():  # type: ignore[no-untyped-def]
        with create_engine(URL).connect() as connection:
            frame = pandas.read_sql(
                os.environ["BENCHMARK_SELECT"], connection, params={"start": START, "end": END}
            )
        rows.append(len(frame))
        return frame

    orders.__annotations__["return"] = pandas.DataFrame
    manager = DuckDBPandasIOManager(database=str(directory / "pandas.duckdb"), schema="raw")
    materialize(
        [asset(key_prefix="raw", io_manager_key="io_manager")(orders)], resources={"io_manager": manager}
    )
    return rows[0]


WAYS = {way.__name__: way for way in (dlt_default, dlt_pyarrow, dlt_connectorx, duckdb_pandas)}


def main(way: str, directory: Path) -> None:
    load = WAYS[way]
    if way.startswith("dlt"):
        import connectorx  # noqa: F401
        import dlt.sources.sql_database  # noqa: F401
    else:
        import dagster_duckdb_pandas  # noqa: F401
    began, processor = time.perf_counter(), time.process_time()
    rows = load(directory)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    status = Path("/proc/self/status").read_text()
    megabytes = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"seconds": seconds, "processor": processor, "rows": rows, "megabytes": megabytes}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
