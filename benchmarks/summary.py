"""The figures in README.md, from the kept results: `python -m benchmarks.summary` writes them there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- python -m benchmarks.summary -->\n", "<!-- -->"

_TO_FLOOR = "load: platform's time / the floor's"
_TO_STOCK = "stock dagster-dbt's time / the platform's"
_TO_DBT = "platform's time / that of `dbt build` alone, keeps the parsed project"
_TO_DLT, _TO_FASTEST_DLT = "load: platform / dlt's default", "load: platform / dlt's fastest"


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


def _seconds(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    one_day, ratios, several = found["one day"], found["one day, ratios"], found["several days in one run"]
    [at_once] = [name for name, row in several.items() if isinstance(row, dict)]
    parts = found["one day on the platform, split"]
    idle, storage = found["idle"], found["Dagster's storage, a run of one day"]
    return [
        (
            f"one day of {found['orders a day']:,} orders, from the click to the marts",
            f"{one_day['platform']['median (s)']} s",
            f"{ratios[_TO_STOCK]} times as fast as stock dagster-dbt,"
            f" {ratios[_TO_DBT]} times the time of `dbt build` alone in a warm process",
        ),
        (
            "where these seconds go",
            ", ".join(f"{name.removesuffix(' (s)')} {seconds}" for name, seconds in parts.items()),
            "",
        ),
        (
            f"{at_once} in one run",
            f"{several[at_once]['median (s)']} s",
            f"{several[f'{at_once} / one day']} times one day",
        ),
        (
            "`make dev` with its default producer, all processes",
            f"{idle['CPU (% of one core)']} % of one core over {idle['minutes']:.0f} minutes",
            f"{idle['runs that ended']} runs in this time",
        ),
        (
            "a run of one day in Dagster's storage",
            f"{storage['event_logs (rows)']:.0f} events",
            f"{storage['all tables, with indexes (kB)']} kB in all tables",
        ),
    ]


def _launch(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    start, process = found["request to start (s)"], found["launch to run: the process starts (s)"]
    return [
        (
            "a run, from the request in the UI to the start of its first step",
            f"median {start['median']} s, 95th percentile {start['p95']} s",
            f"{process['median']} s of it start the process",
        )
    ]


def _features(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    day, *_ = found["days"]
    slowest, fastest = day["slowest and fastest (s)"]
    compared = ", ".join(f"{name}: {ratio}" for name, ratio in found["ratios"].items())
    return [
        (
            f"features of a day of {found['orders']:,} orders, staged and published",
            f"{day['seconds']} s ({fastest} to {slowest} s), {day['peak MB']} MB",
            f"times the seconds: {compared}",
        )
    ]


def _code_location(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (
            "load of the code location",
            f"{found['load the code location (s)']} s",
            f"{found['import dagster (s)']} s of it import dagster",
        ),
    ]


def _before(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    speed, cpu = found["orders/s"], found["CPU per order (microseconds)"]
    least, most = speed["least and most"]
    return [
        (
            f"stream: throughput beside that of commit {found['earlier state']}, before books were kept",
            f"{speed['now / before']} ({least} to {most} in {found['rounds']} rounds)",
            f"processor time per order: {cpu['now / before']}",
        )
    ]


def _backtest(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    ratios, ends = found["ratios"], found["ratios, least and most"]
    least, most = found["fastest and slowest (s)"]["backtest"]
    scan, rows = "backtest's time / that of the scan", "times as fast as row by row"
    return [
        (
            f"backtest of a book of {found['rules']} rules: {found['days']} days, {found['orders']:,} orders",
            f"{found['seconds']['backtest']} s ({least} to {most} s)",
            f"{ratios[scan]} ({ends[scan][0]} to {ends[scan][1]}) times a bare scan of the same columns;"
            f" {ratios[rows]} ({ends[rows][0]} to {ends[rows][1]}) times as fast as row by row in Python",
        )
    ]


def _daily_run(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (
            f"parts of a run of a day of {run['orders']:,} orders",
            ", ".join(f"{name} {share} %" for name, share in run["shares (%)"].items()),
            f"the run takes {run['run (s)']} s; times: {run['runs']}",
        )
        for run in found["runs"]
    ]


ROWS = {
    "features": _features,
    "stream": _stream,
    "warehouse": _warehouse,
    "launch": _launch,
    "seconds": _seconds,
    "code_location": _code_location,
    "before": _before,
    "backtest": _backtest,
    "daily_run": _daily_run,
}


def summary(results: Path = RESULTS) -> str:
    """Return a Markdown table of the figures of each benchmark that was run: figure, value, comparison."""
    found = {path.stem: json.loads(path.read_text())["results"] for path in results.glob("*.json")}
    rows = [row for name, derive in ROWS.items() if name in found for row in derive(found[name])]
    lines = [f"| {what} | {measured} | {beside} |" for what, measured, beside in rows]
    return "\n".join(["| what | measured | beside |", "|---|---|---|", *lines]) + "\n"


def show(readme: Path = README) -> None:
    """Write the table into README.md, in place of the one that is there."""
    before, rest = readme.read_text().split(BEGIN, 1)
    readme.write_text(f"{before}{BEGIN}\n{summary()}\n{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    show()
