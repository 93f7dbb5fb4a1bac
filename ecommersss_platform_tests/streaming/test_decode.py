"""Decoding lines: what is an order, what is not and why. Both decoders give the same answers."""

from __future__ import annotations

import contextlib
import json
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streaming import decode as decoding
from streaming.decode import InvalidOrder, decode, decode_carefully
from streaming.orders import MAX_LINE_BYTES, REASONS, Order

FIELDS: dict[str, Any] = {
    "id": 7241389012381696,
    "user_id": 12,
    "product_id": 7,
    "quantity": 3,
    "amount": 1250000,
    "payment_method": "Credit Card",
    "country": "ID",
    "created_date": "2026-03-05T13:59:01.123456+07:00",
}
ORDER = Order(
    id=7241389012381696,
    user_id=12,
    product_id=7,
    quantity=3,
    amount=Decimal("1250000.00"),
    payment_method="Credit Card",
    country="ID",
    created_date=datetime(2026, 3, 5, 6, 59, 1, 123456, tzinfo=UTC),
)


def line(**changes: Any) -> bytes:
    """Return the line of a valid order with some fields changed."""
    return json.dumps(FIELDS | changes).encode()


def raw(field: str, text: str) -> bytes:
    """Return the line of a valid order with one field's JSON written literally."""
    return line(**{field: "@"}).replace(b'"@"', text.encode("utf-8", "surrogatepass"))


def refusal(data: bytes) -> InvalidOrder:
    """Return the error of both decoders, asserting that they agree."""
    with pytest.raises(InvalidOrder) as fast:
        decode(data)
    with pytest.raises(InvalidOrder) as careful:
        decode_carefully(data)
    assert (fast.value.reason, fast.value.detail) == (careful.value.reason, careful.value.detail)
    return fast.value


def test_a_valid_line_is_an_order() -> None:
    order = decode(line())
    assert order == ORDER
    assert order.created_date.tzinfo is UTC
    assert str(order.amount) == "1250000.00"
    assert decode_carefully(line()) == ORDER


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", "0.00"),
        ("-0", "0.00"),
        ("-0.0", "0.00"),
        ("0.01", "0.01"),
        ("0.1", "0.10"),
        ("1.500", "1.50"),
        ("1e3", "1000.00"),
        ("1.25E+2", "125.00"),
        ("125e-2", "1.25"),
        ("9999999999999999.99", "9999999999999999.99"),
        ('"125000000"', "125000000.00"),
        ('"1250.5"', "1250.50"),
        ('"Rp.125,000,000"', "125000000.00"),
        ('"Rp 125,000,000.50"', "125000000.50"),
        ('"Rp. 1,000"', "1000.00"),
        ('"rp5"', "5.00"),
        ('"125,000"', "125000.00"),
    ],
)
def test_valid_amounts_are_exact(text: str, amount: str) -> None:
    for decoder in (decode, decode_carefully):
        assert str(decoder(raw("amount", text)).amount) == amount


@pytest.mark.parametrize(
    "text",
    [
        "-0.01",
        "-1",
        "0.001",
        "1.999",
        "1e-3",
        "10000000000000000",
        "1e16",
        "1e400",
        "1e999999999999999999",
        "12345678901234567890123456789012345678901234567890",
        "0." + "1" * 5000,
        "9" * 5000,
        "true",
        "null",
        "[]",
        "{}",
        '""',
        '"NaN"',
        '"sNaN"',
        '"Infinity"',
        '"-5"',
        '"1e3"',
        '"1_000"',
        '" 1"',
        '"1 "',
        '"\u0661"',
        '"Rp"',
        '"Rp."',
        '"Rp.1,00"',
        '"Rp 125.000"',
        '"Rp 125.000.000"',
        '"1,0000"',
        '",100"',
        '"$5"',
        '"Rp.-5"',
        '"5."',
        '".5"',
        '"0x10"',
    ],
)
def test_invalid_amounts_are_refused(text: str) -> None:
    assert refusal(raw("amount", text)).reason == "invalid_amount"


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1", "1e", "0x10", "1_0", "--1"]
)
def test_numbers_that_json_does_not_allow_are_refused(text: str) -> None:
    assert refusal(raw("amount", text)).reason == "malformed_json"


