"""Puts orders into the topic: simulated shoppers, live or over past days, or the lines of a file."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from random import Random
from typing import BinaryIO

import psycopg2

from streaming.business_days import JAKARTA, business_day
from streaming.database import connect
from streaming.decode import InvalidOrder, decode
from streaming.errors import PlatformError
from streaming.order_ids import OrderIds
from streaming.orders import MAX_LINE_BYTES, encode
from streaming.simulator.ground_truth import GroundTruth
from streaming.simulator.population import RHYTHM
from streaming.simulator.shoppers import FRAUD_SHARE, LiveShoppers, Market, Placed, orders_between
from streaming.simulator.tables import load_market
from streaming.topics import Publisher

log = logging.getLogger(__name__)

REFRESH_SECONDS = 60.0
"""How often the live producer reads users and products anew."""
FIRST_SIMULATED_DAY = datetime.fromtimestamp(OrderIds.EPOCH_MS / 1000, JAKARTA).date() + timedelta(days=1)
"""Order ids count milliseconds from 2020-01-01 UTC: this is the first whole business day that they have."""

_LONGEST_PAUSE = 0.1
_SHORTEST_PAUSE = 0.005
# A machine that was asleep does not place the orders of the whole night at once.
_MOST_CATCHING_UP = 5.0
_FIRST_BACK_OFF = 0.5
_LONGEST_BACK_OFF = 15.0
_LINES_A_BATCH = 1_000

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def no_progress(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


class Producer:
    """Simulated shoppers, live: Poisson arrivals, until `stop` is called."""

    def __init__(
        self,
        url: str,
        topic: Publisher,
        rate: float,
        *,
        fraud_share: float = FRAUD_SHARE,
        ground_truth: Path | None = None,
        steady: bool = False,
        seed: int | None = None,
    ) -> None:
        """`rate` is orders per second, on average over a day; with `steady`, at every hour of it.

        `url` is the PostgreSQL with users and products. Raises `ValueError` for a rate or a share that
        cannot be.
        """
        if not 0 < rate <= 100_000:
            raise ValueError(f"the rate must be above 0 and at most 100,000 orders a second, not {rate}")
        _check_share(fraud_share)
        self._url = url
        self._topic = topic
        self._rate = rate
        self._steady = steady
        self._random = Random(seed)  # noqa: S311
        self._shoppers = LiveShoppers(self._random, fraud_share)
        self._truth = GroundTruth(ground_truth) if ground_truth else None
        self._ids = OrderIds()
        self._market: Market | None = None
        self._refresh_at = 0.0
        self._back_off = _FIRST_BACK_OFF
        self._stopped = False

    def stop(self) -> None:
        """End `run` within a tenth of a second. From any thread or signal handler."""
        # A plain flag, looked at often: an Event must not be set in a handler that interrupts its waiting.
        self._stopped = True

    def run(self, max_orders: int | None = None) -> int:
        """Produce until stopped, or until `max_orders` are published, and return how many were.

        While PostgreSQL is away or has no users or products yet, it waits and tries again; once it knows
        some, it goes on with those. Raises what the topic raises (`OSError` for a full disk).
        """
        produced = 0
        arrival = time.monotonic()
        while not self._stopped and (max_orders is None or produced < max_orders):
            now = time.monotonic()
            if now >= self._refresh_at:
                self._refresh()
            instant = datetime.now(UTC)
            if self._market is None or not self._market.open_at(instant):
                self._pause(min(_LONGEST_PAUSE, max(0.0, self._refresh_at - time.monotonic())))
                arrival = time.monotonic()
                continue
            arrival = max(arrival, now - _MOST_CATCHING_UP)
            rate = self._rate_at(instant)
            while arrival <= now:
                # An episode of n orders takes the time of n arrivals, so that the rate holds for orders.
                arrival += self._random.gammavariate(self._shoppers.begin(self._market, instant), 1 / rate)
            placed = self._shoppers.due(instant, self._ids)
            if max_orders is not None:
                placed = placed[: max_orders - produced]
            publish(self._topic, placed, self._truth)
            produced += len(placed)
            self._pause(min(max(arrival - time.monotonic(), _SHORTEST_PAUSE), _LONGEST_PAUSE))
        return produced

    def _rate_at(self, instant: datetime) -> float:
        return self._rate if self._steady else self._rate * 24 * RHYTHM[instant.astimezone(JAKARTA).hour]

    def _refresh(self) -> None:
        """Read users and products anew; on failure keep those that are known and try again soon."""
        problem = None
        try:
            market = _market(self._url, past_prices=False)
        except psycopg2.OperationalError as error:
            # The first line says what happened; the rest repeats it for every address tried.
            problem = f"PostgreSQL is not there ({str(error).strip().splitlines()[0]})"
        else:
            self._market = market
            if not market.open_at(datetime.now(UTC)):
                problem = "there are no users or no products yet to order with"
        if problem is None:
            self._back_off = _FIRST_BACK_OFF
            self._refresh_at = time.monotonic() + REFRESH_SECONDS
            return
        log.warning("%s; trying again in %.1f s", problem, self._back_off)
        self._refresh_at = time.monotonic() + self._back_off
        self._back_off = min(self._back_off * 2, _LONGEST_BACK_OFF)

    def _pause(self, seconds: float) -> None:
        if not self._stopped:
            time.sleep(seconds)


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
    """Publish simulated orders for the business days `first` to `last`, and return how many.

    Both days are included; today's end `now`. The same range, numbers, users and products give the same
    orders with the same ids, so that doing it twice stores each once. Every order is by a user who had signed
    up, and at the price the product had at that time.

    Raises `PlatformError` for a range that cannot be, or when no user or product existed during it.
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
    _check_share(fraud_share)
    start = datetime.combine(first, time_of_day.min, JAKARTA)
    end = min(datetime.combine(last + timedelta(days=1), time_of_day.min, JAKARTA), now)
    market = _market(url, past_prices=True)
    if not market.open_at(end):
        raise PlatformError(
            f"no user or no product existed before {end.astimezone(JAKARTA):%Y-%m-%d %H:%M}: "
            "import some with an earlier created_date, or ask for later days"
        )
    return publish_past(
        topic,
        orders_between(market, start, end, orders_per_day, fraud_share),
        total=orders_per_day * ((last - first).days + 1),
        ground_truth=ground_truth,
        progress=progress,
    )


