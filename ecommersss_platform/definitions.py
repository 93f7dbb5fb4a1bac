"""The table of contents of the code location: everything that Dagster loads is named here.

Loading reads the settings, the first day recorded in the home and dbt's manifest. It opens no connection and
no warehouse, and does not run dbt.
"""

import os
from functools import partial

from dagster import AssetKey, Definitions

from ecommersss_platform.assets.analytics import analytics_assets, labelled_assets
from ecommersss_platform.assets.fraud import fraud_assets
from ecommersss_platform.assets.laboratory import laboratory_assets
from ecommersss_platform.assets.marketplace import marketplace_job
from ecommersss_platform.assets.raw import raw_assets
from ecommersss_platform.assets.reports import report_assets
from ecommersss_platform.assets.sources import source_assets
from ecommersss_platform.checks import checks_of_today, day_checks
from ecommersss_platform.code_links import with_code_links
from ecommersss_platform.contracts import DISPUTES, SHIPMENTS, VERDICTS
from ecommersss_platform.dbt.project import label_maturity
from ecommersss_platform.dbt.resource import PlatformDbt
from ecommersss_platform.environment import check_dagster_home
from ecommersss_platform.jobs import EXECUTOR, daily_pipeline
from ecommersss_platform.maintenance import maintenance_job
from ecommersss_platform.observations import record_closed_day
from ecommersss_platform.partitions import daily_partitions
from ecommersss_platform.resources import platform_resources
from ecommersss_platform.rules_backtest import backtest_job
from ecommersss_platform.schedules import daily_close, maintenance, marketplace_hourly, topic_retention
from ecommersss_platform.sensors import freshness_sensor, label_sensor, order_stream_sensor
from ecommersss_platform.settings import Settings
from ecommersss_platform.topic_retention import retention_job
from ecommersss_platform.warehouse import make_warehouse

check_dagster_home(os.environ)
settings = Settings()
settings.check_pseudonym_key()
first_day = settings.first_partition_day()
days = daily_partitions(first_day)
pool = make_warehouse(settings).pool

sources = source_assets(settings.topic)
raw = raw_assets(days, pool)
analytics = analytics_assets(days, pool)
fraud = fraud_assets(pool)
reports = report_assets(days, pool, settings)
laboratory = laboratory_assets(pool, settings, first_day)
checks = day_checks(days, pool)

daily_job = daily_pipeline([*raw, analytics, *fraud, *reports], without=checks_of_today(checks))
hourly_job = marketplace_job(first_day, settings.ground_truth_path)
trim_job = retention_job(settings)
prune_job = maintenance_job(settings)
try_job = backtest_job(pool, settings)

labelled = labelled_assets([analytics, *fraud, *reports])
truth = [AssetKey(table.path) for table in (SHIPMENTS, DISPUTES, VERDICTS)]

defs = Definitions(
    assets=with_code_links([*sources, *raw, analytics, *fraud, *reports, *laboratory], settings.code_url),
    asset_checks=checks,
    jobs=[daily_job, hourly_job, trim_job, prune_job, try_job],
    schedules=[
        daily_close(daily_job, first_day, labelled, label_maturity(), partial(record_closed_day, settings)),
        marketplace_hourly(hourly_job),
        topic_retention(trim_job),
        maintenance(prune_job),
    ],
    sensors=[
        order_stream_sensor(daily_job, settings, first_day),
        label_sensor(daily_job, settings, first_day, sources=truth, labelled=labelled),
        freshness_sensor(first_day),
    ],
    resources={**platform_resources(settings), "dbt": PlatformDbt(settings)},
    executor=EXECUTOR,
)
