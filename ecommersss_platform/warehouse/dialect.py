"""What differs between the engines' SQL, as one value for each engine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa

from ecommersss_platform.contracts import RawTable, Type


@dataclass(frozen=True)
class TableColumn:
    """A column of an existing or wanted table. `type` is the engine's own name of the type."""

    name: str
    type: str
    nullable: bool


@dataclass(frozen=True)
class Dialect:
    """An engine's SQL: the names, literals and functions that are its own."""

    name: str
    """The name of the dialect in sqlglot."""
    types: Mapping[Type, str]
    """The engine's name of each contract type, as its catalog prints it."""
    quote: Callable[[str], str]
    """Quote an identifier."""
    text: Callable[[str], str]
    """Quote a string literal."""
    instant: str
    """The keyword before the literal of an instant."""
    business_day: Callable[[str], str]
    """The business day (a DATE, Asia/Jakarta) of an instant."""
    try_cast: Callable[[str, str], str]
    """Cast an expression to a type of the engine; NULL if the value does not fit."""
    literal_rows: Callable[[Sequence[TableColumn], Sequence[Sequence[str]]], str]
    """Make a FROM item of columns and rows of literals."""
    narrowed: Callable[[str, int, int], str]
    """Give an exact number the type with these digits and decimals, if types of the engine have widths."""
    present: Callable[[Sequence[str]], str]
    """Make an array of those of these texts that are not NULL, in their order."""
    distinct: Callable[[str], str]
    """Make an array of the different texts of an array, in no order."""
    contains: Callable[[str, str], str]
    """Say whether an array has a text; false or NULL if the array is NULL."""
    unnested: Callable[[str, str, str], str]
    """Make, of a SELECT, one with a row for each text of an array, in another column. Texts: the SELECT, the
    array as an expression over its columns, the name of the column."""

    def literal(self, value: str | int | date | datetime) -> str:
        """Write a value as a literal."""
        if isinstance(value, datetime):
            return f"{self.instant} '{value.isoformat(sep=' ')}'"
        if isinstance(value, date):
            return f"DATE '{value}'"
        return self.text(value) if isinstance(value, str) else str(value)

    def columns(self, table: RawTable) -> list[TableColumn]:
        """Return the contract's columns with the engine's types."""
        return [TableColumn(c.name, self.types[c.type], c.nullable) for c in table.columns]

    def column_list(self, table: RawTable) -> str:
        """List the contract's columns, quoted, in its order."""
        return ", ".join(self.quote(c.name) for c in table.columns)

    def select_list(self, schema: pa.Schema, existing: Collection[str]) -> str:
        """List the columns of a SELECT.

        A column that the contract has just gained is NULL until a day is published with it.
        """
        return ", ".join(
            self.quote(f.name)
            if f.name in existing
            else f"CAST(NULL AS {self.types[Type(f.type)]}) AS {self.quote(f.name)}"
            for f in schema
        )
