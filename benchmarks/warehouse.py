"""A day of orders from PostgreSQL to a published DuckDB partition, beside its floor and its peers.

PostgreSQL is embedded, in a temporary directory. Each load is a process of its own that starts on an empty
DuckDB file; its clock starts when its modules are imported. The floor is COPY TO STDOUT of the same SELECT,
thrown away, and then DuckDB's reading the same rows from a Parquet file that was there before.

The ways take turns, each round in the opposite order of the one before, because machines change their mind.
Ratios compare what was measured in one round. Medians are shown, with the extremes. Processor time tells
computing from waiting.

The platform does more than any other: it audits what it staged, and publishes in one transaction. dlt leaves
the partition's day out, and its two slow backends load a tenth of the orders. Memory is the most that was
ever resident, mapped libraries included.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil
import pyarrow.parquet

from benchmarks.shop import Shop
from benchmarks.svg import panels
from ecommersss_platform.contracts import ORDERS
from ecommersss_platform.local.postgres import OPERATIONAL, EmbeddedPostgres
from ecommersss_platform.partitions import Days
from ecommersss_platform.postgres.resource import PostgresResource
from streaming.database import connect, migrate

DAY, BIG_DAY, SMALL_DAY = date(2026, 1, 2), date(2026, 1, 3), date(2026, 1, 4)
PEERS = Path(__file__).with_name("peers.py")
REQUIREMENTS = PEERS.with_suffix(".txt")


class Way(NamedTuple):
    key: str
    """Its name in `benchmarks.loads`, or in `peers.py`."""
    name: str
    kind: str
    rounds: int
    peer: bool = False
    slow: bool = False
    """It loads a tenth of the orders."""


LOADS = (
    Way("platform", "platform: extract, stage, audit, publish", "ours", 5),
    Way("floor", "floor: COPY TO STDOUT, then DuckDB reads Parquet", "floor", 5),
    Way("dlt_connectorx", "dlt replace, connectorx (its fastest)", "peer", 5, peer=True),
    Way("dlt_pyarrow", "dlt replace, pyarrow", "peer", 1, peer=True, slow=True),
    Way("duckdb_pandas", "read_sql, dagster-duckdb-pandas's IO manager", "peer", 1, peer=True),
    Way("dumped_json", "fetch all, dump JSON, load", "peer", 1),
    Way("dlt_default", "dlt replace, its default", "peer", 1, peer=True, slow=True),
)
EXTRACTIONS = (
    Way("extraction", "platform: typed Arrow batches", "ours", 5),
    Way("copy", "floor: COPY TO STDOUT through psycopg2", "floor", 5),
)


class Loaded(NamedTuple):
    seconds: float
    rows: int
    megabytes: float
    processor: float = 0.0
    """Processor seconds of the loading process."""
    server: float = 0.0
    """Processor seconds of PostgreSQL."""
    load_average: float = 0.0
    """Of the machine, when the load began."""
    steps: Mapping[str, Mapping[str, float]] = {}
    """The platform's: by step, the seconds and processor seconds since the step before."""


