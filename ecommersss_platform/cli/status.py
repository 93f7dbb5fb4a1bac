"""The report of `ecommersss status` as tables for people."""

from __future__ import annotations

from typing import Any

from ecommersss_platform.cli.output import print_rows
from ecommersss_platform.topics import progress_tables


def print_status(report: dict[str, Any]) -> None:
    """Print a report of `ecommersss_platform.status.gather` as tables."""
    where = f"up, Dagster UI at {report['ui']}" if report["up"] else "not running (`ecommersss up` starts it)"
    print_rows(["platform", "home"], [{"platform": where, "home": report["home"]}])
    if report["processes"]:
        print_rows(list(report["processes"][0]), report["processes"], title="processes")
    for table in progress_tables(report["topic"]):
        print_rows(table.columns, table.rows, title=table.title)
    if report["consumer"]:
        print_rows(
            list(report["consumer"]),
            [report["consumer"]],
            title=f"fraud consumer since its start; latency of 5 minutes ({report['metrics']})",
        )
    print_rows(list(report["database"]), [report["database"]], title="database")
    if report["warehouse_busy"]:
        print_rows(["newest partition"], [{"newest partition": f"unknown: {report['warehouse_busy']}"}])
    else:
        print_rows(["table", "newest"], report["partitions"], title="newest partition")
    rejected = report["rejected"]["by_reason"]
    if rejected:
        print_rows(["reason", "lines", "not_retried"], rejected, title="rejected orders")
    else:
        print_rows(["rejected orders"], [{"rejected orders": 0}])
