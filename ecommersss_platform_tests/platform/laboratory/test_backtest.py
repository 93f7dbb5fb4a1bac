"""Backtests on a small warehouse whose figures can be counted by hand, and what people see of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from dagster import DagsterInstance

from ecommersss_platform.days import Days
from ecommersss_platform.laboratory import backtest as module
from ecommersss_platform.laboratory.backtest import expected_share, run_backtest, stretches
from ecommersss_platform.laboratory.backtest_object import as_object
from ecommersss_platform.laboratory.backtest_result import Backtest, Sum
from ecommersss_platform.laboratory.backtest_tables import example_rows, summary
from ecommersss_platform.laboratory.intervals import usual_range, wilson
from ecommersss_platform.laboratory.kept_backtests import KEPT, keep_backtest, last_backtests
from ecommersss_platform.reports.backtests import backtests_before
from ecommersss_platform.resources import WAREHOUSE
from ecommersss_platform.rules_backtest import (
    BacktestConfig,
    asked_days,
    backtest_job,
    candidate_book,
)
from ecommersss_platform.warehouse import make_warehouse
from ecommersss_platform_tests.support.home import Home
from ecommersss_platform_tests.support.silver_tables import exemption, silver_order, write_silver
from streaming.errors import PlatformError
from streaming.rules import RULES_PATH, RuleBook

FIRST, SECOND, EMPTY = date(2026, 1, 5), date(2026, 1, 6), date(2026, 1, 7)
DAYS = Days.between(FIRST, EMPTY)
NOW = datetime(2026, 4, 1, tzinfo=UTC)
BOOK = """
rules:
  - {name: large, description: d, mode: active, when: amount >= 200}
  - {name: abroad, description: d, mode: active, when: country <> 'ID'}
  - {name: many, description: d, mode: shadow, when: quantity > 5}
  - {name: strange, description: d, mode: review, when: user_countries_24h > 1}
  - {name: asleep, description: d, mode: 'off', when: 'TRUE'}
