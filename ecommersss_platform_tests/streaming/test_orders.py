"""The lines of orders and flagged orders: their exact bytes, and that they survive a round trip."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecommersss_platform_tests.streaming.test_decode import FIELDS, ORDER
from streaming.business_days import EARLIEST, JAKARTA, LATEST
from streaming.decode import decode, decode_carefully
from streaming.orders import MAX_AMOUNT, Order, decode_flagged, encode, encode_flagged, flag


def test_an_order_is_encoded_as_its_canonical_line() -> None:
    assert encode(ORDER) == (
        b'{"id":7241389012381696,"user_id":12,"product_id":7,"quantity":3,"amount":1250000.00,'
        b'"payment_method":"Credit Card","country":"ID","created_date":"2026-03-05T13:59:01.123456+07:00"}'
    )


ORDERS = st.builds(
    Order,
    id=st.integers(1, 2**53 - 1),
    user_id=st.integers(1, 2**31 - 1),
    product_id=st.integers(1, 2**31 - 1),
    quantity=st.integers(1, 2**63 - 1),
    amount=st.decimals(0, MAX_AMOUNT, places=2),
    payment_method=st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=50),
    country=st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=2, max_size=2),
    created_date=st.datetimes(
        EARLIEST.replace(tzinfo=None),
        LATEST.replace(tzinfo=None) - timedelta(microseconds=1),
        timezones=st.just(JAKARTA),
    ),
)


@given(ORDERS)
@settings(deadline=None)
def test_orders_survive_a_round_trip(order: Order) -> None:
    data = encode(order)
    assert b"\n" not in data
    assert decode(data) == decode_carefully(data) == order
    assert encode(decode(data)) == data


@given(ORDERS, st.lists(st.text(max_size=10), max_size=3), st.integers(0, 2**60))
@settings(deadline=None)
def test_flagged_orders_survive_a_round_trip(order: Order, reasons: list[str], position: int) -> None:
    at = datetime(2026, 1, 1, 0, 0, 0, 5, tzinfo=UTC)
    reasons = [r.encode("utf-8", "ignore").decode() for r in reasons]
    flagged = flag(order, reasons, reasons[:1], "0123456789ab", at, position, reasons[1:])
    data = encode_flagged(flagged)
    assert b"\n" not in data
    assert decode_flagged(data) == flagged
    assert decode(data) == order, "a flagged line is still an order"


def test_a_flagged_order_is_encoded_as_a_flat_line() -> None:
    at = datetime(2026, 3, 5, 6, 59, 2, tzinfo=UTC)
    data = encode_flagged(flag(ORDER, ["a", "b"], [], "0123456789ab", at, 77, ["c"]))
    assert json.loads(data) == FIELDS | {
        "status": "fraud",
        "fraud_reasons": ["a", "b"],
        "shadow_reasons": [],
        "rules_version": "0123456789ab",
        "flagged_at": "2026-03-05T13:59:02+07:00",
        "position": 77,
        "review_reasons": ["c"],
    }
    assert flag(ORDER, [], ["a"], "0123456789ab", at, 77, ["b"]).status == "genuine"


def test_a_flagged_line_from_before_there_was_review_is_read() -> None:
    new = flag(ORDER, [], ["a"], "0123456789ab", datetime(2026, 3, 5, tzinfo=UTC), 77, [])
    line = encode_flagged(new)
    before = line.replace(b',"review_reasons":[]', b"")
    assert before != line
    assert decode_flagged(before) == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"genuine"', b'"fine"'),
        (b"+07:00", b""),
        (b'"position":77', b'"position":"77"'),
        (b"1250000.00", b'"NaN"'),
        (b"1250000.00", b"1e999"),
        (b'"country"', b'"land"'),
        (b"}", b""),
    ],
)
def test_decode_flagged_raises_value_error_on_any_other_line(old: bytes, new: bytes) -> None:
    data = encode_flagged(flag(ORDER, [], [], "0123456789ab", datetime(2026, 3, 5, tzinfo=UTC), 77, []))
    assert old in data
    with pytest.raises(ValueError, match="not a flagged order"):
        decode_flagged(data.replace(old, new))
