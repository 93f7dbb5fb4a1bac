"""How an existing table may follow its contract: without anyone's hand, or by a migration that was asked for.

A migration makes the table anew from itself in one atomic step. It loses nothing but the columns that it was
told to drop: a value is cast only when casting it back gives the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ecommersss_platform.warehouse import SchemaError
from ecommersss_platform.warehouse.audit import Dialect


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

    Raises SchemaError, naming each column with its old and new type, and the command that migrates, when a
    column was removed, renamed or retyped, became required, or is new and required: old days would lose
    values or have none to give.
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
            f"nothing was published: {table} no longer fits its contract: {'; '.join(problems)}. "
            f"{_what_to_do(table, existing, wanted)}"
        )
    return Changes(tuple(added), tuple(relaxed))


def _what_to_do(table: str, existing: Sequence[TableColumn], wanted: Sequence[TableColumn]) -> str:
    old, new = {c.name: c for c in existing}, {c.name: c for c in wanted}
    renames = guessed_renames(list(old), list(new), lambda before, after: old[before].type == new[after].type)
    drops = [name for name in old if name not in new and name not in renames]
    without_values = [
        c.name for c in wanted if not c.nullable and c.name not in old and c.name not in renames.values()
    ]
    if without_values:
        return f"Make {', '.join(without_values)} nullable in the contract, or change it back"
    return f"Change the contract back, or {to_migrate(table, renames, drops)} and run again"


def guessed_renames(
    old: Sequence[str], new: Sequence[str], fits: Callable[[str, str], bool]
) -> dict[str, str]:
    """Names that are gone, each with what most likely took its place: of a type that fits, and nearest."""
    gone = [name for name in old if name not in new]
    guessed: dict[str, str] = {}
    for name in new:
        left = [one for one in gone if one not in guessed and fits(one, name)]
        if name not in old and left:
            guessed[min(left, key=lambda one: abs(old.index(one) - new.index(name)))] = name
    return guessed


def to_migrate(table: str, renames: Mapping[str, str], drops: Sequence[str]) -> str:
    """What to do, as a clause: the command exactly as it is to be typed, and what it takes for granted."""
    command = f"ecommersss warehouse migrate --table {table}"
    command += "".join(f" --rename {old}={new}" for old, new in renames.items())
    command += "".join(f" --drop {name}" for name in drops)
    granted = [f"{old} was renamed to {new}" for old, new in renames.items()]
    granted += [f"the values of {name} may be lost" for name in drops]
    condition = f" (if {', '.join(granted)})" if granted else ""
    return f"type `{command}`{condition}"


@dataclass(frozen=True)
class Migration:
    """How each column of the contract is made from the table as it is."""

    table: str
    columns: tuple[tuple[TableColumn, TableColumn | None], ...]
    """In the contract's order: the column, and the existing one that it comes from (None: it is NULL)."""
    told: tuple[str, ...]
    """What changes, each a clause; nothing when the table fits its contract."""

    def converted(self) -> list[tuple[TableColumn, TableColumn]]:
        return [(new, old) for new, old in self.columns if old and new.type != old.type]

    def required(self) -> list[tuple[TableColumn, TableColumn]]:
        return [(new, old) for new, old in self.columns if old and old.nullable and not new.nullable]


def migration(
    table: str,
    existing: Sequence[TableColumn],
    wanted: Sequence[TableColumn],
    renames: Mapping[str, str],
    drops: Collection[str],
) -> Migration:
    """The migration to the contract. `renames` are new names by old names, `drops` columns to lose.

    Raises SchemaError for a rename or drop that makes no sense, a column that the contract has no place for
    and that is not to be dropped, and a required column that no column becomes.
    """
    old, new = {c.name: c for c in existing}, {c.name: c for c in wanted}
    sources = {new_name: old_name for old_name, new_name in renames.items()}
    problems = [f"there is no column {name}" for name in [*renames, *drops] if name not in old]
    problems += [f"{name} is in the contract, so it stays" for name in [*renames, *drops] if name in new]
    problems += [f"the contract has no column {name}" for name in sources if name not in new]
    problems += [f"there is a column {name} already" for name in sources if name in old]
    if len(sources) != len(renames):
        problems.append("two columns are to have one name")
    problems += [f"{name} is both renamed and dropped" for name in drops if name in renames]
    problems += [
        f"{name} ({column.type}) is not in the contract: say --rename {name}=NEW, or --drop {name} to lose it"
        for name, column in old.items()
        if name not in new and name not in renames and name not in drops
    ]
    columns, told = [], []
    for column in wanted:
        before = old.get(sources.get(column.name, column.name))
        columns.append((column, before))
        if before is None:
            told.append(f"{column.name} ({column.type}) is new, and NULL in what is there")
            if not column.nullable:
                problems.append(f"{column.name} is required and new: make it nullable in the contract")
            continue
        if before.name != column.name:
            told.append(f"{before.name} is renamed to {column.name}")
        if before.type != column.type:
            told.append(f"{column.name} becomes {column.type} from {before.type}")
        if before.nullable != column.nullable:
            told.append(f"{column.name} {'may be NULL' if column.nullable else 'is required'}")
    told += [f"{name} ({old[name].type}) is dropped with its values" for name in drops if name in old]
    if problems:
        raise SchemaError(f"{table} cannot be migrated: {'; '.join(problems)}")
    return Migration(table, tuple(columns), tuple(told))


def selected(todo: Migration, dialect: Dialect) -> str:
    """The SELECT list that makes the contract's columns of the table's."""
    made = []
    for new, old in todo.columns:
        if old is None:
            value = f"CAST(NULL AS {new.type})"
        else:
            quoted = dialect.quote(old.name)
            value = quoted if old.type == new.type else dialect.try_cast(quoted, new.type)
        made.append(f"{value} AS {dialect.quote(new.name)}")
    return ", ".join(made)


def losses_sql(todo: Migration, source: str, dialect: Dialect) -> str | None:
    """A SELECT of one row: how many values each cast would lose or change, and each required column lacks.

    None: there is nothing to count.
    """
    counts = []
    for new, old in todo.converted():
        value = dialect.quote(old.name)
        cast = dialect.try_cast(value, new.type)
        lost = f"{cast} IS NULL OR {dialect.try_cast(cast, old.type)} IS DISTINCT FROM {value}"
        alias = dialect.quote(f"lost_{new.name}")
        counts.append(f"count(CASE WHEN {value} IS NOT NULL AND ({lost}) THEN 1 END) AS {alias}")
    for new, old in todo.required():
        missing = f"count(CASE WHEN {dialect.quote(old.name)} IS NULL THEN 1 END)"
        counts.append(f"{missing} AS {dialect.quote(f'null_{new.name}')}")
    return f"SELECT {', '.join(counts)} FROM {source}" if counts else None  # noqa: S608


def check_losses(todo: Migration, counts: Mapping[str, Any]) -> None:
    """Raise SchemaError when the row of `losses_sql` has any."""
    problems = [
        f"{counts[f'lost_{new.name}']} values of {new.name} cannot be {new.type} and {old.type} again"
        for new, old in todo.converted()
        if counts[f"lost_{new.name}"]
    ]
    problems += [
        f"{counts[f'null_{new.name}']} rows have no {new.name}, which the contract requires"
        for new, _ in todo.required()
        if counts[f"null_{new.name}"]
    ]
    if problems:
        raise SchemaError(f"{todo.table} was not migrated, for it would lose values: {'; '.join(problems)}")
