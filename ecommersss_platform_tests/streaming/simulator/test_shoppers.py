"""Simulated orders: amounts, rhythm, fraud patterns and their ground truth, ids, determinism."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from random import Random

import pytest

from streaming.business_days import JAKARTA
from streaming.decode import decode
from streaming.order_ids import OrderIds
from streaming.orders import encode
from streaming.simulator.population import HOUR, initial_products, initial_users
from streaming.simulator.shoppers import (
    PATTERNS,
    WALLETS,
    Listing,
    LiveShoppers,
    Market,
    Placed,
    Shopper,
    orders_between,
    orders_of_hour,
    orders_per_hour,
)

FIRST_DAY = date(2025, 6, 1)
START = datetime(2025, 6, 1, tzinfo=JAKARTA)
USERS = [Shopper(u.id, u.default_payment, u.created_date) for u in initial_users(FIRST_DAY)]
LISTINGS = [Listing(p.id, p.price, p.created_date, p.created_date) for p in initial_products(FIRST_DAY)]
PRICES = {listing.product_id: listing.price for listing in LISTINGS}
MARKET = Market(USERS, LISTINGS)


def week(fraud_share: float = 0.03, orders_per_day: int = 2_000) -> list[Placed]:
    hours = orders_between(MARKET, START, START + timedelta(days=7), orders_per_day, fraud_share)
    return [placed for hour in hours for placed in hour]


WEEK = week()


def by_pattern(placed: list[Placed]) -> dict[str | None, list[Placed]]:
    found: dict[str | None, list[Placed]] = defaultdict(list)
    for item in placed:
        found[item.pattern].append(item)
    return found


def local_hour(placed: Placed) -> int:
    return placed.order.created_date.astimezone(JAKARTA).hour


def test_orders_between_has_the_requested_number_and_is_deterministic() -> None:
    assert len(WEEK) == 14_000
    assert week() == WEEK
    # A day has the same orders in any range, whatever the order in which the market was read.
    shuffled = Market(Random(1).sample(USERS, len(USERS)), Random(2).sample(LISTINGS, len(LISTINGS)))
    day = START + timedelta(days=3)
    again = [p for hour in orders_between(shuffled, day, day + timedelta(days=1), 2_000) for p in hour]
    assert again == [p for p in WEEK if day <= p.order.created_date < day + timedelta(days=1)]


def test_every_order_has_an_existing_user_and_product_and_costs_price_times_quantity() -> None:
    users = {user.id for user in USERS}
    for order, _ in WEEK:
        assert order.user_id in users
        assert order.amount == PRICES[order.product_id] * order.quantity
        assert decode(encode(order)) == order


def test_ids_follow_time_and_never_collide_with_a_live_producer() -> None:
    ids = [placed.order.id for placed in WEEK]
    assert ids == sorted(set(ids))
    for order, _ in WEEK:
        millisecond, sequence = divmod(order.id, OrderIds.SEQUENCE)
        assert millisecond + OrderIds.EPOCH_MS == int(order.created_date.timestamp() * 1000)
        assert sequence >= OrderIds.SEQUENCE // 2


def test_ids_are_unique_in_crowded_milliseconds() -> None:
    placed = orders_of_hour(MARKET, START + 20 * HOUR, 30_000)
    ids = [item.order.id for item in placed]
    assert len(ids) == 30_000
    assert ids == sorted(set(ids))


def test_orders_follow_the_rhythm_of_the_day() -> None:
    counts = orders_per_hour(2_000)
    assert sum(counts) == 2_000
    assert sum(orders_per_hour(7)) == 7
    assert Counter(local_hour(placed) for placed in WEEK) == {h: 7 * n for h, n in enumerate(counts)}
    assert sum(counts[:5]) < counts[12] < counts[20]
    assert counts[12] > counts[15]


def test_fraud_share_is_the_requested_one() -> None:
    for share in (0.0, 0.03, 0.2, 1.0):
        placed = week(share)
        fraud = sum(item.pattern is not None for item in placed) / len(placed)
        assert fraud == pytest.approx(share, abs=0.005 + share / 10)


def test_most_honest_orders_are_small_domestic_and_paid_by_default() -> None:
    honest = by_pattern(WEEK)[None]
    defaults = {user.id: user.default_payment for user in USERS}
    usual = sum(defaults[o.user_id] == o.payment_method for o, _ in honest) / len(honest)
    assert 0.83 < usual < 0.92
    assert 0.99 < sum(o.country == "ID" for o, _ in honest) / len(honest) < 1
    assert max(o.quantity for o, _ in honest) == 5
    assert max(o.amount for o, _ in honest) <= Decimal(20_000_000)


def test_each_fraud_pattern_is_what_its_name_says() -> None:
    found = by_pattern(week(0.2))
    assert set(found) == {None, *PATTERNS}
    for placed in found["night_bulk"]:
        assert local_hour(placed) < 5
        assert placed.order.quantity >= 120
    for order, _ in found["foreign_card"]:
        assert (order.payment_method, order.country != "ID") == ("Credit Card", True)
    for order, _ in found["extreme_basket"]:
        assert order.quantity >= 350
    for order, _ in found["wallet_drain"]:
        assert order.payment_method in WALLETS
        assert order.amount >= Decimal(60_000_000)
    abroad = [order.country != "ID" for order, _ in found["account_takeover"]]
    assert 0.5 < sum(abroad) / len(abroad) < 0.8


def test_rapid_fire_is_several_orders_of_one_user_seconds_apart() -> None:
    times: dict[int, list[datetime]] = defaultdict(list)
    for order, _ in by_pattern(WEEK)["rapid_fire"]:
        times[order.user_id].append(order.created_date)
    gaps = [later - earlier for found in times.values() for earlier, later in pairwise(sorted(found))]
    quick = [gap for gap in gaps if gap <= timedelta(seconds=25)]
    # The other gaps lie between episodes: at least four in five are within one.
    assert len(quick) > 0.8 * len(gaps) > 0


def test_order_does_not_reveal_its_pattern() -> None:
    fields = {b"id", b"user_id", b"product_id", b"quantity", b"amount", b"payment_method", b"country"}
    for order, pattern in by_pattern(WEEK)["wallet_drain"]:
        line = encode(order)
        assert str(pattern).encode() not in line
        assert set(line.split(b'"')[1::2]) >= fields


def test_some_users_commit_fraud_repeatedly() -> None:
    counts = Counter(order.user_id for order, pattern in WEEK if pattern not in (None, "account_takeover"))
    assert sum(count >= 3 for count in counts.values()) >= 10


def test_orders_use_users_products_and_prices_of_their_time() -> None:
    noon = START + 12 * HOUR
    late_user = Shopper(2, "OVO", noon + timedelta(minutes=30))
    listings = [
        Listing(1, Decimal("100.00"), START, START),
        Listing(1, Decimal("120.50"), noon + timedelta(minutes=20), START),
        Listing(2, Decimal("9.00"), noon + HOUR, noon + HOUR),
    ]
    market = Market([Shopper(1, None, START), late_user], listings)
    placed = orders_of_hour(market, noon, 400, fraud_share=0)
    assert {order.user_id for order, _ in placed} == {1}
    for order, _ in placed:
        early = order.created_date < noon + timedelta(minutes=20)
        assert order.amount / order.quantity == (Decimal("100.00") if early else Decimal("120.50"))
    assert {o.product_id for o, _ in orders_of_hour(market, noon + HOUR, 400, fraud_share=0)} == {1, 2}
    assert {o.user_id for o, _ in orders_of_hour(market, noon + HOUR, 400, fraud_share=0)} == {1, 2}


def test_first_known_price_applies_to_the_time_before() -> None:
    market = Market([Shopper(1, None, START)], [Listing(1, Decimal("5.00"), START + 9 * HOUR, START)])
    (placed,) = orders_of_hour(market, START, 1, fraud_share=0)
    assert placed.order.amount == 5 * placed.order.quantity


def test_later_users_and_products_do_not_change_earlier_orders() -> None:
    later = Market(
        [*USERS, Shopper(5, "OVO", START + timedelta(minutes=70))],
        [*LISTINGS, Listing(5, Decimal(1), START + timedelta(minutes=70), START + timedelta(minutes=70))],
    )
    end = START + 2 * HOUR
    assert list(orders_between(later, START, end, 9_999)) == list(orders_between(MARKET, START, end, 9_999))


def test_partial_hour_has_the_first_orders_of_the_whole_hour() -> None:
    whole = orders_of_hour(MARKET, START + 20 * HOUR, orders_per_hour(2_000)[20])
    end = START + 20 * HOUR + timedelta(minutes=25)
    *_, cut = orders_between(MARKET, START, end, 2_000)
    assert cut == [placed for placed in whole if placed.order.created_date < end]
    assert 0 < len(cut) < len(whole)


def test_hours_before_the_first_user_have_no_orders() -> None:
    market = Market([Shopper(1, None, START + 2 * HOUR)], LISTINGS)
    counts = [len(hour) for hour in orders_between(market, START, START + 4 * HOUR, 24_000)]
    assert counts[:2] == [0, 0]
    assert counts[2] == orders_per_hour(24_000)[2]


def test_empty_market_and_years_before_2020_are_refused() -> None:
    with pytest.raises(LookupError, match="no users or no products at 2025-06-01"):
        orders_of_hour(Market([], LISTINGS), START, 1)
    with pytest.raises(ValueError, match="order ids begin in 2020"):
        orders_of_hour(MARKET, datetime(2019, 12, 31, 22, tzinfo=UTC), 1)


def test_live_orders_are_placed_when_due() -> None:
    shoppers, ids = LiveShoppers(Random(5), fraud_share=1.0), OrderIds()
    now = datetime(2025, 6, 1, 5, tzinfo=UTC)
    begun = sum(shoppers.begin(MARKET, now) for _ in range(50))
    at_once = shoppers.due(now, ids)
    assert 0 < len(at_once) < begun
    assert {placed.order.created_date for placed in at_once} == {now}
    assert shoppers.due(now, ids) == []
    soon = shoppers.due(now + timedelta(seconds=30), ids)
    assert {placed.pattern for placed in soon} == {"rapid_fire"}
    rest = shoppers.due(now + timedelta(hours=1), ids)
    assert len(at_once) + len(soon) + len(rest) == begun
    order_ids = [placed.order.id for placed in [*at_once, *soon, *rest]]
    assert order_ids == sorted(set(order_ids))
