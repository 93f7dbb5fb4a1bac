"""Promotions: a rule gets another mode in the rule book's file, with who decided it, when and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from ecommersss_platform.days import Days
from ecommersss_platform.laboratory.evaluation import REASONS, evaluated_sql
from ecommersss_platform.local.whole_files import replace_file
from ecommersss_platform.warehouse import Warehouse
from streaming.errors import PlatformError
from streaming.rules import Mode, Rule, RuleBook
from streaming.rules.edit import Value, set_keys

_FEW_ORDERS: Final = 100
"""An hour of the day with fewer orders, on all days together, says too little."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """A new mode for a rule of a book. `at` is aware."""

    rule: str
    mode: Mode
    by: str
    at: datetime
    because: str | None = None

    def applied(self, book: RuleBook, expected_share: tuple[float, float] | None) -> str:
        """Return the book's text after the promotion; nothing but the rule differs.

        Raises `PlatformError` for an unknown rule, or one that cannot be changed in place.
        """
        keys: dict[str, Value | None] = {
            "expected_share": expected_share,
            "promoted_by": self.by.strip(),
            "promoted_at": self.at.replace(microsecond=0),
            "promoted_because": (self.because or "").strip() or None,
        }
        return set_keys(book, self.rule, self.mode, keys)


def share_of_busiest_hour(warehouse: Warehouse, book: RuleBook, rule: Rule, days: Days) -> float:
    """Return the share of the orders of an hour of the day for which a rule of a book holds, at its highest.

    Hours with few orders do not count. Only a rule that decides can be asked for.
    """
    held = warehouse.dialect.contains(REASONS[rule.mode], warehouse.dialect.text(rule.name))
    sql = (
        f"SELECT count(*) AS orders, sum(CASE WHEN {held} THEN 1 ELSE 0 END) AS held "  # noqa: S608
        f"FROM ({evaluated_sql(book, days, warehouse.dialect)}) AS evaluated "
        f"GROUP BY local_hour HAVING count(*) >= {_FEW_ORDERS}"
    )
    rows = warehouse.query(sql).to_pylist()
    return max((int(row["held"]) / int(row["orders"]) for row in rows), default=0.0)


def replace_book(path: Path, before: bytes, text: str) -> None:
    """Write a book's text to its file, if the file still has the content `before`.

    A reader finds the old book or the new one. Raises `PlatformError` if the file has changed, or cannot be
    replaced.
    """
    path = path.resolve()  # a link stays one
    try:
        changed = path.read_bytes() != before
        if not changed:
            replace_file(path, text.encode(), durable=True, keep_mode=True)
    except OSError as error:
        raise PlatformError(
            f"the rule book {path} cannot be replaced: {error.strerror}. Nothing was changed; make the change"
            " where the file comes from."
        ) from error
    if changed:
        raise PlatformError(
            f"the rule book {path} was changed meanwhile, and nothing was written: look at it, and try again"
        )
