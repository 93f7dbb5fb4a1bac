"""The report of `ecommersss status` as tables for people."""

from __future__ import annotations

from typing import Any

from ecommersss_platform.cli.output import print_rows
from ecommersss_platform.topics import progress_tables

_PROCESS = ["name", "pid", "state", "restarts", "what", "log"]


def print_status(report: dict[str, Any]) -> None:
    """Print a report of `ecommersss_platform.status.gather` as tables."""
    where = f"up, Dagster UI at {report['ui']}" if report["up"] else "not running (`ecommersss up` starts it)"
    print_rows(["platform", "home"], [{"platform": where, "home": report["home"]}])
    if report["problems"]:
        print_rows(["what", "problem"], report["problems"], title="problems")
    if problems := report["open_problems"]:
        title = f"{len(problems)} open problems (`ecommersss alerts list` shows more)"
        print_rows(["kind", "subject", "since", "told"], problems, title=title)
    if overrides := report["overrides"]:
        title = "rules that the brake holds back (`ecommersss rules overrides list`)"
        print_rows(list(overrides[0]), overrides, title=title)
    if report["processes"]:
        print_rows(_PROCESS, report["processes"], title="processes")
    for table in progress_tables(report["topic"]) if report["topic"] else []:
        print_rows(table.columns, table.rows, title=table.title)
    if report["consumer"]:
        print_rows(
            list(report["consumer"]),
            [report["consumer"]],
            title=f"fraud consumer since its start; latency of 5 minutes ({report['metrics']})",
        )
    if report["database"]:
        print_rows(list(report["database"]), [report["database"]], title="database")
    if report["warehouse_busy"]:
        print_rows(["newest partition"], [{"newest partition": f"unknown: {report['warehouse_busy']}"}])
    else:
        print_rows(["table", "newest"], report["partitions"], title="newest partition")
    if report["report"]:
        print_rows(["day", "page"], [report["report"]], title="newest fraud report")
    if report["billed"]:
        print_rows(list(report["billed"]), [report["billed"]], title="billed by the warehouse's service")
    if report["review"] and report["review"]["orders"]:
        print_rows(list(report["review"]), [report["review"]], title="orders that wait for review")
    if report["rejected"] and (rejected := report["rejected"]["by_reason"]):
        print_rows(["reason", "lines", "not_retried"], rejected, title="rejected orders")
    elif report["rejected"]:
        print_rows(["rejected orders"], [{"rejected orders": 0}])
    if runs := report["failed_runs"]:
        print_rows(list(runs[0]), runs, title="failed runs of the last day")
    if alerts := report["alerts"]:
        print_rows(["at", "event", "alert", "subject", "message"], alerts, title="alerts of the last day")
