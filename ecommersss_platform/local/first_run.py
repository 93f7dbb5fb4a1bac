"""The simulated history that a new platform starts with."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime

from ecommersss_platform.local.accounts import Say
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import fraud_consumer, order_broker
from streaming.database import connect
from streaming.errors import PlatformError


def first_run_history(
    settings: Settings, url: str, orders_per_day: int, say: Say, consumer_url: str | None = None
) -> None:
    """Simulate the history of a platform that never had an order, up to now. Leave every other one alone.

    Its orders are flagged and stored, so that what became of them can be simulated, too. `consumer_url`: the
    database with the consumer's rights, if `url` has fewer.

    Call it before anything produces or consumes. An interrupted first run leaves a mark in the home; the next
    call then completes the history up to now.
    """
    unfinished = settings.home / "history_unfinished"
    if unfinished.exists():
        say("an earlier first run was interrupted: completing the simulated history")
    else:
        if order_broker(settings).has_orders() or _has_orders(url):
            return
        unfinished.touch()
        say("first run: simulating the marketplace's history")
    if orders_per_day > 0:
        # Imported here: the simulator needs Faker, once in the life of a platform.
        from ecommersss_platform.progress import progress_bars
        from streaming.simulator.history import simulate_aftermath, simulate_history

        with progress_bars() as progress:
            history = simulate_history(
                url,
                order_broker(settings).topic(),
                settings.first_partition_day(),
                datetime.now(UTC),
                orders_per_day,
                progress,
                ground_truth=settings.ground_truth_path,
            )
        say(
            f"the history is complete: {history.users:,} users, {history.products:,} products,"
            f" {history.orders:,} orders added since {settings.first_partition_day()}"
        )
        try:
            # Orders must be stored before anything can become of them.
            fraud_consumer(settings, consumer_url or url).run(once=True)
        except PlatformError as error:
            # The consumer that is started next says it again. The hourly job adds what becomes of the orders.
            say(f"the orders of the history cannot be flagged yet: {error}")
        else:
            stored = simulate_aftermath(url, settings.ground_truth_path, datetime.now(UTC))
            say(f"what became of the orders: {stored}")
    unfinished.unlink()


def _has_orders(url: str) -> bool:
    with closing(connect(url, "ecommersss history")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM orders)")
        [(found,)] = cursor.fetchall()
    return bool(found)
