"""The brake's test, probations, and the book with overrides."""

from __future__ import annotations

from datetime import UTC, datetime
from math import exp, fsum, lgamma, log, log1p

import pytest

from ecommersss_platform_tests.support.rules import row
from ecommersss_platform_tests.support.shop import flagged
from streaming.rules import RuleBook
from streaming.rules.book import MAX_BYTES
from streaming.rules.brake import (
    LEAST_HELD,
    PROBATION_ORDERS,
    Override,
    count,
    held_too_often,
    overridden,
    probations,
)

SHARES = (0.001, 0.01, 0.1)
TEXT = """\
# Our rules.
rules:
  - name: a
    description: d
    mode: active  # since May
    expected_share: [0.001, 0.01]
    promoted_at: "2026-05-01T10:00:00+07:00"
    when: quantity = 4
  - {name: b, description: d, mode: review, expected_share: [0, 1], when: quantity = 4}
  - {name: c, description: d, mode: shadow, expected_share: [0, 1], when: quantity = 4}
  - {name: d, description: d, mode: active, when: quantity = 4}
"""
PULLED = Override("a", "active", (0.001, 0.01), 200, 104, datetime(2026, 5, 1, 3, tzinfo=UTC))


def least_held(orders: int, high: float, start: int = 0) -> int | None:
    """The least number of held orders that pulls a rule."""
    held = max(start, 0)
    while held <= orders and not held_too_often(held, orders, high):
        held += 1
    return held if held <= orders else None


@pytest.mark.parametrize("high", SHARES)
@pytest.mark.parametrize("orders", [20, 200, 1_000, 10_000])
def test_one_look_pulls_a_good_rule_less_than_once_in_a_million(high: float, orders: int) -> None:
    held = least_held(orders, high)
    assert held is not None
    tail = fsum(
        exp(
            lgamma(orders + 1)
            - lgamma(k + 1)
            - lgamma(orders - k + 1)
            + k * log(high)
            + (orders - k) * log1p(-high)
        )
        for k in range(held, orders)
    )
    assert tail < 1e-6


@pytest.mark.parametrize("high", [0.001, 0.01])
def test_a_whole_probation_pulls_a_good_rule_less_than_once_in_100_000(high: float) -> None:
    """The exact probability for a rule that holds with the greatest expected share, looked at each order."""
    held_by = [1.0]  # held_by[k]: the probability of k orders held and no pull
    limit, pulled = 0, 0.0
    for orders in range(1, PROBATION_ORDERS + 1):
        after = [p * (1 - high) for p in held_by] + [0.0]
        for k, p in enumerate(held_by, 1):
            after[k] += p * high
        found = least_held(orders, high, limit)
        limit = limit if found is None else found
        if found is not None:
            pulled += sum(after[limit:])
            after = after[:limit]
        held_by = after
    assert 0 < pulled < 1e-5


def test_a_rule_that_holds_far_too_often_is_pulled_within_a_few_hundred_orders() -> None:
    for high, orders in {0.0: 40, 0.001: 40, 0.01: 40, 0.1: 40, 0.3: 200, 0.4: 800}.items():
        assert held_too_often(orders // 2, orders, high), high
    assert held_too_often(20, 20, 0.1)
    assert not held_too_often(LEAST_HELD - 1, 25, 0.0001), "one customer may place that many"
    assert not held_too_often(100, 10_000, 0.01), "as often as expected"
    assert not held_too_often(110, 10_000, 0.01), "a little more often"
    assert held_too_often(200, 10_000, 0.01), "twice as often"
    assert not held_too_often(1_000, 1_000, 1.0)


def test_a_probation_is_one_promotion_of_one_condition() -> None:
    book = RuleBook.parse(TEXT)
    first, second = probations(book)
    assert (first.rule, first.mode, first.expected_share) == ("a", "active", (0.001, 0.01))
    assert (second.rule, second.mode) == ("b", "review")
    assert probations(RuleBook.parse(TEXT.replace("since May", "since June")))[0].id == first.id
    for old, new in (
        ("quantity = 4\n  - {name: b", "quantity > 4\n  - {name: b"),
        ("[0.001, 0.01]", "[0.001, 0.02]"),
        ("2026-05-01", "2026-05-02"),
        ("mode: active  #", "mode: review  #"),
    ):
        assert probations(RuleBook.parse(TEXT.replace(old, new)))[0].id != first.id, new


def test_counting_looks_at_the_reasons_of_the_rules_mode() -> None:
    running = probations(RuleBook.parse(TEXT))
    orders = [
        flagged(1, fraud_reasons=["a", "b"]),
        flagged(2, review_reasons=["b"]),
        flagged(3, fraud_reasons=["d"], shadow_reasons=["a"]),
    ]
    assert [(c.probation.rule, c.orders, c.held) for c in count(orders, running)] == [
        ("a", 3, 1),
        ("b", 3, 1),
    ]
    assert count([], running) == []
    assert count(orders, ()) == []


def test_an_overridden_rule_is_in_shadow_and_the_text_says_why() -> None:
    book = RuleBook.parse(TEXT, "rules.yml")
    changed = overridden(book, [PULLED])
    assert changed.text == (
        "# rule a is in shadow instead of active since 2026-05-01T10:00:00+07:00: it held for 104 of"
        " its first 200 orders (52.00%), and at most 1.00% were expected.\n"
        + TEXT.replace("mode: active  # since May", "mode: shadow  # since May")
    )
    assert changed.evaluate(row()) == (["d"], ["a", "c"], ["b"])
    parsed = RuleBook.parse(changed.text)
    assert parsed.version == changed.version != book.version
    assert [(r.name, r.mode) for r in parsed.rules] == [(r.name, r.mode) for r in changed.rules]
    assert probations(changed) == probations(book)[1:]


def test_an_override_does_not_parse_the_book_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """That could take seconds, in which the stream would stand still."""
    book = RuleBook.parse(TEXT)

    def parsed(*_: object) -> None:
        raise AssertionError("parsed again")

    for name in ("streaming.rules.book.compose", "streaming.rules.edit.compose"):
        monkeypatch.setattr(name, parsed)
    assert overridden(book, [PULLED]).rule("a").mode == "shadow"


def test_an_override_of_a_rule_that_does_not_decide_changes_nothing() -> None:
    book = RuleBook.parse(TEXT)
    for rule in ("c", "gone"):
        assert overridden(book, [Override(rule, "active", (0, 0.1), 100, 90, PULLED.pulled_at)]) is book
    assert overridden(book, []) is book


def test_the_text_of_an_overridden_book_is_a_book() -> None:
    windows = RuleBook.parse("\ufeff" + TEXT.replace("\n", "\r\n"))
    changed = RuleBook.parse(overridden(windows, [PULLED]).text)
    assert [r.mode for r in changed.rules] == ["shadow", "review", "shadow", "active"]
    assert "\n" not in changed.text.replace("\r\n", "")
    long = RuleBook.parse(TEXT + "#" * (MAX_BYTES - len(TEXT)))
    without_comment = overridden(long, [PULLED])
    assert RuleBook.parse(without_comment.text).rules[0].mode == "shadow"
    assert len(without_comment.text) == MAX_BYTES
