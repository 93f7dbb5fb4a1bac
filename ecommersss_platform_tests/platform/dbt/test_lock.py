"""Only one run at a time uses dbt, on a warehouse without a pool."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from ecommersss_platform.dbt import lock
from ecommersss_platform.dbt.lock import dbt_lock
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.warehouse.bigquery.config import BigQueryConfig
from ecommersss_platform.warehouse.bigquery.warehouse import BigQueryWarehouse
from ecommersss_platform.warehouse.duckdb.warehouse import DuckDbWarehouse
from ecommersss_platform_tests.support import shop

pytestmark = pytest.mark.integration

BIGQUERY = BigQueryWarehouse(BigQueryConfig("shop", "US"))
LOG = logging.getLogger("test.lock")
HOLDERS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND granted"


@pytest.fixture
def shared(database: str, monkeypatch: pytest.MonkeyPatch) -> PostgresResource:
    monkeypatch.setattr(lock, "_PAUSE", 0.01)
    return PostgresResource(url=database)


def holders(database: str) -> int:
    [(count,)] = shop.query(database, HOLDERS, [lock.DBT_LOCK])
    return int(count)


def test_the_second_waits_until_the_first_is_done(
    database: str, shared: PostgresResource, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOG.name)
    order: list[str] = []
    asked = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            asked.set()

    def second() -> None:
        with dbt_lock(BIGQUERY, shared, LOG):
            order.append("second")

    listener = Listener()
    LOG.addHandler(listener)
    thread = threading.Thread(target=second, daemon=True)
    with dbt_lock(BIGQUERY, shared, LOG):
        thread.start()
        assert asked.wait(60)
        assert holders(database) == 1
        order.append("first")
    thread.join(60)
    LOG.removeHandler(listener)
    assert order == ["first", "second"]
    assert caplog.messages == ["another run is using dbt on the warehouse: waiting for it"]
    assert holders(database) == 0


def test_the_lock_ends_with_the_step_that_failed_and_with_the_connection_of_one_that_died(
    database: str, shared: PostgresResource
) -> None:
    with pytest.raises(ValueError, match="dbt failed"), dbt_lock(BIGQUERY, shared, LOG):
        raise ValueError("dbt failed")
    assert holders(database) == 0
    with dbt_lock(BIGQUERY, shared, LOG):
        shop.query(
            database,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s",
            [lock.DBT_LOCK],
        )
        with dbt_lock(BIGQUERY, shared, LOG):
            assert holders(database) == 1


def test_no_transaction_is_left_open_meanwhile(database: str, shared: PostgresResource) -> None:
    with dbt_lock(BIGQUERY, shared, LOG):
        states = "SELECT state FROM pg_stat_activity WHERE application_name = 'ecommersss dbt lock'"
        assert shop.query(database, states) == [("idle",)]


def test_where_runs_have_a_pool_nobody_is_asked(tmp_path: Path) -> None:
    with dbt_lock(
        DuckDbWarehouse(tmp_path / "w.duckdb"), PostgresResource(url="postgresql://x.invalid/"), LOG
    ):
        pass
