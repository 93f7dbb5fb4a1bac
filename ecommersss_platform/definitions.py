"""The code location's table of contents: all that Dagster loads is named here, nothing is searched for.

Loading opens no connection and no warehouse and does not run dbt: it reads the settings, the home's first day
and dbt's manifest.
"""

from dagster import Definitions

from ecommersss_platform.alerts import run_failure_alerts
from ecommersss_platform.assets.analytics import analytics_assets
from ecommersss_platform.assets.fraud import fraud_assets
from ecommersss_platform.assets.marketplace import marketplace_job
from ecommersss_platform.assets.raw import raw_assets
from ecommersss_platform.checks import day_checks
from ecommersss_platform.dbt.resource import dbt_resource
from ecommersss_platform.jobs import EXECUTOR, marketplace_days
from ecommersss_platform.partitions import daily_partitions
from ecommersss_platform.resources import platform_resources
from ecommersss_platform.schedules import daily_close, marketplace_hourly, topic_retention
from ecommersss_platform.sensors import order_stream_sensor
from ecommersss_platform.settings import Settings
from ecommersss_platform.topic_retention import retention_job
from ecommersss_platform.warehouse import make_warehouse

settings = Settings()
first_day = settings.first_partition_day()
days = daily_partitions(first_day)
pool = make_warehouse(settings).pool

raw = raw_assets(days, pool)
analytics = analytics_assets(days, pool)
fraud = fraud_assets(pool)

days_job = marketplace_days([*raw, *analytics, *fraud])
hours_job = marketplace_job(first_day)
topics_job = retention_job(settings)

defs = Definitions(
    assets=[*raw, *analytics, *fraud],
    asset_checks=day_checks(days, pool),
    jobs=[days_job, hours_job, topics_job],
    schedules=[
        daily_close(days_job, first_day),
        marketplace_hourly(hours_job),
        topic_retention(topics_job),
    ],
    sensors=[order_stream_sensor(days_job, settings, first_day), run_failure_alerts(settings)],
    resources={**platform_resources(settings), "dbt": dbt_resource(settings)},
    executor=EXECUTOR,
)
