"""How an existing table may follow its contract without anyone's hand, and what needs one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ecommersss_platform.warehouse import SchemaError


@dataclass(frozen=True)
class TableColumn:
    """A column as an engine has it: its type is the engine's own name of it."""

    name: str
    type: str
    nullable: bool


@dataclass(frozen=True)
class Changes:
    added: tuple[TableColumn, ...] = ()
    """Nullable columns that the contract gained: old days read as NULL."""
    relaxed: tuple[TableColumn, ...] = ()
    """Columns that were required and may now be NULL."""


def changes(table: str, existing: Sequence[TableColumn], wanted: Sequence[TableColumn]) -> Changes:
    """What to change in the table before rows of the contract fit.

    Raises SchemaError, naming each column with its old and new type, when a column was removed, renamed or
    retyped, became required, or is new and required: old days would lose values or have none to give.
    """
    old, new = {c.name: c for c in existing}, {c.name: c for c in wanted}
    problems = [
        f"column {c.name} is {c.type} in the warehouse and gone from the contract (removed or renamed)"
        for c in existing
        if c.name not in new
    ]
    added, relaxed = [], []
    for column in wanted:
        before = old.get(column.name)
        if before is None:
            if column.nullable:
                added.append(column)
            else:
                problems.append(
                    f"column {column.name} ({column.type}) is new in the contract and not nullable, but old "
                    "days have no value for it"
                )
        elif before.type != column.type:
            problems.append(
                f"column {column.name} is {before.type} in the warehouse and {column.type} in the contract"
            )
        elif before.nullable and not column.nullable:
            problems.append(f"column {column.name} is nullable in the warehouse and required in the contract")
        elif column.nullable and not before.nullable:
            relaxed.append(column)
    if problems:
        raise SchemaError(
            f"nothing was published: {table} no longer fits its contract: {'; '.join(problems)}. Change the "
            f"contract back, or migrate {table} by hand (ALTER TABLE) and run again"
        )
    return Changes(tuple(added), tuple(relaxed))
