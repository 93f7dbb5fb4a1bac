"""Check that PostgreSQL's tables fit the contracts of the raw tables, before any row is read."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pyarrow as pa

from ecommersss_platform.contracts import PARTITION_COLUMN, RawTable, Type
from ecommersss_platform.warehouse.errors import SchemaError
from ecommersss_platform.warehouse.names import full_name
from ecommersss_platform.warehouse.schema_changes import guess_renames, migration_advice

_TYPES = {
    Type.INT64: r"smallint|integer|bigint",
    Type.STRING: r"text|character( varying)?(\(\d+\))?",
    Type.STRINGS: r"text\[\]|character varying(\(\d+\))?\[\]",
    Type.BOOL: r"boolean",
    Type.MONEY: r"numeric\(([1-9]|1[0-8]),[0-2]\)",
    Type.TIMESTAMP: r"timestamp(\(\d\))? with time zone",
    Type.DATE: r"date",
    Type.FLOAT64: r"real|double precision",
}
"""Per contract type, the PostgreSQL types (a regular expression) whose every value it can hold."""

COLUMNS_SCHEMA = pa.schema([("name", pa.string()), ("type", pa.string())])


def columns_sql(table: RawTable) -> tuple[str, dict[str, str]]:
    """Return the SELECT of the source's columns, shaped as `COLUMNS_SCHEMA`, and its parameters."""
    return (
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = to_regclass(%(source)s) AND attnum > 0 AND NOT attisdropped",
        {"source": table.source},
    )


def check_source(table: RawTable, columns: Mapping[str, str]) -> None:
    """Compare the contract with the source's columns: PostgreSQL types by column name.

    Columns that the contract does not have are ignored. Raises SchemaError, which names each wrong column
    with its type and the expected one, and the command that migrates the warehouse to a changed contract.
    """
    needed = {c.name: c.type for c in table.source_columns if c.name != PARTITION_COLUMN}
    gone = [name for name in needed if name not in columns]
    retyped = [n for n in needed if n in columns and not re.fullmatch(_TYPES[needed[n]], columns[n])]
    if not gone and not retyped:
        return
    problems = [f"column {name} ({needed[name].name}) is gone (removed or renamed)" for name in gone]
    problems += [
        f"column {name} is {columns[name]}, and {needed[name].name} in the contract" for name in retyped
    ]
    renames = guess_renames(
        list(needed), list(columns), lambda old, new: bool(re.fullmatch(_TYPES[needed[old]], columns[new]))
    )
    drops = [name for name in gone if name not in renames]
    raise SchemaError(
        f"nothing was published: {table.source} in PostgreSQL no longer fits the contract of "
        f"{full_name(table)}: {'; '.join(problems)}. Change it back, or change the contract, "
        f"{migration_advice(full_name(table), renames, drops)} and run again"
    )