def measure(short: bool = False) -> dict[str, Any]:
    """All figures. `short`: a fiftieth of the orders, each way once."""
    orders, big = (20_000, 0) if short else (1_000_000, 10_000_000)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # so that PostgreSQL's account reaches its data
        directory = Path(name)
        server = EmbeddedPostgres(directory / "postgres")
        try:
            url = server.up().client_url(OPERATIONAL, tcp=True)  # which every peer knows
            migrate(url)
            Shop(10_000).open(url)
            fill(url, {DAY: orders, SMALL_DAY: orders // 10} | ({BIG_DAY: big} if big else {}))
            run = partial(_load, url, directory / "work", environment(), _postmaster(server))
            measured = _in_turns(run, orders, LOADS + EXTRACTIONS, short)
            ten = {} if short else {way: [run(BIG_DAY, way)] for way in (LOADS[0], LOADS[1], EXTRACTIONS[0])}
        finally:
            server.down()
    assert all(loaded.rows == big for [loaded] in ten.values())
    return results(orders, measured, big, ten, load_before)


def results(
    orders: int,
    measured: dict[Way, list[Loaded]],
    big: int,
    ten: dict[Way, list[Loaded]],
    load_before: float,
) -> dict[str, Any]:
    """The figures of so many orders, of ten times as many, and how they compare."""
    return {
        "orders": orders,
        "load average before": round(load_before, 2),
        "loads": [_row(way, measured[way], orders) for way in LOADS],
        "extractions": [_row(way, measured[way], orders) for way in EXTRACTIONS],
        f"{big:,} orders": [_row(way, loads, big) for way, loads in ten.items()],
        **_ratios({way.key: loads for way, loads in measured.items()}),
    }


def fill(url: str, days: dict[date, int]) -> None:
    """Store so many orders a day, evenly over it; about one in seventy is fraud, one in twenty suspicious."""
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        # One check of the whole is faster than one for each row, and so is one sort for the index.
        cursor.execute("ALTER TABLE orders DROP CONSTRAINT orders_user_id_fkey")
        cursor.execute("ALTER TABLE orders DROP CONSTRAINT orders_product_id_fkey")
        cursor.execute("DROP INDEX orders_created_date")
        first = 0
        for day, orders in days.items():
            start = Days.between(day, day).start_instant
            cursor.execute(_FILL, {"first": first, "orders": orders, "start": start})
            first += orders
        cursor.execute("CREATE INDEX orders_created_date ON orders (created_date)")
        cursor.execute("ALTER TABLE orders ADD FOREIGN KEY (user_id) REFERENCES users")
        cursor.execute("ALTER TABLE orders ADD FOREIGN KEY (product_id) REFERENCES products")
        cursor.execute("ANALYZE orders")


_FILL = """
INSERT INTO orders
SELECT (1735689600000::bigint + n) * 4096,
       1 + (n * 7919) % users,
       product,
       quantity,
       (product * 1000 + 500) * quantity,
       (ARRAY['Bank Transfer', 'Paylater', 'Credit Card', 'Gopay', 'OVO', 'DANA'])[1 + (n * 31) % 6],
       CASE WHEN fraud THEN 'SG' ELSE 'ID' END,
       fraud,
       CASE WHEN fraud THEN '{foreign_country}'::text[] ELSE '{}' END,
       CASE WHEN n % 20 = 0 THEN '{user_burst,new_country}'::text[] ELSE '{}' END,
       'a1b2c3d4e5f6',
       placed,
       placed + interval '0.3 s',
       n * 240,
       0
FROM (SELECT count(*) AS users FROM users) AS u,
     (SELECT count(*) AS products FROM products) AS p,
     generate_series(%(first)s::bigint, %(first)s::bigint + %(orders)s - 1) AS n,
     LATERAL (SELECT 1 + (n * 104729) % products AS product, 1 + n % 4 AS quantity, n % 67 = 0 AS fraud,
                     %(start)s + (n - %(first)s) * (interval '1 day' / %(orders)s) AS placed) AS drawn
""".replace(" % ", " %% ")


def write_parquet(url: str, path: Path, day: date) -> None:
    """The day's rows as a Parquet file, which the floor reads."""
    sql, params = ORDERS.select(Days.between(day, day))
    with pyarrow.parquet.ParquetWriter(path, ORDERS.arrow_schema) as writer:
        batches = PostgresResource(url=url).stream(sql, params, ORDERS.arrow_schema, batch_bytes=16 << 20)
        for batch in batches:
            writer.write_batch(batch)


def _in_turns(run: Any, orders: int, ways: tuple[Way, ...], short: bool) -> dict[Way, list[Loaded]]:
    measured: dict[Way, list[Loaded]] = {way: [] for way in ways}
    for turn in range(1 if short else max(way.rounds for way in ways)):
        for way in ways if turn % 2 == 0 else reversed(ways):
            if turn < way.rounds:
                wanted = orders // 10 if way.slow else orders
                loaded = run(SMALL_DAY if way.slow else DAY, way)
                assert loaded.rows == wanted, f"{way.name} loaded {loaded.rows} of {wanted} orders"
                print(
                    f"{way.name}: {loaded.seconds:.2f} s (processor {loaded.processor:.2f} s, PostgreSQL "
                    f"{loaded.server:.2f} s), {loaded.megabytes:.0f} MB",
                    file=sys.stderr,
                )
                measured[way].append(loaded)
    return measured


def _postmaster(server: EmbeddedPostgres) -> psutil.Process:
    pid = server.pid()
    assert pid is not None
    return psutil.Process(pid)


def _ended_sessions(postmaster: psutil.Process) -> float:
    """Return the processor seconds of all sessions and workers that have ended."""
    times = postmaster.cpu_times()
    return float(times.children_user + times.children_system)


def _load(url: str, work: Path, peers: Path, postmaster: psutil.Process, day: date, way: Way) -> Loaded:
    """One load, in a directory of its own that is removed after it."""
    work.mkdir()
    if way.key == "floor":
        write_parquet(url, work / "orders.parquet", day)
    days = Days.between(day, day)
    sql, _ = ORDERS.select(days)
    load_average, server = os.getloadavg()[0], _ended_sessions(postmaster)
    # Without -P the peers would find our modules before the standard library's.
    ours, theirs = [sys.executable, "-m", "benchmarks.loads"], [str(peers), "-P", str(PEERS)]
    done = subprocess.run(
        [*(theirs if way.peer else ours), way.key, str(work), str(day)],
        env=os.environ
        | {
            "BENCHMARK_URL": url,
            "BENCHMARK_SELECT": sql,
            "BENCHMARK_START": days.start_instant.astimezone(UTC).isoformat(),
            "BENCHMARK_END": days.end_instant.astimezone(UTC).isoformat(),
            "DAGSTER_DISABLE_TELEMETRY": "1",
            "RUNTIME__DLTHUB_TELEMETRY": "false",
            "RUNTIME__LOG_LEVEL": "ERROR",
            "HOME": str(work),
        },
        stdout=subprocess.PIPE,
        check=True,
    )
    shutil.rmtree(work)
    return Loaded(
        **json.loads(done.stdout.splitlines()[-1]),
        server=_ended_sessions(postmaster) - server,
        load_average=load_average,
    )


def environment() -> Path:
    """The interpreter of the peers' virtual environment, made from the pinned packages if it is missing."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecommersss-benchmarks"
    place = cache / f"peers-{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]}"
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        shutil.rmtree(place, ignore_errors=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([*pip, "--require-hashes", "-r", str(REQUIREMENTS)], check=True)
        (place / "complete").touch()
    return python


def _row(way: Way, loads: list[Loaded], orders: int) -> dict[str, Any]:
    orders = orders // 10 if way.slow else orders
    seconds = [loaded.seconds for loaded in loads]
    row: dict[str, Any] = {
        "way": f"{way.name} ({orders:,} orders)" if way.slow else way.name,
        "orders/s": round(orders / median(seconds)),
        "seconds": round(median(seconds), 2),
        "slowest and fastest (s)": [round(max(seconds), 2), round(min(seconds), 2)],
        "processor (s)": round(median(loaded.processor for loaded in loads), 2),
        "PostgreSQL's processor (s)": round(median(loaded.server for loaded in loads), 2),
        "peak MB": round(max(loaded.megabytes for loaded in loads)),
        "load average": [round(loaded.load_average, 1) for loaded in loads],
    }
    if loads[0].steps:
        row["steps"] = {step: _step([loaded.steps[step] for loaded in loads]) for step in loads[0].steps}
    return row


def _step(laps: list[Mapping[str, float]]) -> dict[str, Any]:
    """What a step took since the one before it. `staged` includes the extraction, which it overlaps."""
    seconds = [lap["seconds"] for lap in laps]
    return {
        "seconds": round(median(seconds), 2),
        "slowest and fastest (s)": [round(max(seconds), 2), round(min(seconds), 2)],
        "processor (s)": round(median(lap["processor"] for lap in laps), 2),
    }


def _ratios(measured: Mapping[str, list[Loaded]]) -> dict[str, dict[str, Any]]:
    """Compare, in each round, the time of an order; and take the median of the rounds and their extremes."""

    def rounds(way: str, other: str) -> list[float]:
        pairs = zip(measured[way], measured[other], strict=False)  # peers have fewer rounds
        return [(a.seconds / a.rows) / (b.seconds / b.rows) for a, b in pairs]

    found = {
        "extraction: platform / COPY": rounds("copy", "extraction"),
        "load: platform's time / the floor's": rounds("platform", "floor"),
        "load: platform / dlt's default": rounds("dlt_default", "platform"),
        "load: platform / dlt's fastest": rounds("dlt_connectorx", "platform"),
        "load: platform / dagster-duckdb-pandas": rounds("duckdb_pandas", "platform"),
        "load: platform / JSON": rounds("dumped_json", "platform"),
    }
    return {
        "ratios": {name: round(median(ratios), 2) for name, ratios in found.items()},
        "ratios, least and most": {
            name: [round(min(ratios), 2), round(max(ratios), 2)] for name, ratios in found.items()
        },
    }


# What is shown of it.


def files(report: dict[str, Any]) -> dict[str, str]:
    """The results as files, by name: tables and a plot."""
    return {"warehouse.md": tables(report), "warehouse.svg": plot(report["results"])}


def tables(report: dict[str, Any]) -> str:
    """The results as Markdown."""
    results = report["results"]
    lines = [
        f"Measured {report['when'][:10]} on {report['machine']}, Python {report['python']};"
        f" load average before: {results['load average before']}.",
    ]
    for title, rows in _charts(results):
        lines += ["", f"| {title} | orders/s | {_TIMES} | PostgreSQL's processor (s) | peak MB |"]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [
            f"| {row['way']} | {row['orders/s']:,} | {_times(row)} | {row[_SERVER]} | {row['peak MB']:,} |"
            for row in rows
        ]
    lines += ["", f"| the platform's load, step by step | {_TIMES} |", "|---|---|---|---|"]
    lines += [f"| {step} | {_times(row)} |" for step, row in results["loads"][0].get("steps", {}).items()]
    lines += ["", "| how many times as fast | median | least to most |", "|---|---|---|"]
    spread = results["ratios, least and most"]
    lines += [
        f"| {name} | {value:,} | {spread[name][0]:,} to {spread[name][1]:,} |"
        for name, value in results["ratios"].items()
    ]
    return "\n".join(lines) + "\n"


_TIMES, _SERVER = "seconds | fastest to slowest | processor (s)", "PostgreSQL's processor (s)"


def _times(row: Mapping[str, Any]) -> str:
    slowest, fastest = row["slowest and fastest (s)"]
    return f"{row['seconds']:,} | {fastest:,} to {slowest:,} | {row['processor (s)']:,}"


def plot(results: dict[str, Any]) -> str:
    """Throughput and memory as an SVG."""
    kinds = {way.name: way.kind for way in LOADS + EXTRACTIONS}

    def kind(row: Mapping[str, Any]) -> str:
        return next(kinds[name] for name in kinds if row["way"].startswith(name))

    charts = _charts(results)
    title, rows = charts[0]

    def bars(rows: list[dict[str, Any]], figure: str) -> list[tuple[str, float, str]]:
        return [(row["way"], float(row[figure]), kind(row)) for row in rows]

    return panels(
        [(f"{title}, orders/s (logarithmic)", True, bars(rows, "orders/s"))]
        + [(f"{title}, orders/s", False, bars(rows, "orders/s")) for title, rows in charts[1:]]
        + [(f"{title}, peak MB", False, bars(rows, "peak MB")) for title, rows in (charts[0], *charts[2:])]
    )


def _charts(results: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    orders = results["orders"]
    charts = [
        (f"a day of {orders:,} orders, PostgreSQL to DuckDB", results["loads"]),
        (f"{orders:,} orders out of PostgreSQL", results["extractions"]),
    ]
    charts += [(f"a day of {n}", rows) for n, rows in results.items() if n.endswith(" orders") and rows]
    return charts
