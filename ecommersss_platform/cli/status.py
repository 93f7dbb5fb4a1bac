"""The report of `ecommersss status` as tables for people."""

from __future__ import annotations

from typing import Any

from ecommersss_platform.cli.output import print_rows


def print_status(report: dict[str, Any]) -> None:
    """Print a report of `ecommersss_platform.status.gather` as tables."""
    where = f"up, Dagster UI at {report['ui']}" if report["up"] else "not running (`ecommersss up` starts it)"
    print_rows(["platform", "home"], [{"platform": where, "home": report["home"]}])
    if report["processes"]:
        print_rows(list(report["processes"][0]), report["processes"], title="processes")
    _print_topic(report["topic"])
    if report["consumer"]:
        print_rows(
            list(report["consumer"]),
            [report["consumer"]],
            title=f"fraud consumer since its start ({report['metrics']})",
        )
    print_rows(list(report["database"]), [report["database"]], title="database")
    print_rows(["table", "newest"], report["partitions"], title="newest partition")
    rejected = report["rejected"]["by_reason"]
    if rejected:
        print_rows(["reason", "lines", "not_retried"], rejected, title="rejected orders")
    else:
        print_rows(["rejected orders"], [{"rejected orders": 0}])


def _print_topic(topic: dict[str, Any]) -> None:
    if topic["kind"] == "jsonl":
        print_rows(
            ["consumer", "position", "topic end", "lag (bytes)"],
            [{**row, "topic end": topic["end"], "lag (bytes)": row["lag"]} for row in topic["consumers"]],
            title="topic orders",
        )
        return
    at = f"the emulator at {topic['emulator']}" if topic["emulator"] else "Google Pub/Sub"
    print_rows(
        ["subscription", "last position", "not yet in the flagged stream", "unacknowledged"],
        [
            {
                "subscription": topic["subscription"],
                "last position": topic["last_position"],
                "not yet in the flagged stream": topic["not_in_flagged_stream"],
                "unacknowledged": "see Cloud Monitoring: num_undelivered_messages",
            }
        ],
        title=f"topic orders at {at}",
    )
    columns = ["host", "pid", "connected_since", "quiet_seconds"]
    print_rows(columns, topic["consumers"], title=f"{len(topic['consumers'])} consumers connected")