def publish_past(
    topic: Publisher,
    hours: Iterable[list[Placed]],
    *,
    total: int,
    ground_truth: Path | None,
    progress: Progress = no_progress,
    known: frozenset[int] | set[int] = frozenset(),
) -> int:
    """Publish the orders of past hours, hour by hour, apart from those with `known` ids; return how many.

    `total` is only for the progress.
    """
    truth = GroundTruth(ground_truth) if ground_truth else None
    published = seen = 0
    for placed in hours:
        new = [item for item in placed if item.order.id not in known]
        publish(topic, new, truth)
        published += len(new)
        seen += len(placed)
        progress("orders", min(seen, total), total)
    progress("orders", total, total)
    return published


def publish(topic: Publisher, placed: list[Placed], truth: GroundTruth | None) -> None:
    """Write down what the orders are, then publish them: no published order is without its truth."""
    if not placed:
        return
    if truth:
        truth.append(placed)
    topic.publish([encode(item.order) for item in placed])


@dataclass(frozen=True)
class RefusedLine:
    """A line of a file that is no order: its number from 1, the reason, and what was wrong."""

    line_number: int
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"line {self.line_number}: {self.detail} ({self.reason})"


@dataclass
class Replayed:
    """What came of a file: lines published, and lines refused by reason."""

    published: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def replay(
    topic: Publisher,
    path: Path,
    *,
    on_refused: Callable[[RefusedLine], None] = lambda refused: None,
    progress: Progress = no_progress,
) -> Replayed:
    """Publish the orders of a JSONL file as they are written there; refuse the lines that are none.

    Each refused line goes to `on_refused` at once. Lines with nothing but white space are passed over. Memory
    does not grow with the file, nor with its longest line. Raises `PlatformError` when the file cannot be
    read.
    """
    result = Replayed()
    total = _size(path)
    with _open(path) as file:
        batch: list[bytes] = []
        for number, line in _lines(file, MAX_LINE_BYTES + 1):
            if not line.strip():
                continue
            try:
                decode(line)
            except InvalidOrder as error:
                result.refused[error.reason] += 1
                on_refused(RefusedLine(number, error.reason, error.detail))
                continue
            batch.append(line)
            if len(batch) == _LINES_A_BATCH:
                topic.publish(batch)
                result.published += len(batch)
                progress("bytes", file.tell(), total)
                batch = []
        if batch:
            topic.publish(batch)
            result.published += len(batch)
    progress("bytes", total, total)
    return result


def publish_raw(topic: Publisher, path: Path, *, progress: Progress = no_progress) -> int:
    """Publish the lines of a file as they are, unchecked, and return how many.

    Only line feeds end a line, and a last line need not have one. Raises `PlatformError` when the file cannot
    be read.
    """
    published = 0
    total = _size(path)
    with _open(path) as file:
        batch: list[bytes] = []
        for line in file:
            batch.append(line.removesuffix(b"\n"))
            if len(batch) == _LINES_A_BATCH:
                topic.publish(batch)
                published += len(batch)
                progress("bytes", file.tell(), total)
                batch = []
        if batch:
            topic.publish(batch)
            published += len(batch)
    progress("bytes", total, total)
    return published


def _market(url: str, *, past_prices: bool) -> Market:
    connection = connect(url, "ecommersss producer")
    try:
        return load_market(connection, past_prices=past_prices)
    finally:
        connection.close()


def _check_share(fraud_share: float) -> None:
    if not 0 <= fraud_share <= 1:
        raise ValueError(f"the share of fraud must be from 0 to 1, not {fraud_share}")


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise PlatformError(f"cannot read {path}: {error.strerror}") from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise PlatformError(f"cannot read {path}: {error.strerror}") from error


def _lines(file: BinaryIO, longest: int) -> Iterator[tuple[int, bytes]]:
    """Numbered lines without their ends (LF or CRLF); of a longer one only the first `longest` bytes."""
    number = 0
    while line := file.readline(longest + 2):
        number += 1
        if not line.endswith(b"\n"):
            while (rest := file.readline(1 << 16)) and not rest.endswith(b"\n"):
                pass
        yield number, line.removesuffix(b"\n").removesuffix(b"\r")[:longest]
