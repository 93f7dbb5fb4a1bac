"""A backtest as rows of texts and numbers, for the terminal and for Dagster's pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ecommersss_platform.laboratory.backtest_result import Backtest, Example, Flagging, Share, Sum
from ecommersss_platform.reports import words

Row = Mapping[str, object]

_FIGURES: Mapping[str, Callable[[Flagging], object]] = {
    "flagged as fraud": lambda it: it.flagged.orders,
    "their value": lambda it: words.rupiah(it.flagged.amount),
    "fraud caught": lambda it: it.fraud_caught.orders,
    "fraud missed": lambda it: it.fraud_missed.orders,
    "value of fraud missed": lambda it: words.rupiah(it.fraud_missed.amount),
    "genuine orders flagged": lambda it: it.genuine_flagged.orders,
    "precision": lambda it: judged(it.precision),
    "recall": lambda it: judged(it.recall),
}


def title(result: Backtest) -> str:
    """Return what was tried on which orders, in a line."""
    total = result.total
    return (
        f"{result.candidate.name}, version {result.candidate.version}, on {result.days}:"
        f" {words.plural(total.orders, 'order')}, {words.rupiah(total.amount)}"
    )


def summary(result: Backtest) -> str:
    """Return what changes for the whole book, and why precision and recall are missing if they are."""
    book = result.book
    sentence = (
        f"{_sum(book.newly_flagged)} newly flagged, {_sum(book.no_longer_flagged)} no longer;"
        f" {words.percents(book.share)} of the orders of a day would be flagged."
    )
    if result.mature.orders:
        return sentence
    return (
        f"{sentence} No day is old enough for its labels to be complete: precision and recall are not known."
    )


def book_rows(result: Backtest) -> list[Row]:
    """Return the figures of the whole book, before and after."""
    before, after = result.book.before, result.book.after
    rows = [{"": name, "before": of(before), "after": of(after)} for name, of in _FIGURES.items()]
    return [*rows, {"": "wait for review", "before": result.review_before, "after": result.review_after}]


def rule_rows(result: Backtest) -> list[Row]:
    """Return what changes for each rule."""
    return [
        {
            "rule": it.name,
            "mode": it.mode,
            "before": it.change.before.flagged.orders,
            "after": it.change.after.flagged.orders,
            "newly flagged": it.change.newly_flagged.orders,
            "no longer": it.change.no_longer_flagged.orders,
            "only this rule": it.only.orders,
            "exempt": it.exempted.orders,
            "value before": words.rupiah(it.change.before.flagged.amount),
            "value after": words.rupiah(it.change.after.flagged.amount),
            "flagged a day": words.percents(it.change.share),
        }
        for it in result.rules
    ]


def label_rows(result: Backtest) -> list[Row]:
    """Return what the labels say of the orders that each rule flags after."""
    flagging = [(it.name, it.change.after) for it in result.rules]
    return [
        {
            "rule": name,
            "fraud caught": it.fraud_caught.orders,
            "fraud missed": it.fraud_missed.orders,
            "genuine flagged": it.genuine_flagged.orders,
            "not known yet": it.unlabelled,
            "precision": judged(it.precision),
            "recall": judged(it.recall),
        }
        for name, it in flagging
    ]


def example_rows(result: Backtest) -> list[Row]:
    """Return the examples of each change: of the whole book, and of each rule."""
    changes = [("the book", result.book), *((it.name, it.change) for it in result.rules)]
    return [
        _example(name, what, example)
        for name, change in changes
        for what, examples in (("newly flagged", change.newly), ("no longer flagged", change.no_longer))
        for example in examples
    ]


def judged(share: Share) -> str:
    """Write a share with its interval."""
    if share.value is None or share.ends is None:
        return words.NONE
    return f"{words.percent(share.value)} ({words.percents(share.ends)})"


def _example(name: str, what: str, example: Example) -> Row:
    return {
        "change": f"{name}: {what}",
        "order": example.order,
        "day": example.day,
        "amount": example.amount,
        "label": example.label,
        "values": ", ".join(f"{column} = {words.literal(value)}" for column, value in example.values.items()),
    }


def _sum(found: Sum) -> str:
    return f"{words.plural(found.orders, 'order')} ({words.rupiah(found.amount)})"
