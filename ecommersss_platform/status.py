"""The report of `ecommersss status`: what works, how far it is, and what went wrong in the last day.

Each part asks something that may hang: a database, a file system, another process. So each part has a thread,
and one that did not answer in time is named in the report instead of delaying it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ecommersss_platform.run_tags import partitions_text
from streaming.errors import PlatformError, first_line

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

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

# Read from Dagster's tables, because loading Dagster would take longer than everything else together.
_FAILED_RUNS = """
SELECT run_id, pipeline_name, end_time,
       (SELECT json_object_agg(key, value) FROM run_tags WHERE run_tags.run_id = runs.run_id) AS tags
FROM runs WHERE status = 'FAILURE' AND end_time > %(since)s ORDER BY end_time DESC LIMIT %(limit)s
"""

PATIENCE = 3.0
"""How many seconds all parts together may take, once the program is loaded."""
STARTING_PATIENCE = 60.0
"""The same while the embedded server has to be started for the report."""
LAST_DAY = timedelta(days=1)

_WAREHOUSE_PATIENCE = 2.0
_MOST_FAILURES = 20


def gather(settings: Settings, patience: float = PATIENCE) -> dict[str, Any]:
    """Return the platform's state as plain values. Lags are in units of the topic's positions (JSONL: bytes).

    What a part that failed or hangs would report is None, and `problems` says why. Raises `PlatformError` if
    there is no platform in the home yet.
    """
    from ecommersss_platform.alerts.listing import open_problems
    from ecommersss_platform.alerts.store import Store
    from ecommersss_platform.health import rule_book_problem
    from ecommersss_platform.instance.databases import embedded_server
    from ecommersss_platform.local.stack import running
    from ecommersss_platform.topics import flagged_stream

    if not settings.has_database:
        raise PlatformError(f"there is no platform in {settings.home} yet: start one with `ecommersss up`")
    embedded = settings.postgres_dir.exists() and None in (settings.database_url, settings.dagster_url)
    starts = embedded and embedded_server(settings).pid() is None
    _load_libraries()
    up = running(settings)
    metrics = _metrics_url(settings, up)
    parts = {
        "PostgreSQL": _Part(lambda: _operational(settings), ends_by_itself=starts),
        "Dagster's storage": _Part(lambda: failed_runs(settings), ends_by_itself=starts),
        "flagged stream": _Part(lambda: _ends(flagged_stream(settings))),
        "warehouse": _Part(lambda: newest_days(settings)),
        "consumer's metrics": _Part(lambda: consumer(metrics, _state(up, "consumer"))),
        "rule book": _Part(lambda: rule_book_problem(settings.rules_path)),
        "alerts": _Part(lambda: recent_alerts(settings)),
        "open problems": _Part(lambda: open_problems(Store(settings).read(), datetime.now(UTC))),
    }
    if starts:
        patience = STARTING_PATIENCE
    deadline = time.monotonic() + patience
    for part in parts.values():
        part.join(max(0.0, deadline - time.monotonic()))
    results = {name: part.result for name, part in parts.items()}
    problems = {name: part.problem(patience) for name, part in parts.items()}
    problems["rule book"] = problems["rule book"] or results["rule book"]
    for row in up["processes"] if up else ():
        problems[row["name"]] = row.get("problem")
    operational = results["PostgreSQL"] or {}
    newest, busy = results["warehouse"] or ([], problems["warehouse"])
    return {
        "home": str(settings.home),
        "up": up is not None,
        "ui": up["ui"] if up else None,
        "problems": [{"what": name, "problem": text} for name, text in problems.items() if text],
        "metrics": metrics,
        "consumer": results["consumer's metrics"],
        "processes": up["processes"] if up else [],
        "topic": operational.get("topic"),
        "flagged_stream": results["flagged stream"],
        "database": operational.get("database"),
        "review": operational.get("review"),
        "rejected": operational.get("rejected"),
        "overrides": operational.get("overrides"),
        "partitions": newest,
        "report": newest_report(settings),
        "billed": operational.get("billed"),
        "warehouse_busy": busy,
        "failed_runs": results["Dagster's storage"],
        "alerts": results["alerts"],
        "open_problems": results["open problems"],
    }


class _Part(threading.Thread):
    """A part of the report, gathered in a thread of its own from now on.

    The end of the process waits only for a part that `ends_by_itself`: one that started the embedded server
    also has to stop it.
    """

    def __init__(self, ask: Callable[[], Any], *, ends_by_itself: bool = False) -> None:
        super().__init__(daemon=not ends_by_itself)
        self._ask = ask
        self._error: Exception | None = None
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._ask()
        except Exception as error:  # one part that fails must not hide the others
            self._error = error

    def problem(self, waited: float) -> str | None:
        """Return why there is no result, or None."""
        if self.is_alive():
            return f"did not answer within {waited:g} s"
        return None if self._error is None else first_line(self._error)


def leave_hanging_parts() -> None:
    """End the process, successfully, if a part of the report still hangs. To be called when all is printed.

    The interpreter would abort the process on its way out, if such a thread came back from native code then.
    """
    hanging = [thread for thread in threading.enumerate() if isinstance(thread, _Part)]
    for part in hanging:
        if not part.daemon:  # it stops the server that it started
            part.join()
    if hanging:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _load_libraries() -> None:
    """Import what the parts need: it can take a second, which is no delay of theirs."""
    import streaming.rules  # noqa: F401


def _operational(settings: Settings) -> dict[str, Any]:
    """Return what the operational database knows: counts, rejected lines, and the topic's progress."""
    from ecommersss_platform.instance.databases import migrated_database
    from ecommersss_platform.topics import order_broker
    from streaming.database import connect, rows_by_name
    from streaming.database.overrides import read_overrides
    from streaming.database.reviews import queue_size

    with migrated_database(settings) as url, closing(connect(url, "ecommersss status")) as connection:
        counts = rows_by_name(connection, _COUNTS)[0]
        rejected = rows_by_name(connection, _REJECTED)
        with connection.cursor() as cursor:
            overrides = [override.as_row() for override in read_overrides(cursor)]
        return {
            "overrides": overrides,
            "database": counts,
            "topic": order_broker(settings).progress(connection),
            "billed": billed_today(settings, connection),
            "review": asdict(queue_size(connection)),
            "rejected": {
                "lines": sum(row["lines"] for row in rejected),
                "not_retried": sum(row["not_retried"] for row in rejected),
                "by_reason": rejected,
            },
        }


