"""The platform's home directory: what is written when it is made."""

from __future__ import annotations

import os
from datetime import date

from ecommersss_platform.settings import Settings


def record_first_day(settings: Settings, wanted: date | None = None) -> date:
    """Make the home, record its first day once so that partitions never move, and return that day.

    `wanted`: the first day of a new home; unset: a week before today. A recorded day, or the setting, wins.
    Idempotent.
    """
    path = settings.first_day_path
    settings.home.mkdir(parents=True, exist_ok=True)
    if settings.first_day is not None or path.exists():
        return settings.first_partition_day()
    day = wanted or settings.first_partition_day()
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(f"{day}\n")
    temporary.replace(path)
    return day
