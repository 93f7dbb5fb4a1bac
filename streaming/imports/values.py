"""The values of an imported file: each function takes what a file has and returns a column's value.

All raise `InvalidValue`, whose text completes a sentence that begins with the column's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

from streaming.business_days import EARLIEST, JAKARTA, LATEST
from streaming.orders import CENT, MAX_ID, MAX_REFERENCE

MAX_TEXT = 1_000
"""Longest name, address, category or note, in characters."""
MAX_PRICE = Decimal("9999999999999999.99")
"""Largest price in rupiah: it is NUMERIC(18, 2) in the database."""

Parser = Callable[[object], object]

_PRICE = re.compile(r"([0-9]{1,16}|[0-9]{1,3}(,[0-9]{3}){1,5})(\.[0-9]{1,2})?", re.ASCII)


class InvalidValue(ValueError):
    """A value that breaks a rule, which the text names."""


def integer(highest: int) -> Parser:
    """Return a parser of integers from 1 to `highest`."""

    def parse(value: object) -> int:
        text = _stripped(value)
        if (
            text is not None
            and len(text) <= len(str(highest))
            and text.isascii()
            and text.isdigit()
            and 1 <= int(text) <= highest
        ):
            return int(text)
        raise InvalidValue(f"must be an integer from 1 to {highest}, not {quoted(value)}")

    return parse


reference = integer(MAX_REFERENCE)
order_id = integer(MAX_ID)


def one_of(*words: str) -> Parser:
    """Return a parser of these words."""

    def parse(value: object) -> str:
        if (text := _stripped(value)) in words:
            assert text is not None
            return text
        raise InvalidValue(f"must be {', '.join(words[:-1])} or {words[-1]}, not {quoted(value)}")

    return parse


def text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InvalidValue("must be non-empty text")
    if len(value) > MAX_TEXT:
        raise InvalidValue(f"must be at most {MAX_TEXT} characters long, not {len(value)}")
    for index, character in enumerate(value):
        # PostgreSQL cannot store these.
        if character == "\0" or "\ud800" <= character <= "\udfff":
            raise InvalidValue(f"has U+{ord(character):04X} at index {index}, which cannot be stored")
    return value.strip()


def email(value: object) -> str:
    address = text(value)
    # The address is personal data: keep it out of messages.
    if address.count("@") != 1 or address.startswith("@") or address.endswith("@"):
        raise InvalidValue("must be an address like name@domain")
    return address


def price(value: object) -> Decimal:
    given = _stripped(value)
    # Refuse a third place, even a zero, and a decimal comma: "125.000" and "1,5" mean different things in
    # Jakarta and in a spreadsheet.
    if given is not None and _PRICE.fullmatch(given):
        rupiah = Decimal(given.replace(",", "")).quantize(CENT)
        if rupiah <= MAX_PRICE:
            return rupiah
    raise InvalidValue(f"must be rupiah from 0 to {MAX_PRICE}, like 125000 or 125000.50, not {quoted(value)}")


def instant(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is not None:
        moment = moment if moment.tzinfo else moment.replace(tzinfo=JAKARTA)
        if EARLIEST <= moment < LATEST:
            return moment
    raise InvalidValue(
        f"must be a time like 2025-06-01T10:30:00+07:00 from {EARLIEST.year} on, not {quoted(value)}"
    )


def _stripped(value: object) -> str | None:
    return value.strip() if isinstance(value, str) else None


def quoted(value: object) -> str:
    """Render a value for a message, cut short."""
    text = repr(str(value))
    return text if len(text) <= 60 else f"{text[:60]}... ({len(str(value))} characters)"
