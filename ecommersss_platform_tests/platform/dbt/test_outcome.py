"""What is said about the tables of a dbt step."""

from __future__ import annotations

from datetime import date
from typing import Any

from ecommersss_platform.dbt.outcome import Outcome
from ecommersss_platform.partitions import Days


def skip(schema: str, name: str) -> dict[str, Any]:
    relation = {"schema": schema, "alias": name}
    return {"info": {"name": "SkippingDetails"}, "data": {"node_info": {"node_relation": relation}}}


def test_every_table_was_replaced_or_left_or_is_unknown() -> None:
    outcome = Outcome(frozenset({"silver/a", "silver/b", "silver/c", "silver/d"}))
    outcome.replaced.add("silver/b")
    outcome.note_skip(skip("silver", "c"))
    outcome.note_skip(skip("dbt_test__audit", "a"))
    outcome.note_skip({"info": {"name": "LogModelResult"}, "data": {}})
    assert not outcome.complete
    days = Days.between(date(2024, 2, 28), date(2024, 3, 1))
    assert outcome.sentences(days, {"silver/c", "silver/d"}) == (
        "Replaced: silver/b."
        " Left as it was: silver/c (2024-02-28 to 2024-03-01)."
        " Not reported as replaced: silver/a, silver/d (2024-02-28 to 2024-03-01)."
    )
    assert Outcome(frozenset({"gold/a"})).sentences() == "Not reported as replaced: gold/a."


def test_a_step_is_complete_when_every_table_was_reported() -> None:
    outcome = Outcome(frozenset({"silver/a"}))
    outcome.replaced.add("silver/a")
    assert outcome.complete
    assert outcome.sentences() == "Replaced: silver/a."
