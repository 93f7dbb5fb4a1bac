"""The last backtests of rule books: what the candidates would have changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

MOST_BACKTESTS = 5


@dataclass(frozen=True)
class Backtest:
    """A candidate book on the orders of some days, beside what the stream stored. Amounts are in rupiah."""

    made_at: datetime
    book: str
    """The name of its file, without the folder."""
    version: str
    first: date
    last: date
    flagged_before: int
    flagged_after: int
    newly_flagged: int
    newly_flagged_amount: Decimal
    no_longer_flagged: int
    no_longer_flagged_amount: Decimal
    precision_before: float | None
    """None: no label is complete yet."""
    precision_after: float | None


def backtests_before(kept: Iterable[Mapping[str, Any]], instant: datetime) -> list[Backtest]:
    """Return the last backtests that were made before an instant. `kept` has the newest first.

    One that an earlier version wrote in another form is left out.
    """
    found = []
    for it in kept:
        try:
            backtest = _backtest(it)
        except (LookupError, TypeError, ValueError, ArithmeticError):
            continue
        if backtest.made_at < instant:
            found.append(backtest)
    return found[:MOST_BACKTESTS]


def _backtest(kept: Mapping[str, Any]) -> Backtest:
    book, candidate = kept["book"], kept["candidate"]
    return Backtest(
        made_at=datetime.fromisoformat(kept["made_at"]),
        book=Path(candidate["name"]).name,
        version=str(candidate["version"]),
        first=date.fromisoformat(kept["from"]),
        last=date.fromisoformat(kept["to"]),
        flagged_before=int(book["flagged_before"]),
        flagged_after=int(book["flagged_after"]),
        newly_flagged=int(book["newly_flagged"]),
        newly_flagged_amount=Decimal(str(book["newly_flagged_amount"])),
        no_longer_flagged=int(book["no_longer_flagged"]),
        no_longer_flagged_amount=Decimal(str(book["no_longer_flagged_amount"])),
        precision_before=book["before"]["precision"],
        precision_after=book["after"]["precision"],
    )
