"""The Dagster resource that runs dbt, and the metadata that a run reports about what it built."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from dagster import MetadataValue, OpExecutionContext
from dagster_dbt import DagsterDbtTranslator
from dagster_dbt.asset_utils import get_updated_cli_invocation_params_for_context
from dagster_dbt.core.dbt_cli_event import DbtCoreCliEventMessage

from ecommersss_platform.dbt.project import (
    PROJECT_DIR,
    artifacts_dir,
    environment,
    parsed_project,
)
from ecommersss_platform.dbt.runner import run_dbt
from ecommersss_platform.environment import inherited
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import make_warehouse

KEPT_RUNS = 15
"""How many dbt runs keep their artifacts (compiled SQL, results, log) on disk."""

RUN_ID = "DBT_ENV_CUSTOM_ENV_DAGSTER_RUN_ID"
"""The variable that carries the Dagster run id into dbt's artifacts and job labels (macro `job_labels`)."""

BILLED = "job_bytes_billed"
"""The metadata of an asset, and of each day of a partitioned one, that says what it was billed."""
_COSTS = ("job_bytes", BILLED, "job_slot_ms")
"""The figures of a model's jobs that add up."""

_METADATA = "metadata "


@dataclass(frozen=True)
class PlatformDbt:
    """Our dbt project, run in this process with the environment that the settings ask for."""

    settings: Settings

    def cli(
        self, arguments: Sequence[str], *, context: OpExecutionContext, sign_in: Mapping[str, str]
    ) -> Invocation:
        """Return an invocation of dbt for the assets and checks that the step is to make. Starts nothing.

        `sign_in`: what `Warehouse.check_access` returned.
        """
        artifacts = artifacts_dir(self.settings)
        artifacts.mkdir(parents=True, exist_ok=True)
        prune(artifacts, KEPT_RUNS - 1)
        asked = get_updated_cli_invocation_params_for_context(context, {}, DagsterDbtTranslator())
        indirect = None if "--indirect-selection" in arguments else asked.indirect_selection
        target_path = artifacts / f"{context.op.name}-{context.run_id[:7]}-{uuid4().hex[:7]}"
        options = [
            *("--project-dir", str(PROJECT_DIR), "--profiles-dir", str(PROJECT_DIR)),
            *("--target", make_warehouse(self.settings).dbt_target, "--no-use-colors", "--log-level", "none"),
            *("--target-path", str(target_path), "--log-path", str(target_path)),
            *(("--indirect-selection", indirect) if indirect else ()),
        ]
        variables = {"DAGSTER_DBT_CLI": "true", RUN_ID: context.run_id}
        return Invocation(
            [*arguments, *asked.selection_args, *options],
            {**inherited(os.environ), **environment(self.settings), **sign_in, **variables},
            self.settings,
            target_path,
            asked.manifest,
            asked.dagster_dbt_translator,
        )


@dataclass(frozen=True)
class Invocation:
    """One run of dbt: its arguments and environment, and what Dagster needs to read its events."""

    arguments: Sequence[str]
    variables: Mapping[str, str]
    settings: Settings
    target_path: Path
    manifest: Mapping[str, Any]
    dagster_dbt_translator: DagsterDbtTranslator

    def stream_raw_events(self) -> Iterator[DbtCoreCliEventMessage]:
        """Run dbt, print its messages, and yield its events as they happen. Raises `DbtError` if it fails."""
        columns: dict[str, dict[str, Any]] = {}
        for raw_event in run_dbt(self.arguments, self.variables, parsed_project(self.settings)):
            message = raw_event["info"]["msg"]
            node = raw_event["data"].get("node_info", {}).get("unique_id", "")
            if raw_event["info"]["name"] == "JinjaLogInfo" and message.startswith("{"):
                columns[node] = json.loads(message)
                continue
            sys.stdout.write(f"{message}\n")  # the compute log of the step
            sys.stdout.flush()
            yield DbtCoreCliEventMessage(raw_event=raw_event, event_history_metadata=columns.get(node, {}))


def dbt_resource(settings: Settings) -> PlatformDbt:
    """Return the resource for these settings. Opens, runs and writes nothing yet."""
    return PlatformDbt(settings)


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


def add_costs(metadata: Mapping[str, Any], staged: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a model with what its staged model cost added."""
    return {**metadata, **{name: metadata.get(name, 0) + staged[name] for name in _COSTS if name in staged}}


def _job_metadata(jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not jobs:
        return {}
    from ecommersss_platform.warehouse.bigquery.config import console_url

    last = jobs[-1]
    figures = {
        "job_bytes": "bytes_processed",
        BILLED: "bytes_billed",
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


def bytes_billed(target_path: Path, reported: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the bytes that a run of dbt was billed.

    Models report theirs with their other metadata: `reported`, by node. Those of other nodes, such as tests,
    are in dbt's results.
    """
    billed = sum(int(metadata.get(BILLED, 0)) for metadata in reported.values())
    with suppress(FileNotFoundError):  # dbt did not get that far
        results = json.loads((target_path / "run_results.json").read_bytes())["results"]
        billed += sum(
            int(result["adapter_response"].get("bytes_billed", 0))
            for result in results
            if result["unique_id"] not in reported
        )
    return billed


def prune(artifacts: Path, keep: int) -> None:
    """Remove the folders of all but the newest `keep` runs."""
    runs = sorted((path for path in artifacts.iterdir() if path.is_dir()), key=_age)
    for run in runs[keep:]:
        shutil.rmtree(run, ignore_errors=True)


def _age(path: Path) -> float:
    with suppress(FileNotFoundError):  # another run may have removed it
        return -path.stat().st_mtime
    return 0.0
