"""Turns: what steps of different runs must not do at once, where no pool keeps the runs themselves apart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from logging import Logger

from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.warehouse import Warehouse

DBT_TURN = 6203544
"""The advisory lock in PostgreSQL of whoever runs dbt on the warehouse."""

_PAUSE = 1.0


@contextmanager
def dbt_turn(warehouse: Warehouse, postgres: PostgresResource, log: Logger) -> Iterator[None]:
    """Run dbt on the warehouse as the only one, however many runs are under way.

    Runs that load different days may go at once, but their models are the same tables: a mart that is tested
    while another run changes the facts under it does not agree with them, and BigQuery refuses a MERGE when
    too many wait for its table. Who dies loses the turn with the connection. Waits as long as it takes.
    Raises `psycopg2.OperationalError` when PostgreSQL is not reached.
    """
    if warehouse.pool is not None:  # one run at a time
        yield
        return
    with postgres.connect("ecommersss dbt turn") as connection, closing(connection.cursor()) as cursor:
        # The lock is the session's: no transaction is left open while dbt works.
        connection.autocommit = True
        waited = False
        while True:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (DBT_TURN,))
            if cursor.fetchone() == (True,):
                break
            if not waited:
                log.info("another run has dbt at work on the warehouse: waiting for the turn")
            waited = True
            time.sleep(_PAUSE)  # asked again and again, because a wait in the server cannot be interrupted
        yield