"""
ORDERS = [
    # Fraud before and after: caught by both rules.
    silver_order(1, FIRST, amount=Decimal("200.00"), country="SG", fraud_reasons=["abroad"], label="fraud"),
    # Only before: by a rule that the candidate does not have. Genuine.
    silver_order(2, FIRST, fraud_reasons=["old"], shadow_reasons=["many"]),
    # Newly flagged: one right, one wrong, one whose label is not known yet.
    silver_order(3, FIRST, amount=Decimal("300.00"), label="fraud"),
    silver_order(4, FIRST, amount=Decimal("250.00"), quantity=6),
    silver_order(5, SECOND, amount=Decimal("220.00"), label="unknown", is_mature=False),
    # Would be flagged if the user were not exempt.
    silver_order(6, SECOND, user_id=7, country="SG", label="unknown", is_mature=False),
    # Fraud that no book catches.
    silver_order(7, FIRST, label="fraud"),
    # Waits for review: before by the sample and a rule, after by another rule.
    silver_order(8, FIRST, review_reasons=["random_sample"]),
    silver_order(
        *(9, SECOND),
        **{"review_reasons": ["old_review", "random_sample"], "user_countries_24h": 2},
        **{"label": "unknown", "is_mature": False},
    ),
    silver_order(10, SECOND, shadow_reasons=["many"], quantity=9, label="fraud", is_mature=False),
]
EXEMPT = exemption("abroad", 7, (1, None), NOW)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.settings.home.mkdir(mode=0o700)
    with duckdb.connect(str(home.settings.warehouse_path)) as connection:
        write_silver(connection, ORDERS, EXEMPT, loaded=[*DAYS])
    return home


@pytest.fixture
def result(home: Home) -> Backtest:
    return run_backtest(make_warehouse(home.settings), RuleBook.parse(BOOK), DAYS, NOW)


def orders_of(result: Backtest, rule: str | None = None) -> dict[str, Any]:
    change = result.book if rule is None else {it.name: it.change for it in result.rules}[rule]
    return {
        "newly": sorted(it.order for it in change.newly),
        "no longer": sorted(it.order for it in change.no_longer),
        "before": change.before.flagged.orders,
        "after": change.after.flagged.orders,
    }


def test_backtest_counts_what_changes_for_the_book_and_for_each_rule(result: Backtest) -> None:
    assert orders_of(result) == {"newly": [3, 4, 5], "no longer": [2], "before": 2, "after": 4}
    assert result.book.newly_flagged == Sum(3, Decimal("770.00"))
    assert result.book.no_longer_flagged == Sum(1, Decimal("100.00"))
    assert result.total == Sum(10, Decimal("1570.00"))
    assert [(it.name, it.mode) for it in result.rules] == [
        *(("large", "active"), ("abroad", "active"), ("many", "shadow"), ("strange", "review")),
        *(("asleep", "off"), ("old", "removed"), ("old_review", "removed")),
    ]
    assert orders_of(result, "large") == {"newly": [1, 3, 4, 5], "no longer": [], "before": 0, "after": 4}
    assert orders_of(result, "abroad") == {"newly": [], "no longer": [], "before": 1, "after": 1}
    assert orders_of(result, "many") == {"newly": [4], "no longer": [2], "before": 2, "after": 2}
    assert orders_of(result, "strange") == {"newly": [9], "no longer": [], "before": 0, "after": 1}
    assert orders_of(result, "asleep") == {"newly": [], "no longer": [], "before": 0, "after": 0}
    assert orders_of(result, "old") == {"newly": [], "no longer": [2], "before": 1, "after": 0}
    # The random sample is no rule, and what it alone picks waits for no rule.
    assert (result.review_before, result.review_after) == (1, 1)


def test_backtest_says_what_only_one_rule_catches_and_who_is_exempt(result: Backtest) -> None:
    """A shadow rule is alone only if no active rule holds either."""
    assert {it.name: it.only.orders for it in result.rules if it.only.orders} == {
        **{"large": 3, "many": 1, "strange": 1}
    }
    assert {it.name: it.exempted for it in result.rules if it.exempted.orders} == {
        "abroad": Sum(1, Decimal("100.00"))
    }


def test_backtest_is_judged_by_labels_and_by_mature_days_only(result: Backtest) -> None:
    before, after = result.book.before, result.book.after
    assert (before.fraud_caught.orders, before.fraud_missed.orders, before.genuine_flagged.orders) == (
        1,
        3,
        1,
    )
    assert (after.fraud_caught.orders, after.fraud_missed.orders, after.genuine_flagged.orders) == (2, 2, 1)
    assert after.fraud_caught.amount == Decimal("500.00")
    assert after.fraud_missed.amount == Decimal("200.00")
    assert (before.unlabelled, after.unlabelled) == (0, 1)
    # Orders 5, 6, 9 and 10 are of a day whose labels are not complete.
    assert (after.precision.successes, after.precision.trials) == (2, 3)
    assert (after.recall.successes, after.recall.trials) == (2, 3)
    assert result.mature.orders == 6


def test_share_of_a_day_is_a_range_of_the_days_and_no_narrower_than_all_days_tell(result: Backtest) -> None:
    """Of 6 and 4 orders on two days 3 and 1 are flagged; the day without orders counts as none."""
    assert result.book.daily_shares == {FIRST: (2 / 6, 3 / 6), SECOND: (0.0, 1 / 4)}
    low, high = usual_range([3 / 6, 1 / 4]) or (0, 0)
    assert (low, high) == (pytest.approx(0.2625), pytest.approx(0.4875))
    ends = wilson(4, 10)
    assert ends is not None
    assert expected_share(result, "large") == (round(min(low, ends[0]), 6), round(max(high, ends[1]), 6))
    assert expected_share(result, "asleep") == (0.0, round((wilson(0, 10) or (0, 0))[1], 6))
    with pytest.raises(KeyError):
        expected_share(result, "unknown")


def test_wilson_interval_is_that_of_the_literature() -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion", 1998, Table I, method 3."""
    for successes, trials, low, high in (
        *((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)),
        *((0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)),
    ):
        assert wilson(successes, trials) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert wilson(0, 0) is None


