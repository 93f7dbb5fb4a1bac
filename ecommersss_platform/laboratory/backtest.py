"""Backtests: what a candidate rule book would have decided about past orders.

The warehouse counts (`backtest_sql.py`); what it counted becomes a `Backtest` here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import Any

from ecommersss_platform.days import Days, contiguous
from ecommersss_platform.laboratory.backtest_result import (
    Backtest,
    Change,
    Example,
    Flagging,
    RuleChange,
    Share,
    Sum,
)
from ecommersss_platform.laboratory.backtest_sql import (
    EXAMPLES,
    WHOLE_BOOK,
    book_sql,
    changes_sql,
    days_sql,
    loads_sql,
    orders_sql,
    rules_sql,
)
from ecommersss_platform.warehouse import Warehouse
from streaming.errors import PlatformError
from streaming.rules import Rule, RuleBook
from streaming.rules.sample import REASON

Row = Mapping[str, Any]
Examples = Mapping[tuple[str, bool], Sequence[Example]]
"""The examples of a rule, or of `WHOLE_BOOK`, that are newly flagged (True) or no longer (False)."""

MOST_ORDERS = 300_000
"""The orders whose days one query joins: their features and labels fit into the warehouse's memory."""
_CENT = Decimal("0.01")


def run_backtest(warehouse: Warehouse, candidate: RuleBook, days: Days, now: datetime) -> Backtest:
    """Backtest a candidate book on these days. Memory does not grow with the number of orders.

    Raises `PlatformError` for days that are not in the warehouse or have no features, and `TableNotFound` if
    nothing was materialised yet.
    """
    counted = _counted_days(warehouse, days)
    whole, queue = _Tally(), Counter[str]()
    tallies = defaultdict[str, _Tally](_Tally)
    found = defaultdict[tuple[str, bool], list[Example]](list)
    for some in stretches(days, counted):
        for row in _rows(warehouse, book_sql(candidate, some, warehouse.dialect)):
            whole.add(row)
            queue["before"] += row["was_review"] * row["orders"]
            queue["after"] += row["is_review"] * row["orders"]
        for row in _rows(warehouse, rules_sql(candidate, some, warehouse.dialect)):
            tallies[row["rule_name"]].add(row)
        for key, more in _examples(warehouse, candidate, some).items():
            found[key] = sorted([*found[key], *more], key=lambda it: (-it.amount, it.order))[:EXAMPLES]
    rules = {rule.name: rule for rule in candidate.rules}

    def rule_change(name: str) -> RuleChange:
        tally = tallies[name]
        change = _change(tally, whole, name, found)
        return RuleChange(name, rules.get(name), change, tally.sum(alone=True), tally.exempted)

    return Backtest(
        candidate=candidate,
        days=days,
        made_at=now,
        orders={label: whole.sum(label=label) for label in ("fraud", "genuine", "unknown")},
        mature=whole.sum(mature=True),
        book=_change(whole, whole, WHOLE_BOOK, found),
        review_before=queue["before"],
        review_after=queue["after"],
        rules=[rule_change(name) for name in [*rules, *sorted(tallies.keys() - rules.keys())]],
    )


def stretches(days: Days, orders: Mapping[date, int]) -> Iterator[Days]:
    """Split days into stretches of at most `MOST_ORDERS` orders, or of one day."""
    first, total = days.first, 0
    for day in days:
        total += orders.get(day, 0)
        if total > MOST_ORDERS and day > first:
            yield Days(first, day)
            first, total = day, orders.get(day, 0)
    yield Days(first, days.end)


def _counted_days(warehouse: Warehouse, days: Days) -> Mapping[date, int]:
    """Return how many orders each day has, if it has any.

    Raises `PlatformError` if one of the days is not loaded or lacks features.
    """
    counted = {row["day"]: row for row in _rows(warehouse, days_sql(days))}
    missing = {day for day, row in counted.items() if row["orders"] != row["features"]}
    empty = {day for day in days if day not in counted}
    if empty:
        missing |= empty - {row["day"] for row in _rows(warehouse, loads_sql(days))}
    if missing:
        ranges = contiguous(missing)
        commands = [f"`ecommersss materialize --from {it.first} --to {it.last}`" for it in ranges]
        raise PlatformError(
            f"{len(missing)} of the {len(days)} days are not in the warehouse with their features:"
            f" {', '.join(str(it) for it in ranges)}. Materialise them ({', '.join(commands)}),"
            " or choose other days"
        )
    return {day: int(row["orders"]) for day, row in counted.items()}


