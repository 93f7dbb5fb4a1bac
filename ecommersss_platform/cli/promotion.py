"""`ecommersss rules promote`: a rule gets another mode in the platform's rule book."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ecommersss_platform.cli.common import ByOption, account, open_database, read_settings
from ecommersss_platform.cli.days import FromOption, LastOption, ToDayOption, business_today, days_to_do
from ecommersss_platform.cli.output import print_rows
from streaming.business_days import JAKARTA

if TYPE_CHECKING:
    from datetime import date

    from ecommersss_platform.laboratory.backtest_result import Backtest
    from ecommersss_platform.settings import Settings
    from streaming.rules import RuleBook
    from streaming.rules.brake import Override

_DAYS = 30
"""How many closed days a promotion is tried on by default."""


class NewMode(StrEnum):
    ACTIVE = "active"
    REVIEW = "review"
    SHADOW = "shadow"
    OFF = "off"


def promote(
    rule: Annotated[str, typer.Argument(help="the rule's name")],
    mode: Annotated[NewMode, typer.Option("--to", help="the new mode")],
    because: Annotated[str | None, typer.Option(help="why, for later readers")] = None,
    by: ByOption = None,
    first: FromOption = None,
    last: ToDayOption = None,
    last_days: LastOption = None,
    at_most: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="the greatest share of orders to expect, as in 0.01, instead of the backtest's"
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Change a rule's mode in the platform's rule book after a backtest, and record who, when and why.

    For active and review the book with the new mode is tried on past days (default: the last 30 that are
    over), and the share of the orders of a day for which the rule holds becomes its expected share: if it
    holds for far more of its first 10,000 orders, the brake puts it back to shadow. The modes shadow and off
    need no backtest. Nothing else in the file changes, and a running consumer applies it from its next batch.
    """
    from ecommersss_platform.laboratory.promotion import Promotion, replace_book
    from streaming.rules import RuleBook
    from streaming.rules.book import DECIDES
    from streaming.rules.brake import overridden

    if not yes and not _asks():
        raise typer.BadParameter("there is no terminal to ask on: add --yes")
    settings = read_settings()
    path = settings.rules_path
    book = RuleBook.load(path)
    mode_before = book.rule(rule).mode
    now = datetime.now(UTC)
    promotion = Promotion(rule, mode.value, by or account(), now.astimezone(JAKARTA), because)
    overrides = _overrides(settings)
    share = None
    if mode in DECIDES:
        edited = RuleBook.parse(promotion.applied(book, None), book.name)
        candidate = overridden(edited, (it for it in overrides if it.rule != rule))
        share = _tried(settings, candidate, rule, _days(settings, first, last, last_days), now)
        if at_most is not None:
            share = (min(share[0], at_most), at_most)
    after = promotion.applied(book, share)
    change = f"stays {mode}" if mode == mode_before else f"changes from {mode_before} to {mode}"
    typer.echo(f"{path}: the rule {rule} {change}.")
    if share is not None:
        typer.echo(f"Expected share of the orders: {share[0]:.4%} to {share[1]:.4%}.")
    if not yes:
        typer.confirm("Change the rule book?", abort=True)
    replace_book(path, book.text.encode(), after)
    typer.echo(f"The rule {rule} is {mode} in version {RuleBook.parse(after).version} of the rule book.")
    for override in (it for it in overrides if it.rule == rule and mode in DECIDES):
        typer.echo(
            f"The brake still holds it back: {override}. The new mode begins when somebody lifts the"
            f' override: `ecommersss rules overrides lift {rule} --reason "..."`.'
        )


def _asks() -> bool:
    """Return whether there is somebody to ask."""
    return sys.stdin.isatty()


def _days(
    settings: Settings, first: date | None, last: date | None, last_days: int | None
) -> tuple[date, date]:
    if first or last or last_days:
        return days_to_do(first, last, last_days, settings)
    yesterday = business_today() - timedelta(days=1)
    begin = max(yesterday - timedelta(days=_DAYS - 1), settings.first_partition_day())
    return min(begin, yesterday), yesterday


def _tried(
    settings: Settings, candidate: RuleBook, rule: str, days: tuple[date, date], now: datetime
) -> tuple[float, float]:
    """Backtest a book, print what concerns the rule, and return the share of orders to expect."""
    from ecommersss_platform.days import Days
    from ecommersss_platform.laboratory.backtest import expected_share, run_backtest
    from ecommersss_platform.laboratory.backtest_result import SHARE_DECIMALS
    from ecommersss_platform.laboratory.kept_backtests import keep_backtest
    from ecommersss_platform.laboratory.promotion import share_of_busiest_hour
    from ecommersss_platform.warehouse import make_warehouse

    warehouse, asked = make_warehouse(settings), Days.between(*days)
    result = run_backtest(warehouse, candidate, asked, now)
    keep_backtest(settings.home, result)
    _print(result, rule)
    low, high = expected_share(result, rule)
    if "local_hour" in candidate.rule(rule).columns:
        busiest = share_of_busiest_hour(warehouse, candidate, candidate.rule(rule), asked)
        typer.echo(f"The rule looks at the hour of the day: at its busiest it holds for {busiest:.4%}.")
        high = max(high, round(busiest, SHARE_DECIMALS))
    return low, high


def _print(result: Backtest, rule: str) -> None:
    from ecommersss_platform.laboratory import backtest_tables as tables

    typer.echo(f"{tables.title(result)}\n{tables.summary(result)}")
    print_rows(["", "before", "after"], tables.book_rows(result))
    for rows_of in (tables.rule_rows, tables.label_rows):
        rows = [row for row in rows_of(result) if row["rule"] == rule]
        print_rows(list(rows[0]), rows)


def _overrides(settings: Settings) -> list[Override]:
    """Return the overrides in force, if there is a platform."""
    from streaming.database.overrides import list_overrides

    if not settings.has_database:
        return []
    with open_database(settings) as url:
        return [kept.override for kept in list_overrides(url)]
