"""The order event and the flagged order: fields, limits, reasons for rejection, and their JSON lines.

`streaming.decode` turns the lines that others wrote into orders.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Final, Literal

import msgspec

from streaming.business_days import EARLIEST, JAKARTA_OFFSET, LATEST

MAX_LINE_BYTES: Final = 65_536
"""Longest line that can be an order, in bytes; our own producers write about 200."""

MAX_NESTING: Final = 64
"""Deepest nesting of a line's JSON: unknown fields may hold anything that does not exhaust the stack."""

MAX_ID: Final = 2**53 - 1
"""Largest order id: exact in every JSON reader."""

MAX_REFERENCE: Final = 2**31 - 1
"""Largest user or product id: they are INTEGER in the database."""

MAX_QUANTITY: Final = 2**63 - 1
"""Largest quantity: it is BIGINT in the database."""

MAX_AMOUNT: Final = Decimal("9999999999999999.99")
"""Largest amount in rupiah: it is NUMERIC(18, 2) in the database."""

MAX_PAYMENT_METHOD: Final = 50
"""Longest payment method, in characters."""

CENT: Final = Decimal("0.01")
"""The last place of an amount."""

REASONS: Final[dict[str, str]] = {
    "empty_line": "the line is only white space",
    "line_too_long": f"the line is longer than {MAX_LINE_BYTES} bytes",
    "invalid_utf8": "the line is not UTF-8",
    "malformed_json": "the line is not one JSON value",
    "nested_too_deep": f"the JSON is nested more than {MAX_NESTING} levels deep",
    "not_an_object": "the JSON value is not an object",
    "duplicate_field": "a field of the order occurs twice",
    "missing_field": "a field of the order is missing",
    "invalid_id": f"id is not an integer from 1 to {MAX_ID}",
    "invalid_user_id": f"user_id is not an integer from 1 to {MAX_REFERENCE}",
    "invalid_product_id": f"product_id is not an integer from 1 to {MAX_REFERENCE}",
    "invalid_quantity": f"quantity is not an integer from 1 to {MAX_QUANTITY}",
    "invalid_amount": f"amount is not a decimal from 0 to {MAX_AMOUNT} with at most two places",
    "invalid_payment_method": (
        f"payment_method is not 1 to {MAX_PAYMENT_METHOD} characters, or has a control character"
    ),
    "invalid_country": "country is not two letters from A to Z",
    "invalid_created_date": f"created_date is not an RFC 3339 time from {EARLIEST.year} to {LATEST.year - 1}",
    "duplicate_id": "a different order with this id is already stored",
    "unknown_user": "the user does not exist (yet)",
    "unknown_product": "the product does not exist (yet)",
}
"""Every reason to reject a line. Only the store gives the last three: they need the database."""


Reference = Annotated[int, msgspec.Meta(ge=1, le=MAX_REFERENCE)]


class Order(msgspec.Struct, frozen=True, gc=False):
    """An order as it was placed.

    `amount` is in rupiah with exactly two places; `country` is upper case; `created_date` is aware, in UTC,
    with microseconds.
    """

    id: Annotated[int, msgspec.Meta(ge=1, le=MAX_ID)]
    user_id: Reference
    product_id: Reference
    quantity: Annotated[int, msgspec.Meta(ge=1, le=MAX_QUANTITY)]
    amount: Decimal
    payment_method: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PAYMENT_METHOD)]
    country: str
    created_date: datetime


class Flagged(Order, frozen=True, gc=False):
    """An order with its verdict: `status` is fraud if any active rule held.

    `fraud_reasons`, `shadow_reasons` and `review_reasons` are rule names in rule order; the last may end with
    the reason of the random sample. Lines from before there was review have no `review_reasons`.
    `rules_version` is the rule book's; `flagged_at` is aware and in UTC; `position` is the order's place in
    the topic.
    """

    status: Literal["fraud", "genuine"]
    fraud_reasons: list[str]
    shadow_reasons: list[str]
    rules_version: str
    flagged_at: datetime
    position: int
    review_reasons: list[str] = []


FIELDS: Final = Order.__struct_fields__
"""The fields of an order, in the sequence that every line and table has."""


def encode(order: Order) -> bytes:
    """Return the order's canonical line without line end: compact, two-place amount, time in +07:00."""
    return _encode(
        Order(
            order.id,
            order.user_id,
            order.product_id,
            order.quantity,
            order.amount.quantize(CENT),
            order.payment_method,
            order.country,
            order.created_date.astimezone(JAKARTA_OFFSET),
        )
    )


def flag(
    order: Order,
    fraud_reasons: list[str],
    shadow_reasons: list[str],
    rules_version: str,
    flagged_at: datetime,
    position: int,
    review_reasons: list[str],
) -> Flagged:
    """Return the order with its verdict; `flagged_at` must be aware."""
    return Flagged(
        order.id,
        order.user_id,
        order.product_id,
        order.quantity,
        order.amount,
        order.payment_method,
        order.country,
        order.created_date,
        "fraud" if fraud_reasons else "genuine",
        fraud_reasons,
        shadow_reasons,
        rules_version,
        flagged_at,
        position,
        review_reasons,
    )


def encode_flagged(flagged: Flagged) -> bytes:
    """Return a flat JSON line without line end: the order's fields, then the verdict."""
    return encode_all_flagged([flagged])[:-1]


def encode_all_flagged(orders: Iterable[Flagged]) -> bytes:
    """Encode orders as `encode_flagged` does, each with a line end, in half the time."""
    lines = []
    instant = local = EARLIEST
    for flagged in orders:
        if flagged.flagged_at is not instant:  # those of a batch share one
            instant = flagged.flagged_at
            local = instant.astimezone(JAKARTA_OFFSET)
        lines.append(
            Flagged(
                flagged.id,
                flagged.user_id,
                flagged.product_id,
                flagged.quantity,
                amount if (amount := flagged.amount).same_quantum(CENT) else amount.quantize(CENT),
                flagged.payment_method,
                flagged.country,
                flagged.created_date.astimezone(JAKARTA_OFFSET),
                flagged.status,
                flagged.fraud_reasons,
                flagged.shadow_reasons,
                flagged.rules_version,
                local,
                flagged.position,
                flagged.review_reasons,
            )
        )
    return _encode_lines(lines)


def decode_flagged(line: bytes) -> Flagged:
    """Return the flagged order that a line of the flagged stream holds.

    Raises `ValueError` if `encode_flagged` would not have written the line: the platform itself writes the
    flagged stream, so such a line is a fault and not a rejected order.
    """
    try:
        flagged = _decode_flagged(line)
        _set(flagged, "amount", flagged.amount.quantize(CENT))
        for name in ("created_date", "flagged_at"):
            instant = getattr(flagged, name)
            if not instant.tzinfo:
                raise ValueError(f"{name} has no offset")
            _set(flagged, name, instant.astimezone(UTC))
        if not flagged.amount.is_finite():
            raise ValueError("amount is not a number")
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"not a flagged order ({error}): a line of {len(line)} bytes") from error
    return flagged


_set = msgspec.structs.force_setattr
_decode_flagged = msgspec.json.Decoder(Flagged).decode
_encoder = msgspec.json.Encoder(decimal_format="number")
_encode = _encoder.encode
_encode_lines = _encoder.encode_lines
