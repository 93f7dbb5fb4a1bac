"""How rules are judged, against what the simulator knows: `gold.rule_performance` and `gold.rule_totals`.

Four simulated days are flagged by the house's rules. What becomes of each order, its label, and the figures
of every rule are computed again in plain Python, from the ground truth and the flagged stream.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

from ecommersss_platform.contracts import VERDICTS, RawTable
from ecommersss_platform.days import Days
from ecommersss_platform.dbt.project import build_arguments, ensure_manifest
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.dbt_runs import dbt_events
from ecommersss_platform_tests.support.raw_days import Row, raw_rows, read, verdict, write_raw
from ecommersss_platform_tests.support.topics import lines_of
from streaming.business_days import JAKARTA, business_day
from streaming.consumer import Consumer
from streaming.orders import Flagged, decode_flagged
from streaming.rules import RULES_PATH, RuleBook
from streaming.simulator.aftermath import PastOrder, aftermath
from streaming.simulator.ground_truth import GroundTruth
from streaming.simulator.history import simulate_aftermath, simulate_history
from streaming.topics.jsonl import JsonlTopic

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DAY = timedelta(days=1)
FIRST, DAYS = date(2025, 6, 1), 4
END = datetime.combine(FIRST, time.min, JAKARTA) + DAYS * DAY
SETTLED = FIRST + 120 * DAY
"""Long after the last dispute was decided."""
MATURITY = 60
MODES = {"active": "fraud_reasons", "shadow": "shadow_reasons", "review": "review_reasons"}
BOOK = RuleBook.parse(
    "sample: 0.3\n"
    + RULES_PATH.read_text()
    + "  - {name: many_countries, description: d, mode: review, when: user_countries_24h > 1}\n"
)
STAGED = ("fact_orders", "order_labels", "rule_performance")


@dataclass(frozen=True)
class Order:
    """A flagged order, and the fraud pattern that made it, None for a genuine one."""

    flagged: Flagged
    pattern: str | None

    @property
    def day(self) -> date:
        return business_day(self.flagged.created_date)

    def label(self, as_of: date) -> str:
        """Return the order's label from what was known at the end of a day."""
        after = aftermath(
            PastOrder(self.flagged.id, self.flagged.amount, self.flagged.created_date), self.pattern
        )
        verdicts = [version for version in after.verdicts if business_day(version.at) <= as_of]
        disputes = [version for version in after.disputes if business_day(version.at) <= as_of]
        if verdicts:
            return verdicts[-1].verdict
        if disputes and disputes[-1].kind == "fraud":
            return "genuine" if disputes[-1].outcome == "won" else "fraud"
        return "genuine" if self.is_mature(as_of) else "unknown"

    def has_verdict(self, as_of: date) -> bool:
        """Return whether a person had decided about the order by the end of a day."""
        after = aftermath(
            PastOrder(self.flagged.id, self.flagged.amount, self.flagged.created_date), self.pattern
        )
        return any(business_day(version.at) <= as_of for version in after.verdicts)

    def is_mature(self, as_of: date) -> bool:
        return as_of - self.day >= MATURITY * DAY


@dataclass(frozen=True)
class Past:
    """Raw tables of a simulated past, and its orders."""

    orders: Sequence[Order]
    raw: dict[RawTable, list[Row]]
    settings: Settings

    def rules(
        self, as_of: date, more_verdicts: Iterable[Row] = (), *, only_labels: bool = False
    ) -> dict[str, list[dict[str, Any]]]:
        """Let dbt judge the rules by the labels of a day; return the rows of both tables.

        `only_labels`: build the labels and what is made of them, on the facts of an earlier call.
        """
        verdicts = [*self.raw[VERDICTS], *more_verdicts]
        write_raw(self.settings.warehouse_path, {**self.raw, VERDICTS: verdicts})
        variables = {"labels_as_of": str(as_of), "label_maturity_days": MATURITY}
        models = "order_labels_staged+,+rule_totals" if only_labels else "+rule_totals"
        # Of dbt's tests only those of staged rows: nothing is published without them.
        tests = [f"{model}_staged+1,resource_type:test" for model in STAGED]
        options = [
            "--vars",
            json.dumps(variables),
            "--indirect-selection",
            "empty",
            "--select",
            models,
            *tests,
        ]
        for _ in dbt_events(self.settings, [*build_arguments(), *options]):
            pass
        return {name: self._rows(name) for name in ("rule_performance", "rule_totals")}

    def _rows(self, name: str) -> list[dict[str, Any]]:
        path = self.settings.warehouse_path
        columns = [column for column, *_ in read(path, f"SELECT column_name FROM (DESCRIBE gold.{name})")]
        rows = read(path, f"SELECT * FROM gold.{name} ORDER BY ALL")
        return [dict(zip(columns, row, strict=True)) for row in rows]