@pytest.mark.parametrize(
    ("field", "most"),
    [("id", 2**53 - 1), ("user_id", 2**31 - 1), ("product_id", 2**31 - 1), ("quantity", 2**63 - 1)],
)
def test_integers_are_checked_at_their_bounds(field: str, most: int) -> None:
    for value in (1, most):
        assert getattr(decode(line(**{field: value})), field) == value
        assert getattr(decode_carefully(line(**{field: value})), field) == value
    for text in ("0", "-1", str(most + 1), "1.0", "1e3", "true", '"1"', "null", "[1]", "9" * 5000):
        assert refusal(raw(field, text)).reason == f"invalid_{field}"


@pytest.mark.parametrize(
    "value", ["x", "x" * 50, "é" * 50, "\U0001f600" * 50, " ", "-- ' OR 1=1; \\", "\u200b"]
)
def test_valid_payment_methods_pass(value: str) -> None:
    assert decode(line(payment_method=value)).payment_method == value
    assert decode_carefully(line(payment_method=value)).payment_method == value


@pytest.mark.parametrize(
    "text",
    [
        '""',
        '"' + "x" * 51 + '"',
        "1",
        "null",
        "true",
        '["DANA"]',
        '"a\\u0000b"',
        '"a\\nb"',
        '"\\t"',
        '"\\u007f"',
        '"\\u0085"',
        '"\\ud800"',
        '"\\udc00\\ud800"',
    ],
)
def test_invalid_payment_methods_are_refused(text: str) -> None:
    assert refusal(raw("payment_method", text)).reason == "invalid_payment_method"


@pytest.mark.parametrize(("given_", "kept"), [("ID", "ID"), ("id", "ID"), ("sG", "SG")])
def test_countries_are_upper_cased(given_: str, kept: str) -> None:
    assert decode(line(country=given_)).country == kept
    assert decode_carefully(line(country=given_)).country == kept


@pytest.mark.parametrize(
    "text",
    ['""', '"I"', '"IDN"', '"I1"', '"I "', '"\u0131d"', '"\uff29\uff24"', "62", "null", '["ID"]', "{}"],
)
def test_invalid_countries_are_refused(text: str) -> None:
    assert refusal(raw("country", text)).reason == "invalid_country"


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-03-05T00:00:00+07:00", datetime(2026, 3, 4, 17, tzinfo=UTC)),
        ("2026-03-05T00:00:00", datetime(2026, 3, 4, 17, tzinfo=UTC)),
        ("2026-03-05T00:00:00Z", datetime(2026, 3, 5, tzinfo=UTC)),
        ("2026-03-05t00:00:00.5z", datetime(2026, 3, 5, 0, 0, 0, 500000, tzinfo=UTC)),
        ("2026-03-05 00:00:00-03:30", datetime(2026, 3, 5, 3, 30, tzinfo=UTC)),
        ("2024-02-29T12:00:00.000001+00:00", datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=UTC)),
        ("2000-01-01T00:00:00+07:00", datetime(1999, 12, 31, 17, tzinfo=UTC)),
        ("2100-12-31T23:59:59.999999+07:00", datetime(2100, 12, 31, 16, 59, 59, 999999, tzinfo=UTC)),
    ],
)
def test_valid_times_are_read(text: str, instant: datetime) -> None:
    for decoder in (decode, decode_carefully):
        placed = decoder(line(created_date=text)).created_date
        assert placed == instant
        assert placed.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        '"1999-12-31T23:59:59.999999+07:00"',
        '"2101-01-01T00:00:00+07:00"',
        '"0001-01-01T00:00:00+14:00"',
        '"9999-12-31T23:59:59-14:00"',
        '"2016-12-31T23:59:60Z"',
        '"2026-02-29T00:00:00Z"',
        '"2026-13-01T00:00:00Z"',
        '"2026-01-01T24:00:00Z"',
        '"2026-01-01T00:60:00Z"',
        '"2026-01-01"',
        '"2026-01-01T00:00Z"',
        '"yesterday"',
        '""',
        '"2026-01-01T00:00:00+25:00"',
        '"\u0662026-01-01T00:00:00Z"',
        "1767225600",
        "1767225600.5",
        "null",
        "[2026]",
        '"2026-01-01T00:00:00Z "',
        '" 2026-01-01T00:00:00Z"',
    ],
)
def test_invalid_times_are_refused(text: str) -> None:
    assert refusal(raw("created_date", text)).reason == "invalid_created_date"


