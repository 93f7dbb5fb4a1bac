"""Decode a line of the topic: bytes to an `Order`, or `InvalidOrder` and nothing else.

Lines as our own producers write them are decoded fast, by msgspec. Any other line is decoded carefully, by
code that knows every rule and names the one that was broken.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from itertools import product
from string import ascii_letters
from typing import Any, Final

import msgspec

from streaming.business_days import EARLIEST, JAKARTA, LATEST
from streaming.orders import (
    CENT,
    FIELDS,
    MAX_AMOUNT,
    MAX_ID,
    MAX_LINE_BYTES,
    MAX_NESTING,
    MAX_PAYMENT_METHOD,
    MAX_QUANTITY,
    MAX_REFERENCE,
    REASONS,
    Order,
)

_ZERO = Decimal("0.00")


class InvalidOrder(ValueError):
    """A line that is not an order.

    `reason` is one of `REASONS`; `detail` says which value broke which rule. A detail is short and holds no
    personal data: it shows numbers, but only describes other text (the raw line is kept elsewhere).
    """

    def __init__(self, reason: str, detail: str | None = None) -> None:
        if reason not in REASONS:
            raise KeyError(f"unknown reason {reason!r}: add it to REASONS")
        self.reason = reason
        self.detail = detail or REASONS[reason]
        super().__init__(f"{reason}: {self.detail}")


def decode(line: bytes) -> Order:
    """Return the order that a line of the topic holds, ignoring unknown fields.

    Raises `InvalidOrder`, and nothing else, if the line is not an order.
    """
    if len(line) <= MAX_LINE_BYTES and (line.count(b'"') == _QUOTES or _is_simple(line)):
        try:
            order = _decode(line)
            # Most amounts have their two places already.
            amount = order.amount if order.amount.same_quantum(CENT) else order.amount.quantize(CENT)
            placed = order.created_date
            placed = (
                placed.astimezone(UTC) if placed.tzinfo else placed.replace(tzinfo=JAKARTA).astimezone(UTC)
            )
            if (
                (amount is order.amount or amount == order.amount)
                and _ZERO <= amount <= MAX_AMOUNT
                and _EARLIEST <= placed < _LATEST
                and order.payment_method.isprintable()
            ):
                _set(order, "country", _COUNTRIES[order.country])
                if amount is not order.amount or not amount:
                    _set(order, "amount", amount or _ZERO)  # no negative zero
                _set(order, "created_date", placed)
                return order
        except (ValueError, ArithmeticError, KeyError, RecursionError):
            pass
    return decode_carefully(line)


def decode_carefully(line: bytes) -> Order:
    """Decode as `decode` does, slower, and say what is wrong. Tests hold the two to the same answers."""
    fields = _parse_object(line)
    for name in FIELDS:
        if name not in fields:
            raise InvalidOrder("missing_field", f"{name} is missing; an order needs {', '.join(FIELDS)}")
    return Order(
        id=_integer(fields, "id", MAX_ID),
        user_id=_integer(fields, "user_id", MAX_REFERENCE),
        product_id=_integer(fields, "product_id", MAX_REFERENCE),
        quantity=_integer(fields, "quantity", MAX_QUANTITY),
        amount=_amount(fields["amount"]),
        payment_method=_payment_method(fields["payment_method"]),
        country=_country(fields["country"]),
        created_date=_created_date(fields["created_date"]),
    )


# Decoding fast.

_QUOTES = 2 * len(FIELDS) + 2 * 3
"""Eight names and three strings take 22 quotes. A line with exactly 22 has no room for what msgspec lets pass
unchecked: a duplicate field, an unknown field, or an amount as text."""

_NAMES = [f'"{name}"'.encode() for name in FIELDS]
_TEXT_AMOUNT = re.compile(rb'"amount"\s*:\s*"')
_EARLIEST = EARLIEST.astimezone(UTC)
_LATEST = LATEST.astimezone(UTC)
_COUNTRIES = {a + b: (a + b).upper() for a, b in product(ascii_letters, repeat=2)}
_set = msgspec.structs.force_setattr
_decode = msgspec.json.Decoder(Order).decode


def _is_simple(line: bytes) -> bool:
    """Return whether a line with unknown fields is simple enough for msgspec to decode safely."""
    return (
        line.isascii()
        and b"\\" not in line
        and all(line.count(name) == 1 for name in _NAMES)
        and not _TEXT_AMOUNT.search(line)
        and line.count(b"[") + line.count(b"{") <= MAX_NESTING
    )


# Decoding carefully.


class _Number(str):
    """A JSON number as text, exactly as the line has it."""

    __slots__ = ()


_JSON_TYPES: Final[Sequence[tuple[type, str]]] = (
    (_Number, "a number"),
    (str, "text"),
    (bool, "a boolean"),
    (type(None), "null"),
    (list, "an array"),
    (dict, "an object"),
)
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_AMOUNT = re.compile(
    r"(?:Rp\.? ?)?([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(\.[0-9]{1,2})?", re.IGNORECASE | re.ASCII
)
_DATE_LIKE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[0-9TtZz:.+\- ]{0,30}")


def _parse_object(line: bytes) -> dict[str, Any]:
    """Parse a line into its JSON object, with numbers as `_Number`. Raises `InvalidOrder`."""
    if len(line) > MAX_LINE_BYTES:
        raise InvalidOrder("line_too_long", f"the line is longer than {MAX_LINE_BYTES} bytes")
    if not line.strip():
        raise InvalidOrder("empty_line")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise InvalidOrder("invalid_utf8", f"byte {error.start} is not UTF-8") from None
    if _nesting(line) > MAX_NESTING:
        raise InvalidOrder("nested_too_deep")
    if text.startswith("\ufeff"):
        raise InvalidOrder(
            "malformed_json", "the line begins with a byte order mark: write UTF-8 without one"
        )
    pairs: list[tuple[str, Any]] = []

    def outermost(found: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal pairs
        pairs = found  # objects end from the inside out: the last is the line's own
        return dict(found)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(
            text, object_pairs_hook=outermost, parse_int=_Number, parse_float=_Number, parse_constant=refuse
        )
    except json.JSONDecodeError as error:
        raise InvalidOrder("malformed_json", f"not JSON at character {error.pos}: {error.msg}") from None
    except ValueError as error:
        raise InvalidOrder("malformed_json", str(error)) from None
    if not isinstance(value, dict):
        raise InvalidOrder("not_an_object", f"the line is {_json_type(value)}, not an object")
    names = [name for name, _ in pairs]
    for name in FIELDS:
        if names.count(name) > 1:
            raise InvalidOrder("duplicate_field", f"{name} occurs {names.count(name)} times")
    return value


def _nesting(line: bytes) -> int:
    """Return how deep brackets outside strings are nested, or 0 if there are too few to reach the limit."""
    if line.count(b"[") + line.count(b"{") <= MAX_NESTING:
        return 0
    depth = deepest = 0
    for byte in _STRINGS.sub(b"", line):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _json_type(value: object) -> str:
    return next(name for kind, name in _JSON_TYPES if isinstance(value, kind))


def _describe(value: object) -> str:
    """Render a value for a message: numbers and times as they are, cut short; other values described."""
    if isinstance(value, _Number) or (isinstance(value, str) and _DATE_LIKE.fullmatch(value)):
        return value if len(value) <= 40 else f"{value[:40]}... ({len(value)} characters)"
    if isinstance(value, str):
        return f"text of {len(value)} characters"
    return _json_type(value)


def _integer(fields: dict[str, Any], name: str, most: int) -> int:
    value = fields[name]
    # Check the length first: Python is slow to convert a very long number to an int, or refuses.
    if (
        isinstance(value, _Number)
        and len(value) <= 20
        and value.lstrip("-").isdecimal()
        and 1 <= int(value) <= most
    ):
        return int(value)
    raise InvalidOrder(
        f"invalid_{name}", f"{name} must be an integer from 1 to {most}, not {_describe(value)}"
    )


def _amount(value: object) -> Decimal:
    wrong = InvalidOrder(
        "invalid_amount",
        f"amount must be a decimal from 0 to {MAX_AMOUNT} with at most two places, not {_describe(value)}",
    )
    if isinstance(value, _Number):
        text = str(value)
    elif isinstance(value, str) and (match := _AMOUNT.fullmatch(value)):
        # In text, refuse a third place even if it is zero: "Rp 125.000" most likely means thousands.
        text = match[1].replace(",", "") + (match[2] or "")
    else:
        raise wrong
    try:
        exact = Decimal(text)
        amount = exact.quantize(CENT)
    except InvalidOperation:
        raise wrong from None
    if amount != exact or not _ZERO <= amount <= MAX_AMOUNT:
        raise wrong
    return amount or _ZERO


def _payment_method(value: object) -> str:
    if not isinstance(value, str) or isinstance(value, _Number) or not 1 <= len(value) <= MAX_PAYMENT_METHOD:
        raise InvalidOrder(
            "invalid_payment_method",
            f"payment_method must be text of 1 to {MAX_PAYMENT_METHOD} characters, not {_describe(value)}",
        )
    for index, character in enumerate(value):
        # Control characters and lone surrogates: PostgreSQL cannot store all of them, and nobody means them.
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise InvalidOrder(
                "invalid_payment_method",
                f"payment_method has U+{ord(character):04X} at index {index}: control characters and lone"
                " surrogates are refused",
            )
    return value


def _country(value: object) -> str:
    if isinstance(value, str) and value in _COUNTRIES:
        return _COUNTRIES[value]
    raise InvalidOrder("invalid_country", f"country must be two letters from A to Z, not {_describe(value)}")


def _created_date(value: object) -> datetime:
    years = f"{EARLIEST.year} to {LATEST.year - 1}"
    rule = f"created_date must be an RFC 3339 time from {years}, not {_describe(value)}"
    if not isinstance(value, str) or isinstance(value, _Number):
        raise InvalidOrder("invalid_created_date", rule)
    try:
        instant = msgspec.convert(value, datetime)
        # The shop is in Jakarta: a time without an offset is local there.
        instant = (instant if instant.tzinfo else instant.replace(tzinfo=JAKARTA)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidOrder("invalid_created_date", rule) from None
    if not _EARLIEST <= instant < _LATEST:
        raise InvalidOrder("invalid_created_date", rule)
    return instant
