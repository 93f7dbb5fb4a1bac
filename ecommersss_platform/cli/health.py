"""The facts for a health check: what the topic, the operational database and the ground truth show."""

from __future__ import annotations

from contextlib import closing

import psycopg2

from ecommersss_platform.health import rule_book_problem
from ecommersss_platform.instance.databases import database_url
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import order_broker
from streaming.database import connect


def check(process: str, settings: Settings) -> str | None:
    """Return what is wrong with the process ("consumer" or "producer"), or None. Start nothing."""
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
