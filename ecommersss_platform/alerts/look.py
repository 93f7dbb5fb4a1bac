"""One look at the platform, as each source of problems gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from streaming.database import rows_by_name

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

    def rows(self, sql: str, values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the rows of a query on the connection, each by the names of its columns."""
        return rows_by_name(self.connection, sql, values)

    def link(self, path: str) -> str | None:
        """Return the address of a page of the UI, without its secret; None if nobody says where the UI is.

        It is the setting `ui_url`, else what the `ecommersss up` of this home reports. `path`: "runs/<id>".
        """
        base = self.settings.ui_url
        if base is None and self.up and self.up["ui"]:
            address = urlsplit(self.up["ui"])
            base = f"{address.scheme}://{address.netloc}"
        return None if base is None else f"{base.rstrip('/')}/{path}"
