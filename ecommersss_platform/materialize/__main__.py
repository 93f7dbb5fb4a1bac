"""What the child process does: execute one run of the daily job for a range of days."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import date

from ecommersss_platform.days import Days


def execute(definitions: str, run_id: str, days: Days, *, rebuild: bool) -> bool:
    """Execute the run in this process, and return whether it succeeded. `DAGSTER_HOME` must be set."""
    from importlib import import_module

    from dagster import DagsterInstance

    from ecommersss_platform.dbt.unchanged import REBUILD_TAG
    from ecommersss_platform.jobs import DAILY_PIPELINE
    from ecommersss_platform.materialize.child import run_tags

    tags = {**run_tags(days), **({REBUILD_TAG: "true"} if rebuild else {})}
    job = import_module(definitions).defs.resolve_job_def(DAILY_PIPELINE)
    with DagsterInstance.get() as instance:
        result = job.execute_in_process(
            instance=instance,
            run_id=run_id,
            raise_on_error=False,
            tags=tags,
        )
    return bool(result.success)


def main(arguments: Iterable[str]) -> int:
    definitions, run_id, first, end, *rebuild = arguments
    days = Days(date.fromisoformat(first), date.fromisoformat(end))
    return 0 if execute(definitions, run_id, days, rebuild=bool(rebuild)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
