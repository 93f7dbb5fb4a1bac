"""One look at the platform, as each source of problems gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ecommersss_platform.settings import Settings


class Database(Enum):
    """A database that a source reads; its value is its name in sentences."""

    OPERATIONAL = "the operational database"
    DAGSTER = "Dagster's storage"


class Undecided(Exception):
    """A source cannot say yet whether something is wrong: its kinds are unknown this time."""


@dataclass
class Look:
    """What a source sees.

    `since`: when the platform began, or the watch over it; what takes a while is not missed before. `up`:
    what the supervisor of this home records, None without one. `memory` is the source's own.
    `patient`: more looks follow, so what may pass by itself is not told at once.
    """

    settings: Settings
    now: datetime
    since: datetime
    up: Mapping[str, Any] | None = None
    patient: bool = True
    memory: dict[str, Any] = field(default_factory=dict)
    _connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """The connection, in autocommit, to the database that the source names."""
        assert self._connection is not None
        return self._connection


def rows(connection: Connection, sql: str, values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return the rows of a query by the names of their columns."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        assert cursor.description
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
