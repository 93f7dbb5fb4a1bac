"""`ecommersss rules promote`: the rule book's file after a promotion, and what refuses one."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner, Result

from ecommersss_platform.cli import app as cli
from ecommersss_platform.cli import promotion
from ecommersss_platform.cli.days import business_today
from ecommersss_platform.laboratory.kept_backtests import last_backtests
from ecommersss_platform.laboratory.promotion import replace_book
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.shop import execute
from ecommersss_platform_tests.support.silver_tables import silver_order, write_silver
from streaming.errors import PlatformError
from streaming.rules import RuleBook

BOOK = """\
# Ours.
rules:
  - name: a
    description: d
    mode: shadow  # until May
    when: quantity > 3
  - {name: b, description: d, mode: active, when: quantity > 5}
"""
Run = Callable[..., Result]


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "rules.yml"
    path.write_text(BOOK)
    path.chmod(0o644)
    monkeypatch.setenv("ECOMMERSSS_RULES", str(path))
    monkeypatch.setenv("ECOMMERSSS_HOME", str(tmp_path / "home"))
    return path


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[date, date]]]:
    """The modes of rule `a` and the days that were backtested, each with the share 0.1 % to 0.4 %."""
    calls: list[tuple[str, tuple[date, date]]] = []

    def tried(
        settings: Any, candidate: RuleBook, rule: str, days: tuple[date, date], now: datetime
    ) -> tuple[float, float]:
        calls.append((candidate.rule("a").mode, days))
        return 0.001, 0.004

    monkeypatch.setattr(promotion, "_tried", tried)
    return calls


def run(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(cli.app, ["rules", "promote", *arguments], input=answer)


def test_a_promotion_writes_mode_share_author_time_and_reason(
    rules: Path, tried: list[tuple[str, tuple[date, date]]]
) -> None:
    result = run("a", "--to", "active", "--because", "41 of 44 were fraud", "--by", "siti", "--yes")
    assert result.exit_code == 0, result.output
    yesterday = business_today() - timedelta(days=1)
    assert [mode for mode, _ in tried] == ["active"]
    assert tried[0][1][1] == yesterday
    text = rules.read_text()
    instant = re.search(r'promoted_at: "(.*)"', text)
    assert instant
    assert abs(datetime.fromisoformat(instant[1]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert text == BOOK.replace(
        "mode: shadow  # until May\n",
        "mode: active  # until May\n"
        "    expected_share: [0.001, 0.004]\n"
        '    promoted_by: "siti"\n'
        f'    promoted_at: "{instant[1]}"\n'
        '    promoted_because: "41 of 44 were fraud"\n',
    )
    assert stat.S_IMODE(rules.stat().st_mode) == 0o644, "other accounts can still read it"
    assert f"The rule a is active in version {RuleBook.load(rules).version}" in result.output
    assert "Expected share of the orders: 0.1000% to 0.4000%." in result.output


def test_the_greatest_share_and_the_days_can_be_given(
    rules: Path, tried: list[tuple[str, tuple[date, date]]]
) -> None:
    days = ("--from", "2026-03-01", "--to-day", "2026-03-31")
    assert run("a", "--to", "review", *days, "--at-most", "0.05", "--yes").exit_code == 0
    assert tried == [("review", (date(2026, 3, 1), date(2026, 3, 31)))]
    assert RuleBook.load(rules).rule("a").expected_share == (0.001, 0.05)


DAY = date(2026, 3, 2)
ON_THE_DAY = ("--from", f"{DAY}", "--to-day", f"{DAY}", "--yes")


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    """A home with 100 orders at 10:00, three of them of quantity 4, and 100 at 2:00, 20 of them so."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    orders = [silver_order(n, DAY, quantity=4 if n <= 3 else 1) for n in range(1, 101)]
    orders += [silver_order(n, DAY, local_hour=2, quantity=4 if n > 180 else 1) for n in range(101, 201)]
    with duckdb.connect(str(Settings(home=home).warehouse_path)) as connection:
        write_silver(connection, orders, [], loaded=[DAY])
    return home


