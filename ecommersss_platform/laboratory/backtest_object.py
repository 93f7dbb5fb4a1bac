"""A backtest as JSON: an object of numbers, texts, lists and objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ecommersss_platform.laboratory.backtest_result import (
    SHARE_DECIMALS,
    Backtest,
    Change,
    Example,
    Flagging,
    RuleChange,
    Share,
    Sum,
)

Object = dict[str, Any]
_JUDGED_DECIMALS = 4
"""Decimals of precision and recall, as in the marts."""


def as_object(result: Backtest) -> Object:
    """Return the backtest as an object for JSON. Amounts are in rupiah, shares from 0 to 1."""
    return {
        "candidate": {"name": result.candidate.name, "version": result.candidate.version},
        "from": result.days.first,
        "to": result.days.last,
        "made_at": result.made_at,
        **_sum("orders", result.total, "amount"),
        "labels": {label: found.orders for label, found in result.orders.items()},
        "mature_orders": result.mature.orders,
        "book": {
            **_change(result.book),
            "review_before": result.review_before,
            "review_after": result.review_after,
            "daily": [
                {"day": day, "share_before": _rounded(before), "share_after": _rounded(after)}
                for day, (before, after) in result.book.daily_shares.items()
            ],
        },
        "rules": [_rule(it) for it in result.rules],
    }


def _rule(found: RuleChange) -> Object:
    return {
        "name": found.name,
        "mode": found.mode,
        "when": found.rule.when if found.rule else None,
        **_change(found.change),
        **_sum("only_this_rule", found.only),
        **_sum("exempted", found.exempted),
    }


def _change(change: Change) -> Object:
    return {
        **_sum("flagged_before", change.before.flagged),
        **_sum("flagged_after", change.after.flagged),
        **_sum("newly_flagged", change.newly_flagged),
        **_sum("no_longer_flagged", change.no_longer_flagged),
        "expected_share": list(change.share),
        "before": _flagging(change.before),
        "after": _flagging(change.after),
        "examples": {
            "newly_flagged": _examples(change.newly),
            "no_longer_flagged": _examples(change.no_longer),
        },
    }


def _flagging(flagging: Flagging) -> Object:
    return {
        **_sum("fraud_caught", flagging.fraud_caught),
        **_sum("fraud_missed", flagging.fraud_missed),
        **_sum("genuine_flagged", flagging.genuine_flagged),
        "unlabelled": flagging.unlabelled,
        **_share("precision", flagging.precision),
        **_share("recall", flagging.recall),
    }


def _share(name: str, share: Share) -> Object:
    low, high = share.ends or (None, None)
    values: Mapping[str, float | None] = {name: share.value, f"{name}_low": low, f"{name}_high": high}
    return {key: None if value is None else round(value, _JUDGED_DECIMALS) for key, value in values.items()}


def _sum(name: str, found: Sum, amount: str | None = None) -> Object:
    return {name: found.orders, amount or f"{name}_amount": found.amount}


def _examples(examples: Sequence[Example]) -> list[Object]:
    return [
        {
            "order": it.order,
            "day": it.day,
            "amount": it.amount,
            "label": it.label,
            "before": list(it.before),
            "after": list(it.after),
            "values": dict(it.values),
        }
        for it in examples
    ]


def _rounded(share: float) -> float:
    return round(share, SHARE_DECIMALS)
