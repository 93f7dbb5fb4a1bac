"""A simulated past: the marketplace from its first day to a moment, for platforms that start with history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path

from psycopg2.extensions import connection as Connection

from streaming.business_days import JAKARTA, business_day
from streaming.database import connect
from streaming.decode import InvalidOrder, decode
from streaming.errors import PlatformError
from streaming.simulator.population import (
    hours_between,
    initial_products,
    initial_users,
    new_products,
    new_users,
)
from streaming.simulator.producer import FIRST_SIMULATED_DAY, Progress, no_progress, publish_past
from streaming.simulator.shoppers import FRAUD_SHARE, orders_between
from streaming.simulator.tables import (
    apply_hour,
    date_versions,
    hours_applied,
    insert_products,
    insert_users,
    load_market,
)
from streaming.topics import Publisher, Topic

ORDERS_PER_DAY = 2_000

_LINES_A_READ = 5_000


@dataclass(frozen=True)
class SimulatedHistory:
    """What a simulated past added: rows, hours of the marketplace, and orders published to the topic."""

    users: int
    products: int
    repriced: int
    hours: int
    orders: int


def simulate_history(
    url: str,
    topic: Publisher,
    first_day: date,
    until: datetime,
    orders_per_day: int = ORDERS_PER_DAY,
    progress: Progress = no_progress,
    *,
    fraud_share: float = FRAUD_SHARE,
    ground_truth: Path | None = None,
) -> SimulatedHistory:
    """Fill an empty marketplace with its past: from `first_day` (business day) to `until` (aware).

    First the initial population, dated at the beginning of the first day; then each whole hour's users,
    products and prices, dated in that hour; then the orders, published to the topic. Whatever is there
    already is left alone, so it can be called again after a crash, also with a later `until`, and then
    adds what is missing. Nobody else may produce to the topic meanwhile. Raises `PlatformError` for a
    first day that cannot be.
    """
    start = datetime.combine(first_day, time.min, JAKARTA)
    if start >= until:
        raise PlatformError(
            f"no history to simulate: it would begin on {first_day} "
            f"and end {until.astimezone(JAKARTA):%Y-%m-%d %H:%M}"
        )
    if first_day < FIRST_SIMULATED_DAY:
        raise PlatformError(
            f"history cannot begin on {first_day}: order ids begin in 2020, "
            f"use {FIRST_SIMULATED_DAY} or later"
        )
    connection = connect(url, "ecommersss history")
    try:
        with connection, connection.cursor() as cursor:
            # Dated at the opening and not when they signed up: before the first day there are no partitions.
            date_versions(cursor, start)
            users = insert_users(cursor, initial_users(first_day))
            products = insert_products(cursor, initial_products(first_day))
        with connection, connection.cursor() as cursor:
            done = hours_applied(cursor, start, until)
        hours = hours_between(start, until)
        missing = [hour for hour in hours if hour not in done]
        repriced = 0
        # A day of hours is one transaction: few enough to be quick, and a crash costs a day at most.
        for day in _days(missing):
            with connection, connection.cursor() as cursor:
                for hour in day:
                    applied = apply_hour(cursor, hour, new_users(hour), new_products(hour), as_of_then=True)
                    if applied is not None:
                        users += applied.users
                        products += applied.products
                        repriced += applied.repriced
            progress("hours", len(hours) - len(missing) + missing.index(day[-1]) + 1, len(hours))
        progress("hours", len(hours), len(hours))
        market = load_market(connection, past_prices=True)
        known = ids_in(topic) if isinstance(topic, Topic) else _stored_ids(connection)
    finally:
        connection.close()
    orders = publish_past(
        topic,
        orders_between(market, start, until, orders_per_day, fraud_share),
        total=round(orders_per_day * ((until - start) / timedelta(days=1))),
        ground_truth=ground_truth,
        progress=progress,
        known=known,
    )
    return SimulatedHistory(users, products, repriced, len(missing), orders)


def ids_in(topic: Topic) -> set[int]:
    """The ids of all orders in the topic. Memory grows with the topic: for topics that are just beginning."""
    ids: set[int] = set()
    end = topic.end()
    reader = topic.reader(topic.start())
    try:
        position = topic.start()
        while position < end:
            batch = reader.read(_LINES_A_READ, timeout=0.0)
            if not batch:
                break  # what is left is a line that a killed producer did not finish
            for line in batch.lines:
                try:
                    ids.add(decode(line).id)
                except InvalidOrder:
                    continue
            position = batch.next_position
    finally:
        reader.close()
    return ids


def _stored_ids(connection: Connection) -> set[int]:
    """The ids of all stored orders, for a topic that cannot be read from its beginning."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM orders")
        return {id for (id,) in cursor}


def _days(hours: list[datetime]) -> list[list[datetime]]:
    days: dict[date, list[datetime]] = {}
    for hour in hours:
        days.setdefault(business_day(hour), []).append(hour)
    return list(days.values())
