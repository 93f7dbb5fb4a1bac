"""The report of `ecommersss status`: processes, positions and lag, newest partitions, rejected orders."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from streaming.errors import PlatformError

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings

_COUNTS = """
SELECT (SELECT count(*) FROM users) AS users,
       (SELECT count(*) FROM products) AS products,
       (SELECT count(*) FROM orders) AS orders,
       (SELECT count(*) FROM orders WHERE is_fraud) AS fraud_orders,
       (SELECT max(flagged_at) FROM orders) AS last_flagged_at
"""
_REJECTED = """
SELECT reason, count(*) AS lines, count(*) FILTER (WHERE retried_at IS NULL) AS not_retried
FROM rejected_orders GROUP BY reason ORDER BY lines DESC, reason
"""


_PATIENCE = 3.0
"""How many seconds a report waits for the warehouse: a query may have it for minutes."""


def gather(settings: Settings) -> dict[str, Any]:
    """Return the platform's state as plain values. Lags are in units of the topic's positions (JSONL: bytes).

    Raises `PlatformError` if there is no platform in the home yet.
    """
    from ecommersss_platform.instance.databases import migrated_database
    from ecommersss_platform.local.stack import running
    from ecommersss_platform.topics import flagged_stream, order_broker
    from streaming.database import connect

    if settings.database_url is None and not settings.postgres_dir.exists():
        raise PlatformError(f"there is no platform in {settings.home} yet: start one with `ecommersss up`")
    up = running(settings)
    with migrated_database(settings) as url, closing(connect(url, "ecommersss status")) as connection:
        counts = _rows(connection, _COUNTS)[0]
        rejected = _rows(connection, _REJECTED)
        topic = order_broker(settings).progress(connection)
    flagged = flagged_stream(settings)
    newest, busy = newest_days(settings)
    return {
        "home": str(settings.home),
        "up": up is not None,
        "ui": up["ui"] if up else None,
        "metrics": (metrics := _metrics_url(settings, up)),
        "consumer": consumer_figures(metrics) if metrics else None,
        "processes": up["processes"] if up else [],
        "topic": topic,
        "flagged_stream": {"start": flagged.start(), "end": flagged.end()},
        "database": counts,
        "rejected": {
            "lines": sum(row["lines"] for row in rejected),
            "not_retried": sum(row["not_retried"] for row in rejected),
            "by_reason": rejected,
        },
        "partitions": newest,
        "warehouse_busy": busy,
    }


def newest_days(settings: Settings, patience: float = _PATIENCE) -> tuple[list[dict[str, Any]], str | None]:
    """Return the newest partition of each raw table, or none of them and who has the warehouse."""
    from ecommersss_platform.contracts import RAW_TABLES
    from ecommersss_platform.warehouse import WarehouseBusy, make_warehouse
    from ecommersss_platform.warehouse.names import full_name

    warehouse = make_warehouse(settings, patience)
    try:
        return [{"table": full_name(t), "newest": warehouse.newest_day(t)} for t in RAW_TABLES], None
    except WarehouseBusy as error:
        return [], str(error)


def _metrics_url(settings: Settings, up: dict[str, Any] | None) -> str | None:
    """Return the URL of the consumer's metrics: the one that `up` reports, else the one of the setting."""
    if up is not None:
        return str(up["metrics"]) if up.get("metrics") else None
    return f"http://127.0.0.1:{settings.metrics_port}/metrics" if settings.metrics_port else None


def consumer_figures(url: str) -> dict[str, Any] | None:
    """Return a running consumer's figures since its start (see `streaming.metrics.figures`).

    Return None if nothing answers at `url`.
    """
    from http.client import HTTPConnection, HTTPException
    from urllib.parse import urlsplit

    from streaming.metrics import figures

    address = urlsplit(url)
    with closing(HTTPConnection(address.hostname or "", address.port, timeout=2)) as connection:
        try:
            connection.request("GET", address.path)
            response = connection.getresponse()
            text = response.read().decode()
            return figures(text) if response.status == 200 else None
        except (OSError, HTTPException, ValueError):
            return None


def _rows(connection: Any, sql: str) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
