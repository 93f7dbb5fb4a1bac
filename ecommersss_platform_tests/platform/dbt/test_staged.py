"""How Dagster sees staged models: folded into the models that publish them."""

from __future__ import annotations

from typing import Any

from ecommersss_platform.dbt.project import PROJECT_DIR
from ecommersss_platform.dbt.staged import SUFFIX, fold, selection


def node(kind: str, *parents: str, **more: Any) -> dict[str, Any]:
    return {
        "resource_type": kind,
        "depends_on": {"nodes": list(parents), "macros": []},
        "meta": {},
        "description": "",
        "raw_code": "",
        **more,
    }


MANIFEST = {
    "metadata": {"project_name": "p"},
    "nodes": {
        "model.p.orders": node("model"),
        "model.p.facts_staged": node("model", "model.p.orders", raw_code="select all of it"),
        "model.p.facts": node("model", "model.p.facts_staged", raw_code="select *"),
        "model.p.mart": node("model", "model.p.facts"),
        "test.p.unique": node("test", "model.p.facts_staged", attached_node="model.p.facts_staged"),
        "test.p.known": node(
            "test",
            *("model.p.orders", "model.p.facts_staged"),
            attached_node="model.p.facts_staged",
            description="Is known.",
        ),
    },
    "parent_map": {
        "model.p.orders": [],
        "model.p.facts_staged": ["model.p.orders"],
        "model.p.facts": ["model.p.facts_staged"],
        "model.p.mart": ["model.p.facts"],
        "test.p.unique": ["model.p.facts_staged"],
        "test.p.known": ["model.p.orders", "model.p.facts_staged"],
    },
    "child_map": {
        "model.p.orders": ["model.p.facts_staged", "test.p.known"],
        "model.p.facts_staged": ["model.p.facts", "test.p.unique", "test.p.known"],
        "model.p.facts": ["model.p.mart"],
        "model.p.mart": [],
        "test.p.unique": [],
        "test.p.known": [],
    },
}


def test_a_staged_model_and_its_publisher_are_one_node() -> None:
    folded = fold(MANIFEST)
    assert set(folded["nodes"]) == set(MANIFEST["nodes"]) - {"model.p.facts_staged"}
    facts = folded["nodes"]["model.p.facts"]
    assert (facts["depends_on"]["nodes"], facts["raw_code"]) == (["model.p.orders"], "select all of it")
    assert folded["nodes"]["test.p.unique"]["attached_node"] == "model.p.facts"
    assert folded["nodes"]["test.p.known"]["depends_on"]["nodes"] == ["model.p.orders", "model.p.facts"]
    assert folded["parent_map"] == {
        "model.p.orders": [],
        "model.p.facts": ["model.p.orders"],
        "model.p.mart": ["model.p.facts"],
        "test.p.unique": ["model.p.facts"],
        "test.p.known": ["model.p.orders", "model.p.facts"],
    }
    assert folded["child_map"] == {
        "model.p.orders": ["model.p.facts", "test.p.known"],
        "model.p.facts": ["test.p.unique", "test.p.known", "model.p.mart"],
        "model.p.mart": [],
        "test.p.unique": [],
        "test.p.known": [],
    }
    assert fold(folded) == folded


def test_exactly_what_a_step_makes_is_selected() -> None:
    assert selection(["facts", "days"], ["facts"], ["facts_known", "days_unique"]) == [
        *("--select", "days days_unique facts facts_known facts_staged"),
        *("--indirect-selection", "empty"),
    ]


def test_every_incremental_model_publishes_what_is_staged_beside_it() -> None:
    incremental = [
        path
        for path in (PROJECT_DIR / "models").rglob("*.sql")
        if "materialized='incremental'" in path.read_text()
    ]
    staged = set((PROJECT_DIR / "models").rglob(f"*{SUFFIX}.sql"))
    assert incremental
    assert {path.with_name(f"{path.stem}{SUFFIX}.sql") for path in incremental} == staged
    for path in incremental:
        assert path.read_text().endswith(f"select * from {{{{ ref('{path.stem}{SUFFIX}') }}}}\n")
        assert "data_tests" not in path.with_suffix(".yml").read_text(), (
            "the tests belong to the staged model"
        )
