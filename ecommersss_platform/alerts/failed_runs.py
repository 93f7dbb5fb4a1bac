"""Failed runs that no later run has made good.

They are read from Dagster's tables: loading Dagster would take more time and memory than all other looks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from ecommersss_platform.alerts.look import Look
from ecommersss_platform.alerts.problem import Problem
from ecommersss_platform.alerts.text import cause, without_secrets
from ecommersss_platform.days import Days
from ecommersss_platform.laboratory import BACKTEST_JOB, TRAINING_SET
from ecommersss_platform.run_tags import partitions_text

RETRY_PATIENCE = timedelta(minutes=10)
"""How long Dagster's daemon may take to start the retry that it has promised."""

LONGEST_ERROR = 300

_STARTED_BY = ("dagster/schedule_name", "dagster/sensor_name", "dagster/backfill")

_RUNS = """
SELECT id AS number, run_id, pipeline_name, status, end_time, run_body::json -> 'asset_selection' AS assets,
       (SELECT json_object_agg(key, value) FROM run_tags WHERE run_tags.run_id = runs.run_id) AS tags
FROM runs
"""
_FAILED = f"{_RUNS} WHERE status = 'FAILURE' ORDER BY id"
_SUCCEEDED = f"{_RUNS} WHERE status = 'SUCCESS' AND pipeline_name = ANY(%(jobs)s) AND id > %(after)s"
_PLANNED = """
SELECT run_id, array_agg(DISTINCT asset_key) AS assets FROM event_logs
WHERE run_id = ANY(%(runs)s) AND dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED' GROUP BY run_id
"""
_ERRORS = """
SELECT run_id, coalesce(step_key, '') AS step,
       event::json #>> '{dagster_event,event_specific_data,error}' AS error,
       event::json #>> '{dagster_event,message}' AS message
FROM event_logs
WHERE run_id = ANY(%(runs)s) AND dagster_event_type IN ('STEP_FAILURE', 'PIPELINE_FAILURE') ORDER BY id
"""


@dataclass(frozen=True)
class Run:
    """A run that ended. `assets`: what it was to make, None for the whole job. `number` grows."""

    number: int
    id: str
    job: str
    ended: datetime
    tags: Mapping[str, str]
    assets: frozenset[str] | None

    @property
    def partitions(self) -> str:
        """The days or hours of the run as text; empty without partitions."""
        return partitions_text(self.tags)

    @property
    def days(self) -> frozenset[date]:
        """The days of the run; empty for a run without daily partitions."""
        first, _, last = self.partitions.partition(" to ")
        try:
            return frozenset(Days.between(date.fromisoformat(first), date.fromisoformat(last or first)))
        except ValueError:
            return frozenset()

    @property
    def is_on_demand(self) -> bool:
        """Whether only the person who launched the run waits for its outcome, and sees it in the UI."""
        return self.job == BACKTEST_JOB or self.assets == frozenset([json.dumps(TRAINING_SET)])

    def is_retried(self, now: datetime) -> bool:
        """Return whether Dagster has retried this run, or has promised to and still has time."""
        if "dagster/auto_retry_run_id" in self.tags:
            return True
        return self.tags.get("dagster/will_retry") == "true" and now - self.ended < RETRY_PATIENCE


def not_made_good(failed: Sequence[Run], succeeded: Sequence[Run], now: datetime) -> list[Run]:
    """Return the newest failed run of each job and partitions that later runs have not made good.

    Backtests and training sets are left out: they make nothing that others wait for.
    Later runs of the job that succeeded make it good if they made all of its assets, for its partitions or,
    together, for all of its days.
    """
    newest = {
        (run.job, run.partitions): run for run in failed if not (run.is_retried(now) or run.is_on_demand)
    }

    def is_good(run: Run) -> bool:
        later = [
            other
            for other in succeeded
            if other.job == run.job
            and other.number > run.number
            and (other.assets is None or (run.assets or frozenset()) <= other.assets)
        ]
        if any(other.partitions == run.partitions for other in later):
            return True
        return bool(run.days) and run.days <= frozenset().union(*(other.days for other in later))

    return [run for run in newest.values() if not is_good(run)]


def summary(run: Run, errors: Mapping[str, str]) -> str:
    """Return a sentence about a failed run. `errors`: by step; that of the run itself has an empty name."""
    started = next((f" started by {run.tags[tag]}" for tag in _STARTED_BY if tag in run.tags), "")
    steps = {step: error for step, error in errors.items() if step} or errors
    why = "; ".join(f"{step}: {error}" if step else error for step, error in steps.items())
    return f"run {run.id[:8]}{started} failed: {why or 'its log says why'}"


def failed_runs(look: Look) -> list[Problem]:
    """Return a problem for each job and partitions whose newest failure later runs have not made good."""
    if look.rows("SELECT to_regclass('runs') AS runs") == [{"runs": None}]:
        return []  # nothing has run yet
    failed = [_run(row) for row in look.rows(_FAILED)]
    if not failed:
        return []
    planned = look.rows(_PLANNED, {"runs": [run.id for run in failed]})
    assets = {row["run_id"]: frozenset(row["assets"]) for row in planned}
    failed = [replace(run, assets=assets.get(run.id, frozenset())) for run in failed]
    later = {"jobs": list({run.job for run in failed}), "after": failed[0].number}
    succeeded = [_run(row) for row in look.rows(_SUCCEEDED, later)]
    bad = not_made_good(failed, succeeded, look.now)
    errors: dict[str, dict[str, str]] = {run.id: {} for run in bad}
    for row in look.rows(_ERRORS, {"runs": list(errors)}):
        errors[row["run_id"]][row["step"]] = _error(row["error"], row["message"])
    return [
        Problem(
            kind="run_failed",
            subject=f"{run.job} {run.partitions}".strip(),
            summary=summary(run, errors[run.id]),
            link=look.link(f"runs/{run.id}"),
        )
        for run in bad
    ]


def _run(row: Mapping[str, Any]) -> Run:
    selection = row["assets"]
    if isinstance(selection, dict):  # a set, as Dagster writes one
        [selection] = [value for key, value in selection.items() if key.startswith("__")]
    return Run(
        number=row["number"],
        id=row["run_id"],
        job=row["pipeline_name"],
        ended=datetime.fromtimestamp(row["end_time"] or 0, UTC),
        tags=row["tags"] or {},
        # Dagster writes no set, or an empty one, for the whole job.
        assets=frozenset(json.dumps(key["path"]) for key in selection or ()) or None,
    )


def _error(error: str | None, message: str | None) -> str:
    return (cause(error) or without_secrets((message or "").partition("\n")[0]))[:LONGEST_ERROR]