@pytest.fixture
def past(database: str, tmp_path: Path) -> Past:
    ensure_manifest()
    topic, stream, truth = JsonlTopic(tmp_path / "t"), JsonlTopic(tmp_path / "f"), tmp_path / "truth.jsonl"
    simulate_history(database, topic, FIRST, END, 400, fraud_share=0.15, ground_truth=truth)
    Consumer(database, topic, stream, BOOK).run(once=True)
    simulate_aftermath(database, truth, datetime.combine(SETTLED, time.min, JAKARTA))
    raw = raw_rows(database, Days.between(FIRST, SETTLED))
    patterns = GroundTruth(truth).read()
    orders = [Order(line, patterns[line.id]) for line in map(decode_flagged, lines_of(stream))]
    assert len(orders) == 400 * DAYS
    return Past(orders, raw, Settings(home=tmp_path / "home", _env_file=None))


def bounds(successes: int, trials: int) -> tuple[Decimal, Decimal]:
    """Return the ends of the 95 % interval: the roots of (p - s/n)^2 = z^2 p (1 - p) / n."""
    z2 = Decimal("1.959963984540054") ** 2
    a, b, c = (
        1 + z2 / trials,
        -(2 * Decimal(successes) / trials + z2 / trials),
        (Decimal(successes) / trials) ** 2,
    )
    root = (b * b - 4 * a * c).sqrt()
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def estimate(successes: int, trials: int, population: int) -> dict[str, int | None]:
    """Return how many of a population are fraud, from a sample of it."""
    names = ("passed_fraud", "passed_fraud_low", "passed_fraud_high")
    if trials == 0:
        return dict.fromkeys(names)
    shares = Decimal(successes) / trials, *bounds(successes, trials)
    return {name: round(share * population) for name, share in zip(names, shares, strict=True)}


def four_decimals(value: Decimal) -> Decimal:
    return value.quantize(Decimal("0.0001"), ROUND_HALF_UP)


def shares(name: str, part: int, whole: int) -> dict[str, Decimal | None]:
    names = (name, f"{name}_low", f"{name}_high")
    if whole == 0:
        return dict.fromkeys(names)
    values = Decimal(part) / whole, *bounds(part, whole)
    return {name: four_decimals(value) for name, value in zip(names, values, strict=True)}


def judged(orders: Iterable[Order], as_of: date) -> list[dict[str, Any]]:
    """Return the rows that rule_performance must have."""
    by_day: dict[date, list[Order]] = defaultdict(list)
    for order in orders:
        by_day[order.day].append(order)
    rows = []
    for day, placed in by_day.items():
        fraud = [order for order in placed if order.label(as_of) == "fraud"]
        held: dict[tuple[str, str], list[Order]] = defaultdict(list)
        for order in placed:
            for mode, name in MODES.items():
                for rule in getattr(order.flagged, name):
                    held[rule, mode].append(order)
        passed = [order for order in placed if not order.flagged.fraud_reasons]
        sample = [order for order in held["random_sample", "review"] if order.has_verdict(as_of)]
        in_sample = sum(order.label(as_of) == "fraud" for order in sample)
        for (rule, mode), flagged in held.items():
            caught = [order for order in flagged if order.label(as_of) == "fraud"]
            genuine = [order for order in flagged if order.label(as_of) == "genuine"]
            mature = placed[0].is_mature(as_of)
            rows.append(
                {
                    "business_day": day,
                    "rule_name": rule,
                    "mode": mode,
                    "rules_version": placed[0].flagged.rules_version,
                    "is_mature": mature,
                    "flagged_orders": len(flagged),
                    "only_reason_orders": sum(
                        len(order.flagged.fraud_reasons)
                        + (mode != "active") * len(getattr(order.flagged, MODES[mode]))
                        == 1
                        for order in flagged
                    ),
                    "flagged_users": len({order.flagged.user_id for order in flagged}),
                    "labelled_fraud": len(caught),
                    "labelled_genuine": len(genuine),
                    "unlabelled": len(flagged) - len(caught) - len(genuine),
                    "missed_fraud": len(fraud) - len(caught),
                    **shares("precision", len(caught) if mature else 0, len(flagged) if mature else 0),
                    **shares("recall", len(caught) if mature else 0, len(fraud) if mature else 0),
                    "flagged_amount": amount(flagged),
                    "fraud_caught_amount": amount(caught),
                    "genuine_flagged_amount": amount(genuine),
                    "fraud_missed_amount": amount(fraud) - amount(caught),
                    "passed_orders": len(passed),
                    "sampled_orders": len(sample),
                    "sampled_fraud": in_sample,
                    **estimate(in_sample, len(sample), len(passed)),
                }
            )
    return sorted(rows, key=lambda row: (row["business_day"], row["rule_name"], row["mode"]))


