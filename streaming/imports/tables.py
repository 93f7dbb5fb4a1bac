"""The tables that can be imported: their columns, and what makes a row of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streaming.imports.values import Parser, email, instant, integer, one_of, order_id, price, reference, text


def _nothing_wrong(row: Mapping[str, Any]) -> str | None:
    return None


@dataclass(frozen=True)
class ImportedTable:
    """A table of the operational database, as a file fills it."""

    name: str
    required: Mapping[str, Parser]
    """The columns that every line has, and the parser of each one's values."""
    optional: Mapping[str, Parser]
    event: str
    """SQL: when what a row says came true, from its columns. `--backdate` dates the row then."""
    key: str = "id"
    """The column by which a line finds its row."""
    append_only: tuple[str, ...] = ()
    """Not empty: rows are never changed, and these columns tell whether a line's row is there already."""
    whole: bool = False
    """Whether a line replaces the whole row. Otherwise columns that a line leaves out keep their values."""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """SQL values of columns that a line leaves out, where no row has one."""
    check: Callable[[Mapping[str, Any]], str | None] = _nothing_wrong
    """Says what is wrong with a row whose values are right each by itself."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.required, *self.optional)

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns in which no two lines of a file may be equal."""
        return self.append_only or (self.key,)


_EVENTS = ("packed", "shipped", "delivered", "cancelled", "returned")


def _shipment_problem(row: Mapping[str, Any]) -> str | None:
    at = f"{row['status']}_at"
    return f"{at} is missing, while the status is {row['status']}" if row[at] is None else None


def _dispute_problem(row: Mapping[str, Any]) -> str | None:
    is_open = row["outcome"] in (None, "open")
    if is_open and row["decided_at"] is not None:
        return "decided_at is given for an open dispute: outcome must be won or lost"
    if not is_open and row["decided_at"] is None:
        return f"decided_at is missing, while the outcome is {row['outcome']}"
    return None


_USERS = ImportedTable(
    "users",
    {"id": reference, "username": text, "email": email, "first_name": text, "last_name": text},
    {"default_payment": text, "created_date": instant},
    event="created_date",
    defaults={"created_date": "now()"},
)
_PRODUCTS = ImportedTable(
    "products",
    {"id": reference, "product_name": text, "category": text, "price": price},
    {"created_date": instant},
    event="created_date",
    defaults={"created_date": "now()"},
)
_SHIPMENTS = ImportedTable(
    "shipments",
    {"order_id": order_id, "status": one_of(*_EVENTS)},
    {**{f"{event}_at": instant for event in _EVENTS}, "refund_amount": price},
    event=f"greatest({', '.join(f'{event}_at' for event in _EVENTS)})",
    key="order_id",
    whole=True,
    defaults={"refund_amount": "0"},
    check=_shipment_problem,
)
_DISPUTES = ImportedTable(
    "disputes",
    {
        "id": integer(2**63 - 1),
        "order_id": order_id,
        "kind": one_of("fraud", "not_received", "not_as_described", "other"),
        "amount": price,
        "opened_at": instant,
    },
    {"outcome": one_of("open", "won", "lost"), "decided_at": instant},
    event="coalesce(decided_at, opened_at)",
    whole=True,
    defaults={"outcome": "'open'"},
    check=_dispute_problem,
)
_VERDICTS = ImportedTable(
    "verdicts",
    {"order_id": order_id, "verdict": one_of("fraud", "genuine"), "reviewer": text},
    {"note": text, "decided_at": instant},
    event="decided_at",
    key="line",
    append_only=("order_id", "verdict", "reviewer", "decided_at"),
    defaults={"decided_at": "now()"},
)

TABLES = {table.name: table for table in (_USERS, _PRODUCTS, _SHIPMENTS, _DISPUTES, _VERDICTS)}
