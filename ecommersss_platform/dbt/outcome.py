"""What a dbt step replaced, what it left alone, and what it did not finish."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """The tables that a dbt step was asked for, by what dbt reported about each."""

    selected: frozenset[str]
    replaced: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)

    def note_skip(self, raw_event: Mapping[str, Any]) -> None:
        """Record the table that this dbt event says was skipped, if it is such an event."""
        if raw_event["info"]["name"] == "SkippingDetails":
            relation = raw_event["data"]["node_info"]["node_relation"]
            self.skipped |= self.selected & {f"{relation['schema']}/{relation['alias']}"}

    @property
    def complete(self) -> bool:
        """Whether dbt reported every table as replaced."""
        return self.selected <= self.replaced

    def sentences(self, days: object | None = None, by_day: Collection[str] = ()) -> str:
        """Return which tables were replaced and which not, with the days of those that are replaced by day.

        A table that failed may have been replaced before dbt could report it.
        """

        def named(tables: Collection[str]) -> str:
            return ", ".join(f"{table} ({days})" if table in by_day else table for table in sorted(tables))

        return " ".join(
            f"{what}: {named(tables)}."
            for what, tables in (
                ("Replaced", self.replaced),
                ("Left as it was", self.skipped),
                ("Not reported as replaced", self.selected - self.replaced - self.skipped),
            )
            if tables
        )
