"""Simulated shoppers: orders of existing users for existing products, some of them deliberately fraudulent.

Pure functions and values: the caller passes the market (users and products), the time and the random numbers,
so the same arguments give the same orders. An order never says which fraud pattern made it. The pattern is
returned beside it, as ground truth to measure a rule book against. The patterns know nothing of the rules;
their sizes are far beyond any sensible limit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from random import Random
from typing import NamedTuple

from streaming.business_days import JAKARTA
from streaming.order_ids import OrderIds
from streaming.orders import Order
from streaming.simulator.population import HOUR, PAYMENT_METHODS, RHYTHM, hour_of

FRAUD_SHARE = 0.03
"""The default share of simulated orders that belong to a fraud pattern."""

WALLETS = ("Gopay", "OVO", "DANA", "Paylater")
PATTERNS = (
    "night_bulk",
    "foreign_card",
    "extreme_basket",
    "wallet_drain",
    "rapid_fire",
    "account_takeover",
)
"""The fraud patterns, as named in the ground truth."""

_NIGHT = range(5)
_DAY_WEIGHTS = (0, 26, 12, 22, 10, 12)
# Bulk orders go unnoticed in a quiet night, so most fraud at night is that.
_NIGHT_WEIGHTS = (60, 12, 8, 10, 4, 6)

_NIGHT_FACTOR = 6
_NIGHT_ACTIVITY = sum(RHYTHM[hour] for hour in _NIGHT)

_HOME = "ID"
# Travellers order from abroad too: not every foreign order is fraud.
_TRAVELLER_SHARE = 0.004
_NEIGHBOURS = ("SG", "MY", "JP", "SA", "AU")
_FAR_COUNTRIES = ("RU", "NG", "RO", "BR", "VN", "UA", "US", "CN")

_DEFAULT_PAYMENT_SHARE = 0.85
_MILLION = 1_000_000
_CENT = Decimal("0.01")


class Shopper(NamedTuple):
    """The part of a user that matters for ordering; `created_date` is aware."""

    id: int
    default_payment: str | None
    created_date: datetime


class Listing(NamedTuple):
    """One price of a product, in rupiah, valid from `valid_from` (aware) until its next one."""

    product_id: int
    price: Decimal
    valid_from: datetime
    created_date: datetime


class Placed(NamedTuple):
    """An order and its ground truth: the fraud pattern that made it, or None for an honest one."""

    order: Order
    pattern: str | None


class Market:
    """The users and products to draw orders from, as they were at any instant.

    Some users order far more than others, and some products sell far more. Only their ids decide which.
    """

    def __init__(self, users: Iterable[Shopper], listings: Iterable[Listing]) -> None:
        self._users = sorted(users, key=lambda user: (user.created_date, user.id))
        self._user_dates = [user.created_date for user in self._users]
        self._user_weights = list(accumulate(_popularity(user.id) for user in self._users))
        prices: dict[int, list[Listing]] = {}
        for listing in sorted(listings, key=lambda listing: (listing.product_id, listing.valid_from)):
            prices.setdefault(listing.product_id, []).append(listing)
        # The sort is stable: products of one instant stay in the order of their ids.
        self._prices = sorted(prices.values(), key=lambda versions: versions[0].created_date)
        self._product_dates = [versions[0].created_date for versions in self._prices]
        self._product_weights = list(
            accumulate(_popularity(versions[0].product_id) for versions in self._prices)
        )

    def open_at(self, instant: datetime) -> bool:
        """Return whether any user and any product exists at this instant."""
        return bool(
            self._users
            and self._prices
            and self._user_dates[0] <= instant
            and self._product_dates[0] <= instant
        )

    def shopper(self, random: Random, there_at: datetime) -> Shopper:
        """Draw a user who had signed up by then. Raises `LookupError` if there is none."""
        return self._users[_draw(random, self._user_dates, self._user_weights, there_at)]

    def product(self, random: Random, there_at: datetime, priced_at: datetime) -> tuple[int, Decimal]:
        """Draw a product listed by `there_at`, with its price at `priced_at`. Raises `LookupError`."""
        versions = self._prices[_draw(random, self._product_dates, self._product_weights, there_at)]
        # Before the first known price (an import), that first price is the best guess.
        current = bisect_right(versions, priced_at, key=lambda version: version.valid_from) - 1
        version = versions[max(current, 0)]
        return version.product_id, version.price


class _Moment(NamedTuple):
    """The market at one instant, with the users and products of `there_at`, at or before it."""

    market: Market
    instant: datetime
    there_at: datetime

    def shopper(self, random: Random) -> Shopper:
        return self.market.shopper(random, self.there_at)

    def product(self, random: Random) -> tuple[int, Decimal]:
        return self.market.product(random, self.there_at, self.instant)


class _Draft(NamedTuple):
    """An order without an id yet, `delay` after the beginning of its episode."""

    delay: timedelta
    user_id: int
    product_id: int
    quantity: int
    price: Decimal
    payment_method: str
    country: str


def _episode(moment: _Moment, random: Random, fraud_share: float) -> tuple[str | None, list[_Draft]]:
    """Draw an episode that begins at this moment: one honest order, or the orders of a fraud pattern.

    `fraud_share` is the share of a day's *orders*, so patterns of several orders begin less often.
    """
    local_hour = moment.instant.astimezone(JAKARTA).hour
    weights = _NIGHT_WEIGHTS if local_hour in _NIGHT else _DAY_WEIGHTS
    per_episode = sum(w * n for w, n in zip(weights, _ORDERS_OF_PATTERN, strict=True)) / sum(weights)
    # With a share s of orders, and n orders an episode: s / n fraud episodes for each 1 - s honest ones.
    share = _share_at(local_hour, fraud_share)
    begins = share / per_episode
    if random.random() * (begins + 1 - share) >= begins:
        return None, [_honest(moment, random)]
    (pattern,) = random.choices(PATTERNS, weights)
    return pattern, _fraud(pattern, moment, random)


def orders_of_hour(
    market: Market, hour: datetime, count: int, fraud_share: float = FRAUD_SHARE
) -> list[Placed]:
    """Return exactly `count` orders of one hour (its start, aware), by time, with time-ordered ids.

    The same hour, count, share and market give the same orders. Ids use the upper half of each millisecond's
    sequence, which a live producer never reaches, so past and live orders do not collide. Raises `ValueError`
    for an hour before 2020, when order ids begin, and `LookupError` for an empty market.
    """
    start = hour_of(hour)
    first_ms = int(start.timestamp() * 1000) - OrderIds.EPOCH_MS
    if first_ms < 0:
        raise ValueError(f"order ids begin in 2020: no orders can be simulated for {start.isoformat()}")
    random = Random(f"shoppers:{first_ms}:{count}:{fraud_share}")  # noqa: S311
    drafts: list[tuple[int, int, _Draft, str | None]] = []
    while len(drafts) < count:
        offset = random.randrange(3_600_000)
        # Users who sign up during the hour order from the next hour on. So an hour's orders are fixed when it
        # begins, whether its new users are known yet or not.
        moment = _Moment(market, start + timedelta(milliseconds=offset), there_at=start)
        pattern, parts = _episode(moment, random, fraud_share)
        # An episode that would run past the hour's end begins earlier.
        last = int(parts[-1].delay / timedelta(milliseconds=1))
        offset = min(offset, 3_599_999 - last)
        for part in parts[: count - len(drafts)]:
            at = offset + int(part.delay / timedelta(milliseconds=1))
            drafts.append((at, random.randrange(OrderIds.SEQUENCE // 2, OrderIds.SEQUENCE), part, pattern))
    used: set[int] = set()
    placed = []
    for offset, sequence, part, pattern in sorted(drafts, key=lambda draft: draft[:2]):
        id_ = (first_ms + offset) * OrderIds.SEQUENCE + sequence
        while id_ in used:
            id_ += 1
        used.add(id_)
        placed.append(Placed(_order(part, id_, start + timedelta(milliseconds=offset)), pattern))
    return placed


def orders_per_hour(orders_per_day: int) -> list[int]:
    """Split `orders_per_day` over the 24 local hours by the day's rhythm."""
    up_to = [round(orders_per_day * share) for share in accumulate(RHYTHM)]
    return [end - start for start, end in zip([0, *up_to], up_to, strict=False)]


