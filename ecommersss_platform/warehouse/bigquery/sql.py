"""BigQuery's SQL: its dialect, and the statements that only it has. Pure text, no client."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ecommersss_platform.contracts import PARTITION_COLUMN, Column, RawTable, Type
from ecommersss_platform.days import Days
from ecommersss_platform.warehouse.audit import day_filter
from ecommersss_platform.warehouse.bigquery.config import TABLE_LABELS
from ecommersss_platform.warehouse.dialect import Dialect, TableColumn
from streaming.business_days import JAKARTA

LOCK_DESCRIPTION = "Publications of the table without _lock take turns here. Its row is when the last began."

ANY_DAY = f"{PARTITION_COLUMN} >= DATE '0001-01-01'"
"""True for every day; satisfies a table that requires a partition filter."""


def _try_cast(value: str, type_: str) -> str:
    cast = f"SAFE_CAST({value} AS {type_})"
    # NUMERIC has nine decimal places; the only one of the contracts has two.
    return f"ROUND({cast}, 2)" if type_ == DIALECT.types[Type.MONEY] else cast


def _literal_rows(columns: Sequence[TableColumn], rows: Sequence[Sequence[str]]) -> str:
    names = ", ".join(f"{DIALECT.quote(c.name)} {c.type}" for c in columns)
    values = ", ".join(f"({', '.join(row)})" for row in rows)
    return f"UNNEST(ARRAY<STRUCT<{names}>>[{values}])"


def _present(texts: Sequence[str]) -> str:
    return (
        f"ARRAY(SELECT text FROM UNNEST(ARRAY<STRING>[{', '.join(texts)}]) AS text WITH OFFSET AS place "  # noqa: S608
        "WHERE text IS NOT NULL ORDER BY place)"
    )


DIALECT = Dialect(
    name="bigquery",
    types={
        Type.INT64: "INT64",
        Type.STRING: "STRING",
        Type.STRINGS: "ARRAY<STRING>",
        Type.BOOL: "BOOL",
        Type.MONEY: "NUMERIC",
        Type.TIMESTAMP: "TIMESTAMP",
        Type.DATE: "DATE",
        Type.FLOAT64: "FLOAT64",
    },
    quote=lambda identifier: f"`{identifier}`",
    text=lambda value: json.dumps(value, ensure_ascii=False),
    instant="TIMESTAMP",
    business_day=lambda instant: f"DATE({instant}, '{JAKARTA}')",
    try_cast=_try_cast,
    literal_rows=_literal_rows,
    # NUMERIC has one width, and CAST refuses another.
    narrowed=lambda number, digits, decimals: number,
    present=_present,
    distinct=lambda array: f"ARRAY(SELECT DISTINCT text FROM UNNEST({array}) AS text)",  # noqa: S608
    contains=lambda array, text: f"{text} IN UNNEST({array})",
    unnested=lambda select, array, column: (
        f"SELECT nested.*, {column} FROM ({select}) AS nested CROSS JOIN UNNEST({array}) AS {column}"  # noqa: S608
    ),
)


def is_partitioned(table: RawTable) -> bool:
    return any(c.name == PARTITION_COLUMN for c in table.columns)


def requires_filter(table: RawTable) -> bool:
    """Return whether queries must name days: if every row has one and the contract does not exempt them."""
    return not table.unfiltered and any(c.name == PARTITION_COLUMN and not c.nullable for c in table.columns)


def merge_sql(table: RawTable, target: str, staging: str, days: Days) -> str:
    """Write the statement that replaces exactly these days with the staged rows.

    ON FALSE matches nothing. So every staged row is inserted, and rows of the target are deleted by their day
    alone. Bounds are constants, so that only these partitions are read and written. They are on both sides,
    so that no other day gains a row, whatever was staged.
    """
    columns = DIALECT.column_list(table)
    return (
        f"MERGE {target} AS target "  # noqa: S608
        f"USING (SELECT {columns} FROM {staging} WHERE {day_filter(days)}) AS staged ON FALSE "
        f"WHEN NOT MATCHED BY SOURCE AND {day_filter(days, f'target.{PARTITION_COLUMN}')} THEN DELETE "
        f"WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({columns})"
    )


def lock_name(table: RawTable) -> str:
    """Name the table that the publications of a table take turns at, in the dataset of that table."""
    return f"{table.name}_lock"


def in_turn_sql(lock: str, statements: Sequence[str]) -> str:
    """Write the script that carries out the statements in one transaction, while no other does at this lock.

    MERGEs that only insert, as those of an empty day do, run side by side, and each would publish its rows.
    So each transaction first updates the one row of the lock: of two transactions that update a table,
    BigQuery cancels one. The UPDATE before the transaction waits for one that is at work, whoever began it,
    so that few are cancelled.
    """
    text = DIALECT.text
    labels = ", ".join(f"({text(key)}, {text(value)})" for key, value in TABLE_LABELS.items())
    options = f"description={text(LOCK_DESCRIPTION)}, labels=[{labels}]"
    take = f"UPDATE {lock} SET taken_at = CURRENT_TIMESTAMP() WHERE TRUE"  # noqa: S608
    steps = [
        f"CREATE TABLE IF NOT EXISTS {lock} OPTIONS({options}) AS SELECT CURRENT_TIMESTAMP() AS taken_at",
        take,
        "BEGIN TRANSACTION",
        take,
        *statements,
        "COMMIT TRANSACTION",
    ]
    return ";\n".join(steps)


def counts_sql(target: str, days: Days) -> str:
    """Write the SELECT of each of these days that has rows, and their number."""
    return (
        f"SELECT {PARTITION_COLUMN} AS day, count(*) AS n FROM {target} "  # noqa: S608
        f"WHERE {day_filter(days)} GROUP BY day"
    )


def logged_counts_sql(log: str, table: str, days: Days) -> str:
    """Write the SELECT of the (day, rows) that other loads of the table logged for these days."""
    return (
        f"SELECT {PARTITION_COLUMN} AS day, row_count AS n FROM {log} "  # noqa: S608
        f"WHERE {day_filter(days)} AND table_name = {DIALECT.text(table)}"
    )


def replace_sql(table: RawTable, target: str, select: str) -> str:
    """Write the one statement that replaces the whole table, columns included, with the SELECT's rows."""
    text = DIALECT.text
    columns = ", ".join(_definition(c) for c in table.columns)
    partitioned = f" PARTITION BY {PARTITION_COLUMN}" if is_partitioned(table) else ""
    clustered = f" CLUSTER BY {', '.join(map(DIALECT.quote, table.clustering))}" if table.clustering else ""
    labels = ", ".join(f"({text(key)}, {text(value)})" for key, value in TABLE_LABELS.items())
    options = f"description={text(table.description)}, labels=[{labels}]"
    if requires_filter(table):
        options += ", require_partition_filter=TRUE"
    return (
        f"CREATE OR REPLACE TABLE {target} ({columns}){partitioned}{clustered} OPTIONS({options}) AS {select}"
    )


def _definition(column: Column) -> str:
    required = "" if column.nullable or column.type is Type.STRINGS else " NOT NULL"
    described = f"OPTIONS(description={DIALECT.text(column.description)})"
    return f"{DIALECT.quote(column.name)} {DIALECT.types[column.type]}{required} {described}"
