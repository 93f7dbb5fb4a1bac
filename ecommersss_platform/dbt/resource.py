"""The Dagster resource that runs dbt, and the metadata that a run reports about what it built."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from ecommersss_platform.environment import inherited
from ecommersss_platform.warehouse import make_warehouse

if TYPE_CHECKING:
    from dbt.adapters.base.impl import BaseAdapter

    from ecommersss_platform.settings import Settings

KEPT_RUNS = 15
"""How many dbt runs keep their artifacts (compiled SQL, results, log) on disk."""

RUN_ID = "DBT_ENV_CUSTOM_ENV_DAGSTER_RUN_ID"
"""The variable that carries the Dagster run id into dbt's artifacts and job labels (macro `job_labels`)."""

_METADATA = "metadata "


class PlatformDbt(DbtCliResource):
    """dagster-dbt's resource for our dbt project, run with the environment that the settings ask for."""

    environment: dict[str, str] = Field(description="Variables for dbt, besides those of this process.")

    def cli(self, args: Sequence[str], **options: Any) -> DbtCliInvocation:
        artifacts = Path(self.environment["DBT_TARGET_PATH"])
        artifacts.mkdir(parents=True, exist_ok=True)
        prune(artifacts, KEPT_RUNS - 1)
        if not (artifacts / PARTIAL_PARSE).exists() and (TARGET_DIR / PARTIAL_PARSE).exists():
            _copy(TARGET_DIR / PARTIAL_PARSE, artifacts / PARTIAL_PARSE)
        variables = dict(self.environment)
        if context := options.get("context"):
            variables[RUN_ID] = context.run_id
        with _environment(variables):
            return super().cli(args, **options)

    # dagster-dbt offers no option for either of these two private members, each of which would cost seconds
    # in every step. They can go when it does, or when it counts rows and reads the version without them. A
    # test fails if dagster-dbt renames one.

    @property
    def _cli_version(self) -> Version:
        """The installed version. Upstream runs `dbt --version`, which queries the package index."""
        return Version(version("dbt-core"))

    def _initialize_dbt_core_adapter(self, args: Sequence[str]) -> BaseAdapter | None:  # type: ignore[override]
        """Return no adapter. Upstream opens the warehouse in this process, to count rows after the run.

        That would keep DuckDB's file locked; our macro `log_table_metadata` counts inside the run instead.
        """
        return None


def dbt_resource(settings: Settings) -> PlatformDbt:
    """Return the resource for these settings. Opens, runs and writes nothing yet."""
    return PlatformDbt(
        project_dir=str(PROJECT_DIR),
        profiles_dir=str(PROJECT_DIR),
        target=make_warehouse(settings).dbt_target,
        dbt_executable=str(executable()),
        environment=environment(settings),
        global_config_flags=["--no-use-colors"],
    )


def metadata_from_event(raw_event: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the node and its metadata if the macro `log_table_metadata` logged this dbt event, else None.

    `dagster/row_count` is the number of rows of the table, `rows_per_day` that of each day (YYYY-MM-DD) that
    the run replaced and that has rows. A service adds the `job` (a link) and `job_id` of the statement that
    replaced the table, and, summed over all statements, `job_bytes` (scanned), `job_bytes_billed` and
    `job_slot_ms` (slot milliseconds). Figures that were not reported are left out.
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
    reported = {
        name: [int(job[figure]) for job in jobs if job.get(figure) is not None]
        for name, figure in figures.items()
    }
    return {
        "job": MetadataValue.url(console_url(last["project_id"], last["location"], last["job_id"])),
        "job_id": last["job_id"],
        **{name: sum(values) for name, values in reported.items() if values},
    }


def keep_parse(invocation: DbtCliInvocation) -> None:
    """Keep the partial parse of this run for later runs."""
    made = invocation.target_path / PARTIAL_PARSE
    if made.exists():
        _copy(made, invocation.target_path.parent / PARTIAL_PARSE)


def prune(artifacts: Path, keep: int) -> None:
    """Remove the folders of all but the newest `keep` runs."""
    runs = sorted((path for path in artifacts.iterdir() if path.is_dir()), key=_age)
    for run in runs[keep:]:
        shutil.rmtree(run, ignore_errors=True)


def _age(path: Path) -> float:
    with suppress(FileNotFoundError):  # another run may have removed it
        return -path.stat().st_mtime
    return 0.0


def _copy(source: Path, destination: Path) -> None:
    """Copy atomically: a reader sees the old file or the new one."""
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}")
    shutil.copy(source, temporary)
    temporary.replace(destination)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set dbt's environment while it is started, because dagster-dbt passes on that of this process."""
    before = dict(os.environ)
    wanted = inherited(before) | dict(variables)
    changed = {name for name in before.keys() | wanted.keys() if before.get(name) != wanted.get(name)}
    _assign(changed, wanted)
    try:
        yield
    finally:
        _assign(changed, before)


def _assign(names: Iterable[str], values: Mapping[str, str]) -> None:
    """Give these variables of this process their values, and remove those without one."""
    for name in names:
        if name in values:
            os.environ[name] = values[name]
        else:
            os.environ.pop(name, None)
