"""CDNOW's customers, whose published summary `gold.customer_lifetime_value` must have.

The Python package `lifetimes` ships the purchases of 2,357 customers who first bought in early 1997, and what
Fader, Hardie and Lee published about the 39 weeks until 30 September: how often each bought again, when, and
for how much on average. As they do, the mart counts the days with purchases. The purchases go through the
stream, at noon of their days, all moved by 20 years, because no partition is before 2000. A dollar becomes
a rupiah.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ecommersss_platform.days import Days
from ecommersss_platform.dbt.project import build_arguments, ensure_manifest
from ecommersss_platform.instance.databases import embedded_server
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import make_warehouse
from ecommersss_platform_tests.support import shop
from ecommersss_platform_tests.support.dbt_runs import dbt_events
from ecommersss_platform_tests.support.home import Home
from ecommersss_platform_tests.support.raw_days import raw_rows, write_raw
from streaming.business_days import JAKARTA
from streaming.consumer import Consumer
from streaming.orders import Order, encode
from streaming.rules import RULES_PATH, RuleBook
from streaming.topics.jsonl import JsonlTopic

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MOVED = date(2017, 1, 1) - date(1997, 1, 1)
FIRST, END = date(1997, 1, 1) + MOVED, date(1997, 9, 30) + MOVED


class Purchase(NamedTuple):
    number: int
    customer: int
    day: date
    pieces: int
    dollars: str


class Published(NamedTuple):
    """A row of the published summary: its weeks are days again, its dollars are as printed."""

    repeat_days: int
    first: date
    last: date
    dollars_per_repeat_day: float


def data(name: str) -> list[str]:
    """Return the lines of a file of `lifetimes`, without importing it: its other dependencies are missing."""
    package = find_spec("lifetimes")
    assert package is not None
    [folder] = package.submodule_search_locations or []
    return Path(folder, "datasets", name).read_text().splitlines()


def purchases() -> list[Purchase]:
    """Return the purchases of the 39 weeks."""
    lines = (line.split() for line in data("CDNOW_sample.txt"))
    everything = (
        Purchase(number, int(customer), date.fromisoformat(day) + MOVED, int(pieces), dollars)
        for number, (_, customer, day, pieces, dollars) in enumerate(lines, 1)
    )
    return [purchase for purchase in everything if purchase.day <= END]


def published() -> dict[int, Published]:
    """Return the published summary by customer."""
    found = {}
    for row in csv.DictReader(data("cdnow_customers_summary_with_transactions.csv")):
        first = END - timedelta(days=round(7 * float(row["T"])))
        last = first + timedelta(days=round(7 * float(row["t_x"])))
        found[int(row["ID"])] = Published(int(row["x"]), first, last, float(row["zbar"]))
    return found


def as_order(purchase: Purchase) -> Order:
    return Order(
        id=purchase.number,
        user_id=purchase.customer,
        product_id=1,
        quantity=purchase.pieces,
        amount=Decimal(purchase.dollars),
        payment_method="Credit Card",
        country="ID",
        created_date=datetime.combine(purchase.day, time(12), JAKARTA),
    )


def load(home: Home, bought: Iterable[Purchase], end: date) -> None:
    """Import the customers and a product, publish and flag the purchases, and build the days up to `end`."""
    bought = list(bought)
    customers = sorted({purchase.customer for purchase in bought})
    created = f"{FIRST}T00:00:00+07:00"
    columns = "id,username,email,first_name,last_name,default_payment,created_date"
    users = [f"{id},c{id},c{id}@cdnow.example,C,N,,{created}" for id in customers]
    product = f"1,CD,Music,15.00,{created}"
    orders = [encode(as_order(purchase)).decode() for purchase in bought]
    home.call("import", "users", home.file("users.csv", columns, *users), "--backdate")
    products = home.file("products.csv", "id,product_name,category,price,created_date", product)
    home.call("import", "products", products, "--backdate")
    home.call("produce", "--file", home.file("orders.jsonl", *orders))
    assert (
        f"{len(orders):,} orders, 0 of them fraud; 0 lines rejected" in home.call("consume", "--once").stdout
    )
    home.call("materialize", "--from", str(FIRST), "--to", str(end))


LIFETIME_VALUE = """
    SELECT
        v.user_id,
        v.active_days - 1 AS repeat_days,
        v.first_sale_on,
        v.last_sale_on,
        v.revenue - sum(f.amount) AS repeat_dollars
    FROM gold.customer_lifetime_value v
    JOIN silver.fact_orders f ON f.user_id = v.user_id AND f.partition_date = v.first_sale_on
    WHERE v.window_days = 0
    GROUP BY 1, 2, 3, 4, v.revenue
"""


def check(rows: Iterable[dict[str, Any]], bought: Iterable[Purchase]) -> None:
    """Compare rows of the mart with the published summary of the customers who bought."""
    rows, customers = list(rows), {purchase.customer for purchase in bought}
    summary = {id: row for id, row in published().items() if id in customers}
    assert {
        row["user_id"]: (row["repeat_days"], str(row["first_sale_on"]), str(row["last_sale_on"]))
        for row in rows
    } == {id: (row.repeat_days, str(row.first), str(row.last)) for id, row in summary.items()}
    for row in rows:
        expected = summary[row["user_id"]]
        # Published as dollars and cents.
        assert float(row["repeat_dollars"]) / max(1, row["repeat_days"]) == pytest.approx(
            expected.dollars_per_repeat_day, abs=0.00501
        )


def test_customers_of_two_months_have_their_published_summary(database: str, tmp_path: Path) -> None:
    """Those of the 2,357 customers who bought in the first two months, and not in the seven after them.

    A consumer flags their purchases, and dbt builds the mart of the rows that raw tables hold then.
    """
    end = FIRST + timedelta(days=58)
    later = {purchase.customer for purchase in purchases() if purchase.day > end}
    bought = [purchase for purchase in purchases() if purchase.customer not in later]
    customers = {purchase.customer for purchase in bought}
    assert len(customers) == 1_079
    start = datetime.combine(FIRST, time.min, JAKARTA)
    shop.add_users(database, sorted(customers), signed_up=start)
    shop.add_products(database, [1], listed=start)
    topic = JsonlTopic(tmp_path / "orders")
    topic.publish(encode(as_order(purchase)) for purchase in bought)
    Consumer(database, topic, JsonlTopic(tmp_path / "flagged"), RuleBook.load(RULES_PATH)).run(once=True)

    ensure_manifest()
    settings = Settings(home=tmp_path / "home", _env_file=None)
    write_raw(settings.warehouse_path, raw_rows(database, Days.between(FIRST, end)))
    # Of dbt's tests only those of staged rows: nothing is published without them.
    tests = [f"{model}_staged+1,resource_type:test" for model in ("fact_orders", "order_labels")]
    models = ("--indirect-selection", "empty", "--select", "+customer_lifetime_value", *tests)
    for _ in dbt_events(settings, [*build_arguments(), *models]):
        pass
    check(make_warehouse(settings).query(LIFETIME_VALUE).to_pylist(), bought)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_customer_has_the_published_summary(tmp_path: Path) -> None:
    """The purchases of all customers go through the platform's commands."""
    assert len(published()) == 2_357
    home = Home(tmp_path / "home", ECOMMERSSS_FIRST_DAY=str(FIRST))
    home.settings.home.mkdir()
    with embedded_server(home.settings).lease():
        load(home, purchases(), END)
    check(home.rows("query", LIFETIME_VALUE), purchases())