def orders_between(
    market: Market,
    start: datetime,
    end: datetime,
    orders_per_day: int,
    fraud_share: float = FRAUD_SHARE,
) -> Iterator[list[Placed]]:
    """Yield the orders placed in [start, end), one list an hour; `start` is the start of an hour.

    If `end` cuts the last hour short, its list holds the first orders of the whole hour. An hour without any
    user or product has no orders.
    """
    counts = orders_per_hour(orders_per_day)
    hour = start
    while hour < end:
        count = counts[hour.astimezone(JAKARTA).hour] if market.open_at(hour) else 0
        yield [
            placed
            for placed in orders_of_hour(market, hour, count, fraud_share)
            if placed.order.created_date < end
        ]
        hour += HOUR


class LiveShoppers:
    """Live orders: the caller begins episodes, and their later orders fall due as time passes."""

    def __init__(self, random: Random, fraud_share: float = FRAUD_SHARE) -> None:
        self._random = random
        self._fraud_share = fraud_share
        self._waiting: list[tuple[datetime, int, _Draft, str | None]] = []
        self._number = 0

    def begin(self, market: Market, instant: datetime) -> int:
        """Begin an episode at this instant, and return its number of orders."""
        moment = _Moment(market, instant, there_at=instant)
        pattern, parts = _episode(moment, self._random, self._fraud_share)
        for part in parts:
            self._number += 1
            self._waiting.append((instant + part.delay, self._number, part, pattern))
        return len(parts)

    def due(self, now: datetime, ids: OrderIds) -> list[Placed]:
        """Remove and return the orders that are due by now, by time, each placed now."""
        self._waiting.sort(key=lambda item: item[:2])
        count = bisect_right(self._waiting, now, key=lambda item: item[0])
        ready, self._waiting = self._waiting[:count], self._waiting[count:]
        return [Placed(_order(part, ids(), now), pattern) for _, _, part, pattern in ready]


