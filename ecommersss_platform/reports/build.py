"""Build the reports of a range of days: read, compute, render, write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from ecommersss_platform.days import DAY, Days
from ecommersss_platform.laboratory.kept_backtests import last_backtests
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.reports.figures import Figures, figures_of
from ecommersss_platform.reports.folder import write_index, write_page
from ecommersss_platform.reports.page import day_page
from ecommersss_platform.reports.rows import read_rows
from ecommersss_platform.reports.serving import page_name, pages
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import Warehouse

MOST_DAYS = 31
"""The largest number of days whose rows are read at once."""


@dataclass(frozen=True)
class Report:
    """A page that was written."""

    figures: Figures
    path: Path
    bytes: int


def build_reports(
    warehouse: Warehouse, postgres: PostgresResource, days: Days, settings: Settings, now: datetime
) -> Iterator[Report]:
    """Write the page of each of these days and then the index, and yield each page.

    The pages show what is known `now`. Raises `TableNotFound` if nothing was materialised yet.
    """
    folder, backtests = settings.reports_dir, last_backtests(settings.home)
    for some in stretches(days):
        rows = read_rows(warehouse, postgres, some, backtests)
        for day in some:
            figures = figures_of(day, rows, now)
            text = day_page(figures, _earlier(folder, day))
            path = write_page(folder, page_name(day), text)
            yield Report(figures, path, path.stat().st_size)
    write_index(folder)


def stretches(days: Days) -> Iterator[Days]:
    """Split days into stretches of `MOST_DAYS` at most."""
    first = days.first
    while first < days.end:
        yield Days(first, min(days.end, first + MOST_DAYS * DAY))
        first += MOST_DAYS * DAY


def _earlier(folder: Path, day: date) -> str | None:
    before = [it for it in pages(folder) if it < day]
    return page_name(before[-1]) if before else None
