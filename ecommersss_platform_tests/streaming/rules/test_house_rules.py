"""The shipped rule book just below, at and just above its limits, from the line to the verdict."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from streaming.database.catalogue import Catalogue
from streaming.decisions import features
from streaming.decode import decode
from streaming.orders import Order
from streaming.rules import RULES_PATH, FeatureRow, RuleBook
from streaming.velocity import Velocity

BOOK = RuleBook.load(RULES_PATH)
NIGHT, FOREIGN, EXTREME, WALLET = "night_bulk_order", "foreign_country", "extreme_order", "wallet_limit"
ORDER: dict[str, Any] = {
    "id": 1,
    "user_id": 2,
    "product_id": 3,
    "quantity": 1,
    "amount": 1000,
    "payment_method": "Bank Transfer",
    "country": "ID",
    "created_date": "2026-03-05T13:00:00+07:00",
}


class Priced(Catalogue):
    """A catalogue in which the amount of an order is always its list price."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self._price = (order.amount / order.quantity).quantize(Decimal("0.01"))

    def list_price(self, product_id: int, instant: datetime) -> Decimal | None:
        return self._price


def row(**changes: Any) -> FeatureRow:
    """Return the features of an order by a user who last ordered a week ago."""
    order = decode(json.dumps(ORDER | changes).encode())
    velocity = Velocity(1, 1, order.amount, 7 * 86_400, 1)
    return features(order, datetime(2026, 1, 1, tzinfo=UTC), Priced(order), velocity)


def reasons(**changes: Any) -> list[str]:
    """Return the active rules that hold for an order."""
    return BOOK.evaluate(row(**changes))[0]


def test_only_the_rules_without_history_are_active() -> None:
    assert [(rule.name, rule.mode) for rule in BOOK.rules] == [
        (NIGHT, "active"),
        (FOREIGN, "active"),
        (EXTREME, "active"),
        (WALLET, "active"),
        ("rapid_orders", "shadow"),
        ("spend_burst", "shadow"),
        ("country_change", "shadow"),
        ("first_order_too_big", "shadow"),
        ("price_mismatch", "shadow"),
        ("blacklisted_user", "shadow"),
    ]
    assert all(len(rule.description) > 20 for rule in BOOK.rules)


def test_an_ordinary_order_is_genuine() -> None:
    assert BOOK.evaluate(row()) == ([], [], [])


MILLION = Decimal(1_000_000)


@pytest.mark.parametrize(
    ("features", "shadow"),
    [
        ({"user_orders_10m": 4}, []),
        ({"user_orders_10m": 5}, ["rapid_orders"]),
        ({"user_orders_24h": 3, "user_amount_24h": 300 * MILLION - Decimal("0.01")}, []),
        ({"user_orders_24h": 3, "user_amount_24h": 300 * MILLION}, ["spend_burst"]),
        ({"user_orders_24h": 2, "user_amount_24h": 300 * MILLION}, []),
        ({"user_countries_24h": 2}, ["country_change"]),
        ({"seconds_since_last_order": None}, []),
        (
            {
                "seconds_since_last_order": None,
                "amount": 100 * MILLION,
                "list_price": 100 * MILLION,
            },
            ["first_order_too_big"],
        ),
        (
            {
                "seconds_since_last_order": None,
                "amount": 100 * MILLION - 1,
                "list_price": 100 * MILLION - 1,
            },
            [],
        ),
        ({"seconds_since_last_order": 0, "amount": 100 * MILLION, "list_price": 100 * MILLION}, []),
        ({"list_price": Decimal("1000.01")}, ["price_mismatch"]),
        ({"list_price": Decimal("500.00")}, ["price_mismatch"]),
        ({"list_price": Decimal("500.00"), "quantity": 2}, []),
        ({"list_price": None}, ["price_mismatch"]),
        ({"is_blacklisted": True}, ["blacklisted_user"]),
        ({"is_blacklisted": None}, []),
    ],
)
def test_shadow_rules_at_their_limits(features: dict[str, Any], shadow: list[str]) -> None:
    assert BOOK.evaluate(msgspec.structs.replace(row(), **features)) == ([], shadow, [])


HOURS = [
    ("2026-03-05T00:00:00+07:00", True),
    ("2026-03-05T04:59:59.999999+07:00", True),
    ("2026-03-05T04:59:59.999999", True),
    ("2026-03-04T21:59:59.999999Z", True),
    ("2026-03-05T06:59:59.999999+09:00", True),
    ("2026-03-05T05:00:00+07:00", False),
    ("2026-03-05T05:00:00", False),
    ("2026-03-04T22:00:00Z", False),
    ("2026-03-05T00:00:00Z", False),
    ("2026-03-05T23:59:59.999999+07:00", False),
    ("2026-03-04T17:00:00Z", True),
    ("2026-03-04T16:59:59.999999Z", False),
]
NIGHT_SIZES = [
    ({"amount": 99_999_999.99}, False),
    ({"amount": 100_000_000}, True),
    ({"amount": "Rp.100,000,000"}, True),
    ({"amount": 100_000_000.01}, True),
    ({"quantity": 99}, False),
    ({"quantity": 100}, False),
    ({"quantity": 101}, True),
    ({"quantity": 101, "amount": 0}, True),
]


@pytest.mark.parametrize(("placed", "at_night"), HOURS)
@pytest.mark.parametrize(("size", "bulk"), NIGHT_SIZES)
def test_night_bulk_order(placed: str, at_night: bool, size: dict[str, Any], bulk: bool) -> None:
    assert reasons(created_date=placed, **size) == ([NIGHT] if at_night and bulk else [])


@pytest.mark.parametrize(
    ("country", "foreign"),
    [
        ("ID", False),
        ("id", False),
        ("Id", False),
        ("iD", False),
        ("SG", True),
        ("IN", True),
        ("DI", True),
        ("ie", True),
    ],
)
def test_foreign_country(country: str, foreign: bool) -> None:
    assert reasons(country=country) == ([FOREIGN] if foreign else [])


@pytest.mark.parametrize(
    ("size", "extreme"),
    [
        ({"amount": 299_999_999.99}, False),
        ({"amount": 300_000_000}, True),
        ({"amount": 300_000_000.01}, True),
        ({"amount": 9_999_999_999_999_999}, True),
        ({"quantity": 299}, False),
        ({"quantity": 300}, False),
        ({"quantity": 301}, True),
        ({"quantity": 2**63 - 1}, True),
    ],
)
def test_extreme_order(size: dict[str, Any], extreme: bool) -> None:
    assert reasons(**size) == ([EXTREME] if extreme else [])


@pytest.mark.parametrize(
    ("method", "limited"),
    [
        ("DANA", True),
        ("OVO", True),
        ("Gopay", True),
        ("Paylater", True),
        ("Bank Transfer", False),
        ("Credit Card", False),
        ("dana", False),
        ("GOPAY", False),
        ("Gopay ", False),
        ("Shopeepay", False),
    ],
)
@pytest.mark.parametrize(
    ("amount", "above"),
    [(49_999_999.99, False), (50_000_000, False), (50_000_000.01, True), (60_000_000, True)],
)
def test_wallet_limit(method: str, limited: bool, amount: float, above: bool) -> None:
    assert reasons(payment_method=method, amount=amount) == ([WALLET] if limited and above else [])


def test_every_rule_that_holds_is_recorded_in_rule_order() -> None:
    everything = {
        "created_date": "2026-03-05T01:00:00+07:00",
        "country": "SG",
        "amount": 300_000_000,
        "payment_method": "OVO",
    }
    assert reasons(**everything) == [NIGHT, FOREIGN, EXTREME, WALLET]
