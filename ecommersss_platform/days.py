"""Business days of Asia/Jakarta as half-open ranges. Imports no Dagster, so that commands start fast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING

from streaming.business_days import JAKARTA
from streaming.errors import PlatformError

if TYPE_CHECKING:
    from dagster import PartitionKeyRange

DAY = timedelta(days=1)


@dataclass(frozen=True, order=True)
class Days:
    """The business days from `first` (included) to `end` (not included)."""

    first: date
    end: date

    def __post_init__(self) -> None:
        if self.first >= self.end:
            raise ValueError(f"the range of days is empty: from {self.first} to before {self.end}")

    @classmethod
    def between(cls, first: date, last: date) -> Days:
        """Return the days from `first` to `last`, both included, as people name ranges."""
        return cls(first, last + DAY)

    @classmethod
    def of_keys(cls, keys: PartitionKeyRange) -> Days:
        """Return the days of a range of Dagster's daily partition keys, whose ends are both included."""
        return cls.between(date.fromisoformat(keys.start), date.fromisoformat(keys.end))

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
    """Return the given days as the fewest ranges, in order. A day given twice counts once."""
    ranges: list[Days] = []
    for day in sorted(set(days)):
        if ranges and ranges[-1].end == day:
            ranges[-1] = Days(ranges[-1].first, day + DAY)
        else:
            ranges.append(Days(day, day + DAY))
    return ranges


def launchpad_day(name: str, text: str | None) -> date | None:
    """Return the day in a field of a launchpad's config; None if it is left out.

    Raises `PlatformError` for a text that is no day.
    """
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise PlatformError(f"{name}: {text!r} is not a day: write YYYY-MM-DD") from None
