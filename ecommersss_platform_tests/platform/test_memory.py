"""The memory of a day of two million orders, from PostgreSQL to the marts, in all processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.shop import PRODUCTS, Shop
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform_tests.conftest import administer
from streaming.business_days import business_day
from streaming.database import connect

pytestmark = [pytest.mark.integration, pytest.mark.long]

ORDERS, USERS = 2_000_000, 50_000
MOST_MEGABYTES = 600
DAY = business_day(datetime.now(UTC)) - timedelta(days=1)

PLACE = f"""
    INSERT INTO orders
    SELECT n, 1 + abs(hashint4(n)) %% {USERS}, 1 + n %% {PRODUCTS}, 1 + n %% 4, 1000 * (1 + n %% {PRODUCTS}),
        (ARRAY['Bank Transfer', 'Paylater', 'Credit Card', 'Gopay', 'OVO', 'DANA'])[1 + n %% 6], 'ID',
        n %% 30 = 0, CASE WHEN n %% 30 = 0 THEN ARRAY['foreign_country'] ELSE '{{}}' END, '{{}}', 'v1',
        %(day)s::timestamp AT TIME ZONE 'Asia/Jakarta' + n * interval '0.04 s', now(), n, 0
    FROM generate_series(1, {ORDERS}) AS n
"""


def tree(root: int) -> list[int]:
    """Return the process and all that descend from it."""
    children: dict[int, list[int]] = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children[int(path.read_text().rsplit(")", 1)[1].split()[1])].append(int(path.parent.name))
    found = [root]
    for pid in found:
        found += children[pid]
    return found


def megabytes(pids: list[int]) -> float:
    """Return the memory of processes, of which shared pages count once (PSS)."""
    total = 0
    for pid in pids:
        with suppress(OSError, IndexError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(text.split("\nPss:")[1].split()[0])
    return total / 1024


class Peak(threading.Thread):
    """The highest memory of a process and its descendants, while it lasts."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.root, self.megabytes = root, 0.0

    def run(self) -> None:
        while Path(f"/proc/{self.root}/smaps_rollup").exists():
            self.megabytes = max(self.megabytes, megabytes(tree(self.root)))
            time.sleep(0.05)


def test_a_day_of_two_million_orders_takes_less_than_600_megabytes(
    postgres: EmbeddedPostgres, database: str, tmp_path: Path
) -> None:
    Shop(users=USERS).open(database)
    with closing(connect(database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(PLACE, {"day": DAY.isoformat()})
    administer(postgres, "CREATE DATABASE memory_dagster")
    variables = {
        "ECOMMERSSS_HOME": str(tmp_path / "home"),
        "ECOMMERSSS_DATABASE_URL": database,
        "ECOMMERSSS_DAGSTER_URL": postgres.url("memory_dagster"),
    }
    command = [sys.executable, "-m", "ecommersss_platform.cli", "materialize"]
    command += ["--from", str(DAY), "--to", str(DAY)]
    for again in ([], ["--rebuild"]):  # the second run replaces the day
        started = time.monotonic()
        with subprocess.Popen([*command, *again], env={**os.environ, **variables}) as process:
            peak = Peak(process.pid)
            peak.start()
        assert process.returncode == 0
        peak.join()
        print(f"{peak.megabytes:.0f} MB, {time.monotonic() - started:.0f} s")
        assert peak.megabytes < MOST_MEGABYTES
