"""DuckDB's dialect, and the statements that make a table fit its contract."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from ecommersss_platform.contracts import RawTable, Type
from ecommersss_platform.warehouse.dialect import Dialect, TableColumn
from ecommersss_platform.warehouse.names import STAGING, full_name, split_name
from ecommersss_platform.warehouse.schema_changes import automatic_changes
from streaming.business_days import JAKARTA


def _literal_rows(columns: Sequence[TableColumn], rows: Sequence[Sequence[str]]) -> str:
    names = ", ".join(DIALECT.quote(c.name) for c in columns)
    values = ", ".join(f"({', '.join(row)})" for row in rows)
    return f"(SELECT * FROM (VALUES {values}) AS entries({names}))"  # noqa: S608


DIALECT = Dialect(
    name="duckdb",
    types={
        Type.INT64: "BIGINT",
        Type.STRING: "VARCHAR",
        Type.STRINGS: "VARCHAR[]",
        Type.BOOL: "BOOLEAN",
        Type.MONEY: "DECIMAL(18,2)",
        Type.TIMESTAMP: "TIMESTAMP WITH TIME ZONE",
        Type.DATE: "DATE",
        Type.FLOAT64: "DOUBLE",
    },
    quote=lambda identifier: '"' + identifier.replace('"', '""') + '"',
    text=lambda value: "'" + value.replace("'", "''") + "'",
    instant="TIMESTAMPTZ",
    business_day=lambda instant: f"CAST({instant} AT TIME ZONE '{JAKARTA}' AS DATE)",
    try_cast=lambda value, type_: f"TRY_CAST({value} AS {type_})",
    literal_rows=_literal_rows,
    narrowed=lambda number, digits, decimals: f"CAST({number} AS DECIMAL({digits}, {decimals}))",
    present=lambda texts: (
        f"list_filter(CAST([{', '.join(texts)}] AS VARCHAR[]), lambda text: text IS NOT NULL)"
    ),
    distinct=lambda array: f"list_distinct({array})",
    contains=lambda array, text: f"list_contains({array}, {text})",
    # DuckDB would keep all rows in memory for a join with UNNEST.
    unnested=lambda select, array, column: f"SELECT *, unnest({array}) AS {column} FROM ({select}) AS nested",  # noqa: S608
)


def qualified(table: RawTable | str) -> str:
    return ".".join(DIALECT.quote(part) for part in split_name(table))


def existing_columns(connection: duckdb.DuckDBPyConnection, table: RawTable | str) -> list[TableColumn]:
    """Return the columns of a table or view; none if it does not exist.

    Ask this before a SELECT: for a missing table DuckDB would read a Python variable of the same name. Not
    for use within a transaction, which the error for a missing table would end.
    """
    # Ten times as fast as the catalog's views. The name is a literal because parameters load pandas.
    source = f"pragma_table_info({DIALECT.text(qualified(table))})"
    try:
        rows = connection.execute(f'SELECT name, type, NOT "notnull" FROM {source}').fetchall()  # noqa: S608
    except duckdb.CatalogException:
        return []
    return [TableColumn(*row) for row in rows]


def contract_statements(
    connection: duckdb.DuckDBPyConnection, table: RawTable, *, replace: bool
) -> list[str]:
    """Return the statements that make the table fit its contract: none, a CREATE, or ALTERs.

    With `replace` the table is created again, whatever it was. Raises SchemaError for a table that cannot
    follow its contract.
    """
    existing = existing_columns(connection, table)
    if replace or not existing:
        return create_statements(table)
    name, quote, text = qualified(table), DIALECT.quote, DIALECT.text
    todo = automatic_changes(full_name(table), existing, DIALECT.columns(table))
    described = {c.name: c.description for c in table.columns}
    return [
        *(f"ALTER TABLE {name} ADD COLUMN {quote(c.name)} {c.type}" for c in todo.added),
        *(f"COMMENT ON COLUMN {name}.{quote(c.name)} IS {text(described[c.name])}" for c in todo.added),
        *(f"ALTER TABLE {name} ALTER COLUMN {quote(c.name)} DROP NOT NULL" for c in todo.relaxed),
    ]


def create_statements(table: RawTable) -> list[str]:
    """Return the statements that create the table, or create it again, with its descriptions."""
    name, quote, text = qualified(table), DIALECT.quote, DIALECT.text
    columns = ", ".join(
        f"{quote(c.name)} {c.type}{'' if c.nullable else ' NOT NULL'}" for c in DIALECT.columns(table)
    )
    return [
        f"CREATE SCHEMA IF NOT EXISTS {quote(table.dataset)}",
        f"CREATE OR REPLACE TABLE {name} ({columns})",
        f"COMMENT ON TABLE {name} IS {text(table.description)}",
        *(f"COMMENT ON COLUMN {name}.{quote(c.name)} IS {text(c.description)}" for c in table.columns),
    ]


def create_staging(connection: duckdb.DuckDBPyConnection, table: RawTable, staging: str) -> None:
    # No constraints: the audit names every missing value, a constraint would name only the first.
    columns = ", ".join(f"{DIALECT.quote(c.name)} {c.type}" for c in DIALECT.columns(table))
    connection.execute(f"CREATE TABLE {staging} ({columns})")


def drop_dead_staging(connection: duckdb.DuckDBPyConnection) -> None:
    """Drop every staging table.

    A staging table lives only while its writer has the file open, and we are now the only writer. So a table
    that exists here was left by a writer that was killed.
    """
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {STAGING}")
    dead = connection.execute(
        "SELECT table_name FROM duckdb_tables() "  # noqa: S608
        f"WHERE database_name = current_database() AND schema_name = {DIALECT.text(STAGING)}"
    ).fetchall()
    for (name,) in dead:
        connection.execute(f"DROP TABLE {STAGING}.{DIALECT.quote(name)}")
