"""What `ecommersss status` tells: processes, positions and lag, newest partitions, rejected orders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ecommersss_platform.output import print_rows
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
_POSITIONS = "SELECT consumer, position FROM topic_positions WHERE topic = 'orders' ORDER BY consumer"


def gather(settings: Settings) -> dict[str, Any]:
    """The platform's state as plain values. Lags are in the topic's positions (bytes, for a JSONL topic).

    Raises `PlatformError` where no platform was ever made.
    """
    from ecommersss_platform.contracts import RAW_TABLES
    from ecommersss_platform.local.database import operational_database
    from ecommersss_platform.local.stack import running
    from ecommersss_platform.streams import flagged_stream, orders_topic
    from ecommersss_platform.warehouse import make_warehouse
    from streaming.database import connect, migrate

    if settings.database_url is None and not settings.postgres_dir.exists():
        raise PlatformError(f"there is no platform in {settings.home} yet: start one with `ecommersss up`")
    up = running(settings)
    with operational_database(settings) as url:
        migrate(url)
        connection = connect(url, "ecommersss status")
        try:
            counts = _rows(connection, _COUNTS)[0]
            rejected = _rows(connection, _REJECTED)
            positions = _rows(connection, _POSITIONS)
        finally:
            connection.close()
    topic, flagged = orders_topic(settings), flagged_stream(settings)
    end = topic.end()
    warehouse = make_warehouse(settings)
    return {
        "home": str(settings.home),
        "up": up is not None,
        "ui": up["ui"] if up else None,
        "metrics": (metrics := _metrics_url(settings, up)),
        "consumer": consumer_figures(metrics) if metrics else None,
        "processes": up["processes"] if up else [],
        "topic": {
            "start": topic.start(),
            "end": end,
            "consumers": [
                {**row, "lag": end - row["position"]}
                for row in positions or [{"consumer": "fraud", "position": topic.start()}]
            ],
        },
        "flagged_stream": {"start": flagged.start(), "end": flagged.end()},
        "database": counts,
        "rejected": {
            "lines": sum(row["lines"] for row in rejected),
            "not_retried": sum(row["not_retried"] for row in rejected),
            "by_reason": rejected,
        },
        "partitions": [
            {"table": f"{table.dataset}.{table.name}", "newest": warehouse.newest_day(table)}
            for table in RAW_TABLES
        ],
    }


def _metrics_url(settings: Settings, up: dict[str, Any] | None) -> str | None:
    """Where the consumer's metrics are: as `up` says, or by the setting for one that was started alone."""
    if up is not None:
        return str(up["metrics"]) if up.get("metrics") else None
    return f"http://127.0.0.1:{settings.metrics_port}/metrics" if settings.metrics_port else None


def consumer_figures(url: str) -> dict[str, Any] | None:
    """What a running consumer says of itself since it was started (see `streaming.metrics.figures`).

    None when nobody answers at `url`.
    """
    from http.client import HTTPConnection, HTTPException
    from urllib.parse import urlsplit

    from streaming.metrics import figures

    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=2)
    try:
        connection.request("GET", place.path)
        response = connection.getresponse()
        text = response.read().decode()
        return figures(text) if response.status == 200 else None
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()


def _rows(connection: Any, sql: str) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def print_status(report: dict[str, Any]) -> None:
    """Print the report for people."""
    where = f"up, Dagster UI at {report['ui']}" if report["up"] else "not running (`ecommersss up` starts it)"
    print_rows(["platform", "home"], [{"platform": where, "home": report["home"]}])
    if report["processes"]:
        print_rows(list(report["processes"][0]), report["processes"], title="processes")
    topic = report["topic"]
    print_rows(
        ["consumer", "position", "topic end", "lag (bytes)"],
        [
            {
                "consumer": row["consumer"],
                "position": row["position"],
                "topic end": topic["end"],
                "lag (bytes)": row["lag"],
            }
            for row in topic["consumers"]
        ],
        title="topic orders",
    )
    if report["consumer"]:
        print_rows(
            list(report["consumer"]),
            [report["consumer"]],
            title=f"fraud consumer since it was started ({report['metrics']})",
        )
    print_rows(list(report["database"]), [report["database"]], title="database")
    print_rows(["table", "newest"], report["partitions"], title="newest partition")
    rejected = report["rejected"]["by_reason"]
    if rejected:
        print_rows(["reason", "lines", "not_retried"], rejected, title="rejected orders")
    else:
        print_rows(["rejected orders"], [{"rejected orders": 0}])
