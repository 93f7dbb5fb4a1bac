"""The audit: its SQL, and its findings."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from ecommersss_platform.contracts import ORDERS, USERS
from ecommersss_platform.partitions import Days
from ecommersss_platform.warehouse.audit import audit_sql, findings, required_columns
from ecommersss_platform_tests.support.plain_dialect import PLAIN

DAY = date(2024, 6, 10)
ONE = Days.between(DAY, DAY)
SMALL = replace(
    USERS, columns=tuple(c for c in USERS.columns if c.name in ("version", "valid_from", "partition_date"))
)
CLEAN = {"staged_rows": 5, **{f"null_{name}": 0 for name in required_columns(ORDERS)}}


def test_audit_sql_is_one_scan_with_constant_bounds() -> None:
    outside = (
        "COALESCE(NOT (partition_date >= DATE '2024-06-10' AND partition_date < DATE '2024-06-11'), TRUE)"
    )
    wrong = (
        "partition_date = DATE '2024-06-10' AND (valid_from < INSTANT '2024-06-10 00:00:00+07:00' "
        "OR valid_from >= INSTANT '2024-06-11 00:00:00+07:00')"
    )
    assert audit_sql(SMALL, "staging.t", ONE, PLAIN) == (
        "SELECT count(*) AS staged_rows, count(*) - count(version) AS null_version, "
        "count(*) - count(valid_from) AS null_valid_from, "
        "count(*) - count(partition_date) AS null_partition_date, "
        f"count(CASE WHEN {outside} THEN 1 END) AS wrong_range, "
        f"min(CASE WHEN {outside} THEN version END) AS wrong_range_key, "
        f"count(CASE WHEN {wrong} THEN 1 END) AS wrong_day, "
        f"min(CASE WHEN {wrong} THEN version END) AS wrong_day_key, "
        "(SELECT count(*) FROM (SELECT 1 FROM staging.t GROUP BY version HAVING count(*) > 1) AS repeated) "
        "AS repeated_keys FROM staging.t"
    )


def test_audit_sql_computes_the_business_day_of_each_row_of_several_days() -> None:
    several = Days.between(DAY, date(2024, 6, 11))
    wrong = "count(CASE WHEN partition_date <> BUSINESS_DAY(valid_from) THEN 1 END) AS wrong_day"
    assert wrong in audit_sql(SMALL, "staging.t", several, PLAIN)
    assert wrong in audit_sql(SMALL, "staging.t", None, PLAIN)


def test_audit_sql_skips_rules_that_need_days_or_a_key() -> None:
    table = replace(SMALL, key=(), instant="")
    sql = audit_sql(table, "s", None, PLAIN)
    assert "wrong" not in sql
    assert "repeated" not in sql
    assert (
        findings(
            table,
            None,
            2,
            {"staged_rows": 2, "null_version": 0, "null_valid_from": 0, "null_partition_date": 0},
        )
        == []
    )


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, []),
        ({"staged_rows": 4}, ["5 rows were extracted but 4 staged"]),
        ({"null_user_id": 2}, ["2 rows have no user_id"]),
        ({"repeated_keys": 1}, ["1 values of the key (id) occur more than once"]),
        (
            {"wrong_range": 3, "wrong_range_key": 17},
            ["3 rows have a partition_date outside 2024-06-10, for example id 17"],
        ),
        ({"wrong_range": 3, "wrong_range_key": None}, ["3 rows have a partition_date outside 2024-06-10"]),
        (
            {"wrong_day": 1, "wrong_day_key": 8, "null_id": 1},
            [
                "1 rows have no id",
                "1 rows have a partition_date that is not the business day of created_date, for example id 8",
            ],
        ),
    ],
)
def test_findings_name_each_broken_rule(counts: dict[str, int], expected: list[str]) -> None:
    assert findings(ORDERS, ONE, 5, CLEAN | counts) == expected
