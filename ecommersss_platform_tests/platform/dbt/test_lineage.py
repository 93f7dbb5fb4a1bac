"""The lineage of columns: what is read from one model's SQL, and what of it Dagster shows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, DailyPartitionsDefinition, TableColumnDep

from ecommersss_platform.dbt.lineage import column_lineage, read_lineage
from ecommersss_platform.dbt.project import MANIFEST
from ecommersss_platform.dbt.specs import asset_key, model_specs
from ecommersss_platform.dbt.staged import read_manifest

RELATIONS = {"duckdb": '"shop"."silver"."{}"', "bigquery": "`shop-1`.`silver`.`{}`"}
ORDERS = ("order_id", "user_id", "amount", "day", "reasons")
USERS = ("user_id", "name")


def node(name: str, dialect: str, columns: tuple[str, ...], sql: str = "", *parents: str) -> dict[str, Any]:
    return {
        "resource_type": "model",
        "name": name,
        "relation_name": RELATIONS[dialect].format(name),
        "columns": {column: {} for column in columns},
        "compiled_code": sql,
        "depends_on": {"nodes": list(parents)},
    }


def lineage(sql: str, dialect: str = "duckdb", **more: dict[str, Any]) -> dict[str, list[str]]:
    """Return where the columns of a model `m` with this SQL over {orders} and {users} come from."""
    tables = {name: RELATIONS[dialect].format(name) for name in ("orders", "users", "m_staged")}
    manifest = {
        "metadata": {"adapter_type": dialect},
        "sources": {"orders": node("orders", dialect, ORDERS)},
        "nodes": {
            "users": node("users", dialect, USERS, "select 1 as user_id, 'a' as name"),
            "m": node("m", dialect, (), sql.format(**tables), "orders", "users"),
            **more,
            "a_test": {"resource_type": "test"},
        },
    }
    found = column_lineage(manifest)["m"]
    return {column: [".".join(source) for source in sources] for column, sources in found.items()}


@pytest.mark.parametrize("dialect", RELATIONS)
@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        # A join, with an alias of each table, and equal names on both sides.
        (
            "select o.order_id, u.name as buyer, o.user_id, u.user_id as id"
            " from {orders} as o left join {users} as u on o.user_id = u.user_id where o.amount > 0",
            {
                "order_id": ["orders.order_id"],
                "buyer": ["users.name"],
                "user_id": ["orders.user_id"],
                "id": ["users.user_id"],
            },
        ),
        # CTEs over CTEs, with columns that are renamed, and one that nothing uses.
        (
            "with a as (select user_id as u, amount, order_id from {orders}),"
            " b as (select u as v, amount from a) select v as w, amount from b",
            {"w": ["orders.user_id"], "amount": ["orders.amount"]},
        ),
        ("select * from {users}", {"user_id": ["users.user_id"], "name": ["users.name"]}),
        (
            "with a as (select * from {orders}) select a.*, name from a inner join {users} using (user_id)",
            {
                **{column: [f"orders.{column}"] for column in ORDERS},
                "name": ["users.name"],
            },
        ),
        # Expressions, aggregates and literals.
        (
            "select case when o.amount > 1 then u.name else 'nobody' end as label, 3 as three,"
            " cast(null as string) as nothing, sum(o.amount) as total, count(*) as orders"
            " from {orders} as o cross join {users} as u group by 1, 2, 3",
            {
                "label": ["orders.amount", "users.name"],
                "three": [],
                "nothing": [],
                "total": ["orders.amount"],
                "orders": [],
            },
        ),
        # What a window is partitioned and ordered by decides about its value.
        (
            "select row_number() over (partition by user_id order by day desc) as n from {orders}"
            " qualify rank() over (order by amount) = 1",
            {"n": ["orders.day", "orders.user_id"]},
        ),
        (
            "select user_id, name as text from {users} union all select order_id, 'x' from {orders}",
            {"user_id": ["orders.order_id", "users.user_id"], "text": ["users.name"]},
        ),
    ],
)
def test_columns_come_from_the_columns_of_parents(
    sql: str, expected: dict[str, list[str]], dialect: str
) -> None:
    assert lineage(sql, dialect) == expected


@pytest.mark.parametrize(("dialect", "alias"), [("duckdb", "as one(reason)"), ("bigquery", "as reason")])
def test_an_element_comes_from_its_array(dialect: str, alias: str) -> None:
    sql = f"select order_id, reason from {{orders}} cross join unnest(reasons) {alias}"
    assert lineage(sql, dialect) == {"order_id": ["orders.order_id"], "reason": ["orders.reasons"]}


@pytest.mark.parametrize("dialect", RELATIONS)
def test_a_staged_model_is_seen_through(dialect: str) -> None:
    staged = node(
        "m_staged",
        dialect,
        (),
        f"select sum(amount) as total from {RELATIONS[dialect].format('orders')}",
        "orders",
    )
    published = node(
        "m", dialect, ("total",), f"select * from {RELATIONS[dialect].format('m_staged')}", "m_staged"
    )
    assert lineage("", dialect, m=published, m_staged=staged) == {"total": ["orders.amount"]}


def test_a_model_whose_sql_cannot_be_read_has_none(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert lineage("select from where {orders}") == {}
    assert "the model m has no column lineage" in caplog.text


def test_dagster_shows_it_with_the_keys_of_the_assets() -> None:
    manifest = read_manifest(MANIFEST)
    found = read_lineage(MANIFEST)
    specs = {
        spec.key.path[-1]: spec.metadata["dagster/column_lineage"].column_lineage.deps_by_column
        for spec in model_specs(manifest, DailyPartitionsDefinition("2026-01-01"), found)
    }
    # Every column of every model, and only columns that there are.
    tables = {**manifest["nodes"], **manifest["sources"]}
    columns = {
        asset_key(tables[name]): set(tables[name]["columns"])
        for name in tables
        if tables[name].get("columns")
    }
    for name, deps in specs.items():
        assert set(deps) == set(manifest["nodes"][f"model.ecommersss.{name}"]["columns"]), name
        for dep in (dep for sources in deps.values() for dep in sources):
            assert dep.column_name in columns[dep.asset_key], (name, dep)

    def of(model: str, column: str) -> set[str]:
        return {f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in specs[model][column]}

    assert specs["stg_orders"]["order_id"] == [TableColumnDep(AssetKey(["raw", "orders"]), "id")]
    assert of("fact_orders", "local_hour") == {"bronze/stg_orders.ordered_at"}
    assert of("rule_performance", "rule_name") == {
        "silver/fact_orders.fraud_reasons",
        "silver/fact_orders.review_reasons",
        "silver/fact_orders.shadow_reasons",
    }
    assert of("rule_performance", "mode") == set()
    assert of("dim_users", "masked_email") == {"bronze/stg_users.email"}


def test_a_manifest_without_lineage_has_none(tmp_path: Path) -> None:
    assert read_lineage(tmp_path / "manifest.json") == {}
