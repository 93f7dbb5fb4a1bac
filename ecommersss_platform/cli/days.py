"""Days on the command line: a date, or a day relative to today in Jakarta."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from streaming.business_days import FIRST_DATE, JAKARTA, LAST_DATE, business_day
from streaming.errors import PlatformError

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings

RELATIVE = {"yesterday": -1, "today": 0, "tomorrow": 1}
FORMS = "YYYY-MM-DD, yesterday, today or tomorrow"


def named_day(text: str, today: date) -> date:
    """Return the day that a person names. Raises `ValueError` for text that is no day an order can have."""
    if (shift := RELATIVE.get(text.strip().lower())) is not None:
        return today + timedelta(days=shift)
    try:
        day = datetime.strptime(text.strip(), "%Y-%m-%d").replace(tzinfo=JAKARTA).date()
    except ValueError:
        raise ValueError(f"{text} is not a day: write {FORMS}") from None
    if not FIRST_DATE <= day <= LAST_DATE:
        raise ValueError(f"{text} is not from {FIRST_DATE} to {LAST_DATE}")
    return day


def named_instant(text: str, today: date) -> datetime:
    """Return the beginning of a day, or a minute of it (`DAY HH:MM`), as an instant in Asia/Jakarta.

    Raises `ValueError` for any other text.
    """
    day, _, clock = text.strip().replace("T", " ").partition(" ")
    try:
        minute = datetime.strptime(clock or "00:00", "%H:%M").replace(tzinfo=JAKARTA)
    except ValueError:
        raise ValueError(f"{text} is not a time: write DAY or 'DAY HH:MM', with DAY as {FORMS}") from None
    return datetime.combine(named_day(day, today), minute.time(), JAKARTA)


def last_days(count: int, today: date) -> tuple[date, date]:
    """Return the first and the last of the `count` days that end with today."""
    return today - timedelta(days=count - 1), today


def business_today() -> date:
    return business_day(datetime.now(UTC))


def asked_days(first: date | None, last: date | None, count: int | None) -> tuple[date, date] | None:
    """Return the days of `--from` and `--to`, or of `--last`; None if none of them was given."""
    if count is not None:
        if first or last:
            raise typer.BadParameter("--last N means the last N days: leave out --from and --to")
        return last_days(count, business_today())
    if first and last:
        return first, last
    if first or last:
        raise typer.BadParameter("--from and --to go together; for the last days: --last N")
    return None


def days_to_do(
    first: date | None, last: date | None, count: int | None, settings: Settings
) -> tuple[date, date]:
    """Return the days that a command must be given; `--last` of a younger platform: all of its days.

    Raises `PlatformError` if they end before they begin.
    """
    days = asked_days(first, last, count)
    if days is None:
        raise typer.BadParameter("say which days: --from DAY --to DAY, or --last N for the last N days")
    begin, end = days
    if begin > end:
        raise PlatformError(f"the first day, {begin}, is after the last, {end}: swap them")
    if count is not None:
        begin = max(begin, min(settings.first_partition_day(), end))
    return begin, end


def _day(text: str) -> date:
    return named_day(text, business_today())


def _instant(text: str) -> datetime:
    return named_instant(text, business_today())


DayArgument = Annotated[date | None, typer.Argument(parser=_day, metavar="[DAY]", help=FORMS)]
FromOption = Annotated[
    date | None,
    typer.Option("--from", parser=_day, metavar="DAY", help=f"the first business day: {FORMS}"),
]
ToOption = Annotated[
    date | None, typer.Option("--to", parser=_day, metavar="DAY", help="the last business day (included)")
]
ToDayOption = Annotated[
    date | None,
    typer.Option("--to-day", parser=_day, metavar="DAY", help="the last business day (included)"),
]
LastOption = Annotated[
    int | None, typer.Option("--last", min=1, max=36_525, metavar="N", help="the last N days, today included")
]
LabelsAsOfOption = Annotated[
    date,
    typer.Option(
        parser=_day, metavar="DAY", help="the labels are those known at the end of this day, which is over"
    ),
]
_UNTIL = "in Asia/Jakarta: DAY (its beginning) or 'DAY HH:MM'"
UntilOption = Annotated[
    datetime | None,
    typer.Option(parser=_instant, metavar="DAY", help=f"when the entry expires, {_UNTIL} (default: never)"),
]
ExpiryOption = Annotated[
    datetime, typer.Option("--until", parser=_instant, metavar="DAY", help=f"when it expires, {_UNTIL}")
]
