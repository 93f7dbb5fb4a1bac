"""The first day of a home is recorded once."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path

from ecommersss_platform.instance.home import record_first_day
from ecommersss_platform.settings import Settings
from streaming.business_days import business_day

DAY, EARLIER = date(2025, 3, 2), date(2025, 3, 1)


def test_first_day_of_a_home_is_recorded_once(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new" / "home")
    assert record_first_day(settings, DAY) == DAY
    assert record_first_day(settings, EARLIER) == record_first_day(settings) == DAY
    assert settings.first_partition_day() == DAY
    assert [path.name for path in settings.home.iterdir()] == ["first_day"]


def test_new_home_begins_a_week_ago(tmp_path: Path) -> None:
    today = business_day(datetime.now().astimezone())
    assert record_first_day(Settings(home=tmp_path)) in (today - timedelta(days=7), today - timedelta(days=6))


def test_first_day_in_the_settings_wins_and_is_not_recorded(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, first_day=EARLIER)
    assert record_first_day(settings, DAY) == EARLIER
    assert list(tmp_path.iterdir()) == []
