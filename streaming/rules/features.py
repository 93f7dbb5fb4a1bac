"""What a rule can use: the order's columns and the features, each declared once, in `FeatureRow`."""

from __future__ import annotations

import types
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Final, get_args, get_type_hints

import msgspec

from streaming.orders import MAX_AMOUNT, MAX_ID, MAX_QUANTITY, MAX_REFERENCE


class Kind(Enum):
    """The kind of a value, in the words of error messages."""

    INTEGER = "an integer"
    DECIMAL = "a decimal"
    FLOAT = "a floating-point number"
    TEXT = "text"
    BOOLEAN = "a boolean"
    TIMESTAMP = "a time"
    NULL = "NULL"


@dataclass(frozen=True, slots=True)
class Type:
    """A kind; for exact numbers also the most digits that a value can have, and how many are decimals."""

    kind: Kind
    digits: int = 0
    scale: int = 0

    @property
    def numeric(self) -> bool:
        return self.kind in (Kind.INTEGER, Kind.DECIMAL, Kind.FLOAT)


@dataclass(frozen=True, slots=True)
class Feature:
    """A column that rules can use. A nullable one is NULL if there is no value.

    A number is never below `least` or above `most`, where these are known.
    """

    name: str
    type: Type
    nullable: bool
    description: str
    least: int | Decimal | None = None
    most: int | Decimal | None = None


@dataclass(frozen=True, slots=True)
class _About:
    description: str
    digits: int = 0
    least: int | Decimal | None = None
    most: int | Decimal | None = None


class FeatureRow(msgspec.Struct, gc=False):
    """An order as rules see it. Amounts are in rupiah.

    A window of length w ends with the order itself. It has the order, placed at t, and those of the user's
    orders at earlier positions of the topic with `created_date` in (t - w, t] (see `streaming.history`).
    """

    id: Annotated[int, _About("The order's id.", 16, 1, MAX_ID)]
    user_id: Annotated[int, _About("The user who ordered.", 10, 1, MAX_REFERENCE)]
    product_id: Annotated[int, _About("The product ordered.", 10, 1, MAX_REFERENCE)]
    quantity: Annotated[int, _About("Number of pieces ordered.", 19, 1, MAX_QUANTITY)]
    amount: Annotated[Decimal, _About("Order total in rupiah.", 18, 0, MAX_AMOUNT)]
    payment_method: Annotated[str, _About("Payment method.")]
    country: Annotated[str, _About("Country that the order came from: two upper-case letters.")]
    created_date: Annotated[datetime, _About("When the order was placed.")]
    local_hour: Annotated[int, _About("Hour of the day of the order, 0 to 23, Asia/Jakarta.", 2, 0, 23)]
    list_price: Annotated[
        Decimal | None,
        _About("The product's list price at the time of the order; NULL if none.", 18, 0),
    ] = None
    user_age_days: Annotated[
        int | None,
        _About("Whole days from sign-up to the order, rounded down; negative if the order came first.", 6),
    ] = None
    user_orders_10m: Annotated[
        int | None, _About("Number of the user's orders in 10 minutes, including this one.", 10, 1)
    ] = None
    user_orders_24h: Annotated[
        int | None, _About("Number of the user's orders in 24 hours, including this one.", 10, 1)
    ] = None
    user_amount_24h: Annotated[
        Decimal | None, _About("Sum of the user's amounts in 24 hours, including this one, in rupiah.", 28, 0)
    ] = None
    seconds_since_last_order: Annotated[
        int | None, _About("Whole seconds since the user's previous order; NULL for a first order.", 10, 0)
    ] = None
    user_countries_24h: Annotated[
        int | None,
        _About("Number of countries of the user's orders in 24 hours, this one included.", 10, 1),
    ] = None
    is_blacklisted: Annotated[
        bool | None, _About("Whether the user is on the block list and not on the allow list.")
    ] = None


_KINDS = {
    int: Kind.INTEGER,
    Decimal: Kind.DECIMAL,
    str: Kind.TEXT,
    bool: Kind.BOOLEAN,
    datetime: Kind.TIMESTAMP,
}


def _features() -> dict[str, Feature]:
    features = {}
    for name, hint in get_type_hints(FeatureRow, include_extras=True).items():
        python, about = get_args(hint)
        options = get_args(python) if isinstance(python, types.UnionType) else (python,)
        kind = next(_KINDS[option] for option in options if option is not types.NoneType)
        scale = 2 if kind is Kind.DECIMAL else 0
        features[name] = Feature(
            name,
            Type(kind, about.digits, scale),
            types.NoneType in options,
            about.description,
            about.least,
            about.most,
        )
    return features


FEATURES: Final[dict[str, Feature]] = _features()
"""Every column that rules can use, by name."""