NESTED_LISTS = "[" * 63 + "]" * 63


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_line"),
        (b" \t ", "empty_line"),
        (b"\r", "empty_line"),
        (b"{", "malformed_json"),
        (b"{}x", "malformed_json"),
        (b"{'id':1}", "malformed_json"),
        (b'{"id":1,}', "malformed_json"),
        (b"\x00", "malformed_json"),
        (b"\xef\xbb\xbf" + line(), "malformed_json"),
        (line() + line(), "malformed_json"),
        (line().replace(b"Credit Card", b"a\tb"), "malformed_json"),
        (b"\xff\xfe{\x00}\x00", "invalid_utf8"),
        (line().replace(b"Credit", b"\xed\xa0\x80"), "invalid_utf8"),
        (line(more="@").replace(b"@", b"\xc0\xaf"), "invalid_utf8"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b"12", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"[" + line() + b"]", "not_an_object"),
        (b"{}", "missing_field"),
        (b'{"order":' + line() + b"}", "missing_field"),
        (line().replace(b'"country"', b'"Country"'), "missing_field"),
        (line()[:-1] + b',"id":1}', "duplicate_field"),
        (line()[:-1] + b',"id":7241389012381696}', "duplicate_field"),
        (line()[:-1] + b',"\\u0069d":1}', "duplicate_field"),
        (line()[:-1] + b',"amount":"5"}', "duplicate_field"),
        (b"[" * 65 + b"]" * 65, "nested_too_deep"),
        (b"[" * 30_000 + b"]" * 30_000, "nested_too_deep"),
        (b"[" * 60_000, "nested_too_deep"),
        (b'{"a":' * 10_000, "nested_too_deep"),
        (line()[:-1] + f',"more":[{NESTED_LISTS}]}}'.encode(), "nested_too_deep"),
        (b" " * (MAX_LINE_BYTES + 1), "line_too_long"),
        (line() + b" " * (MAX_LINE_BYTES + 1 - len(line())), "line_too_long"),
    ],
)
def test_invalid_lines_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    assert refusal(data).reason == reason


@pytest.mark.parametrize("name", list(FIELDS))
def test_every_field_is_required(name: str) -> None:
    error = refusal(json.dumps({k: v for k, v in FIELDS.items() if k != name}).encode())
    assert error.reason == "missing_field"
    assert error.detail.startswith(name)


@pytest.mark.parametrize(
    "data",
    [
        line(more=1),
        line(more={"id": 5, "country": ["x", {"id": 5}]}),
        line(more="x", other=None),
        line()[:-1] + b',"more":1e999,"more":2}',
        line()[:-1] + b',"more":"\\ud800"}',
        line()[:-1] + b',"more":"\xc3\xa9"}',
        line()[:-1] + f',"more":{NESTED_LISTS}}}'.encode(),
        line()[:-1] + b',"more":[' + b"[]," * 200 + b"[]]}",
        line(more="[" * 500),
        line() + b"  ",
        b" " + line(),
        line() + b" " * (MAX_LINE_BYTES - len(line())),
        json.dumps(FIELDS, indent=1).replace("\n", " ").encode(),
        json.dumps(dict(reversed(FIELDS.items()))).encode(),
    ],
)
def test_unknown_fields_and_white_space_are_ignored(data: bytes) -> None:
    assert decode(data) == ORDER
    assert decode_carefully(data) == ORDER


