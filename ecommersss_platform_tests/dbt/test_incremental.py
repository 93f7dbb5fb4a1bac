"""Incremental equals full refresh: 60 days built as sensors and schedules ask for them, and all days at once.

Orders come up to ten days late, products are re-priced, the rule book changes at noon of a day, and labels
change three weeks after the first ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from ecommersss_platform.contracts import (
    DISPUTES,
    ORDERS,
    PRODUCTS,
    RAW_TABLES,
    SHIPMENTS,
    USERS,
    VERDICTS,
    RawTable,
)
from ecommersss_platform.days import Days, contiguous
from ecommersss_platform.dbt.project import build_arguments, ensure_manifest
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.dbt_runs import dbt_events
from ecommersss_platform_tests.support.raw_days import (
    Row,
    at,
    dispute,
    order,
    product,
    read,
    read_each,
    shipment,
    user,
    verdict,
    write_raw,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DAY = timedelta(days=1)
FIRST = date(2024, 1, 1)
ORDERED = [FIRST + DAY * n for n in range(60)]
"""The days with orders, to the end of February of a leap year."""
LAST = FIRST + DAY * 89
"""The day on which the last label changes."""
MATURITY = 25
NEW_BOOK = ORDERED[30]
"""On this day at noon, the shadow rule becomes active, and another rule is removed."""
BOOKS = {
    "v1": (["extreme_order", "foreign_country"], ["rapid_orders"]),
    "v2": (["extreme_order", "rapid_orders"], ["spend_burst"]),
}
"""The active and the shadow rules of each version of the book."""


class History(NamedTuple):
    """All raw rows there will ever be, and the day on which each order arrived."""

    rows: dict[RawTable, list[Row]]
    arrived: dict[int, date]

    def known_on(self, table: RawTable, row: Row) -> date:
        """Return the day from which the platform knew the row."""
        known: date = self.arrived[row["id"]] if table is ORDERS else row["partition_date"]
        return known

    def until(self, day: date) -> dict[RawTable, list[Row]]:
        """Return the rows known at the end of the day."""
        return {
            table: [row for row in rows if self.known_on(table, row) <= day]
            for table, rows in self.rows.items()
        }

    def days_with_new_orders(self, after: date, until: date) -> set[date]:
        """Return the days of the orders that arrived in (after, until]: those of `order_stream_sensor`."""
        return {
            row["partition_date"] for row in self.rows[ORDERS] if after < self.arrived[row["id"]] <= until
        }

    def days_with_new_labels(self, after: date, until: date) -> set[date]:
        """Return the days that `label_sensor` finds, and those that mature, of which `daily_close` knows."""
        placed_on = {row["id"]: row["partition_date"] for row in self.rows[ORDERS]}
        written = {
            placed_on[row["order_id"]]
            for table in (DISPUTES, VERDICTS)
            for row in self.rows[table]
            if after < row["partition_date"] <= until
        }
        matured = {day for day in ORDERED if after < day + DAY * MATURITY <= until}
        return written | matured


def history(orders_per_day: int) -> History:
    """Return an invented history, the same for the same number of orders."""
    random = Random(f"history:{orders_per_day}")
    rows: dict[RawTable, list[Row]] = {table: [] for table in RAW_TABLES}
    arrived: dict[int, date] = {}
    for id in range(1, 31):
        signed_up = FIRST + DAY * max(0, id - 10)
        values = {
            "username": f"user{id}",
            "email": f"user{id}@mail.id",
            "created_date": at(str(signed_up), "00:00"),
        }
        rows[USERS].append(user(id, id, str(signed_up), **values))
        if id % 5 == 0:
            moved = str(signed_up + DAY * 21)
            rows[USERS].append(user(100 + id, id, moved, **values | {"email": f"new{id}@mail.id"}))
    for id in range(1, 9):
        for n in range(4):  # listed, and re-priced three times
            priced = str(FIRST + DAY * (id + 15 * n if n else 0))
            rows[PRODUCTS].append(
                product(10 * n + id, id, priced, f"{id * 1000 * (n + 1)}.50", product_name=f"Product {id}")
            )
    for n, day in enumerate(ORDERED):
        for id in range(100 * n + 1, 100 * n + 1 + orders_per_day):
            clock = f"{random.randrange(24):02}:{random.randrange(60):02}:{random.randrange(60):02}"
            arrived[id] = day + DAY * (random.randrange(1, 11) if random.random() < 0.02 else 0)
            is_new_book = arrived[id] > NEW_BOOK or (arrived[id] == NEW_BOOK and clock >= "12:00")
            version = "v2" if is_new_book else "v1"
            active, shadow = BOOKS[version]
            amount = Decimal(random.randrange(1, 10**9)) / 100
            placed = order(
                *(id, random.randrange(1, min(30, 10 + n) + 1), random.randrange(1, 9), str(day), clock),
                *(amount, random.choice(["OVO", "DANA", "Gopay"])),
                active=[rule for rule in active if random.random() < 0.08],
                shadow=[rule for rule in shadow if random.random() < 0.1],
            )
            # In the topic in the order of arrival, and on each day in none.
            position = ((arrived[id] - FIRST).days * 1000 + random.randrange(1000)) * 10_000 + id
            seen = {"position": position, "country": random.choice(["ID", "ID", "SG"])}
            rows[ORDERS].append(placed | seen | {"rules_version": version})
            for table, row in aftermath(random, id, amount, arrived[id]):
                rows[table].append(row)
    # Numbered in the order in which they were written, as PostgreSQL numbers them.
    for table, (number, instant) in {
        SHIPMENTS: ("version", "valid_from"),
        DISPUTES: ("version", "valid_from"),
        VERDICTS: ("id", "recorded_at"),
    }.items():
        rows[table] = sorted(
            (row for row in rows[table] if row["partition_date"] <= LAST), key=lambda row: row[instant]
        )
        for n, row in enumerate(rows[table], 1):
            row[number] = n
    return History(rows, arrived)


def aftermath(random: Random, id: int, amount: Decimal, day: date) -> Iterator[tuple[RawTable, Row]]:
    """Yield the versions and verdicts that an order of this day brings about in the weeks after it."""

    def later(days: int) -> str:
        return str(day + DAY * days)

    draw = random.random()
    if draw < 0.9:
        yield SHIPMENTS, shipment(0, id, "packed", later(1))
        refund = {"refund_amount": amount * random.choice([1, 2])} if draw < 0.1 else {}
        yield (
            SHIPMENTS,
            shipment(0, id, "returned" if refund else "delivered", later(random.randrange(3, 9)), **refund),
        )
    elif draw < 0.95:
        yield SHIPMENTS, shipment(0, id, "cancelled", later(0), "23:59", refund_amount=amount)
    draw = random.random()
    if draw < 0.03:
        opened, outcome = random.randrange(3, 9), random.choice(["lost", "won"])
        kind = random.choice(["fraud", "fraud", "not_received"])
        values = {"kind": kind, "amount": amount, "opened_at": at(later(opened), "12:00")}
        yield DISPUTES, dispute(0, id, id, "open", later(opened), **values)
        yield DISPUTES, dispute(0, id, id, outcome, later(opened + 21), **values)
    if 0.02 < draw < 0.05:
        decided, first = random.randrange(1, 4), random.choice(["fraud", "genuine"])
        yield VERDICTS, verdict(0, id, first, later(decided))
        if draw < 0.04:
            yield VERDICTS, verdict(0, id, "genuine" if first == "fraud" else "fraud", later(decided + 21))


BY_DAY = ("fact_orders", "order_features", "order_labels", "daily_fraud_summary", "rule_performance")
"""The models that a run builds by days. All other tables are built whole by each run."""
LABELLED = BY_DAY[2:]


class Warehouse:
    """A warehouse that dbt builds, with the labels as of a day."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home, _env_file=None)

    def load(self, rows: dict[RawTable, list[Row]]) -> None:
        write_raw(self.settings.warehouse_path, rows)

    def build(self, as_of: date, days: Days | None, by_day: Sequence[str], *others: str) -> None:
        """Build models of these days, or of all days, and other models. The only tests are of staged rows."""
        variables: dict[str, Any] = {"labels_as_of": str(as_of), "label_maturity_days": MATURITY}
        if days is not None:
            variables |= {"first_day": str(days.first), "end_day": str(days.end)}
        arguments = [
            *("--no-write-json", *build_arguments(), "--vars", json.dumps(variables)),
            *("--indirect-selection", "empty", "--select", *by_day, *others),
            *(f"{model}_staged" for model in by_day),
            *(f"{model}_staged+1,resource_type:test" for model in by_day),
        ]
        for _ in dbt_events(self.settings, arguments):
            pass

    def build_all(self, as_of: date, days: Days | None) -> None:
        self.build(as_of, days, BY_DAY, "resource_type:model")

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return all rows of silver and gold, but for those that are staged."""
        path = self.settings.warehouse_path
        names = read(
            path,
            "SELECT table_schema || '.' || table_name FROM information_schema.tables"
            " WHERE table_schema IN ('silver', 'gold') AND NOT suffix(table_name, '_staged') ORDER BY 1",
        )
        tables = [name for (name,) in names]
        selects = [f"SELECT * FROM {name} ORDER BY ALL" for name in tables]
        return dict(zip(tables, read_each(path, selects), strict=True))


def build_as_it_changes(
    warehouse: Warehouse, known: History, closes: Sequence[date], before: date | None = None
) -> None:
    """On each of these days, build the days that changed since the one before, the newest days first.

    Only the last run builds the models without days, too: each run would build them whole.
    """
    for close in closes:
        warehouse.load(known.until(close))
        if before is None:
            warehouse.build(close, Days.between(FIRST, close), BY_DAY, *(f"+{model}" for model in BY_DAY))
        else:
            ordered = known.days_with_new_orders(before, close)
            for days in reversed(contiguous(ordered)):
                warehouse.build(close, days, BY_DAY)
            for days in reversed(contiguous(known.days_with_new_labels(before, close) - ordered)):
                warehouse.build(close, days, LABELLED)
        before = close
    warehouse.build_all(close, Days.between(close, close))


def assert_equal_to_full_refresh(warehouse: Warehouse, known: History, as_of: date, home: Path) -> None:
    full = Warehouse(home)
    full.load(known.until(as_of))
    full.build_all(as_of, None)
    expected, found = full.tables(), warehouse.tables()
    assert {f"gold.{model}" for model in BY_DAY[3:]} < found.keys() == expected.keys()
    assert [name for name, rows in expected.items() if not rows] == []
    assert [name for name in expected if found[name] != expected[name]] == []


def test_days_built_as_they_change_equal_a_full_refresh(tmp_path: Path) -> None:
    """In few runs: all days with orders, and the month after them with its late orders and labels."""
    ensure_manifest()
    known, warehouse = history(8), Warehouse(tmp_path / "home")
    build_as_it_changes(warehouse, known, [ORDERED[59], LAST])
    assert_equal_to_full_refresh(warehouse, known, LAST, tmp_path / "full")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_third_day_built_as_it_changes_equals_a_full_refresh(tmp_path: Path) -> None:
    ensure_manifest()
    known, warehouse = history(30), Warehouse(tmp_path / "home")
    closes = [FIRST + DAY * n for n in range(2, 90, 3)]
    build_as_it_changes(warehouse, known, closes[:13])
    assert_equal_to_full_refresh(warehouse, known, closes[12], tmp_path / "half")
    build_as_it_changes(warehouse, known, closes[13:], before=closes[12])
    assert_equal_to_full_refresh(warehouse, known, LAST, tmp_path / "full")