def test_examples_show_the_values_of_the_columns_that_matter(result: Backtest) -> None:
    [removed] = result.book.no_longer
    assert (removed.order, removed.label, removed.before, removed.after) == (
        2,
        "genuine",
        ["old", "many"],
        [],
    )
    assert removed.values == {"quantity": 1}
    newly = {it.order: it for it in result.book.newly}
    assert list(newly) == [3, 4, 5], "the largest come first"
    assert newly[4].values == {"amount": Decimal("250.00"), "quantity": 6}
    assert newly[4].after == ["large", "many"]
    large = next(it for it in result.rules if it.name == "large")
    assert large.change.newly[0].values == {"amount": Decimal("300.00")}


def test_examples_of_a_promoted_rule_have_its_values(home: Home) -> None:
    """It held before and holds after: what changes is its mode."""
    promoted = RuleBook.parse(BOOK.replace("mode: shadow", "mode: active"))
    result = run_backtest(make_warehouse(home.settings), promoted, DAYS, NOW)
    newly = {it.order: it for it in result.book.newly}
    assert newly[10].before == newly[10].after == ["many"]
    assert newly[10].values == {"quantity": 9}
    shown = {row["order"]: row["values"] for row in example_rows(result)}
    assert shown[10] == "quantity = 9"


def test_at_most_ten_examples_of_a_change_are_shown(home: Home) -> None:
    orders = [silver_order(n, FIRST, amount=Decimal(n)) for n in range(1, 31)]
    with duckdb.connect(str(home.settings.warehouse_path)) as connection:
        write_silver(connection, orders)
    book = RuleBook.parse("rules: [{name: all, description: d, mode: active, when: 'TRUE'}]")
    result = run_backtest(make_warehouse(home.settings), book, Days.between(FIRST, FIRST), NOW)
    assert [it.order for it in result.book.newly] == [*range(30, 20, -1)]
    assert [it.order for it in result.rules[0].change.newly] == [*range(30, 20, -1)]
    assert result.rules[0].only == Sum(30, Decimal(465))


