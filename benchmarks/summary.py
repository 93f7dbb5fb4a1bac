"""The figures that README.md shows, from the kept results: `python -m benchmarks.summary` prints them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

_TO_FLOOR = "load: platform's time / the floor's"
_TO_DLT, _TO_FASTEST_DLT = "load: platform / dlt's default", "load: platform / dlt's fastest"


def summary(results: Path = RESULTS) -> str:
    """Return a Markdown table of each figure, what it is compared with, and the file with all results."""
    found = {path.stem: json.loads(path.read_text())["results"] for path in sorted(results.glob("*.json"))}
    rows = [
        *_stream(found["stream"]),
        *_warehouse(found["warehouse"]),
        *_rest(found),
        *_launch(found.get("launch")),
    ]
    lines = [f"| {what} | {measured} | {beside} |" for what, measured, beside in rows]
    return "\n".join(["| what | measured | beside |", "|---|---|---|", *lines]) + "\n"


def _stream(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    throughput, users = found["throughput"], found["ten times the users"]
    late = {row["orders/s"]: row for row in found["latency"] if row["way"] == "consumer"}
    polled = {row["orders/s"]: row for row in found["latency"] if "looks every" in row["way"]}
    return [
        (
            f"stream: durable throughput, {throughput['orders']:,} orders, all rules and features",
            f"{throughput['consumer (orders/s)']:,} orders/s",
            f"{throughput['consumer / floor']} of COPY of the same rows, which decides nothing"
            f"{_spread(throughput, 'consumer / floor')}; an INSERT and a commit per order:"
            f" {throughput['one INSERT, connection and commit per order (orders/s)']:,}",
        ),
        *(
            (
                f"stream: line appended to flagged line read, {rate:,} orders/s",
                f"p50 {late[rate]['p50 (ms)']} ms, p99 {late[rate]['p99 (ms)']} ms",
                f"looking every 50 ms: p99 {polled[rate]['p99 (ms)']} ms",
            )
            for rate in late
        ),
        (
            "stream: ten times the users and history",
            f"{users['throughput, ten times / once']} of the throughput,"
            f" {users['ten times']['resident MB']} MB",
            f"{users['once']['resident MB']} MB",
        ),
    ]


def _spread(found: dict[str, Any], name: str) -> str:
    """Return a note about the rounds of a figure, if there were several."""
    if "rounds" not in found:
        return ""
    least, most = found["least and most"][name]
    return f" ({least} to {most} in {len(found['rounds'])} rounds)"


def _warehouse(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    ratios, [ours, *_] = found["ratios"], found["loads"]
    [big] = [rows for name, rows in found.items() if name.endswith(" orders")]
    slowest, fastest = ours["slowest and fastest (s)"]
    return [
        (
            f"load: a day of {found['orders']:,} orders, PostgreSQL to a published DuckDB partition",
            f"{ours['seconds']} s ({fastest} to {slowest} s), {ours['peak MB']} MB"
            f" ({big[0]['peak MB']} MB at ten times the orders)",
            f"{ratios[_TO_FLOOR]} times the floor's time;"
            f" {ratios[_TO_DLT]} times as fast as dlt by default,"
            f" {ratios[_TO_FASTEST_DLT]} times as fast as its fastest,"
            f" {ratios['load: platform / dagster-duckdb-pandas']} times as fast as dagster-duckdb-pandas",
        ),
        (
            "load: extraction alone, as typed Arrow batches",
            f"{found['extractions'][0]['orders/s']:,} orders/s",
            f"{ratios['extraction: platform / COPY']} of COPY TO STDOUT",
        ),
    ]


def _rest(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    location, month = found["code_location"], found["backfill"]
    return [
        (
            f"backfill of {month['days']} days, PostgreSQL to the marts",
            f"{month['backfill in one run (s)']} s in one run",
            f"a run a day: {month['a run a day / one run']} times as long",
        ),
        (
            "`dbt build` of one new day, with its tests",
            f"{month['dbt build of one new day (s)']} s",
            "",
        ),
        (
            "load of the code location",
            f"{location['load the code location (s)']} s",
            f"{location['import dagster (s)']} s of it import dagster",
        ),
    ]


def _launch(found: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """Return the row of the launch, or none while no result of it is kept."""
    if found is None:
        return []
    start, process = found["request to start (s)"], found["launch to run: the process starts (s)"]
    return [
        (
            "a run, from the request in the UI to the start of its first step",
            f"median {start['median']} s, 95th percentile {start['p95']} s",
            f"{process['median']} s of it start the process",
        )
    ]


if __name__ == "__main__":
    print(summary(), end="")
