"""A day from the click to the marts, several days at once, and what an idle platform costs.

All runs are asked for in GraphQL, as the UI's launchpad does it, of a running `ecommersss up` whose shop
takes 2,000 orders a day. A run's time ends with the event of its success. Every day is new to the warehouse
when it is measured. The ways take turns, each with a warehouse file of its own with the same days before:

- platform: PostgreSQL to raw tables (write, audit, publish), their checks, all models, tests, the block list;
- stock dagster-dbt: `benchmarks.stock` under `dagster dev`. It loads the raw tables without audit or checks,
  then runs the same dbt build as a process, as its documentation shows. Once with Dagster's default executor,
  and once with the in-process executor, which the platform uses too;
- `dbt build` alone, called in a warm process: no request, no run, and no raw tables, which are there already.
  By default dbt parses the project for each new day; the floor keeps the parsed project.

Idle is `ecommersss up` with its default producer once the days of the first run's history are in the marts.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.cpu import seconds_by_part
from benchmarks.dbt_peers import IN_PROCESS_JOB, JOB, KEPT, PARSING, bare_dbt, stock_dagster
from benchmarks.stack import Platform, Run, platform, wait_until
from benchmarks.svg import panels
from ecommersss_platform.instance.databases import dagster_url
from ecommersss_platform.partitions import Days
from ecommersss_platform.run_tags import range_tags
from streaming.business_days import business_day
from streaming.database import connect

PLATFORM, STOCK, STOCK_IN_PROCESS = "platform", "stock dagster-dbt", "stock dagster-dbt, in-process executor"
BARE, FLOOR = f"`dbt build` alone, {PARSING}", f"`dbt build` alone, {KEPT}"
WAYS = (PLATFORM, STOCK, STOCK_IN_PROCESS, BARE, FLOOR)
_KINDS = dict(zip(WAYS, ("ours", "peer", "peer", "floor", "floor"), strict=True))
_DBT_STEP = "dbt_models"
_FEW_BYTES = 10_000
"""An order has some 200 bytes: the producer's newest may be under way."""
_SENSOR_SECONDS = 40.0
"""If there was no run for this long, the stream sensor has looked and wanted none."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    orders_per_day: int
    loaded: int
    """Days in the warehouses before the first measured one."""
    rounds: int
    """How often one day is measured."""
    at_once: int
    """Days of a run of several."""
    at_once_rounds: int
    month: int
    """Days of the longest run."""
    idle_seconds: float


FULL = Size(2_000, loaded=7, rounds=5, at_once=7, at_once_rounds=2, month=30, idle_seconds=600)
SHORT = Size(300, loaded=1, rounds=1, at_once=2, at_once_rounds=1, month=3, idle_seconds=30)


def measure(short: bool = False) -> dict[str, Any]:
    """Return all figures. With `short`, measure few days with few orders, and idle for half a minute."""
    size = SHORT if short else FULL
    return {**runs(size), "idle": idle(size)}


def runs(size: Size) -> dict[str, Any]:
    """Measure runs of one day, beside the peers, and of several days."""
    total = size.loaded + size.rounds + size.at_once * size.at_once_rounds + size.month
    yesterday = business_day(datetime.now(UTC)) - timedelta(days=1)
    every = Days.between(yesterday - timedelta(days=total - 1), yesterday)
    stretches = _stretches(every)
    with platform("--rate", "0", "--orders-per-day", "0", first_day=every.first) as shop:
        shop.dagster.stop_automation()
        shop.fill(every, size.orders_per_day)
        loaded = stretches(size.loaded)
        first = shop.run(loaded)
        before = dagster_tables(shop)
        ours, others = _one_day(shop, loaded, [stretches(1) for _ in range(size.rounds)])
        added = growth(before, dagster_tables(shop), len(ours))
        at_once = [shop.run(stretches(size.at_once)) for _ in range(size.at_once_rounds)]
        month = shop.run(stretches(size.month))
    return results(size, ours, others, Several(first, at_once, month), added)


class Several(NamedTuple):
    """The runs of several days."""

    first: Run
    at_once: Sequence[Run]
    month: Run


def results(
    size: Size, ours: Sequence[Run], others: dict[str, list[float]], several: Several, added: dict[str, float]
) -> dict[str, Any]:
    """Return the figures of runs. `others`: seconds of the other ways. `added`: see `growth`."""
    one_day = {PLATFORM: [run.seconds for run in ours], **others}
    once, at_once = median(one_day[PLATFORM]), [run.seconds for run in several.at_once]
    return {
        "orders a day": size.orders_per_day,
        "one day": {way: _spread(one_day[way]) for way in WAYS},
        "one day, ratios": ratios(one_day),
        "one day on the platform, split": split(ours),
        "several days in one run": {
            f"{size.at_once} days": _spread(at_once),
            f"{size.at_once} days / one day": round(median(at_once) / once, 2),
            f"the first {size.loaded} days of a new home (s)": round(several.first.seconds, 1),
            f"{size.month} days (s)": round(several.month.seconds, 1),
            f"a run a day for {size.month} days / one run": round(
                size.month * once / several.month.seconds, 1
            ),
        },
        "Dagster's storage, a run of one day": added,
    }


def _stretches(every: Days) -> Callable[[int], Days]:
    """Return a function that returns the next `count` days at each call."""
    rest: Iterator[Any] = iter(every)

    def take(count: int) -> Days:
        days = [next(rest) for _ in range(count)]
        return Days.between(days[0], days[-1])

    return take


def _one_day(shop: Platform, loaded: Days, days: Sequence[Days]) -> tuple[list[Run], dict[str, list[float]]]:
    """Return the platform's runs of each day, and the seconds of the other ways, in turns."""
    ours: list[Run] = []
    others: dict[str, list[float]] = {way: [] for way in WAYS if way != PLATFORM}
    with ExitStack() as stack:
        places = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
        stock = stack.enter_context(stock_dagster(shop, places[0]))
        bare = stack.enter_context(bare_dbt(shop, places[1]))
        stock.run(JOB, range_tags(loaded))
        bare(loaded)
        for number, day in enumerate(days):
            ours.append(shop.run(day))
            others[STOCK].append(stock.run(JOB, range_tags(day)).seconds)
            seconds = bare(day)
            others[BARE].append(seconds[PARSING])
            others[FLOOR].append(seconds[KEPT])
            if number % 2 == 0:  # every second round is enough for it
                others[STOCK_IN_PROCESS].append(stock.run(IN_PROCESS_JOB, range_tags(day)).seconds)
    return ours, others


