"""Storing imported rows: new ones are inserted, changed ones updated, all in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from pathlib import Path

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from streaming.business_days import JAKARTA, business_day
from streaming.imports.lines import PROBLEMS_LISTED, InvalidFile, Row
from streaming.imports.tables import ImportedTable

_ROWS_PER_INSERT = 1_000


@dataclass(frozen=True)
class Imported:
    """How many rows of a file were inserted, updated, or changed nothing."""

    inserted: int
    updated: int
    unchanged: int
    skipped: int = field(default=0, compare=False)
    """Rows of a CSV file that have only delimiters."""
    dated_late: int = field(default=0, compare=False)
    """Inserted rows that were created on an earlier day, while their version is dated now."""
    repaired: int = field(default=0, compare=False)
    """Existing rows that gained a version at their created_date, before their first one."""

    def __str__(self) -> str:
        text = f"{self.inserted:,} inserted, {self.updated:,} updated, {self.unchanged:,} unchanged"
        text += f", {self.repaired:,} dated back" if self.repaired else ""
        return f"{text}, {self.skipped:,} empty rows skipped" if self.skipped else text


def store_rows(
    cursor: Cursor, table: ImportedTable, rows: Sequence[Row], path: Path, dated_from: datetime | None = None
) -> Imported:
    """Insert or update rows that a file, `path`, holds.

    Versions are dated now or, with `dated_from` (aware), at the event of a new row, but not before that
    instant. Raises `InvalidFile` if a row belongs to an order that does not exist.
    """
    # The names of tables and columns and their SQL are ours, not the file's.
    columns = ", ".join(table.columns)
    # Keep other writers out of the table; orders that refer to its rows can still be stored.
    cursor.execute(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE")
    cursor.execute(
        f"CREATE TEMPORARY TABLE imported ON COMMIT DROP AS"  # noqa: S608
        f" SELECT {columns}, 0 AS line, now() AS event FROM {table.name} WITH NO DATA"
    )
    execute_values(
        cursor,
        f"INSERT INTO imported ({columns}, line) VALUES %s",  # noqa: S608
        [(*row.values, row.line) for row in rows],
        page_size=_ROWS_PER_INSERT,
    )
    cursor.execute(f"CREATE INDEX ON imported ({table.identity[0]})")
    cursor.execute("ANALYZE imported")
    if "order_id" in table.columns:
        _require_orders(cursor, path)

    repaired = updated = 0
    if table.append_only:
        cursor.execute(_DROP_KNOWN_ENTRIES.format(table=table.name))
        existing = cursor.rowcount
    else:
        if dated_from is not None:
            cursor.execute(_date_back(table), [dated_from])
            repaired = cursor.rowcount
        # Then update existing rows, dated now; the trigger stops an update that changes nothing.
        same = f"t.{table.key} = i.{table.key}"
        cursor.execute(f"UPDATE {table.name} t SET {_assignments(table)} FROM imported i WHERE {same}")  # noqa: S608
        updated = cursor.rowcount
        cursor.execute(f"DELETE FROM imported i USING {table.name} t WHERE {same}")  # noqa: S608
        existing = cursor.rowcount

    values = ", ".join(f"{name} = coalesce({name}, {value})" for name, value in table.defaults.items())
    cursor.execute(f"UPDATE imported SET {values}")  # noqa: S608
    cursor.execute(f"UPDATE imported SET event = {table.event}")  # noqa: S608
    insert = f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM imported"  # noqa: S608
    dated_late = 0
    if dated_from is None:
        today = datetime.combine(business_day(datetime.now(JAKARTA)), time.min, JAKARTA)
        cursor.execute("SELECT count(*) FROM imported WHERE event < %s", [today])
        [(dated_late,)] = cursor.fetchall()
        cursor.execute(f"{insert} ORDER BY {table.key}")
    else:
        # Insert instant by instant, in the server: the trigger dates rows by the transaction's clock.
        cursor.execute("SELECT set_config('ecommersss.dated_from', %s, true)", [dated_from.isoformat()])
        cursor.execute("CREATE INDEX ON imported (event)")
        cursor.execute(_BY_INSTANT.format(insert=insert, key=table.key))
    return Imported(
        inserted=len(rows) - existing,
        updated=updated,
        unchanged=existing - updated,
        dated_late=dated_late,
        repaired=repaired,
    )


def _require_orders(cursor: Cursor, path: Path) -> None:
    """Raise `InvalidFile` with the lines whose order does not exist."""
    cursor.execute(_UNKNOWN_ORDERS)
    unknown = cursor.fetchall()
    if unknown:
        problems = [f"line {line}: order {order} does not exist" for line, order in unknown[:PROBLEMS_LISTED]]
        raise InvalidFile(path, problems, more=len(unknown) - len(problems))


def _assignments(table: ImportedTable) -> str:
    """Return the SET of an update: what each column becomes."""

    def value(name: str) -> str:
        if not table.whole:
            return f"coalesce(i.{name}, t.{name})"
        return f"coalesce(i.{name}, {table.defaults[name]})" if name in table.defaults else f"i.{name}"

    return ", ".join(f"{name} = {value(name)}" for name in table.columns if name != table.key)


def _date_back(table: ImportedTable) -> str:
    """Return the SQL that copies the first version of each row to an earlier event of it."""
    first = ", ".join(
        "coalesce(i.created_date, t.created_date) AS created_date" if name == "created_date" else f"h.{name}"
        for name in table.columns
    )
    return _DATE_BACK.format(
        table=table.name, key=table.key, columns=", ".join(table.columns), first=first, event=table.event
    )


_UNKNOWN_ORDERS = """
    SELECT line, order_id FROM imported i WHERE NOT EXISTS (SELECT FROM orders o WHERE o.id = i.order_id)
    ORDER BY line
"""

# A line without a time repeats the newest verdict, or is a new one.
_DROP_KNOWN_ENTRIES = """
    DELETE FROM imported i USING {table} t
    WHERE (t.order_id, t.verdict, t.reviewer) = (i.order_id, i.verdict, i.reviewer)
      AND (t.decided_at = i.decided_at
           OR (i.decided_at IS NULL AND t.note IS NOT DISTINCT FROM i.note
               AND t.id = (SELECT v.id FROM {table} v WHERE v.order_id = i.order_id
                           ORDER BY v.decided_at DESC, v.id DESC LIMIT 1)))
"""

_DATE_BACK = """
    INSERT INTO {table}_history (valid_from, {columns}, updated_at)
    SELECT dated, {columns}, dated FROM (
        SELECT {columns}, valid_from, least(greatest({event}, %s), now()) AS dated FROM (
            SELECT DISTINCT ON (h.{key}) {first}, h.valid_from
            FROM {table}_history h JOIN {table} t ON t.{key} = h.{key} JOIN imported i ON i.{key} = h.{key}
            ORDER BY h.{key}, h.valid_from, h.version
        ) AS earliest
    ) AS dated_back
    WHERE dated < valid_from
"""

_BY_INSTANT = """
    DO $$ DECLARE
        instant timestamptz;
        dated_from timestamptz := current_setting('ecommersss.dated_from');
    BEGIN
        FOR instant IN SELECT DISTINCT event FROM imported ORDER BY event LOOP
            -- Never in the future, whatever the file says.
            PERFORM set_config('ecommersss.clock', least(greatest(instant, dated_from), now())::text, true);
            {insert} WHERE event = instant ORDER BY {key};
        END LOOP;
    END $$
"""