def test_days_are_read_in_stretches_that_fit_into_memory(
    home: Home, result: Backtest, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = EMPTY + timedelta(days=1)
    counts = {FIRST: 200_000, SECOND: 100_000, large: 400_000}
    found = [(it.first, it.last) for it in stretches(Days.between(FIRST, large), counts)]
    assert found == [(FIRST, EMPTY), (large, large)]
    monkeypatch.setattr(module, "MOST_ORDERS", 1)
    again = run_backtest(make_warehouse(home.settings), result.candidate, DAYS, NOW)
    assert as_object(again) == as_object(result)


def test_backtest_of_a_book_without_any_change(home: Home) -> None:
    with duckdb.connect(str(home.settings.warehouse_path)) as connection:
        write_silver(connection, ORDERS[6:8])
    result = run_backtest(
        make_warehouse(home.settings), RuleBook.load(RULES_PATH), Days.between(FIRST, FIRST), NOW
    )
    assert orders_of(result) == {"newly": [], "no longer": [], "before": 0, "after": 0}
    assert result.book.after.precision.value is None


def test_days_without_orders_or_features_are_refused_by_name(home: Home) -> None:
    """A day that was loaded and has no orders is no gap."""
    warehouse, book = make_warehouse(home.settings), RuleBook.parse(BOOK)
    days = Days.between(FIRST - timedelta(days=2), EMPTY + timedelta(days=1))
    with pytest.raises(PlatformError, match="3 of the 6 days") as refused:
        run_backtest(warehouse, book, days, NOW)
    assert "2026-01-03 to 2026-01-04, 2026-01-08" in str(refused.value)
    assert "`ecommersss materialize --from 2026-01-03 --to 2026-01-04`" in str(refused.value)
    with duckdb.connect(str(home.settings.warehouse_path)) as connection:
        connection.execute("DELETE FROM silver.order_features WHERE order_id = 10")
    with pytest.raises(PlatformError, match=r"1 of the 3 days .*: 2026-01-06\."):
        run_backtest(warehouse, book, DAYS, NOW)


def test_the_last_backtests_are_kept_for_the_reports(result: Backtest, tmp_path: Path) -> None:
    for n in range(KEPT + 3):
        keep_backtest(tmp_path, replace(result, made_at=NOW + timedelta(seconds=n)))
    (tmp_path / "backtests" / "20990101T000000000000-torn.json").write_text("{")
    kept = last_backtests(tmp_path)
    assert [it["made_at"] for it in kept[:2]] == ["2026-04-01T00:00:22Z", "2026-04-01T00:00:21Z"]
    assert len(kept) == KEPT
    assert kept[0]["book"]["flagged_after"] == 4
    assert kept[0]["from"] == "2026-01-05"
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "backtests").glob("2026*")} == {0o600}
    assert last_backtests(tmp_path / "nowhere") == []
    shown = backtests_before(kept, NOW + timedelta(seconds=22))
    assert [it.made_at for it in shown] == [NOW + timedelta(seconds=n) for n in (21, 20, 19, 18, 17)]
    assert (shown[0].first, shown[0].last, shown[0].flagged_after) == (FIRST, FIRST + timedelta(days=2), 4)
    assert (shown[0].newly_flagged, shown[0].newly_flagged_amount) == (3, Decimal(770))


def command(home: Home, *options: str) -> str:
    candidate = home.files / "candidate.yml"
    candidate.write_text(BOOK)
    days = ("--from", str(FIRST), "--to", str(EMPTY))
    return home.call("rules", "backtest", str(candidate), *days, *options).stdout


def test_command_writes_json(home: Home) -> None:
    found = json.loads(command(home, "--format", "json"))
    book = found["book"]
    assert [
        book[name] for name in ("flagged_before", "flagged_after", "newly_flagged", "no_longer_flagged")
    ] == [*(2, 4, 3, 1)]
    assert (found["orders"], found["amount"], found["mature_orders"]) == (10, 1570.0, 6)
    assert found["labels"] == {"fraud": 4, "genuine": 3, "unknown": 3}
    assert book["after"] == {
        **{"fraud_caught": 2, "fraud_caught_amount": 500.0, "fraud_missed": 2, "fraud_missed_amount": 200.0},
        **{"genuine_flagged": 1, "genuine_flagged_amount": 250.0, "unlabelled": 1},
        **{"precision": 0.6667, "precision_low": 0.2077, "precision_high": 0.9385},
        **{"recall": 0.6667, "recall_low": 0.2077, "recall_high": 0.9385},
    }
    rules = {rule["name"]: rule for rule in found["rules"]}
    assert (rules["large"]["when"], rules["large"]["only_this_rule"]) == ("amount >= 200", 3)
    assert (rules["old"]["mode"], rules["old"]["when"]) == ("removed", None)
    assert rules["abroad"]["exempted"] == 1
    assert [it["order"] for it in rules["large"]["examples"]["newly_flagged"]] == [3, 4, 5, 1]
    assert last_backtests(home.settings.home)[0]["candidate"] == found["candidate"]


def test_command_prints_tables(home: Home) -> None:
    text = command(home)
    assert "on 2026-01-05 to 2026-01-07: 10 orders, Rp 1.57 k" in text
    assert "3 orders (Rp 770) newly flagged, 1 order (Rp 100) no longer" in text
    assert "precision and recall are not known" not in text
    assert re.search(r"large +│ active", text)
    assert re.search(
        r"the book: no longer flagged +│ +2 │ 2026-01-05 │ +100.00 │ genuine │ quantity = 1", text
    )