def ratios(one_day: dict[str, list[float]]) -> dict[str, float]:
    """Return how many times as fast as its peers the platform is, and its time over that of dbt alone."""
    ours = median(one_day[PLATFORM])
    return {
        f"{way}'s time / the platform's": round(median(one_day[way]) / ours, 2)
        for way in (STOCK, STOCK_IN_PROCESS)
    } | {f"platform's time / that of {way}": round(ours / median(one_day[way]), 2) for way in (BARE, FLOOR)}


def split(runs: Sequence[Run]) -> dict[str, float]:
    """Return the median seconds of the stretches of a run, from the request to its success."""
    parts: dict[str, list[float]] = {}
    for run in runs:
        began, ended = run.steps[_DBT_STEP]
        for name, seconds in (
            ("request to start", run.launch),
            ("raw tables and their checks", began - run.started),
            ("dbt, all models and tests", ended - began),
            ("block list and end of the run", run.ended - ended),
        ):
            parts.setdefault(name, []).append(seconds)
    return {f"{name} (s)": round(median(seconds), 2) for name, seconds in parts.items()}


def dagster_tables(shop: Platform) -> dict[str, tuple[int, int]]:
    """Return the rows, and the bytes with indexes, of each table of Dagster's storage."""
    with closing(connect(dagster_url(shop.settings))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT relname, pg_total_relation_size(relid) FROM pg_stat_user_tables ORDER BY 1")
        sizes = dict(cursor.fetchall())
        found = {}
        for table, size in sizes.items():
            cursor.execute(f'SELECT count(*) FROM "{table}"')
            [(rows,)] = cursor.fetchall()
            found[table] = (rows, size)
    return found


def growth(
    before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], runs: int
) -> dict[str, float]:
    """Return the rows that a run adds to each table that grows, and the kilobytes to all of them."""
    rows = {table: round((after[table][0] - before[table][0]) / runs, 1) for table in after}
    size = sum(after[table][1] - before[table][1] for table in after) / runs
    return {f"{table} (rows)": count for table, count in rows.items() if count > 0} | {
        "all tables, with indexes (kB)": round(size / 1000)
    }


