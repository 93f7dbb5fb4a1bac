"""The order event: decode, validate, money, time; and the flagged order that the stream makes of it.

A line of the topic is one JSON object. `decode` turns it into an `Order` or raises `InvalidOrder`, never
anything else. Lines as our own producers write them take a fast way through msgspec; whatever that way
does not accept is judged by the careful way, which knows every rule and names the one that was broken.
"""

from __future__ import annotations

import json
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from itertools import product
from string import ascii_letters
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

import msgspec

JAKARTA = ZoneInfo("Asia/Jakarta")

MAX_LINE_BYTES: Final = 65_536
"""Longest line that can be an order; an order of our producers takes about 200 bytes."""

MAX_NESTING: Final = 64
"""Deepest nesting of a line's JSON: unknown fields may hold anything, but not exhaust the stack."""

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

EARLIEST: Final = datetime(2000, 1, 1, tzinfo=JAKARTA)
LATEST: Final = datetime(2101, 1, 1, tzinfo=JAKARTA)
"""Orders are placed in [EARLIEST, LATEST). Jakarta has kept one offset over all of it."""

_JAKARTA_OFFSET = timezone(EARLIEST.utcoffset() or timedelta())
_JAKARTA_HOURS = _JAKARTA_OFFSET.utcoffset(None) // timedelta(hours=1)
_CENT = Decimal("0.01")
_ZERO = Decimal("0.00")

REASONS: Final[dict[str, str]] = {
    "empty_line": "the line holds nothing but white space",
    "line_too_long": f"the line is longer than {MAX_LINE_BYTES} bytes",
    "invalid_utf8": "the line is not UTF-8",
    "malformed_json": "the line is not one JSON value",
    "nested_too_deep": f"the JSON is nested more than {MAX_NESTING} levels deep",
    "not_an_object": "the JSON value is not an object",
    "duplicate_field": "a field of the order is there twice",
    "missing_field": "a field of the order is not there",
    "invalid_id": f"id is not an integer from 1 to {MAX_ID}",
    "invalid_user_id": f"user_id is not an integer from 1 to {MAX_REFERENCE}",
    "invalid_product_id": f"product_id is not an integer from 1 to {MAX_REFERENCE}",
    "invalid_quantity": f"quantity is not an integer from 1 to {MAX_QUANTITY}",
    "invalid_amount": f"amount is not a decimal from 0 to {MAX_AMOUNT} with two places at most",
    "invalid_payment_method": f"payment_method is not 1 to {MAX_PAYMENT_METHOD} characters, or has a control",
    "invalid_country": "country is not two letters from A to Z",
    "invalid_created_date": f"created_date is not an RFC 3339 time from {EARLIEST.year} to {LATEST.year - 1}",
    "duplicate_id": "an order with this id and other content is already stored",
    "unknown_user": "the user does not exist (yet)",
    "unknown_product": "the product does not exist (yet)",
}
"""Every reason for which a line is rejected. The last three need the database and are the store's to give."""


class InvalidOrder(ValueError):
    """A line that is no order.

    `reason` is one of `REASONS`; `detail` says which value broke which rule. A detail is short and holds no
    personal data: numbers are shown, other text is only described (the raw line is kept elsewhere).
    """

    def __init__(self, reason: str, detail: str | None = None) -> None:
        if reason not in REASONS:
            raise KeyError(f"unknown reason {reason!r}: add it to REASONS")
        self.reason = reason
        self.detail = detail or REASONS[reason]
        super().__init__(f"{reason}: {self.detail}")


Reference = Annotated[int, msgspec.Meta(ge=1, le=MAX_REFERENCE)]


class Order(msgspec.Struct, frozen=True, gc=False):
    """An order as it was placed.

    `amount` is in rupiah and always has two places; `country` is upper case; `created_date` is aware and in
    UTC, with microseconds.
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
    """An order with its verdict: `status` is fraud when any active rule held.

    `fraud_reasons` and `shadow_reasons` are rule names in rule order; `rules_version` is the rule book's;
    `flagged_at` is aware and in UTC; `position` is the order's place in the topic.
    """

    status: Literal["fraud", "genuine"]
    fraud_reasons: list[str]
    shadow_reasons: list[str]
    rules_version: str
    flagged_at: datetime
    position: int


FIELDS: Final = Order.__struct_fields__
"""The order's columns, in the order in which every line and table has them."""


