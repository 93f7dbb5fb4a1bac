"""The simulated population: who signs up and which products are listed or re-priced, hour by hour.

Pure functions of the hour: the same hour gives the same people and products in every process, regardless of
earlier calls. Nobody in here is real: names come from Faker's Indonesian lists, and every e-mail address
is in a domain reserved for documentation (RFC 2606), so no mail can ever reach anyone.

Ids: imported rows usually have small ids, so the simulation uses the upper end of INTEGER. The initial
population begins at 900,000,001. Each hour has its own block of 1,000 ids above 1,000,000,000, counted from
2000-01-01 00:00 UTC. No two hours can collide, and the blocks last until 2130.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cache
from math import exp, log
from random import Random
from typing import NamedTuple

from streaming.business_days import JAKARTA

HOUR = timedelta(hours=1)

FIRST_SIMULATED_ID = 900_000_001
"""Users and products from this id on are simulated; those below it were imported."""
_FIRST_HOURLY_ID = 1_000_000_000
_IDS_PER_HOUR = 1_000
_FIRST_HOUR = datetime(2000, 1, 1, tzinfo=UTC)
_LAST_HOUR_INDEX = (2**31 - 1 - _FIRST_HOURLY_ID) // _IDS_PER_HOUR - 1

INITIAL_USERS = 400
INITIAL_PRODUCTS = 120

LOWEST_PRICE = Decimal(10_000)
HIGHEST_PRICE = Decimal(20_000_000)
_PRICE_STEP = 500

NEW_USERS_PER_HOUR = 4.0
"""The mean over a day; the day's rhythm raises and lowers it."""
NEW_PRODUCTS_PER_HOUR = 0.15
REPRICES_PER_PRODUCT_AND_HOUR = 0.004

# People sleep until five, look at their phone at lunch, and shop most between eight and ten in the evening.
_ACTIVITY = (9, 5, 3, 2, 2, 6, 14, 22, 30, 38, 44, 52, 64, 56, 44, 42, 44, 48, 56, 72, 84, 78, 50, 24)
RHYTHM: tuple[float, ...] = tuple(activity / sum(_ACTIVITY) for activity in _ACTIVITY)
"""Each local hour's share of a day's activity (Asia/Jakarta); the 24 shares add up to one."""

PAYMENT_METHODS = ("Gopay", "Bank Transfer", "OVO", "DANA", "Credit Card", "Paylater")
_PAYMENT_WEIGHTS = (26, 22, 17, 15, 12, 8)

_DOMAINS = ("example.com", "example.net", "example.org", "surel.example", "kotak-surat.example")


class EmailFormat(StrEnum):
    """The format of the e-mail addresses of an hour's new users."""

    FIRST_DOT_LAST = "first_dot_last"
    """budi.santoso@example.com"""
    INITIAL_LAST = "initial_last"
    """bsantoso@example.com"""
    FIRST_NUMBER = "first_number"
    """budi73@example.com"""


class Person(NamedTuple):
    """Someone who signs up, without an e-mail address yet."""

    id: int
    first_name: str
    last_name: str
    default_payment: str
    created_date: datetime


class User(NamedTuple):
    """A row of the table `users`; `created_date` is aware."""

    id: int
    username: str
    email: str
    first_name: str
    last_name: str
    default_payment: str
    created_date: datetime


class Product(NamedTuple):
    """A row of the table `products`; `price` in rupiah, `created_date` aware."""

    id: int
    product_name: str
    category: str
    price: Decimal
    created_date: datetime


class Price(NamedTuple):
    """A product's list price, in rupiah."""

    product_id: int
    price: Decimal


def hour_of(instant: datetime) -> datetime:
    """Return the start of the hour that contains an aware instant, in Asia/Jakarta."""
    return instant.astimezone(JAKARTA).replace(minute=0, second=0, microsecond=0)