def idle(size: Size) -> dict[str, Any]:
    """Return the CPU of everything that `ecommersss up` runs by default, in per cent of one core."""
    with platform() as shop:
        quiet_since = time.monotonic()

        def history_is_done() -> bool:
            nonlocal quiet_since
            if shop.lag() > _FEW_BYTES or shop.dagster.runs() or not shop.dagster.runs("SUCCESS"):
                quiet_since = time.monotonic()
            return time.monotonic() - quiet_since > _SENSOR_SECONDS

        wait_until(history_is_done, "the first run's history is not in the marts", 600)
        known = shop.dagster.runs("SUCCESS")
        before, began = seconds_by_part(shop.settings, shop.supervisor), time.monotonic()
        time.sleep(size.idle_seconds)
        after, seconds = seconds_by_part(shop.settings, shop.supervisor), time.monotonic() - began
        more = shop.dagster.runs("SUCCESS") - known
    share = {part: round((after[part] - before[part]) / seconds * 100, 1) for part in after}
    return {
        "minutes": round(seconds / 60, 1),
        "runs that ended": more,
        "CPU (% of one core)": round(sum((after - before).values()) / seconds * 100, 1),
        "CPU by part (% of one core)": dict(sorted(share.items(), key=lambda item: -item[1])),
    }


def _spread(seconds: Sequence[float]) -> dict[str, Any]:
    return {
        "median (s)": round(median(seconds), 2),
        "fastest and slowest (s)": [round(min(seconds), 2), round(max(seconds), 2)],
        "times": len(seconds),
    }


def files(report: dict[str, Any]) -> dict[str, str]:
    """Return the results as Markdown tables and as a plot."""
    found = report["results"]
    several = found["several days in one run"]
    lines = [
        f"Measured {report['when'][:10]} on {report['machine']}, Python {report['python']};"
        f" {found['orders a day']:,} orders a day.",
        "",
        "| one day, from the request to the marts | median (s) | fastest | slowest | times |",
        "|---|---|---|---|---|",
        *(f"| {way} | {_cells(row)} |" for way, row in found["one day"].items()),
        "",
        *_table("how many times", found["one day, ratios"]),
        *_table("where the platform's seconds go", found["one day on the platform, split"]),
        "| several days in one run | median (s) | fastest | slowest | times |",
        "|---|---|---|---|---|",
        *(f"| {name} | {_cells(row)} |" for name, row in several.items() if isinstance(row, dict)),
        "",
        *_table("", {name: row for name, row in several.items() if not isinstance(row, dict)}),
        *_table("Dagster's storage", found["Dagster's storage, a run of one day"]),
        *_table("idle, with the default producer", _idle_rows(found["idle"])),
    ]
    seconds = [(way, row["median (s)"], _KINDS[way]) for way, row in found["one day"].items()]
    parts = [(name, value, "ours") for name, value in found["one day on the platform, split"].items()]
    cpu = [
        (part, max(share, 0.1), "ours")
        for part, share in found["idle"]["CPU by part (% of one core)"].items()
    ]
    plot = panels(
        [
            ("One day, from the request to the marts (s)", False, seconds),
            ("Where the platform's seconds go", False, parts),
            ("Idle: CPU in % of one core", False, cpu),
        ]
    )
    return {"seconds.md": "\n".join(lines).rstrip("\n") + "\n", "seconds.svg": plot}


def _cells(row: dict[str, Any]) -> str:
    fastest, slowest = row["fastest and slowest (s)"]
    return f"{row['median (s)']} | {fastest} | {slowest} | {row['times']}"


def _table(title: str, rows: dict[str, Any]) -> list[str]:
    return [f"| {title} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items()), ""]


def _idle_rows(found: dict[str, Any]) -> dict[str, Any]:
    parts = found["CPU by part (% of one core)"]
    return {name: value for name, value in found.items() if value is not parts} | {
        f"of this: {part}": share for part, share in parts.items()
    }
