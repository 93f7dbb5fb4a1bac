"""The demo's table of rules: what a person reads of each rule's worth."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from ecommersss_platform.cli.demo import print_rules


def rule(name: str, **values: Any) -> dict[str, Any]:
    """Return a row of gold.rule_totals; what `values` lacks is unknown."""
    shares = [f"{share}{end}" for share in ("precision", "recall") for end in ("", "_low", "_high")]
    amounts = ["fraud_caught_amount", "genuine_flagged_amount", "fraud_missed_amount"]
    unknown = dict.fromkeys([*shares, *amounts])
    return {"rule_name": name, "mode": "active", "flagged_orders": 7, **unknown} | values


def shares(name: str, share: str, low: str, high: str) -> dict[str, Decimal]:
    return {name: Decimal(share), f"{name}_low": Decimal(low), f"{name}_high": Decimal(high)}


def test_rules_have_percentages_with_intervals_and_millions_of_rupiah(
    capsys: pytest.CaptureFixture[str],
) -> None:
    judged = rule(
        "wallet_limit",
        **shares("precision", "0.7580", "0.7189", "0.7932"),
        **shares("recall", "0.0050", "0.0000", "0.0149"),
        fraud_caught_amount=Decimal("70556984500.00"),
        genuine_flagged_amount=Decimal(499_999),
        fraud_missed_amount=Decimal(0),
    )
    print_rules([judged, rule("unjudged")])
    output = capsys.readouterr().out
    cells = [line.replace("│", " ").split() for line in output.splitlines()]
    assert ["wallet_limit", "active", "7", "76", "(72-79)", "0", "(0-1)", "70,557", "0", "0"] in cells
    assert ["unjudged", "active", "7"] in cells
    assert "No day is 60 days old yet" not in output


def test_fraud_that_passed_is_estimated_from_the_sample(capsys: pytest.CaptureFixture[str]) -> None:
    estimate = {"passed_fraud": 1200, "passed_fraud_low": 900, "passed_fraud_high": 1600}
    of_books = {"passed_orders": 41_000, "sampled_orders": 400, **estimate}
    print_rules([rule("a", precision=None, **of_books), rule("random_sample", mode="review", **of_books)])
    sentence = (
        "Of 41,000 orders of such days that passed, about 1,200 (900-1,600) were fraud."
        " People decided about a random sample of 400.\n"
    )
    assert sentence in capsys.readouterr().out
    print_rules([rule("a", **of_books), rule("random_sample", mode="review", passed_fraud=None)])
    assert "random sample of" not in capsys.readouterr().out


def test_a_young_platform_is_told_how_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    for rules in ([rule("unjudged")], []):
        print_rules(rules)
        assert "No day is 60 days old yet: `ecommersss demo --days 120` has some." in capsys.readouterr().out
