"""Statements and table definitions for BigQuery."""

from __future__ import annotations

from ecommersss_platform.contracts import LOAD_LOG, ORDERS, USERS
from ecommersss_platform.partitions import Days
from ecommersss_platform.warehouse.bigquery.config import label
from ecommersss_platform.warehouse.bigquery.schema import table_definition
from ecommersss_platform.warehouse.bigquery.sql import merge_sql, replace_sql
from ecommersss_platform_tests.support.orders_table import DAY_1, DAY_2


def test_merge_sql_has_constant_bounds_on_both_sides() -> None:
    sql = merge_sql(USERS, "`p.raw.users`", "`p.staging.x`", Days.between(DAY_1, DAY_2))
    window = "partition_date >= DATE '2024-06-10' AND {}partition_date < DATE '2024-06-12'"
    columns = ", ".join(f"`{c.name}`" for c in USERS.columns)
    target = window.format("target.")
    assert sql == (
        "MERGE `p.raw.users` AS target "
        f"USING (SELECT {columns} FROM `p.staging.x` WHERE {window.format('')}) AS staged "
        f"ON FALSE WHEN NOT MATCHED BY SOURCE AND target.{target} THEN DELETE "
        f"WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({columns})"
    )


def test_table_definition_follows_the_contract() -> None:
    made = table_definition(ORDERS, "shop").to_api_repr()
    assert made["timePartitioning"] == {"type": "DAY", "field": "partition_date"}
    assert made["requirePartitionFilter"] is True
    assert made["clustering"] == {"fields": ["user_id", "product_id"]}
    assert made["description"] == ORDERS.description
    assert made["labels"] == {"managed_by": "ecommersss"}
    fields = {field["name"]: field for field in made["schema"]["fields"]}
    assert fields["amount"] == {
        "name": "amount",
        "type": "NUMERIC",
        "mode": "REQUIRED",
        "description": "Order total, rupiah.",
    }
    assert list(fields) == [c.name for c in ORDERS.columns]


def test_replace_sql_is_one_statement() -> None:
    sql = replace_sql(ORDERS, "`t`", "SELECT * FROM `s`")
    assert sql.startswith(
        'CREATE OR REPLACE TABLE `t` (`id` INT64 NOT NULL OPTIONS(description="The order."), '
    )
    assert (
        "PARTITION BY partition_date CLUSTER BY `user_id`, `product_id` "
        f'OPTIONS(description="{ORDERS.description}", labels=[("managed_by", "ecommersss")], '
        "require_partition_filter=TRUE) AS SELECT * FROM `s`" in sql
    )
    assert "require_partition_filter" not in replace_sql(LOAD_LOG, "`t`", "SELECT 1")


def test_label_keeps_only_valid_characters() -> None:
    assert label("A.b c-D_" + "x" * 80) == "a_b_c-d_" + "x" * 55
