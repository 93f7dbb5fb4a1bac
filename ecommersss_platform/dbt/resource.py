"""The Dagster resource that runs dbt, and what a run tells about what it built."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import MetadataValue
from dagster_dbt import DbtCliInvocation, DbtCliResource
from packaging.version import Version
from pydantic import Field

from ecommersss_platform.dbt.project import (
    PARTIAL_PARSE,
    PROJECT_DIR,
    TARGET_DIR,
    environment,
    executable,
)

if TYPE_CHECKING:
    from dbt.adapters.base.impl import BaseAdapter

    from ecommersss_platform.settings import Settings

KEPT_RUNS = 15
"""How many runs of dbt keep their artifacts (compiled SQL, results, log) on disk."""

RUN_ID = "DBT_ENV_CUSTOM_ENV_DAGSTER_RUN_ID"
"""What dbt knows the run by: in the labels of its jobs (macro `job_labels`), and in its artifacts."""

_METADATA = "metadata "


class PlatformDbt(DbtCliResource):
    """dagster-dbt's resource for the dbt project, with the environment that the settings ask for.

    Left out of it is what costs seconds in each step and gives nothing here: asking `dbt --version`, which
    asks the package registry for news, and an adapter in this process, which would open the warehouse again
    (and keep DuckDB's file) to count rows; the project's macro `log_table_metadata` counts them in the run.
    """

    environment: dict[str, str] = Field(description="Variables that dbt is run with, besides our own.")

    def cli(self, args: Sequence[str], **options: Any) -> DbtCliInvocation:
        artifacts = Path(self.environment["DBT_TARGET_PATH"])
        artifacts.mkdir(parents=True, exist_ok=True)
        prune(artifacts, KEPT_RUNS - 1)
        if not (artifacts / PARTIAL_PARSE).exists() and (TARGET_DIR / PARTIAL_PARSE).exists():
            _copy(TARGET_DIR / PARTIAL_PARSE, artifacts / PARTIAL_PARSE)
        told = dict(self.environment)
        if context := options.get("context"):
            told[RUN_ID] = context.run_id
        with _environment(told):
            return super().cli(args, **options)

    @property
    def _cli_version(self) -> Version:
        return Version(version("dbt-core"))

    def _initialize_dbt_core_adapter(self, args: Sequence[str]) -> BaseAdapter | None:  # type: ignore[override]
        return None


def dbt_resource(settings: Settings) -> PlatformDbt:
    """The resource for these settings. Opens, runs and writes nothing yet."""
    return PlatformDbt(
        project_dir=str(PROJECT_DIR),
        profiles_dir=str(PROJECT_DIR),
        target=settings.warehouse,
        dbt_executable=str(executable()),
        environment=environment(settings),
        global_config_flags=["--no-use-colors"],
    )


def metadata_from_event(raw_event: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The node and its metadata, if this event of dbt is how the project tells them; else None.

    `dagster/row_count`: rows of the table; `rows_in_window`: those in the days that the run replaced. Of the
    service that built it, where there is one: `job` (a link) and `job_id` of the statement that replaced the
    table, and over all its statements `job_bytes` (scanned), `job_bytes_billed` and `job_slot_ms`
    (milliseconds of a slot). What was not said is left out.
    """
    message = raw_event["info"]["msg"]
    if raw_event["info"]["name"] != "JinjaLogInfo" or not message.startswith(_METADATA):
        return None
    metadata = json.loads(message.removeprefix(_METADATA))
    return raw_event["data"]["node_info"]["unique_id"], metadata | _job_metadata(metadata.pop("jobs", []))


def _job_metadata(jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not jobs:
        return {}
    from ecommersss_platform.warehouse.bigquery.config import console_url

    last = jobs[-1]
    figures = {
        "job_bytes": "bytes_processed",
        "job_bytes_billed": "bytes_billed",
        "job_slot_ms": "slot_ms",
    }
    said = {
        name: [int(job[figure]) for job in jobs if job.get(figure) is not None]
        for name, figure in figures.items()
    }
    return {
        "job": MetadataValue.url(console_url(last["project_id"], last["location"], last["job_id"])),
        "job_id": last["job_id"],
        **{name: sum(values) for name, values in said.items() if values},
    }


def keep_parse(invocation: DbtCliInvocation) -> None:
    """Keep what dbt remembers of this run's parse for the runs to come."""
    made = invocation.target_path / PARTIAL_PARSE
    if made.exists():
        _copy(made, invocation.target_path.parent / PARTIAL_PARSE)


def prune(artifacts: Path, keep: int) -> None:
    """Remove the folders of all runs but the newest `keep`."""
    runs = sorted((path for path in artifacts.iterdir() if path.is_dir()), key=_age)
    for run in runs[keep:]:
        shutil.rmtree(run, ignore_errors=True)


def _age(path: Path) -> float:
    with suppress(FileNotFoundError):  # another run prunes too
        return -path.stat().st_mtime
    return 0.0


def _copy(source: Path, destination: Path) -> None:
    """Copy so that a reader sees the old file or the new one."""
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}")
    shutil.copy(source, temporary)
    temporary.replace(destination)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """dagster-dbt hands the environment of this process to dbt: change it for as long as dbt is started."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
