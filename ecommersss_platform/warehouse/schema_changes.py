"""How an existing table follows its contract: automatically, or by a migration that someone asked for.

A migration rebuilds the table from its own rows in one atomic step. It loses nothing but the columns it was
asked to drop: a value is cast only if casting it back gives the same value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ecommersss_platform.warehouse.dialect import Dialect, TableColumn
from ecommersss_platform.warehouse.errors import SchemaError


@dataclass(frozen=True)
class Changes:
    """Changes that make a table fit its contract without touching a row."""

    added: tuple[TableColumn, ...] = ()
    """Nullable columns that the contract gained. In old days they are NULL."""
    relaxed: tuple[TableColumn, ...] = ()
    """Columns that were required and may now be NULL."""


def automatic_changes(table: str, existing: Sequence[TableColumn], wanted: Sequence[TableColumn]) -> Changes:
    """Return what to change in the table so that rows of the contract fit.

    Raises SchemaError if a column was removed, renamed or retyped, became required, or is new and required:
    old days would lose values or lack them. The message names each column with its old and new type, and the
    command that migrates.
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
            f"{_advice(table, existing, wanted)}"
        )
    return Changes(tuple(added), tuple(relaxed))


def _advice(table: str, existing: Sequence[TableColumn], wanted: Sequence[TableColumn]) -> str:
    old, new = {c.name: c for c in existing}, {c.name: c for c in wanted}
    renames = guess_renames(list(old), list(new), lambda before, after: old[before].type == new[after].type)
    drops = [name for name in old if name not in new and name not in renames]
    without_values = [
        c.name for c in wanted if not c.nullable and c.name not in old and c.name not in renames.values()
    ]
    if without_values:
        return f"Make {', '.join(without_values)} nullable in the contract, or change it back"
    return f"Change the contract back, or {migration_advice(table, renames, drops)} and run again"


def guess_renames(old: Sequence[str], new: Sequence[str], fits: Callable[[str, str], bool]) -> dict[str, str]:
    """Map each removed name to the new name that most likely replaced it: the nearest whose type fits."""
    gone = [name for name in old if name not in new]
    guessed: dict[str, str] = {}
    for name in new:
        candidates = [one for one in gone if one not in guessed and fits(one, name)]
        if name not in old and candidates:
            guessed[min(candidates, key=lambda one: abs(old.index(one) - new.index(name)))] = name
    return guessed


def migration_advice(table: str, renames: Mapping[str, str], drops: Sequence[str]) -> str:
    """Write, as a clause, the command to type and what it takes for granted."""
    command = f"ecommersss warehouse migrate --table {table}"
    command += "".join(f" --rename {old}={new}" for old, new in renames.items())
    command += "".join(f" --drop {name}" for name in drops)
    assumed = [f"{old} was renamed to {new}" for old, new in renames.items()]
    assumed += [f"the values of {name} may be lost" for name in drops]
    condition = f" (if {', '.join(assumed)})" if assumed else ""
    return f"type `{command}`{condition}"


@dataclass(frozen=True)
class Migration:
    """A plan that makes each column of the contract from the existing table."""

    table: str
    columns: tuple[tuple[TableColumn, TableColumn | None], ...]
    """In the contract's order: the new column, and the existing one it comes from (None: it is NULL)."""
    descriptions: tuple[str, ...]
    """The changes, each a clause; none if the table fits its contract."""

    def retyped(self) -> list[tuple[TableColumn, TableColumn]]:
        """Return the (new, old) columns whose type changes."""
        return [(new, old) for new, old in self.columns if old and new.type != old.type]

    def newly_required(self) -> list[tuple[TableColumn, TableColumn]]:
        """Return the (new, old) columns that may no longer be NULL."""
        return [(new, old) for new, old in self.columns if old and old.nullable and not new.nullable]


