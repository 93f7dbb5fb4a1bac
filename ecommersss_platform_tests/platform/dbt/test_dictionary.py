"""The tables of docs/analytics.md, made from the manifest of the dbt project."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ecommersss_platform.dbt.dictionary import DEFINITIONS, page, used_definitions
from ecommersss_platform.dbt.project import PROJECT_DIR

PAGE = """Before.
<!-- definitions: x -->
old
<!-- end -->
Between.
<!-- tables: y -->
<!-- end -->
After.
"""


def model(name: str, schema: str, description: str, *macros: str) -> dict[str, Any]:
    return {
        "resource_type": "model",
        "name": name,
        "schema": schema,
        "description": description,
        "config": {"meta": {"dagster": {"owners": ["team:fraud", "ana@example.com"]}}},
        "depends_on": {"macros": list(macros)},
    }


MANIFEST = {
    "nodes": {
        "1": model("stg_orders", "bronze", "No grain."),
        "2": model("fact_orders", "silver", "Facts. Grain: one row per order.\nMore."),
        "3": model("fact_orders_staged", "silver", "No grain."),
        "4": model("sales", "gold", "Grain: one row per user and day.", "m.fraud", "m.gone", "m.money"),
    },
    "macros": {
        "m.fraud": {"name": "fraud_orders", "original_file_path": DEFINITIONS, "description": "Fraud.\n"},
        "m.genuine": {"name": "genuine_orders", "original_file_path": DEFINITIONS, "description": "Not."},
        "m.money": {"name": "money", "original_file_path": "macros/dialect/money.sql", "description": ""},
    },
}


def test_page_has_the_definitions_and_each_table_with_grain_owner_and_definitions() -> None:
    made = page(PAGE, MANIFEST)
    assert [line for line in made.splitlines() if line] == [
        "Before.",
        "<!-- definitions: python -m ecommersss_platform.dbt.dictionary -->",
        "| definition | meaning |",
        "| --- | --- |",
        "| `genuine_orders` | Not. |",
        "| `fraud_orders` | Fraud. |",
        "<!-- end -->",
        "Between.",
        "<!-- tables: python -m ecommersss_platform.dbt.dictionary -->",
        "| table | one row per | owner | definitions |",
        "| --- | --- | --- | --- |",
        "| `gold.sales` | user and day | fraud, ana@example.com | `fraud_orders` |",
        "| `silver.fact_orders` | order | fraud, ana@example.com |  |",
        "<!-- end -->",
        "After.",
    ]
    assert page(made, MANIFEST) == made
    assert used_definitions(MANIFEST["nodes"]["4"], MANIFEST) == ["fraud_orders"]


def test_a_table_without_a_grain_is_refused() -> None:
    nodes = {"1": model("sales", "gold", "Sales.")}
    with pytest.raises(ValueError, match="sales does not say `Grain: one row per"):
        page(PAGE, MANIFEST | {"nodes": nodes})


def test_no_mart_counts_fraud_by_a_definition_of_its_own() -> None:
    own = re.compile(r"\b(count|sum)\s*\((\s*distinct)?\s*case\s+when\s+(not\s+)?is_fraud")
    marts = {path.name: path.read_text() for path in (PROJECT_DIR / "models" / "marts").glob("*.sql")}
    assert [name for name, sql in marts.items() if own.search(sql)] == []
    assert own.search((PROJECT_DIR / DEFINITIONS).read_text())
