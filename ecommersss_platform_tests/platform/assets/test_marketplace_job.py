"""The hourly job in Dagster: one branch of three, an hour applied once, nothing personal shown."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from dagster import DagsterInstance, ExecuteInProcessResult, PartitionsDefinition

from ecommersss_platform.assets.marketplace import EMAIL_STEPS, MARKETPLACE_HOURLY, marketplace_job
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform_tests.support.shop import add_orders, open_shop, order, query
from streaming.business_days import JAKARTA
from streaming.simulator.ground_truth import GroundTruth
from streaming.simulator.population import EmailFormat, email_format, hour_of, new_products, new_users
from streaming.simulator.shoppers import Placed

pytestmark = pytest.mark.integration

HOURS = [datetime(2025, 6, 1, hour, tzinfo=JAKARTA) for hour in range(10, 24)]
ONE_OF_EACH = [
    next(hour for hour in HOURS if email_format(hour) is style and new_users(hour)) for style in EmailFormat
]


def run(database: str, hour: datetime, truth: Path = Path("none")) -> ExecuteInProcessResult:
    with DagsterInstance.ephemeral() as instance:
        return marketplace_job(date(2025, 6, 1), truth).execute_in_process(
            partition_key=hour.strftime("%Y-%m-%d-%H:%M"),
            instance=instance,
            resources={"postgres": PostgresResource(url=database)},
        )


def stored_metadata(result: ExecuteInProcessResult, step: str = "store_hour") -> dict[str, object]:
    [event] = [e for e in result.all_events if e.is_successful_output and e.step_key == step]
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


@pytest.mark.parametrize("hour", ONE_OF_EACH, ids=lambda hour: str(email_format(hour)))
def test_only_the_branch_of_the_hours_format_runs(database: str, hour: datetime) -> None:
    result = run(database, hour)
    taken = f"{email_format(hour).value}_users"
    skipped = {event.step_key for event in result.all_events if event.is_step_skipped}
    assert skipped == {f"{style.value}_users" for style in EmailFormat} - {taken}
    succeeded = {event.step_key for event in result.all_events if event.is_step_success}
    assert succeeded == {"choose_email_format", taken, "list_products", "store_hour", "settle_orders"}
    assert query(database, "SELECT id, email, created_date FROM users ORDER BY id") == [
        (user.id, user.email, user.created_date) for user in new_users(hour)
    ]
    assert stored_metadata(result) == {
        "applied": True,
        "users": len(new_users(hour)),
        "products": len(new_products(hour)),
        "repriced": 0,
    }


def test_an_hour_again_changes_nothing_and_says_so(database: str) -> None:
    hour = ONE_OF_EACH[0]
    run(database, hour)
    before = query(database, "SELECT * FROM users_history ORDER BY version")
    again = run(database, hour)
    assert again.success
    assert stored_metadata(again) == {"applied": False, "users": 0, "products": 0, "repriced": 0}
    assert query(database, "SELECT * FROM users_history ORDER BY version") == before
    assert query(database, "SELECT hour FROM marketplace_hours") == [(hour,)]


def test_the_hour_settles_the_orders_that_were_simulated(database: str, tmp_path: Path) -> None:
    open_shop(database, users=1, products=1)
    add_orders(database, range(1, 21))
    placed = query(database, "SELECT min(created_date) FROM orders")[0][0]
    GroundTruth(tmp_path / "truth.jsonl").append(Placed(order(id), None) for id in range(1, 11))
    result = run(database, hour_of(placed) + timedelta(days=3), tmp_path / "truth.jsonl")
    stored = stored_metadata(result, "settle_orders")
    assert query(database, "SELECT min(order_id), max(order_id), count(*) FROM shipments") == [(1, 10, 10)]
    assert query(database, "SELECT count(*) FROM shipments_history") == [(stored["shipments"],)]


def test_nothing_personal_is_in_the_events(database: str) -> None:
    hour = ONE_OF_EACH[0]
    text = "\n".join(str(event) for event in run(database, hour).all_events)
    for user in new_users(hour):
        assert user.email not in text
        assert user.username not in text


def test_the_job_has_an_hour_a_partition_from_the_first_day_in_jakarta() -> None:
    job = marketplace_job(date(2025, 6, 1), Path("none"))
    partitions = job.partitions_def
    assert isinstance(partitions, PartitionsDefinition)
    now = datetime(2025, 6, 1, 3, 59, tzinfo=JAKARTA)
    assert job.name == MARKETPLACE_HOURLY
    assert partitions.get_partition_keys(current_time=now) == [
        "2025-06-01-00:00",
        "2025-06-01-01:00",
        "2025-06-01-02:00",
    ]
    assert set(EMAIL_STEPS) == set(EmailFormat)