def business_day(instant: datetime) -> date:
    """The business day (Asia/Jakarta) that an aware instant falls on."""
    return instant.astimezone(JAKARTA).date()


def decode(line: bytes) -> Order:
    """The order that a line of the topic holds. Unknown fields are ignored.

    Raises `InvalidOrder`, and nothing else, for any other bytes.
    """
    if len(line) <= MAX_LINE_BYTES and (line.count(b'"') == _QUOTES or _plain(line)):
        try:
            order = _decode(line)
            amount = order.amount.quantize(_CENT)
            placed = order.created_date
            placed = (
                placed.astimezone(UTC) if placed.tzinfo else placed.replace(tzinfo=JAKARTA).astimezone(UTC)
            )
            if (
                amount == order.amount
                and _ZERO <= amount <= MAX_AMOUNT
                and _EARLIEST <= placed < _LATEST
                and order.payment_method.isprintable()
            ):
                _set(order, "country", _COUNTRIES[order.country])
                _set(order, "amount", amount or _ZERO)  # no negative zero
                _set(order, "created_date", placed)
                return order
        except (ValueError, ArithmeticError, KeyError, RecursionError):
            pass
    return decode_carefully(line)


def decode_carefully(line: bytes) -> Order:
    """The same as `decode`, slower, saying what is wrong. The tests hold the two to the same answers."""
    fields = _object(line)
    for name in FIELDS:
        if name not in fields:
            raise InvalidOrder("missing_field", f"{name} is not there; an order needs {', '.join(FIELDS)}")
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


def local_hour(instant: datetime) -> int:
    """The hour of the day, Asia/Jakarta, of an instant in [EARLIEST, LATEST)."""
    if instant.tzinfo is UTC:  # as orders have it: five times as fast
        return (instant.hour + _JAKARTA_HOURS) % 24
    return instant.astimezone(_JAKARTA_OFFSET).hour


def encode(order: Order) -> bytes:
    """The order as a canonical line, without line end: compact, amount with two places, time in +07:00."""
    return _encode(
        Order(
            order.id,
            order.user_id,
            order.product_id,
            order.quantity,
            order.amount.quantize(_CENT),
            order.payment_method,
            order.country,
            order.created_date.astimezone(_JAKARTA_OFFSET),
        )
    )


def flag(
    order: Order,
    fraud_reasons: list[str],
    shadow_reasons: list[str],
    rules_version: str,
    flagged_at: datetime,
    position: int,
) -> Flagged:
    """The order with its verdict. `flagged_at` must be aware; `position` is the line's place in the topic."""
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
    )


def encode_flagged(flagged: Flagged) -> bytes:
    """The flagged order as one flat JSON line, without line end: the order's fields, then the verdict."""
    return encode_all_flagged([flagged])[:-1]


def encode_all_flagged(orders: Iterable[Flagged]) -> bytes:
    """Flagged orders as lines, each with its line end: as `encode_flagged`, in half the time."""
    lines = []
    instant = local = EARLIEST
    for flagged in orders:
        if flagged.flagged_at is not instant:  # those of a batch share one
            instant = flagged.flagged_at
            local = instant.astimezone(_JAKARTA_OFFSET)
        lines.append(
            Flagged(
                flagged.id,
                flagged.user_id,
                flagged.product_id,
                flagged.quantity,
                flagged.amount.quantize(_CENT),
                flagged.payment_method,
                flagged.country,
                flagged.created_date.astimezone(_JAKARTA_OFFSET),
                flagged.status,
                flagged.fraud_reasons,
                flagged.shadow_reasons,
                flagged.rules_version,
                local,
                flagged.position,
            )
        )
    return _encode_lines(lines)