def test_a_rule_about_the_hour_is_expected_to_hold_as_in_its_busiest_hour(
    rules: Path, warehouse: Path
) -> None:
    rules.write_text(BOOK.replace("quantity > 3", "local_hour < 5 AND quantity > 3"))
    result = run("a", "--to", "review", *ON_THE_DAY)
    assert result.exit_code == 0, result.output
    assert "at its busiest it holds for 20.0000%" in result.output
    expected = RuleBook.load(rules).rule("a").expected_share
    assert expected
    assert expected[1] == 0.2


def test_the_backtest_gives_the_expected_share_and_shows_what_changes(rules: Path, warehouse: Path) -> None:
    result = run("a", "--to", "active", *ON_THE_DAY)
    assert result.exit_code == 0, result.output
    promoted = RuleBook.load(rules).rule("a")
    assert promoted.expected_share == pytest.approx((0.0779, 0.1666), abs=1e-4), "of 23 in 200, by Wilson"
    assert "on 2026-03-02: 200 orders" in result.output
    assert "23 orders (Rp 2.30 k) newly flagged" in result.output
    assert len(last_backtests(warehouse)) == 1, "it is kept like any other"


def test_shadow_and_off_need_no_backtest_and_no_expected_share(
    rules: Path, tried: list[tuple[str, tuple[date, date]]]
) -> None:
    assert run("a", "--to", "active", "--yes").exit_code == 0
    tried.clear()
    assert run("a", "--to", "off", "--by", "budi", "--yes").exit_code == 0
    rule = RuleBook.load(rules).rule("a")
    assert (rule.mode, rule.expected_share, rule.promoted_by) == ("off", None, "budi")
    assert tried == []


def test_without_a_terminal_it_asks_for_yes_and_a_no_changes_nothing(
    rules: Path, tried: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "there is no terminal to ask on: add --yes" in run("a", "--to", "off").output
    monkeypatch.setattr(promotion, "_asks", lambda: True)
    assert run("a", "--to", "off", answer="n\n").exit_code == 1
    assert rules.read_text() == BOOK
    assert run("a", "--to", "off", answer="y\n").exit_code == 0
    assert RuleBook.load(rules).rule("a").mode == "off"


def test_a_file_that_changed_meanwhile_is_not_replaced(
    rules: Path, tried: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed_meanwhile(*_: Any) -> tuple[float, float]:
        rules.write_text(BOOK + "# mine\n")
        return 0.001, 0.004

    monkeypatch.setattr(promotion, "_tried", changed_meanwhile)
    result = run("a", "--to", "active", "--yes")
    assert isinstance(result.exception, PlatformError)
    assert "was changed meanwhile, and nothing was written" in str(result.exception)
    assert rules.read_text() == BOOK + "# mine\n"


def test_an_unknown_rule_and_a_file_that_cannot_be_replaced_are_refused(rules: Path, tmp_path: Path) -> None:
    result = run("c", "--to", "off", "--yes")
    assert isinstance(result.exception, PlatformError)
    assert "has no rule 'c'" in str(result.exception)
    link = tmp_path / "link.yml"
    link.symlink_to(rules)
    replace_book(link, BOOK.encode(), BOOK + "#\n")
    assert (link.is_symlink(), rules.read_text()) == (True, BOOK + "#\n")
    with pytest.raises(
        PlatformError, match=r"gone.yml cannot be replaced: No such file .* Nothing was changed"
    ):
        replace_book(tmp_path / "gone.yml", b"", "")


@pytest.mark.integration
def test_an_override_is_mentioned(
    rules: Path, tried: list[Any], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOMMERSSS_DATABASE_URL", database)
    execute(
        database,
        "INSERT INTO rule_overrides (rule, mode, expected_low, expected_high, orders, held, rules_version)"
        " VALUES ('a', 'active', 0, 0.1, 100, 90, 'v')",
    )
    shown = run("a", "--to", "active", "--yes").output
    assert "The brake still holds it back: rule a is in shadow instead of active since" in shown
    assert "`ecommersss rules overrides lift a --reason" in shown
    assert "holds it back" not in run("a", "--to", "off", "--yes").output
