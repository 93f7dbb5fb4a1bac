"""The simulated past: population and orders from a first day until now, and orders of any past days."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from pathlib import Path

from psycopg2.extensions import connection as Connection

from streaming.business_days import JAKARTA, business_day
from streaming.database import connect
from streaming.decode import InvalidOrder, decode
from streaming.errors import PlatformError
from streaming.order_ids import OrderIds
from streaming.progress import Progress, no_progress
from streaming.simulator.ground_truth import GroundTruth
from streaming.simulator.population import (
    hours_between,
    initial_products,
    initial_users,
    new_products,
    new_users,
)
from streaming.simulator.producer import publish
from streaming.simulator.shoppers import FRAUD_SHARE, Placed, check_fraud_share, orders_between
from streaming.simulator.tables import (
    StoredAftermath,
    apply_aftermath,
    apply_hour,
    date_versions,
    hours_applied,
    insert_products,
    insert_users,
    load_market,
)
from streaming.topics import Publisher, Topic

ORDERS_PER_DAY = 2_000
FIRST_SIMULATED_DAY = datetime.fromtimestamp(OrderIds.EPOCH_MS / 1000, JAKARTA).date() + timedelta(days=1)
"""The first whole business day that order ids cover: they count milliseconds from 2020-01-01 UTC."""

_LINES_PER_READ = 5_000


@dataclass(frozen=True)
class SimulatedHistory:
    """What a simulated history added: rows, hours of the population, and orders published to the topic."""

    users: int
    products: int
    repriced: int
    hours: int
    orders: int

    def __str__(self) -> str:
        return (
            f"{self.users:,} users, {self.products:,} products, {self.repriced:,} price changes,"
            f" {self.orders:,} orders"
        )


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
    """Simulate users, products, prices and orders from `first_day` (business day) to `until` (aware).

    1. Insert the initial population, dated at the beginning of the first day.
    2. Apply the users, products and prices of each whole hour, dated in that hour.
    3. Publish the orders to the topic.

    Existing rows and orders are kept: a call after a crash, also with a later `until`, adds what is missing.
    No other producer may publish to the topic meanwhile. Raises `PlatformError` for an impossible first day.
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
    with closing(connect(url, "ecommersss history")) as connection:
        with connection, connection.cursor() as cursor:
            # Dated at the first day, not at sign-up: there are no partitions before the first day.
            date_versions(cursor, start)
            users = insert_users(cursor, initial_users(first_day))
            products = insert_products(cursor, initial_products(first_day))
        with connection, connection.cursor() as cursor:
            applied_before = hours_applied(cursor, start, until)
        hours = hours_between(start, until)
        missing = [hour for hour in hours if hour not in applied_before]
        done, repriced = len(hours) - len(missing), 0
        # One transaction a day is fast, and a crash costs a day at most.
        for _, day in groupby(missing, business_day):
            with connection, connection.cursor() as cursor:
                for hour in day:
                    applied = apply_hour(cursor, hour, new_users(hour), new_products(hour), as_of_then=True)
                    if applied is not None:
                        users += applied.users
                        products += applied.products
                        repriced += applied.repriced
                    done += 1
            progress("hours", done, len(hours))
        progress("hours", len(hours), len(hours))
        known_ids = _ids_in(topic) if isinstance(topic, Topic) else _stored_ids(connection)
    orders = publish_hours(
        topic,
        orders_between(load_market(url, past_prices=True), start, until, orders_per_day, fraud_share),
        expected=round(orders_per_day * ((until - start) / timedelta(days=1))),
        ground_truth=ground_truth,
        progress=progress,
        known_ids=known_ids,
    )
    return SimulatedHistory(users, products, repriced, len(missing), orders)


def simulate_aftermath(url: str, ground_truth: Path, until: datetime) -> StoredAftermath:
    """Store what became by `until` (aware) of the simulated orders.

    The orders must be stored. Those that are not in the file `ground_truth` were not simulated and are left
    alone. Repeating a call adds nothing.
    """
    truth = GroundTruth(ground_truth).read()
    with (
        closing(connect(url, "ecommersss history")) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        return apply_aftermath(cursor, truth, until)


def produce_days(
    url: str,
    topic: Publisher,
    first: date,
    last: date,
    orders_per_day: int,
    *,
    fraud_share: float = FRAUD_SHARE,
    ground_truth: Path | None = None,
    progress: Progress = no_progress,
    now: datetime | None = None,
) -> int:
    """Publish simulated orders of the business days `first` to `last`, both included; return their number.

    Today's orders end at `now`. Every order is from a user who had signed up, at the product's price of that
    time. The same days, numbers, users and products give the same orders with the same ids, so repeating a
    call stores no order twice.

    Raises `PlatformError` for impossible days, or if no user or product existed by their end.
    """
    now = now or datetime.now(UTC)
    if first > last:
        raise PlatformError(f"the first day, {first}, is after the last, {last}: swap them")
    if last > business_day(now):
        raise PlatformError(
            f"orders of {last} cannot be simulated yet: today is {business_day(now)} in Jakarta"
        )
    if first < FIRST_SIMULATED_DAY:
        raise PlatformError(
            f"orders of {first} cannot be simulated: order ids begin in 2020, "
            f"ask for {FIRST_SIMULATED_DAY} or later"
        )
    if orders_per_day < 1:
        raise PlatformError(f"orders per day must be at least 1, not {orders_per_day}")
    check_fraud_share(fraud_share)
    start = datetime.combine(first, time.min, JAKARTA)
    end = min(datetime.combine(last + timedelta(days=1), time.min, JAKARTA), now)
    market = load_market(url, past_prices=True)
    if not market.open_at(end):
        raise PlatformError(
            f"no user or no product existed before {end.astimezone(JAKARTA):%Y-%m-%d %H:%M}: "
            "import some with an earlier created_date, or ask for later days"
        )
    return publish_hours(
        topic,
        orders_between(market, start, end, orders_per_day, fraud_share),
        expected=orders_per_day * ((last - first).days + 1),
        ground_truth=ground_truth,
        progress=progress,
    )


def publish_hours(
    topic: Publisher,
    hours: Iterable[list[Placed]],
    *,
    expected: int,
    ground_truth: Path | None,
    progress: Progress,
    known_ids: Collection[int] = frozenset(),
) -> int:
    """Publish the orders of past hours, except those with `known_ids`, and return their number.

    `expected` is the total that is shown as progress until the end.
    """
    truth = GroundTruth(ground_truth) if ground_truth else None
    published = seen = 0
    for placed in hours:
        new = [item for item in placed if item.order.id not in known_ids]
        publish(topic, new, truth)
        published += len(new)
        seen += len(placed)
        progress("orders", min(seen, expected - 1), expected)
    progress("orders", seen, seen)
    return published


def _ids_in(topic: Topic) -> set[int]:
    """Return the ids of all orders in a topic. Memory grows with the topic."""
    ids: set[int] = set()
    position, end = topic.start(), topic.end()
    with closing(topic.reader(position)) as reader:
        while position < end:
            batch = reader.read(_LINES_PER_READ, timeout=0.0)
            if not batch:
                break  # the rest is an unfinished line of a killed producer
            for line in batch.lines:
                with suppress(InvalidOrder):
                    ids.add(decode(line).id)
            position = batch.next_position
    return ids


def _stored_ids(connection: Connection) -> set[int]:
    """Return the ids of all stored orders, for a topic that cannot be read from its beginning."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM orders")
        return {id for (id,) in cursor}
