"""The simulated past that a new platform starts with."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from ecommersss_platform.local.postgres import Say
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import orders_on_disk, orders_topic
from streaming.database import connect


def first_run_history(settings: Settings, url: str, orders_per_day: int, say: Say) -> None:
    """Fill a platform that never had an order with its past, up to now; no other one is touched.

    Done before anything else produces or consumes. A first run that was interrupted is noticed by the mark
    that it left in the home, and completed up to now: what it had done already is left as it is.
    """
    started = _unfinished_mark(settings)
    if not started.exists():
        on_disk = orders_on_disk(settings)
        if (on_disk is not None and on_disk.end() > 0) or _has_orders(url):
            return
        started.touch()
        say("first run: simulating the marketplace's past")
    else:
        say("an earlier first run was interrupted: completing the marketplace's past")
    if orders_per_day > 0:
        # Faker and what else the simulation needs is imported once in a platform's life.
        from ecommersss_platform.cli.progress import progress_bars
        from streaming.simulator.history import simulate_history

        with progress_bars() as progress:
            history = simulate_history(
                url,
                orders_topic(settings),
                settings.first_partition_day(),
                datetime.now(UTC),
                orders_per_day,
                progress,
                ground_truth=settings.ground_truth_path,
            )
        say(
            f"the past is there: {history.users:,} users, {history.products:,} products,"
            f" {history.orders:,} orders added since {settings.first_partition_day()}"
        )
    started.unlink()


def _unfinished_mark(settings: Settings) -> Path:
    return settings.home / "history_unfinished"


def _has_orders(url: str) -> bool:
    with closing(connect(url, "ecommersss history")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM orders)")
        [(found,)] = cursor.fetchall()
    return bool(found)
