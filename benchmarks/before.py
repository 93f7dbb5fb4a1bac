"""The consumer beside an earlier state of itself, to see what it has lost or gained since.

The earlier state is unpacked from git. Each has a database of its own, which its own migrations made, and
drains the same topic. They take turns, and what is compared is compared within a round.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.shop import Shop
from benchmarks.stream import Bench, Sample

EARLIER = "18e2cc0"
"""The state to compare with: before orders had labels, and before books, lists and reviews were kept."""

ROUNDS = 9
_PACKAGES = ("benchmarks", "ecommersss_platform", "streaming")
_OPEN = """
import os, sys
from benchmarks.shop import Shop
from streaming.database import migrate
migrate(os.environ["BENCHMARK_URL"])
Shop(int(sys.argv[1])).open(os.environ["BENCHMARK_URL"])
"""


def measure(short: bool = False) -> dict[str, Any]:
    """Return the figures. `short`: a tenth of the orders and two rounds."""
    orders, users, rounds = (30_000, 2_000, 2) if short else (300_000, 10_000, ROUNDS)
    shop = Shop(users)
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o711)  # so that PostgreSQL's account reaches its data
        trees = {"now": Path(__file__).parents[1], "before": unpack(EARLIER, directory / "before")}
        bench = Bench(directory)
        try:
            bench.server.up()
            # A round that does not count: PostgreSQL makes its first WAL files in it.
            found = [_round(bench, trees, shop, orders, swapped=n % 2 == 1) for n in range(rounds + 1)][1:]
        finally:
            bench.server.down()
    return {"orders": orders, "earlier state": EARLIER} | compared(found)


def unpack(commit: str, directory: Path) -> Path:
    """Write the packages of a commit of this repository to a directory, and return it."""
    archive = subprocess.run(
        ["git", "archive", commit, *_PACKAGES], cwd=Path(__file__).parent.parent, capture_output=True
    )
    if archive.returncode:
        raise SystemExit(
            f"the earlier state {commit} is not in this clone: {archive.stderr.decode().strip()}."
            " A full clone has it (`git fetch --unshallow`)."
        )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(directory, filter="data")
    return directory


def _round(
    bench: Bench, trees: dict[str, Path], shop: Shop, orders: int, *, swapped: bool
) -> dict[str, Sample]:
    """Let both drain a topic of the same orders; return the last sample of each."""
    found = {}
    for name in reversed(trees) if swapped else trees:
        with bench.empty_stage(shop, trees[name]) as stage:
            subprocess.run(
                [sys.executable, "-c", _OPEN, str(shop.users)], cwd=stage.tree, env=stage.env, check=True
            )
            stage.topic.publish(shop.lines(0, orders))
            found[name] = stage.consume("--once")[-1]
            assert found[name].orders == orders
    return found


def compared(rounds: Sequence[dict[str, Sample]]) -> dict[str, Any]:
    """Return the medians of both and of their ratios, with the least and the most of the rounds."""
    measures = {
        "orders/s": lambda s: s.orders / s.seconds,
        "CPU per order (microseconds)": lambda s: s.cpu / s.orders * 1e6,
    }
    found: dict[str, Any] = {"rounds": len(rounds)}
    for name, of in measures.items():
        ratios = sorted(of(pair["now"]) / of(pair["before"]) for pair in rounds)
        found[name] = {
            "now": round(median(of(pair["now"]) for pair in rounds), 1),
            "before": round(median(of(pair["before"]) for pair in rounds), 1),
            "now / before": round(median(ratios), 3),
            "least and most": [round(ratios[0], 3), round(ratios[-1], 3)],
        }
    return found
