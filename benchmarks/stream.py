"""The fraud consumer: durable throughput, latency, and ten times the users, beside floors and peers.

Everything runs on an embedded PostgreSQL in a temporary directory, with foreign keys, indexes and
synchronous commits as in production, and all rules of the shipped book, shadow ones too.

Throughput is measured on a full topic, from the start of the consumer to the last flagged line; its floor is
COPY of the same rows into the same, emptied table: in one statement, which decides nothing, writes no flagged
stream and keeps no position. Latency is from just before a line is appended until its flagged line, which is
written after the commit, was read by another process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import psycopg2

from benchmarks.shop import Shop
from benchmarks.svg import panels
from ecommersss_platform.local.postgres import EmbeddedPostgres
from streaming.consumer import MAX_LINES
from streaming.database import connect, migrate
from streaming.topics.jsonl import JsonlTopic

RATES = ((20, 8), (1_000, 6), (10_000, 5))
"""Orders a second, and for how many seconds."""
POLL_SECONDS = 0.05
_SETTLE_SECONDS = 2.0
_PATIENCE_SECONDS = 5.0


def measure(short: bool = False) -> dict[str, Any]:
    """All figures. `short`: a tenth of the orders, for a look within a minute."""
    orders, users, peers = (100_000, 2_000, 100) if short else (1_000_000, 10_000, 500)
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)  # so that PostgreSQL's account reaches its data
        bench = _Bench(Path(directory))
        try:
            bench.server.up()
            return {
                "throughput": bench.throughput(Shop(users), orders, peers),
                "latency": bench.latency(Shop(users), short),
                "ten times the users": bench.scaling(users, orders),
            }
        finally:
            bench.server.down()


class _Bench:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server = EmbeddedPostgres(directory / "postgres")
        self._homes = 0

    @contextmanager
    def stage(self, shop: Shop) -> Iterator[_Stage]:
        """A fresh database with the shop's users and products, and empty topics."""
        self._homes += 1
        name, home = f"benchmark_{self._homes}", self.directory / f"home-{self._homes}"
        self._administer(f"CREATE DATABASE {name}")
        stage = _Stage(self.server.url(name), home, JsonlTopic(home / "orders"), shop)
        migrate(stage.url)
        shop.open(stage.url)
        yield stage
        self._administer(f"DROP DATABASE {name} WITH (FORCE)")

    def _administer(self, statement: str) -> None:
        with closing(psycopg2.connect(self.server.url("dagster"))) as connection:
            connection.autocommit = True
            connection.cursor().execute(statement)

    def throughput(self, shop: Shop, orders: int, peers: int) -> dict[str, Any]:
        with self.stage(shop) as stage:
            stage.topic.publish(shop.lines(0, orders))
            samples = stage.consume("--once")
            rows = stage.rows()
            one, batches = [], []
            for _ in range(2):  # in turns, because machines change their mind
                one.append(orders / stage.copy(rows, orders))
                batches.append(orders / stage.copy(rows, MAX_LINES))
        with self.stage(shop) as stage:
            stage.topic.publish(shop.lines(0, peers))
            peer = stage.consume("--once", "--per-order")[-1]
        seconds, done, cpu, _ = samples[-1]
        floor = sum(one) / len(one)
        return {
            "orders": done,
            "consumer (orders/s)": round(done / seconds),
            "floor: the rows in one COPY (orders/s)": round(floor),
            f"the rows in COPYs of {MAX_LINES}, a commit each (orders/s)": round(sum(batches) / len(batches)),
            "one INSERT, connection and commit per order (orders/s)": round(peer[1] / peer[0]),
            "consumer / floor": round(done / seconds / floor, 2),
            "consumer's CPU per order (microseconds)": round(cpu / done * 1e6, 1),
            "resident MB at quarters of the way": [
                round(min(samples, key=lambda s, share=share: abs(s[1] - share * done))[3])  # type: ignore[misc]
                for share in (0.25, 0.5, 0.75, 1)
            ],
        }

    def latency(self, shop: Shop, short: bool) -> list[dict[str, Any]]:
        ways = (
            ("consumer", []),
            (f"consumer that looks every {POLL_SECONDS * 1000:.0f} ms", ["--poll", str(POLL_SECONDS)]),
            ("one INSERT, connection and commit per order", ["--per-order"]),
        )
        found = []
        for rate, seconds in RATES:
            for name, options in ways:
                with self.stage(shop) as stage:
                    taken = stage.latencies(rate, seconds / (2 if short else 1), options)
                found.append({"way": name, "orders/s": rate, **taken})
        return found

    def scaling(self, users: int, orders: int) -> dict[str, Any]:
        """The second half of a run, when those who order have been seen."""
        found = {}
        for name, times in (("once", 1), ("ten times", 10)):
            shop, past = Shop(users * times), orders // 10 * times
            with self.stage(shop) as stage:
                shop.past(stage.url, past)
                stage.topic.publish(shop.lines(past, orders))
                samples = stage.consume("--once")
            half = min(samples, key=lambda sample: abs(sample[1] - orders / 2))
            seconds, done, cpu, memory = samples[-1]
            found[name] = {
                "users": shop.users,
                "orders stored before": past,
                "orders/s": round((done - half[1]) / (seconds - half[0])),
                "CPU per order (microseconds)": round((cpu - half[2]) / (done - half[1]) * 1e6, 1),
                "resident MB": round(memory),
            }
        once, ten = found["once"], found["ten times"]
        return {**found, "throughput, ten times / once": round(ten["orders/s"] / once["orders/s"], 2)}


