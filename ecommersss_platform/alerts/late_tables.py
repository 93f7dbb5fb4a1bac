"""Tables that lack the newest closed day, also when no daemon evaluates their checks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from ecommersss_platform.alerts.failed_checks import PARITY
from ecommersss_platform.alerts.look import Look, Undecided
from ecommersss_platform.alerts.problem import Problem
from ecommersss_platform.alerts.text import covers
from ecommersss_platform.days import Days
from ecommersss_platform.freshness import EXPECTED, ORDERS, Expected, due_at, lateness, newest_due_day
from streaming.database import rows_by_name

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

GRACE = timedelta(minutes=15)
"""How long a platform that has just started may take to catch up."""

SUBJECT = "newest closed day"

_COMPARED = """
SELECT coalesce(
    evaluation_event::json #>> '{dagster_event,event_specific_data,metadata,days,text}', ''
) AS days
FROM asset_check_executions
WHERE check_name = %(check)s AND execution_status IN ('SUCCEEDED', 'FAILED')
    AND create_timestamp >= %(begun)s
"""
_PARTITIONS = """
SELECT asset_key AS key, max(timestamp) AS updated,
       max(timestamp) FILTER (WHERE timestamp < %(due)s) AS loaded
FROM event_logs
WHERE asset_key = ANY(%(keys)s) AND partition = %(day)s
    AND dagster_event_type IN ('ASSET_MATERIALIZATION', 'ASSET_OBSERVATION')
GROUP BY asset_key
"""
_WHOLE = """
SELECT key, max(timestamp) AS updated
FROM unnest(%(keys)s) AS key,
    unnest(ARRAY['ASSET_MATERIALIZATION', 'ASSET_OBSERVATION']) AS type,
    LATERAL (
        SELECT timestamp FROM event_logs
        WHERE asset_key = key AND dagster_event_type = type ORDER BY id DESC LIMIT 1
    ) AS newest
GROUP BY key
"""


def late_tables(look: Look) -> list[Problem]:
    """Return one problem that names the late tables, or parity if only that is late."""
    first, late = look.settings.first_partition_day(look.now), {}
    for due in {table.due for table in EXPECTED}:
        tables = [table for table in EXPECTED if table.due == due]
        if (day := newest_due_day(look.now, due)) >= first:
            late.update(judge(look.connection, tables, day, due))
    day = newest_due_day(look.now)
    if not late and day >= first and not is_compared(look, day):  # a table that is late explains it
        late[PARITY] = day, f"the orders of {day} were not compared: materialise {day}"
    if not late:
        return []
    if look.now - look.since < GRACE:
        raise Undecided
    return [Problem("freshness_missed", SUBJECT, summary(late))]


def is_compared(look: Look, day: date) -> bool:
    """Return whether an execution of the check of parity, whatever its result, looked at a day."""
    begun = Days.between(day, day).start_instant.astimezone(UTC)
    what = {"check": PARITY, "begun": begun.replace(tzinfo=None)}
    return any(covers(row["days"], day.isoformat()) for row in look.rows(_COMPARED, what))


def judge(
    connection: Connection, tables: Sequence[Expected], day: date, due: timedelta
) -> dict[str, tuple[date, str]]:
    """Return the late ones of these tables, each with the day that it lacks and the sentence about it."""
    keys: dict[str, Expected] = {json.dumps(table.key.split("/")): table for table in tables}
    orders = json.dumps(ORDERS.split("/"))
    of_day = {
        "keys": [orders, *(key for key, table in keys.items() if table.by_day)],
        "day": day.isoformat(),
        "due": due_at(day, due).astimezone(UTC).replace(tzinfo=None),
    }
    partitions = {row["key"]: row for row in rows_by_name(connection, _PARTITIONS, of_day)}
    whole = {"keys": [key for key, table in keys.items() if not table.by_day]}
    found = [*rows_by_name(connection, _WHOLE, whole), *partitions.values()]
    updated = {row["key"]: row["updated"] for row in found}
    loaded = _utc(partitions.get(orders, {}).get("loaded"))
    sentences = {
        table.key: lateness(table, day, _utc(updated.get(key)), loaded) for key, table in keys.items()
    }
    return {key: (day, sentence) for key, sentence in sentences.items() if sentence is not None}


def summary(late: Mapping[str, tuple[date, str]]) -> str:
    """Return a sentence about the late tables: which they are, and how to make their day."""
    first = next(iter(late))
    day, sentence = late[first]
    if len(late) == 1:
        return f"{first}: {sentence}"
    which = ", ".join(list(late)[:3]) + (f" and {len(late) - 3} more" if len(late) > 3 else "")
    return (
        f"{day} is over, and {len(late)} tables are without it ({which}):"
        f" `ecommersss materialize --from {day} --to {day}` builds them"
    )


def _utc(naive: datetime | None) -> datetime | None:
    return None if naive is None else naive.replace(tzinfo=UTC)
