"""Planned partitions in batches leave the same log as one by one, and a run over years begins soon."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    AssetMaterialization,
    DagsterEventType,
    DagsterInstance,
    DailyPartitionsDefinition,
    EventLogEntry,
    asset,
    define_asset_job,
    in_process_executor,
)
from dagster import Definitions as Defs
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, StepMaterializationData
from dagster_postgres import PostgresEventLogStorage

from ecommersss_platform.instance.dagster_home import dagster_instance
from ecommersss_platform.instance.event_storage import BATCH_VARIABLE, BatchingEventLogStorage
from ecommersss_platform.partitions import SINGLE_RUN, Days
from ecommersss_platform.run_tags import range_tags
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.conftest import administer

pytestmark = pytest.mark.integration

RUN = "6a1e57c5-1d4f-4bde-8d6f-111111111111"
USERS, ORDERS = AssetKey(["raw", "users"]), AssetKey(["raw", "orders"])


@pytest.fixture
def empty(postgres, request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Yield the URLs of two empty databases."""
    names = ["events_a", "events_b"]
    for name in names:
        administer(postgres, f"CREATE DATABASE {name}")
    yield [postgres.url(name) for name in names]
    for name in names:
        administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def entry(event: DagsterEvent, at: float) -> EventLogEntry:
    return EventLogEntry(None, 10, "", RUN, at, step_key="raw__users", job_name="days", dagster_event=event)


def planned(key: AssetKey, partition: str) -> DagsterEvent:
    data = AssetMaterializationPlannedData(key, partition=partition, partitions_subset=None)
    return DagsterEvent.build_asset_materialization_planned_event("days", "raw__users", data)


def a_batch() -> list[EventLogEntry]:
    check = DagsterEvent(
        event_type_value=DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value,
        job_name="days",
        event_specific_data=AssetCheckEvaluationPlanned(asset_key=USERS, check_name="fresh"),
    )
    events = [
        *(planned(key, f"2025-06-0{day}") for key in (ORDERS, USERS) for day in (1, 2, 3)),
        check,
        DagsterEvent(
            event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
            job_name="days",
            event_specific_data=StepMaterializationData(AssetMaterialization(USERS, partition="2025-06-01")),
        ),
    ]
    return [entry(event, 1_750_000_000.0 + n) for n, event in enumerate(events)]


def contents(storage: PostgresEventLogStorage) -> dict[str, Any]:
    log = storage.get_logs_for_run(RUN)
    return {
        "log": sorted((e.timestamp, str(e.dagster_event_type), e.get_dagster_event().partition) for e in log),
        "assets": storage.all_asset_keys(),
        "last runs": {
            record.asset_entry.asset_key: (
                record.asset_entry.last_run_id,
                record.asset_entry.last_materialization and record.asset_entry.last_materialization.timestamp,
            )
            for record in storage.get_asset_records([USERS, ORDERS])
        },
        "users": storage.get_materialized_partitions(USERS),
        "attempts": {
            partition: (run_id, bool(event_id))
            for partition, (
                run_id,
                event_id,
            ) in storage.get_latest_asset_partition_materialization_attempts_without_materializations(
                ORDERS
            ).items()
        },
        "checks": [
            (r.key, r.run_id, r.status.value)
            for r in storage.get_asset_check_execution_history(AssetCheckKey(USERS, "fresh"), limit=9)
        ],
    }


def test_batch_leaves_the_same_log_as_its_events_one_by_one(empty: list[str]) -> None:
    batching, single = BatchingEventLogStorage(empty[0]), PostgresEventLogStorage(empty[1])
    batching.store_event_batch(a_batch())
    for event in a_batch():
        single.store_event(event)
    found = contents(batching)
    assert found == contents(single)
    assert len(found["log"]) == 8
    assert found["users"] == {"2025-06-01"}
    assert found["attempts"].keys() == {"2025-06-01", "2025-06-02", "2025-06-03"}
    assert found["last runs"][ORDERS] == (RUN, None)
    assert len(found["checks"]) == 1


def test_run_over_years_of_days_begins_within_seconds(
    empty: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(BATCH_VARIABLE, raising=False)
    days = DailyPartitionsDefinition("2014-01-01", timezone="Asia/Jakarta")

    @asset(partitions_def=days, backfill_policy=SINGLE_RUN)
    def orders(context) -> None:
        context.log.info(str(len(context.partition_keys)))

    @asset(deps=[orders])
    def mart() -> None: ...

    job = define_asset_job("days", [orders, mart], executor_def=in_process_executor)
    defs = Defs(assets=[orders, mart], jobs=[job])
    asked = Days.between(*(days.start.date().replace(year=year) for year in (2014, 2018)))
    settings = Settings(home=tmp_path)
    with dagster_instance(settings, empty[0]) as instance:
        assert isinstance(instance, DagsterInstance)
        assert isinstance(instance.event_log_storage, BatchingEventLogStorage)
        assert os.environ[BATCH_VARIABLE] == "1000"
        began = time.monotonic()
        result = defs.resolve_job_def("days").execute_in_process(instance=instance, tags=range_tags(asked))
        took = time.monotonic() - began
        assert result.success
        assert len(instance.get_materialized_partitions(AssetKey("orders"))) == len(asked) == 1_462
        found = instance.all_logs(result.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
        partitions = {
            e.get_dagster_event().partition
            for e in found
            if e.get_dagster_event().asset_key == AssetKey("orders")
        }
        assert len(partitions) == 1_462
    # One by one it took minutes: two connections and three commits for each of 2,924 events.
    assert took < 60
