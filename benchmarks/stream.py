"""The fraud consumer: durable throughput, latency, and ten times the users, beside floors and peers.

Everything runs on an embedded PostgreSQL in a temporary directory, with foreign keys, indexes and
synchronous commits as in production, and all rules of the shipped book, shadow ones too.

Throughput is measured on a full topic, from the start of the consumer to the last flagged line; its floor is
COPY of the same rows into the same, emptied table: in one statement, which decides nothing, writes no flagged
stream and keeps no position. What is compared runs in turns, several rounds, and a result is the median of
the rounds. Each round also keeps who used the cores, and how fast a core and the disk were: that is what
differs between runs. Latency is from just before a line is appended until its flagged line, which is
written after the commit, was read by another process.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil
import psycopg2

from benchmarks.shop import Shop
from benchmarks.svg import panels
from ecommersss_platform.local.postgres import EmbeddedPostgres
from streaming.consumer import MAX_LINES
from streaming.database import connect, migrate
from streaming.topics.jsonl import JsonlTopic

RATES = ((20, 8), (1_000, 6), (10_000, 5))
"""Orders a second, and for how many seconds."""
ROUNDS, USER_ROUNDS, LATENCY_ROUNDS = 5, 3, 3
POLL_SECONDS = 0.05
PROJECT = Path(__file__).parents[1]
_SETTLE_SECONDS = 2.0
_PATIENCE_SECONDS = 5.0


def measure(short: bool = False) -> dict[str, Any]:
    """All figures. `short`: a tenth of the orders and two rounds, for a look within two minutes."""
    orders, users, peers = (100_000, 2_000, 100) if short else (1_000_000, 10_000, 500)
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)  # so that PostgreSQL's account reaches its data
        bench = Bench(Path(directory), 2 if short else None)
        try:
            bench.server.up()
            return {
                "throughput": bench.throughput(Shop(users), orders * 6 // 10, peers),
                "latency": bench.latency(Shop(users), short),
                "ten times the users": bench.scaling(users, orders),
            }
        finally:
            bench.server.down()


class Sample(NamedTuple):
    """What `benchmarks.consume` prints: the CPU seconds of a process, and of its threads by name."""

    seconds: float
    orders: int
    cpu: float
    megabytes: float
    threads: dict[str, float]


@dataclass
class Spent:
    """What a step took of the machine: CPU seconds of PostgreSQL and of strangers, and megabytes of WAL."""

    seconds: float = 0.0
    postgres: float = 0.0
    strangers: float = 0.0
    wal: float = 0.0
    checkpoints: int = 0

    def per_order(self, orders: int) -> dict[str, float]:
        """Return what was spent, by what a table calls it."""
        return {
            "PostgreSQL's CPU (microseconds an order)": round(self.postgres / orders * 1e6, 1),
            "other programs (cores)": round(max(0.0, self.strangers) / self.seconds, 2),
            "WAL (MB)": round(self.wal),
            "checkpoints": self.checkpoints,
        }


class Bench:
    def __init__(self, directory: Path, rounds: int | None = None) -> None:
        self.directory = directory
        self.server = EmbeddedPostgres(directory / "postgres")
        self._rounds = rounds
        self._homes = 0

    @contextmanager
    def stage(self, shop: Shop, past: int = 0) -> Iterator[_Stage]:
        """A fresh database with the shop's users, products and first orders, and empty topics."""
        with self._database() as (name, home):
            stage = _Stage(self.server, name, home, shop)
            migrate(stage.url)
            shop.open(stage.url)
            if past:
                shop.past(stage.url, past)
                # As in a database that has run for a while. Otherwise autovacuum would come in some rounds.
                self._administer("VACUUM (ANALYZE)", name)
            yield stage

    @contextmanager
    def empty_stage(self, shop: Shop, tree: Path) -> Iterator[_Stage]:
        """An empty database and empty topics, for the code in a directory."""
        with self._database() as (name, home):
            yield _Stage(self.server, name, home, shop, tree)

    @contextmanager
    def copied(self, stage: _Stage, *, topic: bool = True) -> Iterator[_Stage]:
        """A copy of a database, with the same `topic` or an empty one."""
        with self._database(stage.database) as (name, home):
            home.mkdir()
            if topic:
                (home / "orders").symlink_to(stage.topic.directory)
            yield _Stage(self.server, name, home, stage.shop)

    @contextmanager
    def _database(self, template: str = "template1") -> Iterator[tuple[str, Path]]:
        self._homes += 1
        name = f"benchmark_{self._homes}"
        self._administer(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield name, self.directory / f"home-{self._homes}"
        # Not WITH (FORCE), which fails while autovacuum is at work in the database.
        self._administer(f"DROP DATABASE {name}")

    @contextmanager
    def spending(self, spent: Spent) -> Iterator[None]:
        """Note what the body takes of the machine."""
        began, before = time.perf_counter(), self._used()
        yield
        spent.seconds = time.perf_counter() - began
        time.sleep(0.1)  # until PostgreSQL's processes that have just ended are counted
        taken = [now - then for now, then in zip(self._used(), before, strict=True)]
        spent.postgres, own, busy, spent.wal, checkpoints = taken
        spent.strangers, spent.checkpoints = busy - own - spent.postgres, round(checkpoints)

    def _used(self) -> tuple[float, ...]:
        """CPU seconds of PostgreSQL, of this process and its ended children, and of all; WAL; checkpoints."""
        postmaster = psutil.Process(self.server.pid())
        mine, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        times = postmaster.cpu_times()
        postgres = sum(times)
        for child in postmaster.children():
            try:
                postgres += sum(child.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
        machine = psutil.cpu_times()
        with closing(psycopg2.connect(self.server.url("dagster"))) as connection:
            cursor = connection.cursor()
            cursor.execute(
                "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') / 1e6, num_timed + num_requested"
                " FROM pg_stat_checkpointer"
            )
            wal, checkpoints = cursor.fetchone() or (0, 0)
        own = sum(usage.ru_utime + usage.ru_stime for usage in (mine, ended))
        busy = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0)
        return postgres, own, busy, float(wal), float(checkpoints)

    def _administer(self, statement: str, database: str = "dagster") -> None:
        with closing(psycopg2.connect(self.server.url(database))) as connection:
            connection.autocommit = True
            connection.cursor().execute(statement)

    def throughput(self, shop: Shop, orders: int, peers: int) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        with self.stage(shop) as shared:
            shared.topic.publish(shop.lines(0, orders))
            # A round that does not count: PostgreSQL makes its first WAL files in it.
            with self.copied(shared) as stage:
                samples = stage.consume("--once")
                rows = stage.rows()
                stage.copy(rows, orders)
            for number in range(self._rounds or ROUNDS):
                one_round: dict[str, Any] = {}
                with self.copied(shared) as stage:
                    for consumes in (True, False) if number % 2 == 0 else (False, True):
                        one_round |= self._consumed(stage) if consumes else self._copied(stage, rows, orders)
                        stage.empty()
                found.append(one_round | _machine(self.directory))
        with self.stage(shop) as stage:
            stage.topic.publish(shop.lines(0, peers))
            peer = stage.consume("--once", "--per-order")[-1]
        for one_round in found:
            one_round[_RATIO] = round(one_round[_OURS] / one_round[_FLOOR], 2)
        rates = (_OURS, _FLOOR, _BATCHES)
        return {
            "orders": samples[-1].orders,
            **{name: round(median(r[name] for r in found)) for name in rates},
            "one INSERT, connection and commit per order (orders/s)": round(peer.orders / peer.seconds),
            _RATIO: round(median(r[_RATIO] for r in found), 2),
            _CPU: round(median(r[_CPU] for r in found), 1),
            "resident MB at quarters of the way": [
                round(min(samples, key=lambda s, n=n: abs(s.orders - n * samples[-1].orders / 4)).megabytes)  # type: ignore[misc]
                for n in (1, 2, 3, 4)
            ],
            "least and most": {
                name: [min(r[name] for r in found), max(r[name] for r in found)]
                for name in (*rates, _RATIO, _CPU)
            },
            "rounds": found,
        }

    def _consumed(self, stage: _Stage) -> dict[str, Any]:
        with self.spending(spent := Spent()):
            *_, last = stage.consume("--once")
        threads = {
            f"consumer's thread `{name}` (microseconds an order)": round(seconds / last.orders * 1e6, 1)
            for name, seconds in last.threads.items()
        }
        return {
            _OURS: round(last.orders / last.seconds),
            _CPU: round(last.cpu / last.orders * 1e6, 1),
            **threads,
            **{f"consumer: {name}": value for name, value in spent.per_order(last.orders).items()},
            "consumer: autovacuums": stage.autovacuums(),
        }

    def _copied(self, stage: _Stage, rows: bytes, orders: int) -> dict[str, Any]:
        with self.spending(spent := Spent()):
            seconds = stage.copy(rows, orders)
        return {
            _FLOOR: round(orders / seconds),
            _BATCHES: round(orders / stage.copy(rows, MAX_LINES)),
            **{f"floor: {name}": value for name, value in spent.per_order(orders).items()},
        }

    def latency(self, shop: Shop, short: bool) -> list[dict[str, Any]]:
        ways: Sequence[tuple[str, list[str], int]] = (
            ("consumer", [], self._rounds or LATENCY_ROUNDS),
            (f"consumer that looks every {POLL_SECONDS * 1000:.0f} ms", ["--poll", str(POLL_SECONDS)], 1),
            ("one INSERT, connection and commit per order", ["--per-order"], 1),
        )
        with self.stage(shop) as shared:
            rounds: dict[tuple[int, str], list[dict[str, Any]]] = {}
            for number in range(max(rounds for *_, rounds in ways)):
                for rate, seconds in RATES:
                    for name, options, of_way in ways:
                        if number < of_way:
                            with self.copied(shared, topic=False) as stage:
                                taken = stage.latencies(rate, seconds / (2 if short else 1), options)
                            rounds.setdefault((rate, name), []).append(taken)
        return [middle(rate, name, taken) for (rate, name), taken in rounds.items()]

    def scaling(self, users: int, orders: int) -> dict[str, Any]:
        """The second half of a run, when those who order have been seen, beside ten times the users."""
        found: dict[str, list[dict[str, Any]]] = {"once": [], "ten times": []}
        pasts = {"once": orders // 10, "ten times": orders}
        shops = {"once": Shop(users), "ten times": Shop(users * 10)}
        with self.stage(shops["once"], pasts["once"]) as once, self.stage(shops["ten times"], orders) as ten:
            stages = {"once": once, "ten times": ten}
            for name, stage in stages.items():
                stage.topic.publish(shops[name].lines(pasts[name], orders))
            for number in range(self._rounds or USER_ROUNDS):
                for name in ("once", "ten times") if number % 2 == 0 else ("ten times", "once"):
                    with self.copied(stages[name]) as stage:
                        samples = stage.consume("--once")
                    last, half = samples[-1], min(samples, key=lambda s: abs(s.orders - orders / 2))
                    done = last.orders - half.orders
                    found[name].append(
                        {
                            "orders/s": round(done / (last.seconds - half.seconds)),
                            "CPU per order (microseconds)": round((last.cpu - half.cpu) / done * 1e6, 1),
                            "resident MB": round(last.megabytes),
                        }
                    )
        ratios = [
            round(t["orders/s"] / o["orders/s"], 2)
            for o, t in zip(found["once"], found["ten times"], strict=True)
        ]
        return {
            **{
                name: {
                    "users": shops[name].users,
                    "orders stored before": pasts[name],
                    "orders/s": round(median(r["orders/s"] for r in rounds)),
                    "CPU per order (microseconds)": round(
                        median(r["CPU per order (microseconds)"] for r in rounds), 1
                    ),
                    "resident MB": max(r["resident MB"] for r in rounds),
                }
                for name, rounds in found.items()
            },
            "throughput, ten times / once": round(median(ratios), 2),
            "least and most": [min(ratios), max(ratios)],
            "rounds": found,
        }


class _Stage:
    """A database, two topics, and the processes that work on them, whose code is in the directory `tree`."""

    def __init__(
        self, server: EmbeddedPostgres, database: str, home: Path, shop: Shop, tree: Path = PROJECT
    ) -> None:
        self.tree = tree
        self.database, self.url = database, server.url(database)
        self.env = {**os.environ, "BENCHMARK_URL": self.url, "PYTHONPATH": str(tree)}
        self.home, self.topic, self.shop = home, JsonlTopic(home / "orders"), shop

    def start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", str(self.home), *arguments],
            cwd=self.tree,
            env=self.env,
            stdout=subprocess.PIPE,
        )

    def consume(self, *options: str) -> list[Sample]:
        with self.start("consume", *options) as process:
            return [Sample(*sample) for sample in _answer(process)]

    def autovacuums(self) -> int:
        with closing(connect(self.url)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT autovacuum_count + autoanalyze_count FROM pg_stat_user_tables"
                " WHERE relname = 'orders'"
            )
            return int((cursor.fetchone() or (0,))[0])

    def empty(self) -> None:
        """Remove all orders, which leaves the files of the tables as new."""
        with closing(connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("TRUNCATE orders CASCADE")

    def rows(self) -> bytes:
        with closing(connect(self.url)) as connection, connection.cursor() as cursor:
            cursor.copy_expert("COPY (SELECT * FROM orders ORDER BY position) TO STDOUT", rows := BytesIO())
        return rows.getvalue()

    def copy(self, rows: bytes, size: int) -> float:
        """Seconds that it takes to COPY the rows into the emptied table, so many at a time."""
        lines = rows.splitlines(keepends=True)
        pieces = [b"".join(lines[i : i + size]) for i in range(0, len(lines), size)]
        self.empty()
        with closing(connect(self.url)) as connection, connection.cursor() as cursor:
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


_OURS = "consumer (orders/s)"
_FLOOR = "floor: the rows in one COPY (orders/s)"
_BATCHES = f"the rows in COPYs of {MAX_LINES}, a commit each (orders/s)"
_RATIO = "consumer / floor"
_CPU = "consumer's CPU per order (microseconds)"


def _machine(directory: Path) -> dict[str, float]:
    """Measure how fast a core and the disk are just now: neither has to do with this project."""
    began = time.perf_counter()
    sum(n * n % 7 for n in range(2_000_000))
    loop, syncs = time.perf_counter() - began, []
    with (directory / "probe").open("wb", buffering=0) as file:
        for _ in range(20):
            file.write(bytes(8_192))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            syncs.append(time.perf_counter() - began)
    return {
        "a loop of Python (ms)": round(loop * 1000),
        "fdatasync (ms)": round(median(syncs) * 1000, 2),
    }


def middle(rate: int, way: str, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median of a way's rounds, with the least and the most."""
    row = {"way": way, "orders/s": rate}
    if any(taken["p99 (ms)"] is None for taken in rounds):
        return {**row, "p50 (ms)": None, "p99 (ms)": None, "falls behind": True}
    for name in ("p50 (ms)", "p99 (ms)"):
        values = sorted(taken[name] for taken in rounds)
        row |= {name: round(median(values), 1), f"{name}, least and most": [values[0], values[-1]]}
    return row


# What is shown of it.


def files(report: dict[str, Any]) -> dict[str, str]:
    """The results as files, by name: tables and a plot."""
    return {"stream.md": tables(report), "stream.svg": plot(report["results"])}


def tables(report: dict[str, Any]) -> str:
    """The results as Markdown."""
    throughput = report["results"]["throughput"]
    spread, rounds = throughput["least and most"], throughput["rounds"]
    scaling = report["results"]["ten times the users"]
    lines = [
        f"Measured {report['when'][:10]} on {report['machine']}, Python {report['python']};"
        f" {throughput['orders']:,} orders. Medians of {len(rounds)} rounds.",
        "",
        "| throughput | median | least and most |",
        "|---|---|---|",
        *(
            f"| {name} | {_shown(value)} | {_shown(spread.get(name, ''))} |"
            for name, value in throughput.items()
            if name not in ("orders", "least and most", "rounds")
        ),
        "",
        "What differs between the rounds:",
        "",
        f"| round | {' | '.join(str(n + 1) for n in range(len(rounds)))} |",
        f"|---|{'---|' * len(rounds)}",
        *(f"| {name} | {' | '.join(_shown(r[name]) for r in rounds)} |" for name in sorted(rounds[0])),
        "",
        "| latency, line appended to flagged line read (ms) | orders/s | p50 | p99 | p99, least and most |",
        "|---|---|---|---|---|",
        *(
            f"| {row['way']} | {row['orders/s']:,} | {_shown(row['p50 (ms)'])} | {_shown(row['p99 (ms)'])}"
            f" | {_shown(row.get('p99 (ms), least and most', ''))} |"
            for row in report["results"]["latency"]
        ),
        "",
        "| users | orders stored before | orders/s | CPU per order (microseconds) | resident MB |",
        "|---|---|---|---|---|",
        *(
            "| " + " | ".join(_shown(value) for value in scaling[name].values()) + " |"
            for name in ("once", "ten times")
        ),
        "",
        f"Ten times the users: {scaling['throughput, ten times / once']} of the throughput"
        f" ({_shown(scaling['least and most'])} in {len(scaling['rounds']['once'])} rounds).",
    ]
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
    return value if isinstance(value, str) else f"{value:,}"
