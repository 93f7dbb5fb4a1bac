"""Stock dagster-dbt on our dbt project, as its documentation shows it: a Dagster project to compare with.

One asset function loads the raw tables of a day, as fast as the platform extracts them and without its audit.
`@dbt_assets` builds and tests all models for the day: `dbt build` as a process, with its events streamed. The
job `stock` uses Dagster's default executor, a process for each step; `stock_in_process` has one for the run.

`dagster dev` loads this module with the variables of dbt's profile, `STOCK_PROJECT` (a copy of the project)
and `STOCK_DATABASE_URL`.
"""

# Annotations must be real here: Dagster inspects that of `context`.
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
from dagster import (
    AssetExecutionContext,
    AssetSpec,
    BackfillPolicy,
    DailyPartitionsDefinition,
    Definitions,
    MaterializeResult,
    define_asset_job,
    in_process_executor,
    multi_asset,
)
from dagster_dbt import DbtCliResource, DbtProject, dbt_assets

from ecommersss_platform.assets.raw import extract
from ecommersss_platform.contracts import RAW_TABLES
from ecommersss_platform.partitions import Days
from ecommersss_platform.postgres.resource import PostgresResource

project = DbtProject(project_dir=Path(os.environ["STOCK_PROJECT"]))
project.prepare_if_dev()
days = DailyPartitionsDefinition(os.environ["ECOMMERSSS_FIRST_DAY"], timezone="Asia/Jakarta")
one_run = BackfillPolicy.single_run()


@multi_asset(
    specs=[AssetSpec([t.dataset, t.name], partitions_def=days) for t in RAW_TABLES], backfill_policy=one_run
)
def raw(context: AssetExecutionContext) -> Iterator[MaterializeResult[Any]]:
    wanted = Days.of_keys(context.partition_key_range)
    postgres = PostgresResource(url=os.environ["STOCK_DATABASE_URL"])
    with duckdb.connect(os.environ["ECOMMERSSS_DUCKDB_PATH"]) as warehouse:
        warehouse.execute("CREATE SCHEMA IF NOT EXISTS raw")
        for table in RAW_TABLES:
            rows = extract(table, wanted, postgres).read_all()
            name = f"{table.dataset}.{table.name}"
            warehouse.execute(f"CREATE TABLE IF NOT EXISTS {name} AS FROM rows LIMIT 0")
            warehouse.execute("BEGIN")
            warehouse.execute(
                f"DELETE FROM {name} WHERE partition_date >= ? AND partition_date < ?",
                [wanted.first, wanted.end],
            )
            warehouse.execute(f"INSERT INTO {name} FROM rows")
            warehouse.execute("COMMIT")
            yield MaterializeResult([table.dataset, table.name], metadata={"rows": len(rows)})


@dbt_assets(manifest=project.manifest_path, project=project, partitions_def=days, backfill_policy=one_run)
def models(context: AssetExecutionContext, dbt: DbtCliResource) -> Iterator[Any]:
    wanted = Days.of_keys(context.partition_key_range)
    window = {"first_day": str(wanted.first), "end_day": str(wanted.end)}
    build = ["build", "--exclude-resource-type", "unit_test", "--vars", json.dumps(window)]
    yield from dbt.cli(build, context=context).stream()


defs = Definitions(
    assets=[raw, models],
    jobs=[define_asset_job("stock"), define_asset_job("stock_in_process", executor_def=in_process_executor)],
    resources={"dbt": DbtCliResource(project)},
)
