"""Observations of the sources: how far producer, consumer and tables are, as figures that the UI plots.

`order_stream_sensor` observes every five minutes, and `daily_close` at the end of each day.
An asset that has not changed since its last observation gets none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import date, datetime, timedelta
from typing import Any

import psycopg2
from dagster import AssetKey, AssetObservation, DagsterInstance, MetadataValue
from psycopg2.extensions import connection as Connection

from ecommersss_platform.assets.sources import (
    FLAGGED_STREAM,
    ORDERS_TOPIC,
    source_tables,
    table_key,
)
from ecommersss_platform.days import Days
from ecommersss_platform.instance.databases import database_url
from ecommersss_platform.order_stream import Seen
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import flagged_stream, order_broker, progress_figures
from streaming.database import connect
from streaming.errors import PlatformError, first_line

INTERVAL = timedelta(minutes=5)
"""The shortest time between two observations that the sensor makes."""

ORDERS, REJECTED = table_key("orders"), table_key("rejected_orders")
WRITES = "writes"
"""The figure that says how many rows of a table were ever written."""
_log = logging.getLogger("ecommersss.observations")
Figures = dict[AssetKey, dict[str, Any]]

# PostgreSQL counts writes itself. Counting the rows of a large table would cost more than a tick may.
_TABLES = """
    SELECT relname, n_live_tup, n_tup_ins + n_tup_upd + n_tup_del
    FROM pg_stat_user_tables WHERE schemaname = current_schema() AND relname = ANY(%s)
"""
_NEWEST_ORDER = "SELECT max(created_date) FROM orders"
_NOT_RETRIED = "SELECT count(*) FILTER (WHERE retried_at IS NULL), max(rejected_at) FROM rejected_orders"
_CLOSED_DAY = """
    SELECT count(*), count(*) FILTER (WHERE is_fraud),
           (SELECT count(*) FROM rejected_orders WHERE rejected_at >= %(start)s AND rejected_at < %(end)s)
    FROM orders WHERE created_date >= %(start)s AND created_date < %(end)s
"""


def is_due(observed_at: datetime | None, now: datetime) -> bool:
    """Return whether it is time for the sensor to observe again."""
    return observed_at is None or now - observed_at >= INTERVAL


def observe(
    instance: DagsterInstance, settings: Settings, seen: Seen | None = None, closed: date | None = None
) -> tuple[list[AssetObservation], str | None]:
    """Return an observation of each source that has changed since its last one, and why there is none if so.

    `seen`: the flagged orders since the last observation. `closed`: a business day that has just ended, whose
    orders are counted. Whoever asks has work of its own, so a source that cannot be read is no error.
    """
    try:
        return _observe(instance, settings, seen, closed), None
    except (psycopg2.Error, PlatformError, OSError) as error:
        return [], f"the sources are not observed: {first_line(error)}"


def _observe(
    instance: DagsterInstance, settings: Settings, seen: Seen | None, closed: date | None
) -> list[AssetObservation]:
    states: Figures = {FLAGGED_STREAM: {"end": flagged_stream(settings).end()}}
    details: Figures = {FLAGGED_STREAM: flagged_figures(seen) if seen else {}}
    with closing(connect(database_url(settings), "ecommersss observations")) as connection:
        connection.autocommit = True
        states[ORDERS_TOPIC] = progress_figures(order_broker(settings).progress(connection))
        for key, rows, writes in _tables(connection):
            states[key] = {WRITES: writes}
            details[key] = {"estimated_rows": rows}
        previous = {key: last_figures(instance, key) for key in states}
        changed = [
            key
            for key, state in states.items()
            if has_changed(previous[key], state) or (closed is not None and key == ORDERS)
        ]
        for key in changed:
            details.setdefault(key, {}).update(since(previous[key], states[key]))
            details[key].update(_details(connection, key, closed))
    return [
        AssetObservation(
            key,
            description=None if closed is None else f"{closed} is closed",
            metadata=metadata({**states[key], **details[key]}),
        )
        for key in changed
    ]


def record_closed_day(settings: Settings, instance: DagsterInstance, closed: date) -> None:
    """Record the observations that `daily_close` makes. A schedule cannot return them, as a sensor does."""
    observations, problem = observe(instance, settings, closed=closed)
    for observation in observations:
        instance.report_runless_asset_event(observation)
    if problem is not None:
        _log.warning(problem)


def has_changed(previous: Mapping[str, Any] | None, state: Mapping[str, Any]) -> bool:
    """Return whether a source is no longer in the state of its last observation."""
    return previous is None or any(previous.get(name) != value for name, value in state.items())


def since(previous: Mapping[str, Any] | None, state: Mapping[str, Any]) -> dict[str, int]:
    """Return how much was written to a table since its last observation; nothing without a count before.

    PostgreSQL begins to count again after a crash.
    """
    if WRITES not in state or previous is None or WRITES not in previous:
        return {}
    written = state[WRITES] - previous[WRITES]
    return {"written": written if written >= 0 else state[WRITES]}


def flagged_figures(seen: Seen) -> dict[str, Any]:
    """Return what the new lines of the flagged stream say; a share only if there are any."""
    if not seen.orders:
        return {"orders": 0}
    return {
        "orders": seen.orders,
        "fraud_percentage": round(100 * seen.fraud / seen.orders, 2),
        "newest_order": seen.newest,
    }


def last_figures(instance: DagsterInstance, key: AssetKey) -> dict[str, Any] | None:
    """Return the figures of the last observation of an asset; None if it has none."""
    for record in instance.fetch_observations(key, limit=1).records:
        if (observation := record.asset_observation) is not None:
            return {name: value.value for name, value in observation.metadata.items()}
    return None


def metadata(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures as metadata of Dagster's, without those that are unknown."""
    return {
        name: MetadataValue.timestamp(value) if isinstance(value, datetime) else value
        for name, value in figures.items()
        if value is not None
    }


def _tables(connection: Connection) -> Iterator[tuple[AssetKey, int, int]]:
    """Yield each table with PostgreSQL's estimate of its rows and its count of rows written."""
    with connection.cursor() as cursor:
        cursor.execute(_TABLES, ([table.name for table in source_tables()],))
        for name, rows, writes in cursor:
            yield table_key(name), rows, writes


def _details(connection: Connection, key: AssetKey, closed: date | None) -> dict[str, Any]:
    """Return what is worth a look into a table that has changed."""
    with connection.cursor() as cursor:
        if key == REJECTED:
            cursor.execute(_NOT_RETRIED)
            [(waiting, newest)] = cursor.fetchall()
            return {"not_retried": waiting, "newest": newest}
        if key != ORDERS:
            return {}
        cursor.execute(_NEWEST_ORDER)
        [(newest,)] = cursor.fetchall()
        if closed is None:
            return {"newest_order": newest}
        days = Days.between(closed, closed)
        cursor.execute(_CLOSED_DAY, {"start": days.start_instant, "end": days.end_instant})
        [(orders, fraud, rejected)] = cursor.fetchall()
        share = {"fraud_percentage_of_day": round(100 * fraud / orders, 2)} if orders else {}
        return {"newest_order": newest, "orders_of_day": orders, **share, "rejected_of_day": rejected}
