"""`ecommersss rules backtest`: what another rule book would have decided about past orders."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ecommersss_platform.cli.common import read_settings
from ecommersss_platform.cli.days import FromOption, LastOption, ToOption, days_to_do
from ecommersss_platform.cli.output import QueryFormat, as_json, write_rows

if TYPE_CHECKING:
    from typing import TextIO

    from ecommersss_platform.laboratory.backtest_result import Backtest


class BacktestFormat(StrEnum):
    TABLE = "table"
    JSON = "json"
    HTML = "html"


def backtest(
    candidate: Annotated[Path, typer.Argument(dir_okay=False, help="the rule book to try")],
    first: FromOption = None,
    last: ToOption = None,
    last_days: LastOption = None,
    style: Annotated[
        BacktestFormat, typer.Option("--format", help="html: a page that needs no other file")
    ] = BacktestFormat.TABLE,
    output: Annotated[Path | None, typer.Option(dir_okay=False, help="write to this new file")] = None,
) -> None:
    """Show what a rule book would have decided about the orders of these days, beside what was decided.

    Before is what the stream stored, after the candidate on the same orders, features, lists and exemptions.
    Precision and recall are of days whose labels are complete. The days must be in the warehouse: see
    `ecommersss materialize`. The last 20 backtests are kept in the home, for the reports.
    """
    from ecommersss_platform.days import Days
    from ecommersss_platform.laboratory.backtest import run_backtest
    from ecommersss_platform.laboratory.kept_backtests import keep_backtest
    from ecommersss_platform.warehouse import make_warehouse
    from streaming.files import new_file
    from streaming.rules import RuleBook

    settings = read_settings()
    book = RuleBook.load(candidate)
    days = Days.between(*days_to_do(first, last, last_days, settings))
    result = run_backtest(make_warehouse(settings), book, days, datetime.now(UTC))
    keep_backtest(settings.home, result)
    if output is None:
        _write(result, style, sys.stdout)
        return
    with new_file(output) as file, TextIOWrapper(file, encoding="utf-8") as text:
        _write(result, style, text)


def _write(result: Backtest, style: BacktestFormat, out: TextIO) -> None:
    match style:
        case BacktestFormat.JSON:
            from ecommersss_platform.laboratory.backtest_object import as_object

            out.write(as_json(as_object(result), indent=2) + "\n")
        case BacktestFormat.HTML:
            from ecommersss_platform.laboratory.backtest_page import backtest_page

            out.write(backtest_page(result))
        case BacktestFormat.TABLE:
            from ecommersss_platform.laboratory import backtest_tables as tables

            out.write(f"{tables.title(result)}\n{tables.summary(result)}\n")
            for rows_of in (tables.book_rows, tables.rule_rows, tables.label_rows, tables.example_rows):
                if rows := rows_of(result):
                    write_rows(list(rows[0]), [list(it.values()) for it in rows], QueryFormat.TABLE, out)
