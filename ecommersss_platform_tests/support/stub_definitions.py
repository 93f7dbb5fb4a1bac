"""A code location with the platform's shape and none of its weight: each step only writes down that it ran.

The jobs, schedules and sensors are the real ones, and `raw/orders` publishes its days to the warehouse, an
order each. Files in the home steer it: `FAIL` names a step that fails, its error, and the day that it fails
for (none: any), with `OLD` a check fails, `SECONDS` is how long each step takes, `ran.jsonl` is what ran.
A process that loads it ends with the test's, whose id is in TEST_PROCESS: Dagster's code server outlives a
test that was killed, although its heartbeat is missing.
"""

import json
import os
import threading
import time
from datetime import date, timedelta

import psutil
from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    Definitions,
    MaterializeResult,
    multi_asset,
)

from ecommersss_platform.contracts import ORDERS
from ecommersss_platform.jobs import EXECUTOR, daily_pipeline
from ecommersss_platform.partitions import SINGLE_RUN, Days, daily_partitions
from ecommersss_platform.schedules import daily_close
from ecommersss_platform.sensors import order_stream_sensor
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import make_warehouse
from ecommersss_platform_tests.support.orders_table import order, reader

SETTINGS = Settings()
FIRST_DAY = SETTINGS.first_partition_day()
DAYS = daily_partitions(FIRST_DAY)
WAREHOUSE = make_warehouse(SETTINGS)
POOL = WAREHOUSE.pool


def end_with(process: int) -> None:
    """End this process, whatever it is doing, once the other one has ended."""

    def watch() -> None:
        while psutil.pid_exists(process):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if (test_process := os.environ.get("TEST_PROCESS", "")) not in ("", str(os.getpid())):
    end_with(int(test_process))


def ran(context: AssetExecutionContext, step: str) -> None:
    """Write down one line for the step: what it made, for which days, in which run, from when to when."""
    began = time.time()
    days = None
    by_day = {spec.key for spec in context.assets_def.specs if spec.partitions_def is not None}
    if by_day & context.selected_asset_keys:
        days = [context.partition_key_range.start, context.partition_key_range.end]
    failure = SETTINGS.home / "FAIL"
    if failure.exists() and (planned := json.loads(failure.read_text()))["step"] == step:
        if planned["error"] == "exit":
            os._exit(7)
        if days is None or planned["day"] in (None, days[0]):
            raise ValueError(planned["error"])
    seconds = SETTINGS.home / "SECONDS"
    time.sleep(float(seconds.read_text()) if seconds.exists() else 0)
    if step == "raw_orders" and days:
        asked = Days.between(*map(date.fromisoformat, days))
        rows = [order(day.timetuple().tm_yday, day) for day in asked]
        WAREHOUSE.publish(ORDERS, reader(rows), asked, context.run.run_id)
    assets = sorted(key.to_user_string() for key in context.selected_asset_keys)
    line = {"run": context.run.run_id, "assets": assets, "days": days, "began": began, "ended": time.time()}
    with (SETTINGS.home / "ran.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def step(name: str, specs: list[AssetSpec], **options: object) -> AssetsDefinition:
    @multi_asset(name=name, specs=specs, can_subset=True, pool=POOL, **options)  # type: ignore[arg-type]
    def assets(context: AssetExecutionContext):  # type: ignore[no-untyped-def]
        ran(context, name)
        for spec in specs:
            if spec.key in context.selected_asset_keys:
                yield MaterializeResult(asset_key=spec.key, metadata={"dagster/row_count": 3})
        old = (SETTINGS.home / "OLD").exists()
        results = {"is_whole": True, "not_too_old": not old}
        for check in context.selected_asset_check_keys:
            yield AssetCheckResult(
                asset_key=check.asset_key,
                check_name=check.name,
                passed=results[check.name],
                description="too old" if check.name == "not_too_old" else None,
            )

    return assets


def spec(key: str, *parents: str, partitioned: bool = False) -> AssetSpec:
    return AssetSpec(
        key.split("/"),
        deps=[parent.split("/") for parent in parents],
        partitions_def=DAYS if partitioned else None,
    )


ASSETS = [
    *(
        step(
            f"raw_{name}",
            [spec(f"raw/{name}", f"postgres/{name}", partitioned=True)],
            backfill_policy=SINGLE_RUN,
        )
        for name in ("users", "orders")
    ),
    step(
        "models",
        [
            spec("bronze/stg_users", "raw/users"),
            spec("bronze/stg_orders", "raw/orders"),
            spec("silver/dim_users", "bronze/stg_users"),
            spec(
                "silver/fact_orders", "raw/orders", "bronze/stg_orders", "silver/dim_users", partitioned=True
            ),
            spec("gold/users_and_blacklist", "silver/fact_orders", "silver/dim_users"),
        ],
        backfill_policy=SINGLE_RUN,
        check_specs=[
            AssetCheckSpec("is_whole", asset=["silver", "fact_orders"]),
            AssetCheckSpec("not_too_old", asset=["gold", "users_and_blacklist"]),
        ],
    ),
]
JOB = daily_pipeline(ASSETS)

defs = Definitions(
    assets=[*(spec(f"postgres/{name}") for name in ("users", "orders")), *ASSETS],
    jobs=[JOB],
    schedules=[daily_close(JOB, FIRST_DAY, labelled=[], maturity=timedelta(days=36_500))],
    sensors=[order_stream_sensor(JOB, SETTINGS, FIRST_DAY)],
    executor=EXECUTOR,
)
