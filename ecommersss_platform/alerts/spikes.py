"""Orders and rejected lines of the last hour, against the same hour of the last days.

One query reads 29 hours by the index of `orders.created_date`, and another the last eight days once an hour.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from ecommersss_platform.alerts.brake import overrides
from ecommersss_platform.alerts.look import Look
from ecommersss_platform.alerts.problem import Problem
from ecommersss_platform.alerts.rule_book import active_rules
from ecommersss_platform.alerts.usual import (
    DAYS,
    Count,
    Usual,
    expected,
    is_always,
    is_silent,
    is_spike,
    usual,
)

HOUR = timedelta(hours=1)

KNOWN_METHODS = frozenset({"Bank Transfer", "Credit Card", "DANA", "Gopay", "OVO", "Paylater"})
"""The methods that are compared each by itself. The text of others is a stranger's, and is not repeated."""
OTHER = "other payment methods"

ALL, METHOD, RULE = "all orders", "paid by ", "rule "
MOST_NAMED = 4
NONE = Count(0, 0)

# Grouped by whole lists of reasons: there are few, and each order is counted once.
_ORDERS = f"""
SELECT day, payment_method, fraud_reasons, is_fraud, count(*) AS orders
FROM generate_series(0, {DAYS}) AS day, LATERAL (
    SELECT payment_method, fraud_reasons, is_fraud FROM orders
    WHERE created_date >= %(now)s - interval '1 hour' - day * interval '1 day'
        AND created_date < %(now)s - day * interval '1 day'
) AS placed
GROUP BY 1, 2, 3, 4
"""  # noqa: S608
_REJECTED = """
SELECT floor(extract(epoch FROM %(now)s - rejected_at) / 86400)::int AS day, count(*) AS lines
FROM rejected_orders
WHERE rejected_at < %(now)s AND rejected_at >= %(now)s - interval '29 days'
    AND mod(extract(epoch FROM %(now)s - rejected_at)::bigint, 86400) < 3600
GROUP BY 1
"""
_BY_DAY = """
SELECT created_date >= %(now)s - interval '1 day' AS recent, fraud_reasons, count(*) AS orders
FROM orders
WHERE created_date >= %(now)s - interval '8 days' AND created_date < %(now)s
GROUP BY 1, 2
"""

Hours = Mapping[str, Sequence[Count]]
"""The counts of the last hour and of the same hour of each day before, by what they are about."""


def unusual(look: Look) -> Iterator[Problem]:
    """Yield what is unusual about the last hour: fraud, rejected lines, rules that flag nothing or all."""
    # A running consumer goes on with the last book that can be used. What the brake holds back flags nothing.
    rules = look.memory["rules"] = active_rules(look.settings.rules_path) or look.memory.get(
        "rules", frozenset()
    )
    rules -= {override.rule for override in overrides(look)}
    hours = by_group(look.rows(_ORDERS, {"now": look.now}), rules)
    yield from fraud_spike(hours, look.memory)
    lines = {row["day"]: row["lines"] for row in look.rows(_REJECTED, {"now": look.now})}
    yield from rejected_spike(with_rejected(hours[ALL], lines), look.memory)
    if "days" not in look.memory or look.now - look.memory["asked"] >= HOUR:
        found = look.rows(_BY_DAY, {"now": look.now})
        look.memory.update(asked=look.now, days=by_rule(found, rules))
    days = look.memory["days"]
    for rule in sorted(rules):
        now, before = hours[RULE + rule][0], sum(hours[RULE + rule][1:], NONE)
        yield from rule_always(rule, now, before)
        yield from rule_silent(rule, {"hour": (now, before), "day": days.get(rule, (NONE, NONE))})


def fraud_spike(hours: Hours, memory: dict[str, Any]) -> Iterator[Problem]:
    """Yield one problem if the share of fraud is above its usual range anywhere. It names where."""
    told = memory.get("high", set())
    high = {name for name, counts in hours.items() if is_spike(counts[0], counts[1:], told=name in told)}
    memory["high"] = high
    if high:
        yield Problem("fraud_spike", "orders of the last hour", spike_sentence(hours, high))


def spike_sentence(hours: Hours, high: set[str]) -> str:
    """Return a sentence about a spike of fraud: first all orders, then what stands out most."""

    def times(name: str) -> float:
        range_ = usual(hours[name][1:])
        return hours[name][0].share / max(range_.share if range_ else 0.0, 0.001)

    parts = []
    for name in sorted(high, key=lambda name: (name != ALL, -times(name)))[:MOST_NAMED]:
        if range_ := usual(hours[name][1:]):
            parts.append(f"{name}: {against(hours[name][0], range_)}")
    return (
        f"more fraud than usual in the last hour ({'; '.join(parts)}): look at the flagged orders, block"
        " users (`ecommersss lists add`), or correct the rule"
    )