def _order(draft: _Draft, id_: int, created: datetime) -> Order:
    return Order(
        id=id_,
        user_id=draft.user_id,
        product_id=draft.product_id,
        quantity=draft.quantity,
        amount=(draft.price * draft.quantity).quantize(_CENT),
        payment_method=draft.payment_method,
        country=draft.country,
        created_date=created,
    )


def check_fraud_share(fraud_share: float) -> None:
    """Raise `ValueError` unless the share is from 0 to 1."""
    if not 0 <= fraud_share <= 1:
        raise ValueError(f"the share of fraud must be from 0 to 1, not {fraud_share}")


def _share_at(local_hour: int, fraud_share: float) -> float:
    """Return the share of fraud at this hour: higher at night, lower by day, right over the whole day."""
    at_night = min(1.0, _NIGHT_FACTOR * fraud_share)
    by_day = (fraud_share - _NIGHT_ACTIVITY * at_night) / (1 - _NIGHT_ACTIVITY)
    return at_night if local_hour in _NIGHT else by_day


def _draw(random: Random, dates: Sequence[datetime], weights: Sequence[float], instant: datetime) -> int:
    """Draw, by weight, the index of one that existed at this instant. Raises `LookupError` if none did."""
    there = bisect_right(dates, instant)
    if not there:
        raise LookupError(f"the market has no users or no products at {instant.isoformat()}")
    return min(bisect_left(weights, random.random() * weights[there - 1], 0, there), there - 1)


def _popularity(id_: int) -> float:
    """Return a weight from 1 to 16, mostly near 1, that depends only on the id."""
    return 1.0 / (1.0 - 0.9375 * _hash(id_) / 2**32)


def _hash(id_: int) -> int:
    """Return 0 to 2^32 - 1, uniform even over consecutive ids (the output step of a PCG generator)."""
    word = (id_ * 747_796_405 + 2_891_336_453) % 2**32
    word = (((word >> ((word >> 28) + 4)) ^ word) * 277_803_737) % 2**32
    return (word >> 22) ^ word


