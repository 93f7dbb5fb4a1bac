"""Rows of `orders` and `rejected_orders`: what is written, as COPY text, and what is read back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from psycopg2.extensions import cursor as Cursor

from streaming.decisions import Rejected
from streaming.orders import FIELDS, Flagged, Order, flag

_VERDICT = ("fraud_reasons", "shadow_reasons", "rules_version", "flagged_at", "position", "review_reasons")
_COPIED = (
    *(*FIELDS, "position", "flagged_at", "rules_version", "lists_version"),
    *("is_fraud", "fraud_reasons", "shadow_reasons", "review_reasons"),
)
COPY_ORDERS = f"COPY orders ({', '.join(_COPIED)}) FROM STDIN"
SELECT_ORDERS = f"SELECT {', '.join(FIELDS)} FROM orders"  # noqa: S608
SELECT_FLAGGED = f"SELECT {', '.join((*FIELDS, *_VERDICT))} FROM orders"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Rows:
    """Flagged orders as PostgreSQL takes them."""

    first: Flagged | None
    """The first order in the topic; None without orders."""
    text: bytes
    """Lines for `COPY_ORDERS`."""

    @classmethod
    def of(cls, orders: Sequence[Flagged], lists_version: int = 0) -> Rows:
        """Return these orders, which are in topic order, as rows."""
        return cls(orders[0] if orders else None, copy_text(orders, lists_version))


def copy_text(orders: Sequence[Flagged], lists_version: int) -> bytes:
    """Return the orders as lines for `COPY_ORDERS`; `lists_version` of the user lists decided about them."""
    # Formatting many instants together is several times as fast.
    placed = msgspec.to_builtins([o.created_date for o in orders])
    shared = _Shared(lists_version)
    return "".join(
        [
            f"{o.id}\t{o.user_id}\t{o.product_id}\t{o.quantity}\t{o.amount}\t{_escaped(o.payment_method)}\t"
            f"{o.country}\t{placed_at}\t{o.position}\t{shared[o.flagged_at, o.rules_version]}"
            f"{_reasons(o) if o.fraud_reasons or o.shadow_reasons or o.review_reasons else _NO_REASONS}"
            for o, placed_at in zip(orders, placed, strict=True)
        ]
    ).encode()


class _Shared(dict[tuple[datetime, str], str]):
    """The columns that the orders of a batch share, as text that is made once."""

    def __init__(self, lists_version: int) -> None:
        self._lists_version = lists_version

    def __missing__(self, key: tuple[datetime, str]) -> str:
        flagged_at, rules_version = key
        text = f"{msgspec.to_builtins(flagged_at)}\t{_escaped(rules_version)}\t{self._lists_version}\t"
        self[key] = text
        return text


_NO_REASONS = "f\t{}\t{}\t{}\n"


def _reasons(order: Flagged) -> str:
    arrays = (_array(*names) for names in (order.fraud_reasons, order.shadow_reasons, order.review_reasons))
    return "\t".join(("t" if order.fraud_reasons else "f", *arrays)) + "\n"


_COPY_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


@lru_cache(maxsize=4096)
def _escaped(text: str) -> str:
    return text.translate(_COPY_ESCAPES)


@lru_cache(maxsize=4096)
def _array(*names: str) -> str:
    quoted = (name.replace("\\", "\\\\").replace('"', '\\"') for name in names)
    return _escaped("{" + ",".join(f'"{name}"' for name in quoted) + "}")


def flagged_from_row(row: Sequence[Any]) -> Flagged:
    """Return the order of a row of `SELECT_FLAGGED`."""
    return flag(Order(*row[: len(FIELDS)]), *row[len(FIELDS) :])


def select_orders(cursor: Cursor, ids: Iterable[int]) -> dict[int, Order]:
    """Return the stored orders among these ids, without their verdicts, by id."""
    cursor.execute(f"{SELECT_ORDERS} WHERE id = ANY(%s)", (list(ids),))
    return {row[0]: Order(*row) for row in cursor}


def select_flagged(cursor: Cursor, ids: Sequence[int]) -> list[Flagged]:
    """Return the stored orders among these ids, in the order of `ids`."""
    cursor.execute(f"{SELECT_FLAGGED} WHERE id = ANY(%s)", (list(ids),))
    found = {row[0]: flagged_from_row(row) for row in cursor}
    return [found[i] for i in ids if i in found]


def lists_version_of(cursor: Cursor, order_id: int) -> int:
    """Return the version of the user lists that decided about a stored order."""
    cursor.execute("SELECT lists_version FROM orders WHERE id = %s", (order_id,))
    [(version,)] = cursor.fetchall()
    return int(version)


def rejected_row(line: Rejected) -> tuple[int, bytes, str, str, int | None]:
    """Return a rejected line as a row: position, raw, reason, detail, missing_id."""
    return line.position, line.raw, line.reason, _storable(line.detail), line.missing_id


def _storable(text: str) -> str:
    """Return text that PostgreSQL accepts: no NUL, no lone surrogate."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
