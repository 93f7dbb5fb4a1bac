"""How the Superstore sample maps to users, products and orders. Pure: an Arrow table in, rows out.

The choices, and why:

- A customer is a user, numbered by the order of customer ids. The file has names but neither addresses nor
  sign-up dates: addresses are made of the customer id, in a domain that reaches nobody, and a user signed up
  on the day of the first order.
- A product is a pair of product id and name, because some product ids have two names. Its list price is
  sales / quantity / (1 - discount), which is the same for every sale of a pair.
- A line is an order, with its row id as order id: the same product can be in one order twice.
- One dollar is 10,000 rupiah. The rate is made up, and chosen so that every amount (four decimals in
  dollars) is a whole number of rupiah: totals can be compared to the last digit.
- An order is placed at noon in Jakarta: the file has days without times, and midnight would put every order
  into the hours that the night rule looks at.
- Payment methods are not in the file: all orders are paid by credit card.
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
    """The sample as the marketplace has it; users and products are rows for import, instants are aware."""

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
    """Users, products and orders of the sample's lines.

    Raises `ValueError` for a file that is not as described above: a list price that differs between sales,
    a country without a code, or an amount that is no whole number of rupiah.
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
    """Dollars with at most four decimals as rupiah, exactly. Raises `ValueError` for more decimals."""
    amount = Decimal(repr(dollars)) * RUPIAH_PER_DOLLAR
    if amount != amount.to_integral_value():
        raise ValueError(f"{dollars!r} dollars are no whole number of rupiah at {RUPIAH_PER_DOLLAR} a dollar")
    return amount.quantize(Decimal("0.01"))


def oddities(table: pa.Table) -> list[str]:
    """What was odd in the data, each with what was made of it. Counted, not remembered."""
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
        f"{_several(names)} product ids stand for two or more names: each pair became a product of its own "
        f"({len(pairs):,} products for {len(names):,} ids)",
        f"{_several(ids)} product names have several ids ('{most_ids}' has {len(ids_of_it)}): kept apart",
        f"{len(repeated)} orders have the same product in two lines ({sum(repeated)} lines): each line "
        "became an order, by its row id",
        f"{len(discounted):,} lines were discounted (up to {max(discounted, default=0):.0%}): amounts "
        "are less than list price x quantity",
        f"{fractions:,} amounts have fractions of a cent: at {RUPIAH_PER_DOLLAR:,} rupiah a dollar each is a "
        "whole number of rupiah",
        f"{losses:,} lines were sold at a loss: not an order's business, left out",
        f"all dates are days without a time: orders are placed at {NOON:%H:%M} in Jakarta",
        f"{other_year} lines have an order id of another year than their date: the date was believed",
        f"the country is always {' or '.join(countries)}: the rule foreign_country flags every order",
        f"{short_codes} postal codes have lost their leading zero, being numbers: left out",
        f"{len(unspaced)} customer name without a space ({', '.join(unspaced)}): split at the hyphen",
        f"{padded} product names end in white space: stripped; {no_break} hold no-break spaces: kept",
        "neither payment methods, e-mail addresses nor sign-up dates are there: made up as the README says",
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
        raise ValueError(f"row {line['Row ID']}: no code is known for the country {line['Country']!r}")
    return COUNTRIES[line["Country"]]


@dataclass(frozen=True)
class Totals:
    """What the source file adds up to, computed from it alone and not from what it was mapped to."""

    lines: int
    rupiah: Decimal
    per_customer: dict[str, tuple[int, Decimal]]
    """Lines and rupiah of each customer id."""
    per_day: dict[date, int]

    @classmethod
    def of(cls, table: pa.Table) -> Totals:
        """Sums over whole columns, in ten-thousandths of a dollar, which are rupiah."""
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
    """What differs between two mappings, the first few in words; nothing when they are equal."""
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    for key in wrong[:limit]:
        yield f"{what} of {key}: {found.get(key)} in the warehouse, {expected.get(key)} in the file"
    if len(wrong) > limit:
        yield f"... and {len(wrong) - limit} more {what}"