def hours_between(start: datetime, end: datetime) -> list[datetime]:
    """Return the starts of the whole hours in [start, end), in order; `start` is the start of an hour."""
    _index(start)
    return [start + HOUR * n for n in range(max(0, (end - start) // HOUR))]


def email_format(hour: datetime) -> EmailFormat:
    """Return the e-mail format of this hour's new users."""
    return _random("email", hour).choice(tuple(EmailFormat))


def people(hour: datetime) -> list[Person]:
    """Return the people who sign up in this hour, by time; at night often none."""
    random = _random("people", hour)
    count = _poisson(random, NEW_USERS_PER_HOUR * 24 * RHYTHM[hour.astimezone(JAKARTA).hour])
    return [
        _person(random, id_, created)
        for id_, created in zip(_ids(hour, count), _instants(random, hour, count), strict=True)
    ]


def with_email(person: Person, style: EmailFormat) -> User:
    """Return the person as a user with an address of this format. User names are unique, addresses nearly."""
    random = Random(f"address:{person.id}")  # noqa: S311
    first, last = _plain(person.first_name), _plain(person.last_name)
    local = {
        EmailFormat.FIRST_DOT_LAST: f"{first}.{last}",
        EmailFormat.INITIAL_LAST: f"{first[0]}{last}",
        EmailFormat.FIRST_NUMBER: f"{first}{random.randrange(10, 100)}",
    }[style]
    return User(
        id=person.id,
        username=f"{first}_{person.id:x}",
        email=f"{local}@{random.choice(_DOMAINS)}",
        first_name=person.first_name,
        last_name=person.last_name,
        default_payment=person.default_payment,
        created_date=person.created_date,
    )


def new_users(hour: datetime) -> list[User]:
    """Return the new users of this hour, with the hour's e-mail format."""
    style = email_format(hour)
    return [with_email(person, style) for person in people(hour)]


def new_products(hour: datetime) -> list[Product]:
    """Return the products listed in this hour: usually none, sometimes one."""
    random = _random("products", hour)
    count = _poisson(random, NEW_PRODUCTS_PER_HOUR * 24 * RHYTHM[hour.astimezone(JAKARTA).hour])
    return [
        _product(random, id_, created)
        for id_, created in zip(_ids(hour, count), _instants(random, hour, count), strict=True)
    ]


def reprices(hour: datetime, listed: Iterable[Price]) -> list[Price]:
    """Return this hour's new prices, by product id, of the listed products that get one.

    A product's new price does not depend on the other products or their order. Imported products keep their
    price: the simulation re-prices only its own.
    """
    changed = []
    for product_id, price in sorted(listed):
        if product_id < FIRST_SIMULATED_ID:
            continue
        random = _random(f"reprice:{product_id}", hour)
        if random.random() < REPRICES_PER_PRODUCT_AND_HOUR:
            new = _rounded(float(price) * random.uniform(0.85, 1.18))
            if new != price:
                changed.append(Price(product_id, new))
    return changed


def initial_users(first_day: date, count: int = INITIAL_USERS) -> list[User]:
    """Return the users of a new platform, who signed up in the year before its first day."""
    random = Random("initial users")  # noqa: S311
    opening = datetime.combine(first_day, time.min, JAKARTA)
    users = []
    for n, age in enumerate(_ages(random, count)):
        person = _person(random, FIRST_SIMULATED_ID + n, opening - age)
        users.append(with_email(person, random.choice(tuple(EmailFormat))))
    return users


def initial_products(first_day: date, count: int = INITIAL_PRODUCTS) -> list[Product]:
    """Return the products of a new platform, listed in the year before its first day."""
    random = Random("initial products")  # noqa: S311
    opening = datetime.combine(first_day, time.min, JAKARTA)
    return [
        _product(random, FIRST_SIMULATED_ID + n, opening - age) for n, age in enumerate(_ages(random, count))
    ]


class _Category(NamedTuple):
    name: str
    lowest: int
    highest: int
    products: tuple[str, ...]


_CATEGORIES = (
    _Category(
        "Phones",
        1_200_000,
        18_000_000,
        ("Smartphone 5G", "Smartphone Lite", "Foldable Phone", "Tablet 11 in"),
    ),
    _Category(
        "Computers", 450_000, 20_000_000, ("Laptop 14 in", "Gaming Laptop", "Monitor 27 in", "Mini PC")
    ),
    _Category(
        "Accessories", 15_000, 900_000, ("Phone Case", "Power Bank", "Wireless Earbuds", "USB-C Cable")
    ),
    _Category(
        "Home Appliances", 180_000, 9_500_000, ("Rice Cooker", "Air Fryer", "Fridge 2 Doors", "Stand Fan")
    ),
    _Category("Kitchen", 20_000, 750_000, ("Frying Pan", "Knife Set", "Lunch Box", "Thermos 1 L")),
    _Category("Fashion", 35_000, 1_500_000, ("Batik Shirt", "Denim Jacket", "Linen Dress", "Hijab Voile")),
    _Category(
        "Shoes", 90_000, 2_400_000, ("Running Shoes", "Leather Loafers", "Trail Sandals", "Court Sneakers")
    ),
    _Category("Beauty", 18_000, 650_000, ("Sunscreen SPF 50", "Face Serum", "Lip Tint", "Hair Mask")),
    _Category(
        "Groceries",
        10_000,
        320_000,
        ("Arabica Coffee 1 kg", "Rice 5 kg", "Palm Sugar", "Instant Noodles Box"),
    ),
    _Category("Baby", 25_000, 3_800_000, ("Diapers L", "Stroller", "Baby Carrier", "Bottle Set")),
    _Category("Sports", 30_000, 6_500_000, ("Badminton Racket", "Yoga Mat", "Road Bike Helmet", "Football")),
    _Category("Furniture", 150_000, 12_000_000, ("Rattan Chair", "Teak Desk", "Bookshelf", "Sofa 3 Seats")),
)
_MAKERS = (
    "Nusa", "Merapi", "Kencana", "Sagara", "Lawu", "Rinjani", "Mahakam", "Toba", "Anggrek", "Cendana",
    "Garuda Jaya", "Lestari", "Samudra", "Tirta", "Bintang Timur",
)  # fmt: skip
_EDITIONS = ("", " Plus", " Pro", " Mini", " 2", " Classic", " Max", " Eco")


def _random(purpose: str, hour: datetime) -> Random:
    # A string seed goes through SHA-512, so it does not depend on PYTHONHASHSEED.
    return Random(f"{purpose}:{_index(hour)}")  # noqa: S311


def _index(hour: datetime) -> int:
    """Return the number of hours since the first one. Raises `ValueError` unless an hour starts here."""
    if hour.tzinfo is None:
        raise ValueError(f"an hour needs a time zone: {hour.isoformat()}")
    index, rest = divmod(hour - _FIRST_HOUR, HOUR)
    if rest:
        raise ValueError(f"not the start of an hour: {hour.isoformat()}")
    if not 0 <= index <= _LAST_HOUR_INDEX:
        last = _FIRST_HOUR + HOUR * _LAST_HOUR_INDEX
        raise ValueError(
            f"the simulated population has hours from {_FIRST_HOUR.isoformat()} to {last.isoformat()}, "
            f"not {hour.isoformat()}"
        )
    return index


def _ids(hour: datetime, count: int) -> range:
    first = _FIRST_HOURLY_ID + _index(hour) * _IDS_PER_HOUR
    return range(first, first + min(count, _IDS_PER_HOUR))


def _instants(random: Random, hour: datetime, count: int) -> list[datetime]:
    start = hour_of(hour)
    offsets = sorted(random.randrange(3_600_000) for _ in range(min(count, _IDS_PER_HOUR)))
    return [start + timedelta(milliseconds=offset) for offset in offsets]


def _ages(random: Random, count: int) -> list[timedelta]:
    """Return the ages of an initial population, oldest first, so ids follow the order of creation."""
    return sorted((timedelta(seconds=random.randrange(1, 365 * 86_400)) for _ in range(count)), reverse=True)


def _poisson(random: Random, mean: float) -> int:
    """Draw from a Poisson distribution by Knuth's method: exact, and fast for the small means of an hour."""
    limit, count, product = exp(-mean), 0, random.random()
    while product > limit:
        count += 1
        product *= random.random()
    return count


@cache
def _names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    # Imported here because Faker takes a quarter of a second to import. Only its lists are used: a shared
    # Faker instance would make an hour's people depend on earlier draws.
    from faker.providers.person.id_ID import Provider

    return tuple(Provider.first_names), tuple(Provider.last_names)


def _person(random: Random, id_: int, created: datetime) -> Person:
    first_names, last_names = _names()
    (payment,) = random.choices(PAYMENT_METHODS, _PAYMENT_WEIGHTS)
    return Person(id_, random.choice(first_names), random.choice(last_names), payment, created)


def _plain(name: str) -> str:
    """Return the name as part of an address: lower-case ASCII letters and digits."""
    folded = unicodedata.normalize("NFKD", name).lower()
    return "".join(c for c in folded if c.isascii() and c.isalnum()) or "user"


def _product(random: Random, id_: int, created: datetime) -> Product:
    category = random.choice(_CATEGORIES)
    name = f"{random.choice(_MAKERS)} {random.choice(category.products)}{random.choice(_EDITIONS)}"
    # Uniform over the logarithm: like in a shop, there are more cheap products than expensive ones.
    price = exp(random.uniform(log(category.lowest), log(category.highest)))
    return Product(id_, name, category.name, _rounded(price), created)


def _rounded(price: float) -> Decimal:
    stepped = Decimal(round(price / _PRICE_STEP) * _PRICE_STEP)
    return min(max(stepped, LOWEST_PRICE), HIGHEST_PRICE)
