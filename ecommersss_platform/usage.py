"""What the warehouse's service bills each business day, and the budget that holds back the sensor's runs.

The bytes are those of the service's own statistics, added up in the operational database. A library such as
DuckDB bills nothing.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from ecommersss_platform.days import DAY
from streaming.business_days import business_day

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ecommersss_platform.settings import Settings

_ADD = """
INSERT INTO warehouse_usage AS old (day, bytes_billed) VALUES (%(day)s, %(bytes)s)
ON CONFLICT (day) DO UPDATE SET bytes_billed = old.bytes_billed + excluded.bytes_billed
"""
_BILLED = "SELECT bytes_billed FROM warehouse_usage WHERE day = %(day)s"

_log = logging.getLogger("ecommersss.warehouse")


def add(connection: Connection, billed: int, now: datetime) -> None:
    """Add bytes that were billed to those of the business day."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_ADD, {"day": business_day(now), "bytes": billed})


def billed_on(connection: Connection, day: date) -> int:
    """Return the bytes billed on a business day so far."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_BILLED, {"day": day})
        found = cursor.fetchone()
        return 0 if found is None else int(found[0])


def used_up(connection: Connection, budget: int, day: date) -> str | None:
    """Return what it means that the budget of this business day is used up; None if it is not."""
    billed = billed_on(connection, day)
    if billed < budget:
        return None
    return (
        f"the warehouse's jobs of {day} billed {billed:,} of {budget:,} bytes"
        f" (ECOMMERSSS_BIGQUERY_DAILY_BYTES): the sensor requests no run before {day + DAY}; daily_close and"
        " runs that people ask for go on"
    )


@dataclass(frozen=True)
class UsageLog:
    """Adds what jobs were billed to the operational database of these settings. Opens nothing until used."""

    settings: Settings

    def __call__(self, billed: int) -> None:
        """Add the bytes. If that fails, say so and go on: the jobs have done their work."""
        import psycopg2

        from ecommersss_platform.instance.databases import database_url
        from streaming.database import connect
        from streaming.errors import PlatformError, first_line

        try:
            with closing(connect(database_url(self.settings), "ecommersss usage")) as connection:
                add(connection, billed, datetime.now(UTC))
        except (psycopg2.Error, PlatformError) as error:
            _log.warning(f"{billed:,} billed bytes were not added to those of the day: {first_line(error)}")