class _Stage:
    """A database, two topics, and the processes that work on them."""

    def __init__(self, url: str, home: Path, topic: JsonlTopic, shop: Shop) -> None:
        self.url, self.home, self.topic, self.shop = url, home, topic, shop

    def start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", str(self.home), *arguments],
            env={**os.environ, "BENCHMARK_URL": self.url},
            stdout=subprocess.PIPE,
        )

    def consume(self, *options: str) -> list[tuple[float, int, float, float]]:
        with self.start("consume", *options) as process:
            return _answer(process)

    def rows(self) -> bytes:
        with closing(connect(self.url)) as connection, connection.cursor() as cursor:
            cursor.copy_expert("COPY (SELECT * FROM orders ORDER BY position) TO STDOUT", rows := BytesIO())
        return rows.getvalue()

    def copy(self, rows: bytes, size: int) -> float:
        """Seconds that it takes to COPY the rows into the emptied table, so many at a time."""
        lines = rows.splitlines(keepends=True)
        pieces = [b"".join(lines[i : i + size]) for i in range(0, len(lines), size)]
        with closing(connect(self.url)) as connection, connection.cursor() as cursor:
            cursor.execute("TRUNCATE shipments, disputes, verdicts, orders")
            connection.commit()
            began = time.perf_counter()
            for piece in pieces:
                cursor.copy_expert("COPY orders FROM STDIN", BytesIO(piece), size=1 << 20)
                connection.commit()
            return time.perf_counter() - began

    def latencies(self, rate: int, seconds: float, options: list[str]) -> dict[str, Any]:
        """Median and 99th percentile in milliseconds, over all orders of a run."""
        # So that what a first order costs is over.
        warm = 50
        self.topic.publish(self.shop.lines(0, warm))
        flagged = JsonlTopic(self.home / "flagged")
        seen: dict[int, float] = {}
        arguments = (str(self.shop.users), str(warm), str(rate), str(seconds))
        with self.start("consume", *options) as consumer, flagged.reader(0) as reader:
            try:
                _see(reader, seen, warm, 60)
                time.sleep(_SETTLE_SECONDS)
                with self.start("produce", *arguments) as producer:
                    _see(reader, seen, warm + int(rate * seconds), seconds + _PATIENCE_SECONDS)
                    appended = _answer(producer)
            finally:
                consumer.terminate()
                consumer.communicate()
        wanted = {warm + 1 + n: at for n, at in enumerate(appended)}
        took = sorted(seen[i] - at for i, at in wanted.items() if i in seen)
        if len(took) < len(wanted):  # it cannot keep up: latencies would only tell how long was measured
            return {"p50 (ms)": None, "p99 (ms)": None, "falls behind": True}
        p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
        return {"p50 (ms)": round(p50 * 1000, 1), "p99 (ms)": round(p99 * 1000, 1)}


def _see(reader: Any, seen: dict[int, float], lines: int, patience: float) -> None:
    """Note when each order's flagged line could be read, until there are so many."""
    deadline = time.monotonic() + patience
    while len(seen) < lines and (left := deadline - time.monotonic()) > 0:
        batch = reader.read(10_000, left)
        now = time.monotonic()
        for line in batch.lines:
            seen[int(line[6 : line.index(b",")])] = now


def _answer(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    printed = process.stdout.read()
    if process.wait():
        raise SystemExit(f"{process.args} failed")
    return json.loads(printed)


# What is shown of it.


def files(report: dict[str, Any]) -> dict[str, str]:
    """The results as files, by name: tables and a plot."""
    return {"stream.md": tables(report), "stream.svg": plot(report["results"])}


def tables(report: dict[str, Any]) -> str:
    """The results as Markdown."""
    throughput = report["results"]["throughput"]
    lines = [
        f"Measured {report['when'][:10]} on {report['machine']}, Python {report['python']};"
        f" {throughput['orders']:,} orders.",
        "",
        "| throughput | |",
        "|---|---|",
        *(f"| {name} | {_shown(value)} |" for name, value in throughput.items() if name != "orders"),
        "",
        "| latency, line appended to flagged line read (ms) | orders/s | p50 | p99 |",
        "|---|---|---|---|",
        *(
            f"| {row['way']} | {row['orders/s']:,} | {_shown(row['p50 (ms)'])} | {_shown(row['p99 (ms)'])} |"
            for row in report["results"]["latency"]
        ),
        "",
        "| users | orders stored before | orders/s | CPU per order (microseconds) | resident MB |",
        "|---|---|---|---|---|",
    ]
    scaling = report["results"]["ten times the users"]
    for name in ("once", "ten times"):
        lines.append("| " + " | ".join(_shown(value) for value in scaling[name].values()) + " |")
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any]) -> str:
    """Throughput and latency as an SVG."""
    throughput = results["throughput"]
    rates = [
        (name.removesuffix(" (orders/s)"), float(value), _kind(name))
        for name, value in throughput.items()
        if name.endswith("(orders/s)")
    ]
    late = [
        (f"{row['way']}, {row['orders/s']:,}/s", row["p99 (ms)"], _kind(row["way"]))
        for row in results["latency"]
        if row["p99 (ms)"] is not None
    ]
    return panels(
        [
            ("Durable throughput, orders/s", False, rates),
            ("Latency p99, line appended to flagged line read, ms (logarithmic)", True, late),
        ]
    )


def _kind(name: str) -> str:
    if name.startswith(("consumer (", "consumer /")) or name == "consumer":
        return "ours"
    return "floor" if "COPY" in name else "peer"


def _shown(value: Any) -> str:
    if value is None:
        return "falls behind"
    if isinstance(value, list):
        return ", ".join(_shown(one) for one in value)
    return f"{value:,}"