def _honest(moment: _Moment, random: Random) -> _Draft:
    user = moment.shopper(random)
    product_id, price = moment.product(random)
    # A household buys five packs of coffee, but not five laptops.
    quantity = min(random.choice((1, 1, 1, 1, 2, 2, 3, 4, 5)), _most_pieces(price))
    abroad = random.random() < _TRAVELLER_SHARE
    country = random.choice(_NEIGHBOURS) if abroad else _HOME
    return _Draft(timedelta(), user.id, product_id, quantity, price, _payment(user, random), country)


def _most_pieces(price: Decimal) -> int:
    return 5 if price < 100_000 else 3 if price < _MILLION else 2 if price < 3 * _MILLION else 1


def _payment(user: Shopper, random: Random) -> str:
    if user.default_payment and random.random() < _DEFAULT_PAYMENT_SHARE:
        return user.default_payment
    return random.choice(PAYMENT_METHODS)


# The average number of orders in an episode of each of PATTERNS.
_ORDERS_OF_PATTERN = (1.0, 1.0, 1.0, 1.0, 8.0, 3.0)


def _fraud(pattern: str, moment: _Moment, random: Random) -> list[_Draft]:
    user = moment.shopper(random) if pattern == "account_takeover" else _culprit(moment, random)
    product_id, price = moment.product(random)
    payment = _payment(user, random)
    at_once = timedelta()
    if pattern == "night_bulk":
        return [_Draft(at_once, user.id, product_id, random.randint(120, 280), price, payment, _HOME)]
    if pattern == "foreign_card":
        quantity, country = random.randint(1, 4), random.choice(_FAR_COUNTRIES)
        return [_Draft(at_once, user.id, product_id, quantity, price, "Credit Card", country)]
    if pattern == "extreme_basket":
        payment = random.choice(("Bank Transfer", "Credit Card"))
        return [_Draft(at_once, user.id, product_id, random.randint(350, 900), price, payment, _HOME)]
    if pattern == "wallet_drain":
        # Spend a whole wallet at once: the most expensive of a few products, in the quantity that takes.
        product_id, price = max((moment.product(random) for _ in range(8)), key=lambda item: item[1])
        quantity = int(random.randint(60, 180) * _MILLION / price) + 1
        return [_Draft(at_once, user.id, product_id, quantity, price, random.choice(WALLETS), _HOME)]
    if pattern == "rapid_fire":
        # A stolen card is tried out: one user's small orders, seconds apart.
        delays = accumulate(random.uniform(2, 25) for _ in range(random.randint(5, 11)))
        return [
            _Draft(timedelta(seconds=delay), user.id, *_small(moment, random), payment, _HOME)
            for delay in delays
        ]
    # account_takeover: an order like the owner's, then orders from abroad, paid by another method.
    other = random.choice([method for method in PAYMENT_METHODS if method != user.default_payment])
    country = random.choice(_FAR_COUNTRIES)
    delays = accumulate(random.uniform(120, 600) for _ in range(random.randint(1, 3)))
    abroad = [
        _Draft(timedelta(seconds=d), user.id, *_expensive(moment, random), other, country) for d in delays
    ]
    return [_Draft(at_once, user.id, *_small(moment, random), payment, _HOME), *abroad]


def _culprit(moment: _Moment, random: Random) -> Shopper:
    """Draw a user who commits fraud: half the time one of a few repeat offenders, otherwise anyone."""
    for _ in range(12):
        user = moment.shopper(random)
        if _hash(user.id) % 16 == 0:
            break
    return user


def _small(moment: _Moment, random: Random) -> tuple[int, int, Decimal]:
    """Draw product, quantity and price of a small order."""
    product_id, price = min((moment.product(random) for _ in range(3)), key=lambda item: item[1])
    return product_id, 1, price


def _expensive(moment: _Moment, random: Random) -> tuple[int, int, Decimal]:
    """Draw product, quantity and price of an expensive order."""
    product_id, price = max((moment.product(random) for _ in range(3)), key=lambda item: item[1])
    return product_id, random.randint(2, 5), price