def decode_flagged(line: bytes) -> Flagged:
    """The flagged order that a line of the flagged stream holds.

    Raises `ValueError` for a line that `encode_flagged` would not have written: the flagged stream is the
    platform's own, so such a line is a fault and not a matter for rejection.
    """
    try:
        flagged = _decode_flagged(line)
        _set(flagged, "amount", flagged.amount.quantize(_CENT))
        for name in ("created_date", "flagged_at"):
            instant = getattr(flagged, name)
            if not instant.tzinfo:
                raise ValueError(f"{name} has no offset")
            _set(flagged, name, instant.astimezone(UTC))
        if not flagged.amount.is_finite():
            raise ValueError("amount is no number")
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"not a flagged order ({error}): a line of {len(line)} bytes") from error
    return flagged


class OrderIds:
    """New order ids: 41 bits of milliseconds since 2020, 12 bits of sequence. Thread-safe.

    Ids of one process only grow and never repeat, also when the clock stands still or jumps back: the last
    millisecond used is then kept, and the next one borrowed when its sequence is used up. Processes that
    produce to one topic at the same time share out the sequence: `OrderIds(producer=1, producers=4)`.
    Ids last until 2089.
    """

    EPOCH_MS: Final = 1_577_836_800_000  # 2020-01-01T00:00:00Z
    SEQUENCE: Final = 1 << 12

    def __init__(
        self, clock: Callable[[], float] = time.time, *, producer: int = 0, producers: int = 1
    ) -> None:
        """`clock` gives seconds since 1970, real or simulated."""
        if not 0 <= producer < producers <= self.SEQUENCE:
            raise ValueError(
                f"producer {producer} of {producers}: numbers run from 0, at most {self.SEQUENCE}"
            )
        self._clock = clock
        self._producer = producer
        self._step = producers
        self._millisecond = -1
        self._sequence = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """The next id. Raises `OverflowError` when the milliseconds no longer fit."""
        with self._lock:
            # The first millisecond is never used, so no id is 0.
            now = max(int(self._clock() * 1000) - self.EPOCH_MS, 1)
            self._sequence += self._step
            if now > self._millisecond:
                self._millisecond, self._sequence = now, self._producer
            elif self._sequence >= self.SEQUENCE:
                self._millisecond, self._sequence = self._millisecond + 1, self._producer
            number = self._millisecond * self.SEQUENCE + self._sequence
        if number > MAX_ID:
            raise OverflowError("the clock is past 2089: order ids have 41 bits of milliseconds since 2020")
        return number


# The fast way.

_QUOTES = 2 * len(FIELDS) + 2 * 3
"""Eight names and three strings take 22 quotes. With exactly as many there is no room for a field given
twice, an unknown one, or an amount as text: what msgspec would let pass without a look."""

_NAMES = [f'"{name}"'.encode() for name in FIELDS]
_TEXT_AMOUNT = re.compile(rb'"amount"\s*:\s*"')
_EARLIEST = EARLIEST.astimezone(UTC)
_LATEST = LATEST.astimezone(UTC)
_COUNTRIES = {a + b: (a + b).upper() for a, b in product(ascii_letters, repeat=2)}
_set = msgspec.structs.force_setattr
_decode = msgspec.json.Decoder(Order).decode
_decode_flagged = msgspec.json.Decoder(Flagged).decode
_encoder = msgspec.json.Encoder(decimal_format="number")
_encode = _encoder.encode
_encode_lines = _encoder.encode_lines


def _plain(line: bytes) -> bool:
    """Whether a line with unknown fields is simple enough to see that nothing is wrong with them."""
    return (
        line.isascii()
        and b"\\" not in line
        and all(line.count(name) == 1 for name in _NAMES)
        and not _TEXT_AMOUNT.search(line)
        and line.count(b"[") + line.count(b"{") <= MAX_NESTING
    )


# The careful way.


class _Number(str):
    """A JSON number, as it is written."""

    __slots__ = ()


