"""Example orders: the shipped ones pass, and an invalid file says where it is wrong."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal

import pytest

from ecommersss_platform_tests.support.project import PROJECT
from streaming.business_days import JAKARTA
from streaming.rules import RULES_PATH, RuleBook
from streaming.rules.examples import (
    EXAMPLES_PATH,
    Example,
    ExampleError,
    load_examples,
    parse_examples,
    run_examples,
)

BOOK = RuleBook.load(RULES_PATH)


def only(text: str) -> Example:
    [example] = parse_examples(text, "e.yml")
    return example


def test_the_shipped_examples_pass_and_cover_every_rule() -> None:
    examples = load_examples(EXAMPLES_PATH)
    outcomes = run_examples(BOOK, examples)
    assert [str(o) for o in outcomes if not o.passed] == []
    expected = frozenset().union(*(names for e in examples for names in e.expected))
    assert expected == {rule.name for rule in BOOK.rules}
    assert any(not any(e.expected) for e in examples)
    command = f"ecommersss rules test {EXAMPLES_PATH.relative_to(PROJECT)}"
    assert command in EXAMPLES_PATH.read_text()


def test_columns_not_given_are_those_of_an_ordinary_order() -> None:
    row = only("examples: [{name: x, order: {amount: '1,000.50', quantity: 2, country: NO}}]").row
    assert (row.amount, row.quantity, row.country) == (Decimal("1000.50"), 2, "NO")
    assert (row.list_price, row.user_amount_24h) == (Decimal("500.25"), Decimal("1000.50"))
    assert (row.local_hour, row.is_blacklisted, row.user_orders_10m) == (12, False, 1)
    late = only("examples: [{name: x, order: {created_date: 2026-01-05 23:30}}]").row
    assert (late.local_hour, late.created_date) == (23, datetime(2026, 1, 5, 23, 30, tzinfo=JAKARTA))
    given = only(
        "examples: [{name: x, order: {created_date: 2026-01-05T23:30:00Z, list_price: null, quantity: 0,"
        " is_blacklisted: TRUE, seconds_since_last_order: ~, local_hour: 1}}]"
    ).row
    assert (given.list_price, given.is_blacklisted, given.seconds_since_last_order) == (None, True, None)
    assert given.local_hour == 1


def test_a_failure_names_actual_and_expected_rules() -> None:
    text = """
examples:
  - name: abroad
    order: {country: SG}
  - name: abroad, known
    order: {country: SG}
    fraud: [foreign_country]
  - name: at home
    fraud: [foreign_country, extreme_order]
    shadow: [rapid_orders]
"""
    assert [str(outcome) for outcome in run_examples(BOOK, parse_examples(text))] == [
        "FAILED  line 3: abroad: fraud is foreign_country, expected nothing",
        "passed  line 5: abroad, known",
        "FAILED  line 8: at home: fraud is nothing, expected extreme_order, foreign_country; shadow is"
        " nothing, expected rapid_orders",
    ]


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(ExampleError, match=r"line 1: x: .*rules.yml has no rule foreign; it has night_bulk"):
        run_examples(BOOK, parse_examples("examples: [{name: x, fraud: [foreign]}]"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "e.yml:1:1: the file must be a mapping with examples"),
        ("examples: []", "e.yml:1:11: `examples` must be a list of at least one example"),
        ("examples: [", "e.yml is not YAML"),
        ("exampels: []", "e.yml:1:1: unknown key 'exampels': the file has examples"),
        ("examples: [{order: {}}]", "e.yml:1:12: an example has no name"),
        ("examples: [{name: x, order: {amuont: 1}}]", "e.yml:1:30: unknown key 'amuont': an order has id,"),
        ("examples: [{name: x, order: {amount: 1, amount: 2}}]", "e.yml:1:41: amount occurs twice"),
        (
            "examples: [{name: x, order: {amount: 1.005}}]",
            "e.yml:1:38: amount must be a decimal, not '1.005'",
        ),
        ("examples: [{name: x, order: {amount: nan}}]", "amount must be a decimal, not 'nan'"),
        ("examples: [{name: x, order: {quantity: many}}]", "quantity must be an integer, not 'many'"),
        (
            "examples: [{name: x, order: {is_blacklisted: 1}}]",
            "is_blacklisted must be a boolean, not '1'",
        ),
        ("examples: [{name: x, order: {created_date: soon}}]", "created_date must be a time, not 'soon'"),
        ("examples: [{name: x, order: {quantity: null}}]", "quantity cannot be NULL"),
        ("examples: [{name: x, order: {quantity: [1]}}]", "quantity must be a single value"),
        ("examples: [{name: x, fraud: foreign_country}]", "fraud must be a list of rule names"),
    ],
)
def test_invalid_files_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ExampleError, match=re.escape(problem)):
        parse_examples(text, "e.yml")
