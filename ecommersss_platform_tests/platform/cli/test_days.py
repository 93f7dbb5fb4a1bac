"""Days of the command line: dates and relative days, in Jakarta."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
import typer

from ecommersss_platform.cli import days
from ecommersss_platform.cli.days import asked_days, named_day, named_instant
from streaming.business_days import JAKARTA

TODAY = date(2026, 3, 1)


def test_days_are_dates_or_relative_to_today() -> None:
    named = ("2025-06-01", " Today ", "yesterday", "TOMORROW")
    assert [named_day(text, TODAY) for text in named] == [
        date(2025, 6, 1),
        TODAY,
        date(2026, 2, 28),
        date(2026, 3, 2),
    ]


@pytest.mark.parametrize("text", ["2026-13-01", "2026-02-30", "01.03.2026", "20260301", "-1", "", "heute"])
def test_other_text_is_no_day(text: str) -> None:
    with pytest.raises(ValueError, match="is not a day: write YYYY-MM-DD, yesterday, today or tomorrow"):
        named_day(text, TODAY)


def test_instants_are_minutes_of_a_day_in_jakarta() -> None:
    assert [named_instant(text, TODAY) for text in ("tomorrow", "2026-03-02T08:30", "today 23:59")] == [
        datetime(2026, 3, 2, tzinfo=JAKARTA),
        datetime(2026, 3, 2, 8, 30, tzinfo=JAKARTA),
        datetime(2026, 3, 1, 23, 59, tzinfo=JAKARTA),
    ]


def test_today_is_that_of_jakarta(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime(2026, 2, 28, 17, 30, tzinfo=UTC)

    monkeypatch.setattr(days, "datetime", Clock)
    assert days.business_today() == TODAY
    assert asked_days(None, None, 7) == (date(2026, 2, 23), TODAY)
    assert asked_days(None, None, 1) == (TODAY, TODAY)


def test_days_are_given_in_one_way() -> None:
    assert asked_days(TODAY, TODAY, None) == (TODAY, TODAY)
    assert asked_days(None, None, None) is None
    for given in ((TODAY, None, None), (None, TODAY, None), (TODAY, TODAY, 3), (TODAY, None, 3)):
        with pytest.raises(typer.BadParameter, match="--last N"):
            asked_days(*given)