_TYPES: Final[Sequence[tuple[type, str]]] = (
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


def _object(line: bytes) -> dict[str, Any]:
    """The object of a line, numbers as they are written. Raises `InvalidOrder`."""
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
        raise ValueError(f"{constant} is no JSON")

    try:
        value = json.loads(
            text, object_pairs_hook=outermost, parse_int=_Number, parse_float=_Number, parse_constant=refuse
        )
    except json.JSONDecodeError as error:
        raise InvalidOrder("malformed_json", f"no JSON at character {error.pos}: {error.msg}") from None
    except ValueError as error:
        raise InvalidOrder("malformed_json", str(error)) from None
    if not isinstance(value, dict):
        raise InvalidOrder("not_an_object", f"{_kind(value)} and not an object")
    names = [name for name, _ in pairs]
    for name in FIELDS:
        if names.count(name) > 1:
            raise InvalidOrder("duplicate_field", f"{name} is there {names.count(name)} times")
    return value


def _nesting(line: bytes) -> int:
    """The deepest nesting of brackets outside of strings; counted only where there are enough of them."""
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


def _kind(value: object) -> str:
    return next(name for kind, name in _TYPES if isinstance(value, kind))


def _shown(value: object) -> str:
    """A value for a message: numbers and times as they are, cut short; anything else only described."""
    if isinstance(value, _Number) or (isinstance(value, str) and _DATE_LIKE.fullmatch(value)):
        return value if len(value) <= 40 else f"{value[:40]}... ({len(value)} characters)"
    if isinstance(value, str):
        return f"text of {len(value)} characters"
    return _kind(value)


def _integer(fields: dict[str, Any], name: str, most: int) -> int:
    value = fields[name]
    # The length is looked at first: turning a very long number into an int is slow, or refused.
    if (
        isinstance(value, _Number)
        and len(value) <= 20
        and value.lstrip("-").isdecimal()
        and 1 <= int(value) <= most
    ):
        return int(value)
    raise InvalidOrder(f"invalid_{name}", f"{name} must be an integer from 1 to {most}, not {_shown(value)}")


def _amount(value: object) -> Decimal:
    wrong = InvalidOrder(
        "invalid_amount",
        f"amount must be a decimal from 0 to {MAX_AMOUNT} with two places at most, not {_shown(value)}",
    )
    if isinstance(value, _Number):
        text = str(value)
    elif isinstance(value, str) and (match := _AMOUNT.fullmatch(value)):
        # In text a third place is refused, also a zero: "Rp 125.000" most likely means thousands.
        text = match[1].replace(",", "") + (match[2] or "")
    else:
        raise wrong
    try:
        exact = Decimal(text)
        amount = exact.quantize(_CENT)
    except InvalidOperation:
        raise wrong from None
    if amount != exact or not _ZERO <= amount <= MAX_AMOUNT:
        raise wrong
    return amount or _ZERO


def _payment_method(value: object) -> str:
    if not isinstance(value, str) or isinstance(value, _Number) or not 1 <= len(value) <= MAX_PAYMENT_METHOD:
        raise InvalidOrder(
            "invalid_payment_method",
            f"payment_method must be text of 1 to {MAX_PAYMENT_METHOD} characters, not {_shown(value)}",
        )
    for index, character in enumerate(value):
        # Controls and halves of surrogate pairs: PostgreSQL cannot hold all of them, and nobody means them.
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise InvalidOrder(
                "invalid_payment_method",
                f"payment_method holds the character U+{ord(character):04X} at {index}: control characters"
                " and lone surrogates are refused",
            )
    return value


def _country(value: object) -> str:
    if isinstance(value, str) and value in _COUNTRIES:
        return _COUNTRIES[value]
    raise InvalidOrder("invalid_country", f"country must be two letters from A to Z, not {_shown(value)}")


def _created_date(value: object) -> datetime:
    years = f"{EARLIEST.year} to {LATEST.year - 1}"
    rule = f"created_date must be an RFC 3339 time from {years}, not {_shown(value)}"
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
