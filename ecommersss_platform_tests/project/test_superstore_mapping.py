"""The mapping of the Superstore example, on invented lines in the sample's form."""

from __future__ import annotations

import importlib.util
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from types import ModuleType

import pyarrow as pa
import pytest

from ecommersss_platform_tests.support.project import PROJECT


@pytest.fixture(scope="module")
def superstore() -> ModuleType:
    spec = importlib.util.spec_from_file_location("superstore", PROJECT / "examples/superstore/superstore.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["superstore"] = module
    spec.loader.exec_module(module)
    return module


def line(row: int, **changes: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "Row ID": row,
        "Order ID": "CA-2016-152156",
        "Order Date": date(2016, 11, 8),
        "Customer ID": "CG-12520",
        "Customer Name": "Claire Van Gute",
        "Country": "United States",
        "Postal Code": 42420.0,
        "Product ID": "FUR-BO-1",
        "Product Name": "Bookcase ",
        "Category": "Furniture",
        "Sub-Category": "Bookcases",
        "Sales": 261.96,
        "Quantity": 2,
        "Discount": 0.0,
        "Profit": 41.9,
    }
    return fields | changes


def test_lines_become_orders_of_numbered_users_and_products(superstore: ModuleType) -> None:
    table = pa.Table.from_pylist(
        [
            line(7, **{"Order Date": date(2016, 11, 9), "Sales": 209.568, "Discount": 0.2}),
            line(8),
            line(9, **{"Product Name": "Another", "Customer ID": "AB-1", "Customer Name": "Corey-Lock"}),
        ]
    )
    sample = superstore.map_superstore(table)
    assert [order.id for order in sample.orders] == [8, 9, 7]
    assert [(o.user_id, o.product_id, o.amount) for o in sample.orders] == [
        (2, 2, Decimal("2619600.00")),
        (1, 1, Decimal("2619600.00")),
        (2, 2, Decimal("2095680.00")),
    ]
    assert sample.orders[0].created_date == datetime(2016, 11, 8, 5, tzinfo=UTC)
    assert {(o.country, o.payment_method) for o in sample.orders} == {("US", "Credit Card")}
    assert (sample.first_day, sample.last_day) == (date(2016, 11, 8), date(2016, 11, 9))
    assert sample.users == [
        {
            "id": 1,
            "username": "ab-1",
            "email": "ab-1@superstore.example",
            "first_name": "Corey",
            "last_name": "Lock",
            "created_date": "2016-11-08T00:00:00+07:00",
        },
        {
            "id": 2,
            "username": "cg-12520",
            "email": "cg-12520@superstore.example",
            "first_name": "Claire",
            "last_name": "Van Gute",
            "created_date": "2016-11-08T00:00:00+07:00",
        },
    ]
    assert [(p["product_name"], p["category"], p["price"]) for p in sample.products] == [
        ("Another", "Furniture: Bookcases", Decimal("1309800.00")),
        ("Bookcase", "Furniture: Bookcases", Decimal("1309800.00")),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Sales": 300.0}, "row 2: list price 1500000.00, but 1309800.00 in an earlier row"),
        ({"Country": "Canada"}, "row 2: the country has no known code: 'Canada'"),
        ({"Sales": 261.960001}, "not a whole number of rupiah"),
    ],
)
def test_file_that_differs_from_the_description_is_refused(
    superstore: ModuleType, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        superstore.map_superstore(pa.Table.from_pylist([line(1), line(2, **changes)]))


def test_totals_are_computed_from_the_file_alone(superstore: ModuleType) -> None:
    table = pa.Table.from_pylist([line(1), line(2, **{"Customer ID": "AB-1", "Sales": 0.444}), line(3)])
    totals = superstore.Totals.of(table)
    assert (totals.lines, totals.rupiah) == (3, Decimal(5_243_640))
    assert totals.per_customer == {"CG-12520": (2, Decimal(5_239_200)), "AB-1": (1, Decimal(4_440))}
    assert totals.per_day == {date(2016, 11, 8): 3}


def test_differences_are_named_up_to_a_limit(superstore: ModuleType) -> None:
    assert list(superstore.differences({"a": 1}, {"a": 1}, "lines")) == []
    assert list(superstore.differences({"a": 1, "b": 2}, {"a": 1, "c": 3}, "lines")) == [
        "lines of b: None in the warehouse, 2 in the file",
        "lines of c: 3 in the warehouse, None in the file",
    ]
    many = {str(n): n for n in range(9)}
    assert list(superstore.differences(many, {}, "lines"))[-1] == "... and 4 more lines"


def test_oddities_are_counted(superstore: ModuleType) -> None:
    table = pa.Table.from_pylist(
        [
            line(1),
            line(2, **{"Discount": 0.5, "Sales": 130.9801}),
            line(
                3, **{"Product Name": "Other\xa0one", "Customer Name": "Corey-Lock", "Order ID": "CA-2017-1"}
            ),
        ]
    )
    text = "\n".join(superstore.oddities(table))
    for expected in (
        "1 product ids have two or more names",
        "(2 products for 1 ids)",
        "1 orders have the same product in two lines (2 lines)",
        "1 lines were discounted (up to 50%)",
        "1 amounts have fractions of a cent",
        "1 lines have an order id from another year",
        "always United States",
        "1 customer name without a space (Corey-Lock)",
        "1 product names end in white space",
        "1 hold no-break spaces",
    ):
        assert expected in text