def plan_migration(
    table: str,
    existing: Sequence[TableColumn],
    wanted: Sequence[TableColumn],
    renames: Mapping[str, str],
    drops: Collection[str],
) -> Migration:
    """Plan the migration to the contract.

    `renames` maps old names to new ones; `drops` names columns to lose.

    Raises SchemaError for a rename or drop that makes no sense, a column that is neither in the contract nor
    dropped, and a required column that no existing column becomes.
    """
    old, new = {c.name: c for c in existing}, {c.name: c for c in wanted}
    sources = {new_name: old_name for old_name, new_name in renames.items()}
    problems = [f"there is no column {name}" for name in [*renames, *drops] if name not in old]
    problems += [f"{name} is in the contract, so it stays" for name in [*renames, *drops] if name in new]
    problems += [f"the contract has no column {name}" for name in sources if name not in new]
    problems += [f"there is a column {name} already" for name in sources if name in old]
    if len(sources) != len(renames):
        problems.append("two columns would get the same name")
    problems += [f"{name} is both renamed and dropped" for name in drops if name in renames]
    problems += [
        f"{name} ({column.type}) is not in the contract: say --rename {name}=NEW, or --drop {name} to lose it"
        for name, column in old.items()
        if name not in new and name not in renames and name not in drops
    ]
    columns, descriptions = [], []
    for column in wanted:
        before = old.get(sources.get(column.name, column.name))
        columns.append((column, before))
        if before is None:
            descriptions.append(f"{column.name} ({column.type}) is new, and NULL in existing rows")
            if not column.nullable:
                problems.append(f"{column.name} is required and new: make it nullable in the contract")
            continue
        if before.name != column.name:
            descriptions.append(f"{before.name} is renamed to {column.name}")
        if before.type != column.type:
            descriptions.append(f"{column.name} becomes {column.type} from {before.type}")
        if before.nullable != column.nullable:
            descriptions.append(f"{column.name} {'may be NULL' if column.nullable else 'is required'}")
    descriptions += [f"{name} ({old[name].type}) is dropped with its values" for name in drops if name in old]
    if problems:
        raise SchemaError(f"{table} cannot be migrated: {'; '.join(problems)}")
    return Migration(table, tuple(columns), tuple(descriptions))


def migrated_columns(plan: Migration, dialect: Dialect) -> str:
    """Write the SELECT list that makes the contract's columns from the table's."""
    made = []
    for new, old in plan.columns:
        if old is None:
            value = f"CAST(NULL AS {new.type})"
        else:
            quoted = dialect.quote(old.name)
            value = quoted if old.type == new.type else dialect.try_cast(quoted, new.type)
        made.append(f"{value} AS {dialect.quote(new.name)}")
    return ", ".join(made)


def losses_sql(plan: Migration, source: str, dialect: Dialect) -> str | None:
    """Write the SELECT of one row that counts values lost by each cast, and missing in required columns.

    Return None if there is nothing to count.
    """
    counts = []
    for new, old in plan.retyped():
        value = dialect.quote(old.name)
        cast = dialect.try_cast(value, new.type)
        lost = f"{cast} IS NULL OR {dialect.try_cast(cast, old.type)} IS DISTINCT FROM {value}"
        alias = dialect.quote(f"lost_{new.name}")
        counts.append(f"count(CASE WHEN {value} IS NOT NULL AND ({lost}) THEN 1 END) AS {alias}")
    for new, old in plan.newly_required():
        missing = f"count(CASE WHEN {dialect.quote(old.name)} IS NULL THEN 1 END)"
        counts.append(f"{missing} AS {dialect.quote(f'null_{new.name}')}")
    return f"SELECT {', '.join(counts)} FROM {source}" if counts else None  # noqa: S608


def check_losses(plan: Migration, counts: Mapping[str, Any]) -> None:
    """Raise SchemaError if the row of `losses_sql` counts any loss."""
    problems = [
        f"{counts[f'lost_{new.name}']} values of {new.name} cannot become {new.type} and {old.type} again"
        for new, old in plan.retyped()
        if counts[f"lost_{new.name}"]
    ]
    problems += [
        f"{counts[f'null_{new.name}']} rows have no {new.name}, which the contract requires"
        for new, _ in plan.newly_required()
        if counts[f"null_{new.name}"]
    ]
    if problems:
        raise SchemaError(f"{plan.table} was not migrated, values would be lost: {'; '.join(problems)}")