def expected_share(result: Backtest, rule: str) -> tuple[float, float]:
    """Return the share of the orders of a day that a rule of the candidate flags: see `Change.share`.

    Raises `KeyError` for a rule that is in neither book.
    """
    return {it.name: it.change for it in result.rules}[rule].share


class _Tally:
    """The orders of a book or a rule, by what they were and are."""

    def __init__(self) -> None:
        self._cells = defaultdict[tuple[str, bool, bool, bool, bool], Sum](Sum)
        self.days = defaultdict[date, Counter[str]](Counter)
        """Of each day, the orders: all, flagged before, flagged after."""
        self.exempted = Sum()

    def add(self, row: Row) -> None:
        orders, held, holds = int(row["orders"]), bool(row["held"]), bool(row["holds"])
        cell = (row["label"], bool(row["is_mature"]), held, holds, bool(row.get("holds_alone")))
        found = Sum(orders, Decimal(row["amount"]).quantize(_CENT))
        self._cells[cell] += found
        self.exempted += found if row.get("exempted") else Sum()
        self.days[row["day"]].update(all=orders, before=held * orders, after=holds * orders)

    def sum(
        self,
        label: str | None = None,
        mature: bool | None = None,
        before: bool | None = None,
        after: bool | None = None,
        alone: bool | None = None,
    ) -> Sum:
        """Return the sum of the orders of which this is true; None: whatever it is."""
        wanted = (label, mature, before, after, alone)
        cells = (
            found
            for cell, found in self._cells.items()
            if all(want is None or want == value for want, value in zip(wanted, cell, strict=True))
        )
        return sum(cells, Sum())


def _change(tally: _Tally, whole: _Tally, name: str, examples: Examples) -> Change:
    return Change(
        before=_flagging(partial(tally.sum, before=True), whole),
        after=_flagging(partial(tally.sum, after=True), whole),
        newly_flagged=tally.sum(before=False, after=True),
        no_longer_flagged=tally.sum(before=True, after=False),
        whole_share=Share(tally.sum(after=True).orders, whole.sum().orders),
        daily_shares={
            day: (tally.days[day]["before"] / orders["all"], tally.days[day]["after"] / orders["all"])
            for day, orders in sorted(whole.days.items())
        },
        newly=examples.get((name, True), ()),
        no_longer=examples.get((name, False), ()),
    )


def _flagging(flagged: Callable[..., Sum], whole: _Tally) -> Flagging:
    caught, caught_mature = flagged("fraud"), flagged("fraud", mature=True).orders
    return Flagging(
        flagged=flagged(),
        fraud_caught=caught,
        fraud_missed=whole.sum("fraud") - caught,
        genuine_flagged=flagged("genuine"),
        precision=Share(caught_mature, flagged(mature=True).orders),
        recall=Share(caught_mature, whole.sum("fraud", mature=True).orders),
    )


def _examples(warehouse: Warehouse, book: RuleBook, days: Days) -> Examples:
    changes = list(_rows(warehouse, changes_sql(book, days, warehouse.dialect)))
    if not changes:
        return {}
    ids = sorted({change["id"] for change in changes})
    orders = {row["id"]: row for row in _rows(warehouse, orders_sql(book, days, warehouse.dialect, ids))}
    rules = {rule.name: rule for rule in book.rules}
    examples = defaultdict[tuple[str, bool], list[Example]](list)
    for change in changes:
        key = (change["rule_name"], bool(change["newly"]))
        examples[key].append(_example(orders[change["id"]], change["rule_name"], rules))
    return examples


def _example(row: Row, name: str, rules: Mapping[str, Rule]) -> Example:
    """Return an order with the columns of the rule; for the whole book, of every rule that changes.

    A rule changes, too, if it held and holds in different modes.
    """
    before = _held(row, "fraud_reasons", "review_reasons", "shadow_reasons")
    after = _held(row, "fraud", "review", "shadow")
    changed = [name] if name != WHOLE_BOOK else sorted({it for _, it in {*before} ^ {*after}})
    columns = {column: None for it in changed if it in rules for column in rules[it].columns}
    return Example(
        order=row["id"],
        day=row["partition_date"],
        amount=row["amount"],
        label=row["label"],
        before=[it for _, it in before],
        after=[it for _, it in after],
        values={column: row[column] for column in columns},
    )


def _held(row: Row, *columns: str) -> list[tuple[int, str]]:
    """Return the rules in these columns, each with the number of its column."""
    return [
        (number, name)
        for number, column in enumerate(columns)
        for name in row[column] or ()
        if name != REASON
    ]


def _rows(warehouse: Warehouse, sql: str) -> Iterator[Row]:
    for batch in warehouse.stream(sql):
        yield from batch.to_pylist()
