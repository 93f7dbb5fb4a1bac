"""What can go wrong with a warehouse. Every message says what to do next.

WarehouseError
├── AuditError       staged rows broke a rule
├── SchemaError      columns do not fit the contract, or the existing table
├── TableNotFound    nothing has been published to the table yet
├── WarehouseBusy    someone else held the warehouse for too long
└── QueryError       SQL that the warehouse refused
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from streaming.errors import PlatformError

if TYPE_CHECKING:
    from ecommersss_platform.days import Days


class WarehouseError(PlatformError):
    """Anything that a warehouse refuses or cannot do."""


class AuditError(WarehouseError):
    """Staged rows that must not be published. `findings` has one sentence for each broken rule."""

    def __init__(self, table: str, days: Days | None, findings: Sequence[str]) -> None:
        self.table, self.days, self.findings = table, days, tuple(findings)
        what = f"{table}, {days}" if days else table
        super().__init__(
            f"nothing was published for {what}, the rows failed their audit: {'; '.join(self.findings)}"
        )


class SchemaError(WarehouseError):
    """Columns that fit the contract, or the existing table, only by losing or guessing values."""


class TableNotFound(WarehouseError):
    """A table, or a whole warehouse, that nothing has been published to yet."""


class WarehouseBusy(WarehouseError):
    """The warehouse was held, or could not be reached, for longer than we wait."""


class QueryError(WarehouseError):
    """SQL that the warehouse refused: it is wrong, or it does more than read."""