def test_details_of_a_rejection_hold_no_text_of_the_line() -> None:
    for field in ("payment_method", "country", "created_date", "amount", "id", "user_id"):
        error = refusal(line(**{field: "siti.rahma@example.com 4111 1111 1111 1111 " + "x" * 100}))
        assert "siti" not in error.detail
        assert "4111" not in error.detail
    assert refusal(line(created_date="2026-02-30T00:00:00Z")).detail == (
        "created_date must be an RFC 3339 time from 2000 to 2100, not 2026-02-30T00:00:00Z"
    )
    assert refusal(line(user_id=2**31)).detail == (
        "user_id must be an integer from 1 to 2147483647, not 2147483648"
    )


def test_a_reason_must_be_documented() -> None:
    with pytest.raises(KeyError, match="add it to REASONS"):
        InvalidOrder("no_such_reason")
    assert InvalidOrder("empty_line").detail == REASONS["empty_line"]


# Arbitrary input.


def verdict(decoder: Any, data: bytes) -> object:
    try:
        return decoder(data)
    except InvalidOrder as error:
        refused = error
    assert refused.reason in REASONS
    assert len(refused.detail) <= 200
    return refused.reason


def test_the_two_decoders_differ() -> None:
    """If they did not, the comparisons below would compare nothing."""
    assert decode is not decode_carefully
    assert decoding._decode.__qualname__.startswith("Decoder")


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_both_decoders_agree_on_any_bytes(data: bytes) -> None:
    assert verdict(decode, data) == verdict(decode_carefully, data)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=60)
    | st.sampled_from(list(FIELDS))
)
VALUES = st.recursive(
    SCALARS, lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(), some, max_size=3)
)


@given(st.lists(st.tuples(st.sampled_from([*FIELDS, "more"]), VALUES), max_size=3), st.booleans())
@settings(max_examples=300, deadline=None)
def test_both_decoders_agree_on_any_values(changes: list[tuple[str, Any]], escape: bool) -> None:
    data = json.dumps(FIELDS | dict(changes), ensure_ascii=escape).encode("utf-8", "surrogatepass")
    assert verdict(decode, data) == verdict(decode_carefully, data)


TOKENS = [
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"-",
    b"0",
    b".",
    b"e9",
    b"\x00",
    b"\xff",
    b"\xc3",
    b'"id":1,',
    b'"amount":"1",',
    b"null",
    b"true",
    b"NaN",
    b" ",
    b"\\u0069d",
    b"\xef\xbb\xbf",
]


@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 6), st.sampled_from(TOKENS) | st.binary(max_size=3)),
        min_size=1,
        max_size=4,
    )
)
@example([(1, 0, b'"id":1,')])
@settings(max_examples=500, deadline=None)
def test_both_decoders_agree_on_mutated_lines(cuts: list[tuple[int, int, bytes]]) -> None:
    data = line()
    for at, length, put in cuts:
        at %= len(data) + 1
        data = data[:at] + put + data[at + length :]
    assert verdict(decode, data) == verdict(decode_carefully, data)


LONG = 65_000


@pytest.mark.parametrize(
    "start",
    [
        b'{"amount"' + b" " * LONG,
        b'{"amount":' + b" " * LONG + b'"',
        b'"' + b"\\" * LONG,
        b'{"a":"' + b'\\"[' * (LONG // 3),
        b"[" * 65 + b'"' * LONG,
        b'{"amount":' + b"9" * LONG + b"}",
        b'{"amount":"Rp' + b",000" * (LONG // 4) + b'"}',
        b'{"amount":1e' + b"9" * LONG + b"}",
        b'{"created_date":"' + b"2026-01-01" * (LONG // 10) + b'"}',
        b"{" + b'"id":1,' * (LONG // 7) + b'"id":1}',
    ],
)
def test_no_line_takes_long_to_decode(start: bytes) -> None:
    complete = line()[:-1] + b"," + start[1:]
    began = time.process_time()
    for text in (start, complete):
        with contextlib.suppress(InvalidOrder):
            decode(text)
    assert time.process_time() - began < 1
