"""Why a run happened, as its tags tell."""

from __future__ import annotations

import pytest

from ecommersss_platform.reasons import counted, reason_of, reason_tag


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({}, "asked for by a person"),
        ({"dagster/backfill": "abc"}, "backfill asked for by a person"),
        (reason_tag("daily close"), "daily close"),
        ({"dagster/parent_run_id": "r1"}, "again: asked for by a person"),
        ({**reason_tag("daily close"), "dagster/parent_run_id": "r1"}, "again: daily close"),
        ({**reason_tag("again: daily close"), "dagster/parent_run_id": "r2"}, "again: daily close"),
    ],
)
def test_reason_of_a_run(tags: dict[str, str], reason: str) -> None:
    assert reason_of(tags) == reason


def test_counts_in_words() -> None:
    assert [counted(n, "order") for n in (0, 1, 2)] == ["0 orders", "1 order", "2 orders"]
