"""The mapping of the Superstore sample to users, products and orders. Pure: an Arrow table in, rows out.

The choices, and why:

- A customer becomes a user, numbered in the order of customer ids. The file has names, but no addresses or
  sign-up dates. An address is made from the customer id, in a domain that reaches nobody. A user signs up on
  the day of the first order.
- A pair of product id and name becomes a product, because some product ids have two names. Its list price is
  sales / quantity / (1 - discount), which is the same for every sale of a pair.
- A line becomes an order, with its row id as order id, because an order can hold the same product twice.
- One dollar is 10,000 rupiah. This invented rate turns every amount (up to four decimals of a dollar) into
  whole rupiah, so totals can be compared to the last digit.
- An order is placed at noon in Jakarta. The file has days without times, and at midnight every order would
  fall into the hours of the night rule.
- Every order is paid by credit card: the file has no payment methods.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal

import pyarrow as pa

from streaming.business_days import JAKARTA
from streaming.orders import Order

RUPIAH_PER_DOLLAR = 10_000
PAYMENT_METHOD = "Credit Card"
COUNTRIES = {"United States": "US"}
NOON = time(12)


@dataclass(frozen=True)
class Superstore:
    """The mapped sample: users and products as rows to import, orders with aware instants."""

    users: list[dict[str, object]]
    products: list[dict[str, object]]
    orders: list[Order]
    customer_ids: dict[str, int]
    """The user id of each customer id."""

    @property
    def first_day(self) -> date:
        return min(order.created_date for order in self.orders).astimezone(JAKARTA).date()

    @property
    def last_day(self) -> date:
        return max(order.created_date for order in self.orders).astimezone(JAKARTA).date()


def map_superstore(table: pa.Table) -> Superstore:
    """Map the sample's lines to users, products and orders.

    Raises `ValueError` for a file that differs from the description above: a list price that changes between
    sales, a country without a known code, or an amount that is not a whole number of rupiah.
    """
    lines = sorted(table.to_pylist(), key=lambda line: (line["Order Date"], line["Row ID"]))
    customers = {id_: n for n, id_ in enumerate(sorted({line["Customer ID"] for line in lines}), start=1)}
    pairs = {pair: n for n, pair in enumerate(sorted({_pair(line) for line in lines}), start=1)}
    users: dict[int, dict[str, object]] = {}
    products: dict[int, dict[str, object]] = {}
    orders = []
    for line in lines:
        opened = datetime.combine(line["Order Date"], time.min, JAKARTA).isoformat()
        user_id, product_id = customers[line["Customer ID"]], pairs[_pair(line)]
        users.setdefault(user_id, _user(line, user_id, opened))
        price = _list_price(line)
        product = products.setdefault(product_id, _product(line, product_id, price, opened))
        if product["price"] != price:
            raise ValueError(
                f"row {line['Row ID']}: list price {price}, but {product['price']} in an earlier row"
            )
        orders.append(
            Order(
                id=line["Row ID"],
                user_id=user_id,
                product_id=product_id,
                quantity=line["Quantity"],
                amount=rupiah(line["Sales"]),
                payment_method=PAYMENT_METHOD,
                country=_country(line),
                created_date=datetime.combine(line["Order Date"], NOON, JAKARTA),
            )
        )
    return Superstore(
        users=[users[id_] for id_ in sorted(users)],
        products=[products[id_] for id_ in sorted(products)],
        orders=orders,
        customer_ids=customers,
    )


def rupiah(dollars: float) -> Decimal:
    """Convert dollars with up to four decimals to rupiah, exactly. Raises `ValueError` for more decimals."""
    amount = Decimal(repr(dollars)) * RUPIAH_PER_DOLLAR
    if amount != amount.to_integral_value():
        raise ValueError(f"{dollars!r} dollars are not a whole number of rupiah, at {RUPIAH_PER_DOLLAR}")
    return amount.quantize(Decimal("0.01"))


def oddities(table: pa.Table) -> list[str]:
    """Count the oddities of the data, and say how each was handled."""
    lines = table.to_pylist()
    names: dict[str, set[str]] = defaultdict(set)
    ids: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        names[line["Product ID"]].add(line["Product Name"])
        ids[line["Product Name"]].add(line["Product ID"])
    repeated = [
        n for n in Counter((line["Order ID"], line["Product ID"]) for line in lines).values() if n > 1
    ]
    most_ids, ids_of_it = max(ids.items(), key=lambda item: len(item[1]))
    pairs = {_pair(line) for line in lines}
    countries = sorted({line["Country"] for line in lines})
    unspaced = sorted({line["Customer Name"] for line in lines if " " not in line["Customer Name"]})
    padded = sum(name != name.strip() for name in ids)
    no_break = sum("\xa0" in name for name in ids)
    discounted = [line["Discount"] for line in lines if line["Discount"] > 0]
    fractions = sum(round(line["Sales"] * 100, 6) % 1 != 0 for line in lines)
    losses = sum(line["Profit"] < 0 for line in lines)
    other_year = sum(int(line["Order ID"].split("-")[1]) != line["Order Date"].year for line in lines)
    short_codes = sum(line["Postal Code"] < 10_000 for line in lines)
    return [
        f"{_several(names)} product ids have two or more names: each pair of id and name is a product "
        f"({len(pairs):,} products for {len(names):,} ids)",
        f"{_several(ids)} product names have several ids ('{most_ids}' has {len(ids_of_it)}): kept separate",
        f"{len(repeated)} orders have the same product in two lines ({sum(repeated)} lines): each line "
        "is an order, with its row id",
        f"{len(discounted):,} lines were discounted (up to {max(discounted, default=0):.0%}): amounts "
        "are less than list price x quantity",
        f"{fractions:,} amounts have fractions of a cent: at {RUPIAH_PER_DOLLAR:,} rupiah a dollar each is a "
        "whole number of rupiah",
        f"{losses:,} lines were sold at a loss: left out, an order has no profit",
        f"all dates are days without a time: orders are placed at {NOON:%H:%M} in Jakarta",
        f"{other_year} lines have an order id from another year than their date: the date counts",
        f"the country is always {' or '.join(countries)}: the rule foreign_country flags every order",
        f"{short_codes} postal codes are numbers and lost their leading zero: left out",
        f"{len(unspaced)} customer name without a space ({', '.join(unspaced)}): split at the hyphen",
        f"{padded} product names end in white space: stripped; {no_break} hold no-break spaces: kept",
        "there are no payment methods, e-mail addresses or sign-up dates: invented, as the README says",
    ]


def _several(groups: dict[str, set[str]]) -> int:
    return sum(len(group) > 1 for group in groups.values())


def _pair(line: dict) -> tuple[str, str]:
    return line["Product ID"], line["Product Name"]


def _user(line: dict, user_id: int, opened: str) -> dict[str, object]:
    first, _, last = line["Customer Name"].partition(" ")
    if not last:
        first, _, last = first.partition("-")
    handle = line["Customer ID"].lower()
    return {
        "id": user_id,
        "username": handle,
        "email": f"{handle}@superstore.example",
        "first_name": first,
        "last_name": last,
        "created_date": opened,
    }


def _product(line: dict, product_id: int, price: Decimal, opened: str) -> dict[str, object]:
    return {
        "id": product_id,
        "product_name": line["Product Name"].strip(),
        "category": f"{line['Category']}: {line['Sub-Category']}",
        "price": price,
        "created_date": opened,
    }


def _list_price(line: dict) -> Decimal:
    return rupiah(round(line["Sales"] / line["Quantity"] / (1 - line["Discount"]), 4))


def _country(line: dict) -> str:
    if line["Country"] not in COUNTRIES:
        raise ValueError(f"row {line['Row ID']}: the country has no known code: {line['Country']!r}")
    return COUNTRIES[line["Country"]]


@dataclass(frozen=True)
class Totals:
    """The totals of the source file, computed from the file alone and not from the mapping."""

    lines: int
    rupiah: Decimal
    per_customer: dict[str, tuple[int, Decimal]]
    """The number of lines and the rupiah of each customer id."""
    per_day: dict[date, int]

    @classmethod
    def of(cls, table: pa.Table) -> Totals:
        """Add up whole columns, in ten-thousandths of a dollar, which are rupiah."""
        sales = [round(value * RUPIAH_PER_DOLLAR) for value in table["Sales"].to_pylist()]
        lines: Counter[str] = Counter()
        spent: Counter[str] = Counter()
        for customer, amount in zip(table["Customer ID"].to_pylist(), sales, strict=True):
            lines[customer] += 1
            spent[customer] += amount
        return cls(
            lines=table.num_rows,
            rupiah=Decimal(sum(sales)),
            per_customer={customer: (lines[customer], Decimal(spent[customer])) for customer in lines},
            per_day=dict(Counter(table["Order Date"].to_pylist())),
        )


def differences(expected: dict, found: dict, what: str, limit: int = 5) -> Iterable[str]:
    """Yield a sentence for each of the first `limit` differences between two mappings."""
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    for key in wrong[:limit]:
        yield f"{what} of {key}: {found.get(key)} in the warehouse, {expected.get(key)} in the file"
    if len(wrong) > limit:
        yield f"... and {len(wrong) - limit} more {what}"
