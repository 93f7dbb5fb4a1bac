"""Warnings about rules: what can never hold, what always holds, and text in double quotes."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecommersss_platform_tests.support.rules import row, rule
from streaming.rules import FEATURES, RULES_PATH, RuleBook, RuleError
from streaming.rules.lint import warnings


@pytest.mark.parametrize(
    ("when", "warning"),
    [
        ("local_hour BETWEEN 22 AND 4", "can never hold: BETWEEN needs the lower value first, or write"),
        ("local_hour = 24", "local_hour = 24 can never hold: local_hour is at least 0 and at most 23"),
        ("local_hour = 24 AND amount > 5", "local_hour = 24 can never hold"),
        ("local_hour > 22 AND amount > 5 AND local_hour < 5", "local_hour > 22 AND local_hour < 5 can never"),
        (
            "local_hour < 22 OR amount > 5 OR local_hour > 5",
            "local_hour < 22 OR local_hour > 5 holds for every",
        ),
        ("local_hour IN (22, 23, 24)", "local_hour = 24 can never hold"),
        ("local_hour * 2 = 47", "local_hour * 2 = 47 can never hold"),
        ("country = 'id'", "country = 'id' can never hold: country is two upper-case letters"),
        ("country <> 'id'", "country <> 'id' holds for every order"),
        ("country IN ('ID', 'sg')", "country = 'sg' can never hold"),
        ("country NOT IN ('id', 'sg')", "country IN ('id', 'sg') can never hold"),
        ("country LIKE 'i%'", "country LIKE 'i%' can never hold"),
        ("UPPER(country) = 'id'", "UPPER(country) = 'id' can never hold"),
        ("amount < 0", "amount < 0 can never hold: amount is at least 0"),
        ("amount > 5 AND amount < 5.01", "can never hold"),
        ("quantity = 2.5", "quantity = 2.5 can never hold"),
        ("user_orders_24h >= 1", "holds for every order whose user_orders_24h is not NULL"),
        ("amount IS NULL", "amount IS NULL can never hold"),
        ("payment_method = 'OVO' AND payment_method = 'DANA'", "payment_method is one text"),
        ('country = "country"', '"country" in double quotes is the column country'),
    ],
)
def test_a_doubtful_rule_has_a_warning(when: str, warning: str) -> None:
    assert any(warning in found for found in warnings(rule(when))), warnings(rule(when))


@pytest.mark.parametrize(
    "when",
    [
        "local_hour >= 22 OR local_hour < 5",
        "local_hour BETWEEN 4 AND 22",
        "LOWER(country) = 'id'",
        "amount > 5 AND amount < 5.02",
        "NOT is_blacklisted",
        "seconds_since_last_order IS NULL",
        "user_age_days < -5",
        "payment_method LIKE 'x%'",
        "created_date > TIMESTAMPTZ '2026-01-01 00:00:00+07:00'",
        "TRUE",
    ],
)
def test_a_sensible_rule_has_no_warning(when: str) -> None:
    assert warnings(rule(when)) == []


def test_the_shipped_rules_have_no_warnings() -> None:
    assert [warnings(shipped) for shipped in RuleBook.load(RULES_PATH).rules if warnings(shipped)] == []


def test_text_in_double_quotes_is_refused_with_a_hint() -> None:
    with pytest.raises(RuleError, match="unknown column ID: Text is written in single quotes: 'ID'"):
        rule('country = "ID"')


NUMBERS = ["quantity", "amount", "user_age_days", "user_orders_10m", "local_hour"]
ATOMS = st.builds(
    "{} {} {}".format,
    st.shared(st.sampled_from(NUMBERS), key="column"),
    st.sampled_from(["=", "<>", "<", "<=", ">", ">="]),
    st.sampled_from(["0", "1", "2", "-1", "0.5", "23", "24", "1.005"]),
)


@given(
    st.shared(st.sampled_from(NUMBERS), key="column"),
    st.lists(ATOMS, min_size=1, max_size=3),
    st.sampled_from([" AND ", " OR "]),
)
@settings(max_examples=200, deadline=None)
def test_a_warning_is_never_wrong(column: str, atoms: list[str], word: str) -> None:
    feature = FEATURES[column]
    step = 1 if feature.type.scale else 4
    quarters = range(-12 if feature.least is None else 4 * int(feature.least), 120, step)
    values = [Decimal(n) / 4 for n in quarters if feature.most is None or n <= 4 * feature.most]
    for warning in warnings(rule(word.join(f"({atom})" for atom in atoms))):
        part, never, _ = warning.partition(" can never hold")
        part = part.partition(" holds for every order")[0]
        blamed = rule(part)
        results = {blamed.result(row(**{column: value})) for value in values}
        assert bool(never) not in results