def billed_today(settings: Settings, connection: Connection) -> dict[str, Any] | None:
    """Return the bytes that the warehouse's service billed today, and the budget; None without a service."""
    from ecommersss_platform.usage import billed_on
    from streaming.business_days import business_day

    day, budget = business_day(datetime.now(UTC)), settings.bigquery_daily_bytes
    billed = billed_on(connection, day)
    if not billed and budget is None:
        return None
    return {
        "day": day,
        "bytes": billed,
        "budget": budget,
        "stream_runs": "held back" if budget is not None and billed >= budget else "requested",
    }


def _ends(stream: Any) -> dict[str, int]:
    return {"start": stream.start(), "end": stream.end()}


def newest_days(
    settings: Settings, patience: float = _WAREHOUSE_PATIENCE
) -> tuple[list[dict[str, Any]], str | None]:
    """Return the newest partition of each raw table, or none of them and who has the warehouse."""
    from ecommersss_platform.contracts import RAW_TABLES
    from ecommersss_platform.warehouse import WarehouseBusy, make_warehouse
    from ecommersss_platform.warehouse.names import full_name

    warehouse = make_warehouse(settings, patience)
    try:
        return [{"table": full_name(t), "newest": warehouse.newest_day(t)} for t in RAW_TABLES], None
    except WarehouseBusy as error:
        return [], str(error)


def newest_report(settings: Settings) -> dict[str, Any] | None:
    """Return the day and the address of the newest fraud report; None if there is none."""
    from ecommersss_platform.reports.serving import pages, report_address

    found = pages(settings.reports_dir)
    if not found:
        return None
    day = max(found)
    return {"day": day, "page": report_address(settings, found[day])}


def failed_runs(settings: Settings, now: datetime | None = None) -> list[dict[str, Any]]:
    """Return the runs that failed in the last day, newest first, `_MOST_FAILURES` at most."""
    from ecommersss_platform.instance.databases import dagster_storage
    from streaming.database import connect, rows_by_name

    if settings.dagster_url is None and not settings.postgres_dir.exists():
        return []
    since = (now or datetime.now(UTC)) - LAST_DAY
    with dagster_storage(settings) as url, closing(connect(url, "ecommersss status")) as connection:
        if rows_by_name(connection, "SELECT to_regclass('runs') AS runs") == [{"runs": None}]:
            return []  # nothing has run yet
        rows = rows_by_name(connection, _FAILED_RUNS, {"since": since.timestamp(), "limit": _MOST_FAILURES})
    return [
        {
            "run": row["run_id"],
            "job": row["pipeline_name"],
            "days": partitions_text(row["tags"] or {}),
            "ended": datetime.fromtimestamp(row["end_time"], UTC),
        }
        for row in rows
    ]


def recent_alerts(settings: Settings, now: datetime | None = None) -> list[dict[str, Any]]:
    """Return the alerts of the last day, newest first, `_MOST_FAILURES` at most."""
    from ecommersss_platform.alerts.listing import lines

    since = (now or datetime.now(UTC)) - LAST_DAY
    found: deque[dict[str, Any]] = deque(maxlen=_MOST_FAILURES)
    for line in lines(settings.alerts_path):
        if datetime.fromisoformat(line["at"]) >= since:
            found.appendleft(line)
    return list(found)


def _metrics_url(settings: Settings, up: dict[str, Any] | None) -> str | None:
    """Return the URL of the consumer's metrics: the one that `up` reports, else the one of the setting."""
    if up is not None:
        return str(up["metrics"]) if up.get("metrics") else None
    return f"http://127.0.0.1:{settings.metrics_port}/metrics" if settings.metrics_port else None


def _state(up: dict[str, Any] | None, name: str) -> str:
    """Return the state of a process of the stack; empty if no supervisor knows it."""
    return next((row["state"] for row in (up["processes"] if up else ()) if row["name"] == name), "")


def consumer(url: str | None, state: str) -> dict[str, Any] | None:
    """Return a running consumer's figures, or None without one. `state` is what the supervisor says of it.

    Raises `PlatformError` if its metrics should be at `url` and are not.
    """
    found = consumer_figures(url) if url else None
    if found is None and url and state == "ready":
        raise PlatformError(f"nothing answers at {url}")
    return found


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
