"""The page of a backtest: one HTML file without any other, in the style of the fraud reports."""

from __future__ import annotations

from pathlib import Path

from ecommersss_platform.laboratory import backtest_tables
from ecommersss_platform.laboratory.backtest_result import Backtest
from ecommersss_platform.reports.page import render


def backtest_page(result: Backtest) -> str:
    """Return the page of a backtest."""
    from ecommersss_platform.reports.charts import before_and_after_svg  # brings altair

    shares = result.book.daily_shares
    charts = {}
    if shares:
        before, after = zip(*shares.values(), strict=True)
        charts["shares"] = before_and_after_svg(list(shares), before, after)
    name = Path(result.candidate.name).name
    return render("backtest.html", result=result, name=name, charts=charts, tables=backtest_tables)
