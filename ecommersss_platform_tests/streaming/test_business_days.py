"""Business days and local hours in Asia/Jakarta."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from streaming.business_days import (
    EARLIEST,
    JAKARTA,
    JAKARTA_OFFSET,
    LATEST,
    business_day,
    local_hour,
)


@given(
    st.datetimes(
        EARLIEST.replace(tzinfo=None), LATEST.replace(tzinfo=None) - timedelta(days=1), timezones=st.just(UTC)
    )
)
def test_local_hour_is_that_of_jakarta_for_any_offset(instant: datetime) -> None:
    expected = instant.astimezone(JAKARTA).hour
    assert local_hour(instant) == expected
    assert local_hour(instant.astimezone(timezone(timedelta(hours=-9, minutes=30)))) == expected


def test_business_day_begins_at_midnight_in_jakarta() -> None:
    assert business_day(datetime(2026, 3, 4, 16, 59, 59, 999999, tzinfo=UTC)) == date(2026, 3, 4)
    assert business_day(datetime(2026, 3, 4, 17, tzinfo=UTC)) == date(2026, 3, 5)
    assert business_day(datetime(2026, 3, 5, 0, tzinfo=timezone(timedelta(hours=9)))) == date(2026, 3, 4)


def test_jakarta_has_one_offset_over_all_years_of_orders() -> None:
    day = EARLIEST
    while day < LATEST:
        assert day.utcoffset() == JAKARTA_OFFSET.utcoffset(None) == timedelta(hours=7)
        day += timedelta(days=1)
