"""The lock that keeps dbt runs apart where no Dagster pool does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from logging import Logger

from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.warehouse import Warehouse
from streaming.roles import Role

DBT_LOCK = 6203544
"""The PostgreSQL advisory lock that is held while dbt runs on the warehouse."""

_PAUSE = 1.0


@contextmanager
def dbt_lock(warehouse: Warehouse, postgres: PostgresResource, log: Logger) -> Iterator[None]:
    """Hold the lock of the warehouse's dbt runs, however long the wait.

    Runs over different days may overlap, but they build the same tables. A mart that is tested while another
    run changes the facts below it would fail, and BigQuery refuses a MERGE when too many wait for its table.
    If the holder dies, the lock ends with its connection. Raises `psycopg2.OperationalError` if PostgreSQL is
    unreachable.
    """
    if warehouse.pool is not None:  # the pool allows one run at a time
        yield
        return
    with (
        postgres.connect("ecommersss dbt lock", Role.READER) as connection,
        closing(connection.cursor()) as cursor,
    ):
        # The lock belongs to the session, so no transaction stays open while dbt works.
        connection.autocommit = True
        waited = False
        while True:
            # Polled, because a wait inside the server could not be interrupted.
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (DBT_LOCK,))
            if cursor.fetchone() == (True,):
                break
            if not waited:
                log.info("another run is using dbt on the warehouse: waiting for it")
            waited = True
            time.sleep(_PAUSE)
        yield
