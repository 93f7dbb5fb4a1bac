"""Why a run happened: a tag of the run, which the list of runs shows, and metadata of what it materialised.

Schedules, sensors and `ecommersss materialize` say it when they ask for a run. A run without the tag was
asked for by a person. Imports no Dagster.
"""

from __future__ import annotations

from collections.abc import Mapping

REASON_TAG = "reason"
BY_A_PERSON = "asked for by a person"
ON_THE_COMMAND_LINE = "asked for on the command line"
_AGAIN = "again: "
_BACKFILL_TAG = "dagster/backfill"
_PARENT_TAG = "dagster/parent_run_id"


def reason_tag(reason: str) -> dict[str, str]:
    """Return the tag of a run that is asked for because of this."""
    return {REASON_TAG: reason}


def reason_of(tags: Mapping[str, str]) -> str:
    """Return why the run with these tags happened. A repeated run has the reason of the first one."""
    by_a_person = f"backfill {BY_A_PERSON}" if _BACKFILL_TAG in tags else BY_A_PERSON
    reason = tags.get(REASON_TAG, by_a_person)
    return f"{_AGAIN}{reason}" if _PARENT_TAG in tags and not reason.startswith(_AGAIN) else reason


def reason_metadata(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata that says why the run with these tags materialised something."""
    return {"reason": reason_of(tags)}


def counted(count: int, noun: str) -> str:
    """Return a number of things in words: "1 order", "2 orders"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