def against(now: Count, range_: Usual) -> str:
    """Return the figures of an hour beside what is usual."""
    return (
        f"{now.hits:,} of {now.all:,}, {now.share:.1%}, usually {range_.share:.1%} and at most"
        f" {range_.limit(now.all):.1%} at this time of day"
    )


def rejected_spike(lines: Sequence[Count], memory: dict[str, Any]) -> Iterator[Problem]:
    """Yield a problem if many more lines than usual were rejected."""
    range_ = usual(lines[1:])
    memory["rejected"] = is_spike(lines[0], lines[1:], told=memory.get("rejected", False))
    if memory["rejected"] and range_ is not None:
        yield Problem(
            "rejected_spike",
            "lines of the last hour",
            f"more lines than usual were rejected in the last hour ({against(lines[0], range_)}):"
            " `ecommersss rejected list` says why",
        )


def rule_always(rule: str, now: Count, before: Count) -> Iterator[Problem]:
    """Yield a problem if the rule suddenly flags a large share of all orders."""
    if is_always(now, before):
        yield Problem(
            "rule_always",
            rule,
            f"the rule {rule} flagged {now.hits:,} of the last {now.all:,} orders, {now.share:.0%}, and"
            f" {before.share:.1%} of those at this time of day before: look at its condition"
            " (`ecommersss rules check`) and at some of the orders",
        )


def rule_silent(rule: str, spans: Mapping[str, tuple[Count, Count]]) -> Iterator[Problem]:
    """Yield a problem if the rule flagged nothing in one of the spans, each with its counts now and before.

    The counts of the hour show it soon where a rule flags many orders, those of the day also where few.
    """
    for span, (now, before) in spans.items():
        if is_silent(now, before):
            yield Problem(
                "rule_silent",
                rule,
                f"the rule {rule} flagged none of the {now.all:,} orders of the last {span}, and"
                f" {expected(now, before):.0f} were to be expected: look whether its condition can still hold"
                " (`ecommersss rules check`)",
            )
            return


def with_rejected(orders: Sequence[Count], lines: Mapping[int, int]) -> list[Count]:
    """Return the rejected lines of each hour among all its lines. `lines`: by days before now."""
    return [Count(lines.get(day, 0), count.all + lines.get(day, 0)) for day, count in enumerate(orders)]


def by_group(found: Sequence[Mapping[str, Any]], rules: frozenset[str]) -> Hours:
    """Return fraud counts of all orders and of each payment method, and the counts of each rule."""
    orders: dict[int, int] = defaultdict(int)
    hits: dict[tuple[str, int], int] = defaultdict(int)
    sizes: dict[tuple[str, int], int] = defaultdict(int)
    for row in found:
        day, count, method = row["day"], row["orders"], row["payment_method"]
        group = METHOD + method if method in KNOWN_METHODS else OTHER
        orders[day] += count
        sizes[group, day] += count
        if row["is_fraud"]:
            hits[ALL, day] += count
            hits[group, day] += count
        for reason in row["fraud_reasons"]:
            hits[RULE + reason, day] += count
    groups = {name for name, _ in sizes}
    days = range(DAYS + 1)
    return {
        ALL: [Count(hits[ALL, day], orders[day]) for day in days],
        **{name: [Count(hits[name, day], sizes[name, day]) for day in days] for name in sorted(groups)},
        **{
            RULE + rule: [Count(hits[RULE + rule, day], orders[day]) for day in days]
            for rule in sorted(rules)
        },
    }


def by_rule(found: Sequence[Mapping[str, Any]], rules: frozenset[str]) -> dict[str, tuple[Count, Count]]:
    """Return the counts of each rule in the last day, and in the seven days before."""
    orders = {True: 0, False: 0}
    hits: dict[tuple[str, bool], int] = defaultdict(int)
    for row in found:
        orders[row["recent"]] += row["orders"]
        for reason in row["fraud_reasons"]:
            hits[reason, row["recent"]] += row["orders"]

    def count(rule: str, recent: bool) -> Count:
        return Count(hits[rule, recent], orders[recent])

    return {rule: (count(rule, True), count(rule, False)) for rule in rules}
