"""The daily grain: business days of Asia/Jakarta, always as half-open windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from dagster import BackfillPolicy, DailyPartitionsDefinition, TimeWindow

from streaming.business_days import JAKARTA

DAY = timedelta(days=1)

# One run for any range: every partitioned asset shares it, so that a backfill is one run.
SINGLE_RUN = BackfillPolicy.single_run()


def daily_partitions(first_day: date) -> DailyPartitionsDefinition:
    """Business days from `first_day` on, today included: today's partition grows until the day is closed."""
    return DailyPartitionsDefinition(start_date=first_day.isoformat(), timezone=str(JAKARTA), end_offset=1)


@dataclass(frozen=True, order=True)
class Days:
    """The business days from `first` (included) to `end` (not included)."""

    first: date
    end: date

    def __post_init__(self) -> None:
        if self.first >= self.end:
            raise ValueError(f"an empty range of days: from {self.first} to before {self.end}")

    @classmethod
    def between(cls, first: date, last: date) -> Days:
        """The days from `first` to `last`, both included, as people name ranges."""
        return cls(first, last + DAY)

    @classmethod
    def of_window(cls, window: TimeWindow) -> Days:
        """The days of a Dagster partition window, which is half-open and in Jakarta time."""
        return cls(window.start.astimezone(JAKARTA).date(), window.end.astimezone(JAKARTA).date())

    @property
    def last(self) -> date:
        return self.end - DAY

    @property
    def start_instant(self) -> datetime:
        return datetime.combine(self.first, time.min, JAKARTA)

    @property
    def end_instant(self) -> datetime:
        return datetime.combine(self.end, time.min, JAKARTA)

    def __iter__(self) -> Iterator[date]:
        return (self.first + DAY * n for n in range(len(self)))

    def __len__(self) -> int:
        return (self.end - self.first).days

    def __str__(self) -> str:
        return str(self.first) if len(self) == 1 else f"{self.first} to {self.last}"


def contiguous(days: Iterable[date]) -> list[Days]:
    """The given days as the fewest ranges, in order; a day given twice counts once."""
    ranges: list[Days] = []
    for day in sorted(set(days)):
        if ranges and ranges[-1].end == day:
            ranges[-1] = Days(ranges[-1].first, day + DAY)
        else:
            ranges.append(Days(day, day + DAY))
    return ranges
