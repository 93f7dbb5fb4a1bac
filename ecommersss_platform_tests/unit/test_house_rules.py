"""The shipped rule book at its limits: just below, at and just above, from the line to the verdict."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from streaming.database.catalogue import Catalogue
from streaming.decisions import features
from streaming.orders import decode
from streaming.rules import RULES_PATH, RuleBook

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


class Unpriced(Catalogue):
    def list_price(self, product_id: int, instant: datetime) -> Decimal | None:
        return None


def reasons(**changes: Any) -> list[str]:
    """What the order is flagged with."""
    order = decode(json.dumps(ORDER | changes).encode())
    fraud, shadow = BOOK.evaluate(features(order, datetime(2026, 1, 1, tzinfo=UTC), Unpriced()))
    assert shadow == []
    return fraud


def test_the_house_rules_are_these_and_all_active() -> None:
    assert [(rule.name, rule.mode) for rule in BOOK.rules] == [
        (NIGHT, "active"),
        (FOREIGN, "active"),
        (EXTREME, "active"),
        (WALLET, "active"),
    ]
    assert all(len(rule.description) > 20 for rule in BOOK.rules)


def test_an_ordinary_order_is_genuine() -> None:
    assert reasons() == []


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


def test_all_that_hold_are_recorded_in_rule_order() -> None:
    everything = {
        "created_date": "2026-03-05T01:00:00+07:00",
        "country": "SG",
        "amount": 300_000_000,
        "payment_method": "OVO",
    }
    assert reasons(**everything) == [NIGHT, FOREIGN, EXTREME, WALLET]
