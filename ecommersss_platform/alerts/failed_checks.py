"""Asset checks whose newest result is a failure of severity error, and which no failed run tells already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ecommersss_platform.alerts.look import Look
from ecommersss_platform.alerts.problem import Problem
from streaming.business_days import local_time

FRESHNESS = "newest_closed_day_present"
"""The check whose problems are told by `late_tables.py`."""

PARITY = "stream_and_warehouse_decide_alike"
"""The check whose failure is a kind of its own. Its description says how many orders differ."""

MOST_AT_ONCE = 20_000
"""How far back the first look reads: about a hundred runs of all checks. Later looks read what is new."""

PENDING = timedelta(days=1)
"""How long a check that was announced may still be evaluated."""

_EXECUTIONS = """
SELECT executions.id, asset_key, check_name, execution_status, executions.create_timestamp AS created,
       runs.status AS run_status
FROM asset_check_executions AS executions LEFT JOIN runs USING (run_id)
WHERE executions.id > %(after)s OR executions.id = ANY(%(pending)s)
ORDER BY executions.id DESC LIMIT %(limit)s
"""
_FAILURES = """
SELECT id, asset_key, check_name, evaluation_event_timestamp AS at,
       evaluation_event::json #>> '{dagster_event,event_specific_data,description}' AS description
FROM asset_check_executions
WHERE id = ANY(%(ids)s)
    AND evaluation_event::json #>> '{dagster_event,event_specific_data,severity,__enum__}'
        = 'AssetCheckSeverity.ERROR'
ORDER BY id
"""
_ENDED = frozenset({None, "SUCCESS", "FAILURE", "CANCELED"})


@dataclass
class Newest:
    """The newest results of each check that are known so far, by asset and name."""

    read_to: int = 0
    pending: list[int] = field(default_factory=list)
    results: dict[tuple[str, str], tuple[int, bool]] = field(default_factory=dict)
    """The number of the execution, and whether it failed."""

    def add(self, executions: list[dict[str, Any]], now: datetime) -> None:
        """Take over executions. Those that have not ended are left for a later look.

        A failure in a run that failed is told with the run, so it is no news about the check.
        """
        self.pending = []
        for row in sorted(executions, key=lambda row: int(row["id"])):
            self.read_to = max(self.read_to, row["id"])
            if row["execution_status"] == "PLANNED" or row["run_status"] not in _ENDED:
                if row["created"].replace(tzinfo=UTC) > now - PENDING:
                    self.pending.append(row["id"])
                continue
            failed = row["execution_status"] == "FAILED"
            known = self.results.get(check := (row["asset_key"], row["check_name"]), (0, False))
            if row["execution_status"] == "SUCCEEDED" or (failed and row["run_status"] != "FAILURE"):
                self.results[check] = max(known, (row["id"], failed))


def failed_checks(look: Look) -> list[Problem]:
    """Return a problem for each failed check of severity error."""
    newest: Newest = look.memory.setdefault("newest", Newest())
    what = {"after": newest.read_to, "pending": newest.pending, "limit": MOST_AT_ONCE}
    newest.add(look.rows(_EXECUTIONS, what), look.now)
    failed = [
        id_ for (_, name), (id_, is_failed) in newest.results.items() if is_failed and name != FRESHNESS
    ]
    if not failed:
        return []
    return [_problem(look, row) for row in look.rows(_FAILURES, {"ids": failed})]


def _problem(look: Look, row: Mapping[str, Any]) -> Problem:
    asset, name = "/".join(json.loads(row["asset_key"])), row["check_name"]
    page = look.link(f"assets/{asset}?view=checks")
    if name == PARITY:
        return Problem(
            "parity_differs",
            "stream and warehouse",
            f"stream and warehouse do not decide alike: {row['description']}. `ecommersss rules parity` with"
            " these days shows the orders, and what each of the two made of them",
            page,
        )
    return Problem(
        "check_failed",
        f"{asset} {name}",
        f"the check {name} of {asset} failed at {local_time(row['at'].replace(tzinfo=UTC))}: its page in the"
        " UI says why; correct the data or the code, and materialise the asset again",
        page,
    )
