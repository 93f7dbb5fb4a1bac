"""The figures of a day, from rows made by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from ecommersss_platform.days import DAY
from ecommersss_platform.reconciliation import Comparison, Total
from ecommersss_platform.reports.page import lead
from ecommersss_platform.reports.usual import Standing
from ecommersss_platform_tests.support.report_rows import (
    DAY_OF_REPORT,
    NEXT_MORNING,
    report_figures,
    report_rows,
    rule,
    rule_totals,
    summary,
    without,
)

USUAL = report_rows()


def standings(**changed: object) -> dict[str, str]:
    return {number.name: str(number.standing) for number in report_figures(**changed).numbers}


def with_day(orders: int, flagged: int, **values: object) -> dict[str, object]:
    return {
        "summaries": {**USUAL.summaries, DAY_OF_REPORT: summary(DAY_OF_REPORT, orders, flagged, **values)}
    }


def test_a_usual_day_is_called_usual() -> None:
    assert set(standings().values()) == {"usual"}
    assert lead(report_figures()) == ["A usual day."]


def test_the_day_itself_is_no_part_of_its_usual_range() -> None:
    assert [number.usual.values for number in report_figures().numbers if number.usual] == [28] * 5


def test_numbers_outside_their_range_are_said_in_words() -> None:
    found = standings(**with_day(2_000, 90))
    assert found == {
        "Orders": "usual",
        "Value of all orders": "usual",
        "Flagged as fraud": "high",
        "Value flagged": "high",
        "Users flagged": "high",
    }
    sentences = lead(report_figures(**with_day(2_000, 90)))
    assert sentences[0].startswith("Flagged as fraud: high, 4.50 % (usually ")
    assert standings(**with_day(1_000, 10))["Orders"] == "low"


def test_what_the_weekday_explains_is_usual() -> None:
    """Three Wednesdays in four weeks had as many orders, so another one is nothing to look at."""
    busy = {day: summary(day, 5_000, 50) for day in (DAY_OF_REPORT - n * 7 * DAY for n in range(4))}
    found = report_figures(summaries={**USUAL.summaries, **busy})
    assert found.numbers[0].standing is Standing.USUAL
    assert found.numbers[0].usual is not None
    assert found.numbers[0].usual.standing(5_000) is Standing.HIGH
    assert standings(summaries={**USUAL.summaries, DAY_OF_REPORT: busy[DAY_OF_REPORT]})["Orders"] == "high"


def test_few_days_before_leave_the_range_unknown() -> None:
    figures = report_figures(report_rows(past=4))
    assert {number.standing for number in figures.numbers} == {Standing.UNKNOWN}
    assert lead(figures) == ["There are not enough earlier days yet to tell whether this one was usual."]


def test_today_compares_only_its_share() -> None:
    at_noon = datetime(2026, 11, 25, 5, 0, tzinfo=UTC)
    figures = report_figures(report_rows(loaded_at={DAY_OF_REPORT: at_noon}), at_noon)
    assert not figures.over
    assert [number.name for number in figures.numbers if number.usual] == ["Flagged as fraud"]
    assert lead(figures)[0] == "The day is not over: these are its orders up to 12:00."


@pytest.mark.parametrize("loaded", [True, False])
def test_an_empty_day_says_so(loaded: bool) -> None:
    changed = {
        "summaries": without(USUAL.summaries, DAY_OF_REPORT),
        "methods": {},
        "users": {},
        "products": {},
    }
    changed["loaded_at"] = USUAL.loaded_at if loaded else without(USUAL.loaded_at, DAY_OF_REPORT)
    changed["compared"] = Comparison({}, {}, {})
    figures = report_figures(**changed)
    assert (figures.numbers, figures.hours, figures.orders) == ([], [], 0)
    words = "There were no orders on this day." if loaded else "No orders were loaded for this day."
    assert lead(figures) == [words]


@pytest.mark.parametrize(("past", "shown"), [(28, 29), (40, 29), (10, 11), (3, 8)])
def test_trend_begins_with_the_first_orders(past: int, shown: int) -> None:
    trend = report_figures(report_rows(past=past)).trend
    assert (len(trend.days), len(trend.shares), trend.days[-1]) == (shown, shown, DAY_OF_REPORT)


def test_hours_are_compared_with_the_median_of_seven_days() -> None:
    hours = report_figures().hours
    assert [it.hour for it in hours] == list(range(24))
    assert (hours[5].orders, hours[5].flagged, hours[5].usual) == (80, 2, 2)
    alone = report_figures(hours={DAY_OF_REPORT: [{"hour": 3, "orders": 5, "flagged": 4}]}).hours
    assert (alone[3].flagged, alone[3].usual, alone[4].orders) == (4, None, 0)


def test_a_rule_that_stops_firing_is_still_shown() -> None:
    rules = {**USUAL.rules, DAY_OF_REPORT: [rule(DAY_OF_REPORT, "new_rule", 500)]}
    found = {it.name: it for it in report_figures(rules=rules).rules}
    assert found["wallet_limit"].flagged == 0
    assert found["wallet_limit"].usual is not None
    assert found["new_rule"].standing is Standing.HIGH
    many = {day: [rule(day, flagged=100)] for day in USUAL.rules} | {DAY_OF_REPORT: []}
    assert report_figures(rules=many).rules[0].standing is Standing.LOW
    assert lead(report_figures(rules=many)) == [
        "The totals are usual.",
        "Rule wallet_limit flagged 0 % of the orders, usually 3.54 to 6.46 %.",
    ]


def test_a_rule_that_was_promoted_is_compared_with_what_it_flagged_in_shadow() -> None:
    """Otherwise each promotion would be told twice: as a rule that begins, and as one that stops."""
    shadow = {day: [rule(day, mode="shadow")] for day in USUAL.rules}
    [promoted] = report_figures(rules={**shadow, DAY_OF_REPORT: [rule(DAY_OF_REPORT)]}).rules
    assert (promoted.mode, promoted.flagged, promoted.standing) == ("active", 10, Standing.USUAL)
    within_the_day = [rule(DAY_OF_REPORT, mode="shadow", flagged=4), rule(DAY_OF_REPORT, flagged=6)]
    found = report_figures(rules={**shadow, DAY_OF_REPORT: within_the_day}).rules
    assert [(it.mode, it.flagged, it.standing) for it in found] == [
        ("active", 6, Standing.USUAL),
        ("shadow", 4, Standing.USUAL),
    ]


def test_the_random_sample_is_as_large_as_the_book_says_and_never_unusual() -> None:
    sampled = {**USUAL.rules, DAY_OF_REPORT: [rule(DAY_OF_REPORT, "random_sample", 500, mode="review")]}
    found = {it.name: it for it in report_figures(rules=sampled).rules}
    assert (found["random_sample"].share, found["random_sample"].standing) == (0.25, Standing.UNKNOWN)


def test_a_rule_has_its_totals_once_it_was_judged() -> None:
    judged, shadow = report_figures(totals=[rule_totals()]).rules
    assert judged.totals == rule_totals()
    assert shadow.totals is None
    assert {it.totals for it in report_figures(totals=[rule_totals(precision=None)]).rules} == {None}
    assert judged.known == {"fraud": 29 * 2, "genuine": 29, "open": 29 * 7}


def test_active_rules_come_before_shadow_rules() -> None:
    assert [it.mode for it in report_figures().rules] == ["active", "shadow"]
    assert report_figures(rules={}).rules == []


def statements(**changed: object) -> list[tuple[str, bool]]:
    return [(it.text, it.good) for it in report_figures(**changed).trust]


def test_trust_says_that_the_totals_agree_and_when_they_were_loaded() -> None:
    assert statements() == [
        ("PostgreSQL, raw.orders and silver.fact_orders agree on 2,000 orders and Rp 2.00 bn.", True),
        ("Loaded at 26 Nov 2026, 03:02.", True),
    ]


def test_trust_says_what_does_not_agree() -> None:
    here, there = {DAY_OF_REPORT: Total(2_000, Decimal(5))}, {DAY_OF_REPORT: Total(1_999, Decimal(4))}
    [wrong, _] = statements(compared=Comparison(here, there, {}))
    assert wrong == (
        "The day does not reconcile. 2026-11-25: PostgreSQL has 2000 rows, 5 rupiah,"
        " the warehouse 1999 rows, 4 rupiah.",
        False,
    )
    [facts, _] = statements(compared=Comparison(there, there, {}))
    assert facts == ("raw.orders has 1,999 orders, silver.fact_orders 2,000.", False)


def test_trust_says_that_orders_came_since_the_load() -> None:
    compared = Comparison(USUAL.compared.source, USUAL.compared.target, {DAY_OF_REPORT: 14})
    assert statements(compared=compared)[1] == ("Loaded at 26 Nov 2026, 03:02; 14 orders came since.", False)
    during = report_figures(report_rows(compared=compared), NEXT_MORNING - timedelta(hours=10))
    assert [it.good for it in during.trust] == [True, True], "today's orders always come"


def test_trust_names_missing_days() -> None:
    loaded = without(USUAL.loaded_at, DAY_OF_REPORT - 2 * DAY)
    assert statements(loaded_at=loaded)[2] == ("Not loaded among the 28 days before: 23 Nov.", False)
    assert statements(loaded_at={}) == [("The orders of this day were never loaded.", False)]


def test_measures_are_the_figures_of_the_day_and_what_is_unknown_is_left_out() -> None:
    measures = report_figures().measures
    assert measures == {
        "orders": 2_000,
        "amount": float(USUAL.summaries[DAY_OF_REPORT]["total_amount"]),
        "flagged_percentage": 1.05,
        "flagged_amount": float(USUAL.summaries[DAY_OF_REPORT]["fraud_amount"]),
        "late_orders": 0,
        "differing_verdicts": 0,
        "rejected_lines": 3,
        "orders_to_review": 12,
        "amount_to_review": 34_500_000.0,
        "disputes_opened": 4,
        "disputes_lost_amount": 2_000_000.0,
    }
    assert "late_orders" not in report_figures(**with_day(2_000, 20, late_orders=None)).measures
