"""The facts for a health check: what the topic, the operational database and the ground truth show."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg2

from ecommersss_platform.alerts.monitor import monitor_problem
from ecommersss_platform.health import rule_book_problem
from ecommersss_platform.instance.databases import database_url
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import order_broker
from streaming.database import connect

if TYPE_CHECKING:
    from ecommersss_platform.alerts.problem import Observation


def check(process: str, settings: Settings) -> str | None:
    """Return what is wrong with the process ("consumer", "producer" or "monitor"), or None. Start nothing."""
    if process == "monitor":
        return monitor_problem(settings)
    broker = order_broker(settings)
    if process == "producer":
        return broker.producer_problem()
    try:
        connection = connect(database_url(settings), application="ecommersss health")
    except psycopg2.OperationalError as error:
        return f"PostgreSQL is unreachable: {str(error).strip()}"
    with closing(connection):
        connection.autocommit = True
        return broker.consumer_problem(connection) or rule_book_problem(settings.rules_path)


def look_at_platform(settings: Settings, pause: Callable[[float], None] = time.sleep) -> Observation:
    """Return what is wrong with the platform now, as the monitor would see it. Start nothing.

    A consumer that lags is looked at twice: it is stalled only if it committed nothing in between.
    """
    from ecommersss_platform.alerts.observe import EXPLAINS, Observer
    from ecommersss_platform.health import CONSUMER_PATIENCE

    observer = Observer(settings, patient=False)
    try:
        found = observer.look(datetime.now(UTC))
        explained = {kind for problem in found.problems for kind in EXPLAINS.get((problem.kind, None), ())}
        if "consumer_stalled" in found.unknown - explained:
            pause(CONSUMER_PATIENCE)
            found = observer.look(datetime.now(UTC))
        return found
    finally:
        observer.close()