def amount(orders: Iterable[Order]) -> Decimal:
    return sum((order.flagged.amount for order in orders), Decimal(0))


def in_total(orders: Sequence[Order], as_of: date) -> list[dict[str, Any]]:
    """Return the rows that rule_totals must have."""
    mature = [order for order in orders if order.is_mature(as_of)]
    fraud = [order for order in mature if order.label(as_of) == "fraud"]
    rows = []
    for mode, reasons in MODES.items():
        for rule in sorted({rule for order in orders for rule in getattr(order.flagged, reasons)}):
            flagged = [order for order in mature if rule in getattr(order.flagged, reasons)]
            caught = [order for order in flagged if order.label(as_of) == "fraud"]
            genuine = [order for order in flagged if order.label(as_of) == "genuine"]
            passed = [order for order in mature if not order.flagged.fraud_reasons]
            sample = [
                order
                for order in passed
                if "random_sample" in order.flagged.review_reasons and order.has_verdict(as_of)
            ]
            in_sample = sum(order.label(as_of) == "fraud" for order in sample)
            rows.append(
                {
                    "rule_name": rule,
                    "mode": mode,
                    "flagged_orders": sum(rule in getattr(order.flagged, reasons) for order in orders),
                    "mature_orders": len(flagged),
                    "labelled_fraud": len(caught),
                    "labelled_genuine": len(genuine),
                    "missed_fraud": len(fraud) - len(caught),
                    **shares("precision", len(caught), len(flagged)),
                    **shares("recall", len(caught), len(fraud)),
                    "fraud_caught_amount": amount(caught),
                    "genuine_flagged_amount": amount(genuine),
                    "fraud_missed_amount": amount(fraud) - amount(caught),
                    "passed_orders": len(passed) if sample else 0,
                    "sampled_orders": len(sample),
                    "sampled_fraud": in_sample,
                    **estimate(in_sample, len(sample), len(passed)),
                }
            )
    return sorted(rows, key=lambda row: (row["rule_name"], row["mode"]))


def truth(orders: Sequence[Order], rule: dict[str, Any]) -> dict[str, Decimal]:
    """Return a rule's precision and recall by the patterns that made the orders, whatever their labels."""
    reasons = MODES[rule["mode"]]
    flagged = [order for order in orders if rule["rule_name"] in getattr(order.flagged, reasons)]
    hits = Decimal(sum(order.pattern is not None for order in flagged))
    fraud = sum(order.pattern is not None for order in orders)
    return {"precision": hits / len(flagged), "recall": hits / fraud}


def test_rules_are_judged_as_the_simulators_truth_says(past: Past) -> None:
    """While two of the days are mature, when all is known, and with a right verdict on every order.

    Fraud that nobody disputed is labelled genuine, so each precision is too low. It hides alike from all
    rules, so each recall is right within its interval. With a verdict on every order, both are exact.
    """
    half = FIRST + (MATURITY + 1) * DAY
    found = past.rules(half)
    assert found["rule_performance"] == judged(past.orders, half)
    assert {row["is_mature"] for row in found["rule_performance"]} == {True, False}
    assert found["rule_totals"] == in_total(past.orders, half)

    found = past.rules(SETTLED, only_labels=True)
    assert found["rule_performance"] == judged(past.orders, SETTLED)
    assert found["rule_totals"] == in_total(past.orders, SETTLED)
    assert len(found["rule_totals"]) == 10
    for rule in found["rule_totals"]:
        true = truth(past.orders, rule)
        assert rule["recall_low"] <= true["recall"] <= rule["recall_high"], rule
        assert rule["precision"] < true["precision"], rule

    number = len(past.raw[VERDICTS])
    verdicts = [
        verdict(number + n, order.flagged.id, "fraud" if order.pattern else "genuine", str(SETTLED))
        for n, order in enumerate(past.orders, 1)
    ]
    found = past.rules(SETTLED, verdicts, only_labels=True)
    for day in found["rule_performance"]:
        # All of the sample is decided now, so the estimate is unbiased and its interval has the truth.
        passed = [o for o in past.orders if o.day == day["business_day"] and not o.flagged.fraud_reasons]
        hidden = sum(order.pattern is not None for order in passed)
        assert day["sampled_orders"] == sum("random_sample" in o.flagged.review_reasons for o in passed)
        assert day["passed_fraud_low"] <= hidden <= day["passed_fraud_high"], day
    passed = [order for order in past.orders if not order.flagged.fraud_reasons]
    hidden = sum(order.pattern is not None for order in passed)
    for rule in found["rule_totals"]:
        assert rule["passed_orders"] == len(passed)
        assert rule["passed_fraud_low"] <= hidden <= rule["passed_fraud_high"], rule
        for name, true in truth(past.orders, rule).items():
            assert rule[name] == four_decimals(true), rule
            assert rule[f"{name}_low"] <= true <= rule[f"{name}_high"], rule