def test_command_writes_a_page_that_needs_no_other_file(home: Home) -> None:
    page = home.files / "page.html"
    assert command(home, "--format", "html", "--output", str(page)) == ""
    html = page.read_text()
    assert "<h1><bdi>candidate.yml</bdi></h1>" in html
    assert html.count("<svg") == 1
    assert not re.findall(r"""(?:src|href)=|url\(|@import|https?://(?!www\.w3\.org)""", html)
    assert "style=" not in re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL), "the policy forbids it"
    assert '<span class="usually">1 order exempt</span>' in html


def job_metadata(home: Home, candidate: str, first: date = FIRST) -> dict[str, Any]:
    job = backtest_job("duckdb", home.settings)
    config = {"candidate": candidate, "first_day": str(first), "last_day": str(EMPTY)}
    with DagsterInstance.ephemeral() as instance:
        done = job.execute_in_process(
            run_config={"ops": {"backtest_rules": {"config": config}}},
            resources={WAREHOUSE: make_warehouse(home.settings)},
            instance=instance,
        )
    [output] = [it for it in done.events_for_node("backtest_rules") if it.is_successful_output]
    return {name: it.value for name, it in output.step_output_data.metadata.items()}


def test_job_shows_the_backtest_as_metadata(home: Home) -> None:
    metadata = job_metadata(home, BOOK)
    assert (metadata["flagged_before"], metadata["flagged_after"], metadata["newly_flagged"]) == (2, 4, 3)
    assert "| large | active | 0 | 4 | 4 | 0 | 3 | 0 |" in metadata["rules"]
    assert "| fraud missed | 3 | 2 |" in metadata["book"]
    assert Path(metadata["path"]).parent == home.settings.home / "backtests"


def test_job_of_a_book_that_changes_nothing_has_no_examples(home: Home) -> None:
    metadata = job_metadata(home, BOOK, EMPTY)
    assert (metadata["newly_flagged"], metadata["no_longer_flagged"]) == (0, 0)
    assert metadata["examples"] == "no rows"


def test_summary_says_why_precision_and_recall_are_missing(home: Home) -> None:
    young = run_backtest(
        make_warehouse(home.settings), RuleBook.parse(BOOK), Days.between(SECOND, SECOND), NOW
    )
    assert young.mature.orders == 0
    assert summary(young).endswith("labels to be complete: precision and recall are not known.")


def test_launchpad_begins_with_the_choices(home: Home) -> None:
    job = backtest_job("duckdb", home.settings)
    assert job.run_config == {
        "ops": {"backtest_rules": {"config": dict.fromkeys(("candidate", "first_day", "last_day"), "")}}
    }


def test_job_takes_a_text_a_file_or_the_platforms_book(tmp_path: Path) -> None:
    assert candidate_book(BOOK, RULES_PATH).text == BOOK
    path = tmp_path / "candidate.yml"
    path.write_text(BOOK)
    assert candidate_book(str(path), RULES_PATH).name == str(path)
    assert candidate_book(None, RULES_PATH).name == str(RULES_PATH)
    with pytest.raises(PlatformError, match="cannot be read"):
        candidate_book("no-such.yml", RULES_PATH)


def test_job_takes_the_days_before_today_or_those_asked_for() -> None:
    today = date(2026, 3, 1)
    assert asked_days(BacktestConfig(), today) == Days.between(date(2026, 2, 1), date(2026, 2, 28))
    asked = BacktestConfig(first_day="2026-01-05", last_day="2026-01-07")
    assert asked_days(asked, today) == DAYS
    with pytest.raises(PlatformError, match="first_day: '5 January' is not a day: write YYYY-MM-DD"):
        asked_days(BacktestConfig(first_day="5 January"), today)
    with pytest.raises(PlatformError, match="swap them"):
        asked_days(BacktestConfig(first_day="2026-02-02", last_day="2026-02-01"), today)
