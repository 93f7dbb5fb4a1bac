"""What dbt's events say about its models and tests, as results for Dagster."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from dagster import AssetCheckKey, AssetCheckResult, AssetCheckSeverity, MetadataValue

from ecommersss_platform.dbt.specs import table_schema
from ecommersss_platform.warehouse.metadata import markdown

BILLED = "job_bytes_billed"
"""The metadata of an asset, and of each day of a partitioned one, that says what it was billed."""
_COSTS = ("job_bytes", BILLED, "job_slot_ms")
"""The figures of a model's jobs that add up."""

_METADATA = "metadata "


def node_of(event: Mapping[str, Any]) -> str:
    """Return the unique id of the node that the event is about; empty if it is about none."""
    return str(event["data"].get("node_info", {}).get("unique_id", ""))


def is_built(event: Mapping[str, Any]) -> bool:
    """Return whether the event says that a model was built."""
    return event["info"]["name"] == "LogModelResult" and _status(event) == "success"


def is_tested(event: Mapping[str, Any]) -> bool:
    """Return whether the event is the result of a test."""
    return event["info"]["name"] == "LogTestResult"


def result_metadata(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of any result: which node and dbt run, its status, and how many seconds it took."""
    node = event["data"]["node_info"]
    started, finished = (datetime.fromisoformat(node[f"node_{when}_at"]) for when in ("started", "finished"))
    return {
        "Execution Duration": (finished - started).total_seconds(),
        "unique_id": node["unique_id"],
        "invocation_id": event["info"]["invocation_id"],
        "status": _status(event),
    }


def check_result(
    event: Mapping[str, Any], key: AssetCheckKey, more: Mapping[str, Any] | None = None
) -> AssetCheckResult:
    """Return the result of a test as that of the check with this key, with more metadata."""
    status = _status(event)
    failures = event["data"].get("num_failures")
    return AssetCheckResult(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=status == "pass",
        severity=AssetCheckSeverity.WARN if status == "warn" else AssetCheckSeverity.ERROR,
        metadata={
            **result_metadata(event),
            **({} if failures is None else {"dagster_dbt/failed_row_count": failures}),
            **(more or {}),
        },
    )


def metadata_from_event(event: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the node and its metadata if the macro `log_table_metadata` logged this dbt event, else None.

    `dagster/column_schema` has the columns with their types, `preview` a mart's first rows without personal
    data. `dagster/row_count` is the number of rows of the
    table, `rows_per_day` that of each day (YYYY-MM-DD) that the run replaced and that has rows. A service
    adds the `job` (a link) and `job_id` of the statement that replaced the table, and, summed over all
    statements, `job_bytes` (scanned), `job_bytes_billed` and `job_slot_ms` (slot milliseconds). Figures that
    were not reported are left out.
    """
    message = event["info"]["msg"]
    if event["info"]["name"] != "JinjaLogInfo" or not message.startswith(_METADATA):
        return None
    metadata = json.loads(message.removeprefix(_METADATA))
    if columns := metadata.pop("columns", None):
        metadata["dagster/column_schema"] = MetadataValue.table_schema(table_schema(columns))
    if rows := metadata.pop("preview", None):
        metadata["preview"] = MetadataValue.md(markdown(rows))
    return node_of(event), metadata | _job_metadata(metadata.pop("jobs", []))


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


def bytes_billed(folder: Path, reported: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the bytes that a run of dbt, whose artifacts are in this folder, was billed.

    Models report theirs with their other metadata: `reported`, by node. Those of other nodes, such as tests,
    are in dbt's results.
    """
    billed = sum(int(metadata.get(BILLED, 0)) for metadata in reported.values())
    with suppress(FileNotFoundError):  # dbt did not get that far
        results = json.loads((folder / "run_results.json").read_bytes())["results"]
        billed += sum(
            int(result["adapter_response"].get("bytes_billed", 0))
            for result in results
            if result["unique_id"] not in reported
        )
    return billed


def _status(event: Mapping[str, Any]) -> str:
    return str(event["data"]["node_info"]["node_status"])
