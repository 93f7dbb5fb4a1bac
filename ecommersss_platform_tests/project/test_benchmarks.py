"""The benchmarks measure what they say: every way of a load ends with the same rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from benchmarks import backtest, launch, loads, stream, summary, warehouse
from benchmarks.shop import Shop
from ecommersss_platform.contracts import ORDERS
from ecommersss_platform.laboratory.backtest import run_backtest
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform.local.processes import created
from ecommersss_platform.partitions import Days
from ecommersss_platform.warehouse.duckdb.warehouse import DuckDbWarehouse
from ecommersss_platform_tests.support.project import PROJECT

pytestmark = pytest.mark.integration

DAY = date(2026, 1, 2)
ONE = Days.between(DAY, DAY)


@pytest.fixture
def shop(database: str) -> str:
    """A database with two days of orders."""
    Shop(50).open(database)
    warehouse.fill(database, {DAY: 2_000, DAY + timedelta(days=1): 10})
    return database


def test_every_way_loads_the_same_rows(shop: str, tmp_path: Path) -> None:
    warehouse.write_parquet(shop, tmp_path / "orders.parquet", DAY)
    assert loads.platform(shop, tmp_path, ONE) == loads.floor(shop, tmp_path, ONE) == 2_000
    assert loads.dumped_json(shop, tmp_path, ONE) == 2_000
    assert loads.extraction(shop, tmp_path, ONE) == loads.copy(shop, tmp_path, ONE) == 2_000
    with duckdb.connect() as everything:
        for name in ("platform", "floor", "json"):
            everything.execute(f"ATTACH '{tmp_path / name}.duckdb' AS {name} (READ_ONLY)")
        columns = ", ".join(ORDERS.arrow_schema.names)
        platform, floor = (
            everything.execute(f"SELECT {columns} FROM {table} ORDER BY id").fetchall()
            for table in ("platform.raw.orders", "floor.orders")
        )
        assert platform == floor
        assert len(platform) == 2_000
        sums = "SELECT count(*), sum(id), sum(CAST(amount AS DECIMAL(18, 2))) FROM "
        assert (
            everything.execute(sums + "platform.raw.orders").fetchall()
            == everything.execute(sums + "json.orders").fetchall()
        )


def test_a_backtest_and_row_by_row_find_the_same_orders(tmp_path: Path) -> None:
    days = Days(backtest.FIRST, backtest.FIRST + 3 * timedelta(days=1))
    made_up = DuckDbWarehouse(tmp_path / "warehouse.duckdb")
    backtest.fill(made_up.path, 3_000, days)
    backtest.scan(made_up)
    found = run_backtest(made_up, backtest.CANDIDATE, days, datetime.now(UTC))
    by_rule = {rule.name: rule.change.after.flagged.orders for rule in found.rules}
    held = backtest.row_by_row(made_up, backtest.CANDIDATE, days)
    assert held == {name: count for name, count in by_rule.items() if count}
    assert len(held) > 5
    assert found.total.orders == 3_000
    assert found.book.newly_flagged.orders > 0
    assert found.book.no_longer_flagged.orders == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_an_interrupted_benchmark_leaves_no_server_behind(
    number: signal.Signals, open_directory: Path
) -> None:
    place = open_directory / f"benchmark-{number.name}"
    place.mkdir(0o711)
    command = [sys.executable, "-m", "benchmarks", "stream", "--short"]
    benchmark = subprocess.Popen(
        command, cwd=PROJECT, env=os.environ | {"TMPDIR": str(place)}, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not (found := list(place.glob("*/postgres/data/postmaster.pid"))):
            assert benchmark.poll() is None
            assert time.monotonic() < deadline, "no server was started"
            time.sleep(0.05)
        server = EmbeddedPostgres(found[0].parents[1])
        assert (pid := server.pid()) is not None
        benchmark.send_signal(number)
        assert benchmark.wait(60) != 0
    finally:
        benchmark.kill()
    assert created(pid) is None
    assert list(place.iterdir()) == []


LEAN = """
import json, sys
from pathlib import Path
from benchmarks import loads, summary
loads.main("platform", Path(sys.argv[1]), loads.date.fromisoformat(sys.argv[2]))
print(json.dumps(sorted({"pandas", "pyarrow.dataset"} & set(sys.modules))))
"""


def test_a_load_imports_nothing_large_that_it_does_not_use(shop: str, tmp_path: Path) -> None:
    """DuckDB's client would, for convenience: a third of the memory of a load."""
    done = subprocess.run(
        [sys.executable, "-c", LEAN, str(tmp_path), str(DAY)],
        env=os.environ | {"BENCHMARK_URL": shop},
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    measured, imported = map(json.loads, done.stdout.splitlines())
    assert measured["rows"] == 2_000
    assert measured["megabytes"] > 50
    assert imported == []


def test_results_are_shown_as_tables_and_a_plot() -> None:
    steps = {"staged": {"seconds": 1.5, "processor": 1.0}}
    measured = [
        warehouse.Loaded(2.0, 10, 100.0, processor=1.0, server=0.5, load_average=1.0, steps=steps),
        warehouse.Loaded(4.0, 10, 300.0, processor=3.0, server=0.5, load_average=2.0, steps=steps),
        warehouse.Loaded(9.0, 10, 1, processor=2.0, server=0.7, load_average=7.25, steps=steps),
    ]
    floor = [warehouse.Loaded(seconds, 10, 1) for seconds in (1.0, 2.0, 9.0)]
    every: Any = dict.fromkeys(warehouse.LOADS + warehouse.EXTRACTIONS, measured)
    every[warehouse.LOADS[1]] = floor
    results = warehouse.results(1_000, every, 10_000, {warehouse.LOADS[0]: measured[:1]}, load_before=0.5)
    assert results["loads"][0] == {
        "way": "platform: extract, stage, audit, publish",
        "orders/s": 250,
        "seconds": 4.0,
        "slowest and fastest (s)": [9.0, 2.0],
        "processor (s)": 2.0,
        "PostgreSQL's processor (s)": 0.5,
        "peak MB": 300,
        "load average": [1.0, 2.0, 7.2],
        "steps": {"staged": {"seconds": 1.5, "slowest and fastest (s)": [1.5, 1.5], "processor (s)": 1.0}},
    }
    to_floor = "load: platform's time / the floor's"
    assert results["ratios"].pop(to_floor) == 2.0
    assert results["ratios, least and most"][to_floor] == [1.0, 2.0]
    assert set(results["ratios"].values()) == {1.0}
    report = {"when": "2026-01-01", "machine": "here", "python": "3", "results": results}
    shown = warehouse.files(report)
    row = "| platform: extract, stage, audit, publish | 250 | 4.0 | 2.0 to 9.0 | 2.0 | 0.5 | 300 |"
    assert row in shown["warehouse.md"]
    assert "| staged | 1.5 | 1.5 to 1.5 | 1.0 |" in shown["warehouse.md"]
    assert "| a day of 10,000 orders | orders/s | seconds |" in shown["warehouse.md"]
    assert shown["warehouse.svg"].count("<rect") == 1 + 7 + 2 + 1 + 7 + 1


def test_launches_are_shown_as_medians_with_their_spread() -> None:
    runs = [{"launch": 0.5, "run": 2.0, "step": 2.0 + n, "success": 4.0 + n} for n in range(3)]
    results = launch.results(runs)
    assert results["runs"] == 3
    assert results["request to start (s)"] == {"median": 3.0, "p95": 3.9, "fastest": 2.0, "slowest": 4.0}
    assert results["launch to run: the process starts (s)"]["median"] == 1.5
    shown = launch.files({"when": "2026-01-01", "machine": "here", "python": "3", "results": results})
    assert "| request to start | 3.0 | 3.9 | 2.0 | 4.0 |" in shown["launch.md"]
    [(_, measured, beside)] = summary._launch(results)
    assert measured == "median 3.0 s, 95th percentile 3.9 s"
    assert beside == "1.5 s of it start the process"


def test_the_stream_and_its_floor_are_measured_in_turns_and_shown_with_their_spread(
    open_directory: Path,
) -> None:
    place = open_directory / "benchmark"  # the server of other tests is in the directory itself
    place.mkdir()
    bench = stream.Bench(place, rounds=2)
    bench.server.up()
    try:
        throughput = bench.throughput(Shop(50), 12_000, 20)
    finally:
        bench.server.down()
    ratios = [r["consumer / floor"] for r in throughput["rounds"]]
    assert throughput["orders"] == 12_000
    assert throughput["least and most"]["consumer / floor"] == [min(ratios), max(ratios)]
    for one_round in throughput["rounds"]:
        assert one_round["consumer: PostgreSQL's CPU (microseconds an order)"] > 0
        assert one_round["consumer: WAL (MB)"] == pytest.approx(one_round["floor: WAL (MB)"], abs=3)
    taken = [{"p50 (ms)": 1.0, "p99 (ms)": p99} for p99 in (7.0, 3.0, 4.0)]
    latency = [
        stream.middle(20, "consumer", taken),
        stream.middle(1_000, "consumer", [*taken, {"p50 (ms)": None, "p99 (ms)": None}]),
    ]
    users = {
        "users": 50,
        "orders stored before": 0,
        "orders/s": 2,
        "CPU per order (microseconds)": 1,
        "MB": 1,
    }
    results = {
        "throughput": throughput,
        "latency": latency,
        "ten times the users": {
            "once": users,
            "ten times": users,
            "throughput, ten times / once": 1.0,
            "least and most": [0.9, 1.1],
            "rounds": {"once": [users] * 3},
        },
    }
    report = {"when": "2026-01-01", "machine": "here", "python": "3", "results": results}
    shown = stream.files(report)
    assert "| consumer | 20 | 1.0 | 4.0 | 3.0, 7.0 |" in shown["stream.md"]
    assert "| consumer | 1,000 | falls behind | falls behind |  |" in shown["stream.md"]
    assert f"| consumer / floor | {ratios[0]:,} | {ratios[1]:,} |" in shown["stream.md"]
    assert "Ten times the users: 1.0 of the throughput (0.9, 1.1 in 3 rounds)." in shown["stream.md"]
    assert shown["stream.svg"].count("<rect") == 1 + 4 + 1
