"""Problems as rows for people and programs: those that are open, and those that are over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ecommersss_platform.alerts.problem import kind_of
from ecommersss_platform.alerts.state import Open, State


def open_problems(state: State, now: datetime) -> list[dict[str, Any]]:
    """Return a row for each open problem, oldest first. Instants are aware."""
    oldest_first = sorted(state.open, key=lambda entry: entry.since)
    return [_row(state, entry, now) for entry in oldest_first if not entry.over]


def _row(state: State, entry: Open, now: datetime) -> dict[str, Any]:
    mute, kind = state.mute_of(entry.key, now), kind_of(entry.problem)
    return {
        "kind": entry.problem.kind,
        "subject": entry.problem.subject,
        "severity": kind.severity,
        "owner": kind.owner,
        "since": entry.since,
        "over": None,
        "told": list(entry.told_to),
        "muted until": mute.until if mute else None,
        "problem": entry.problem.summary,
        "link": entry.problem.link,
    }


def past_problems(path: Path) -> list[dict[str, Any]]:
    """Return a row, as those of `open_problems`, for each problem that `alerts.jsonl` knows as over."""
    return [
        {
            "kind": line["alert"],
            "subject": line["subject"],
            "severity": line["severity"],
            "owner": line["owner"],
            "since": datetime.fromisoformat(line["since"]),
            "over": datetime.fromisoformat(line["at"]),
            "told": ["alerts.jsonl"],
            "muted until": None,
            "problem": line["message"],
            "link": line["link"],
        }
        for line in lines(path)
        if line.get("event") == "resolved"
    ]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the alerts of `alerts.jsonl`, oldest first, without what is no whole line of it."""
    with suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            with suppress(ValueError, KeyError, TypeError):  # being written, or of an earlier version
                found = json.loads(text)
                datetime.fromisoformat(found["at"]), found["event"]
                yield found
