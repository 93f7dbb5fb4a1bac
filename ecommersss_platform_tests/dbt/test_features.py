"""The features of the warehouse equal those that the stream saw, whatever the order of the topic.

The SQL of `order_features_staged` is compiled once, and then runs on made-up orders in memory.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings

from ecommersss_platform.contracts import ORDERS
from ecommersss_platform.dbt.project import artifacts_dir, build_arguments, ensure_manifest
from ecommersss_platform.partitions import Days
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.awkward_topics import (
    DAY,
    HOUR,
    MICROSECOND,
    SECOND,
    observed,
    topics,
)
from ecommersss_platform_tests.support.dbt_runs import dbt_events
from ecommersss_platform_tests.support.plain_velocity import StoredInMemory
from ecommersss_platform_tests.support.raw_days import Row, at, order, read, write_raw
from ecommersss_platform_tests.support.shop import NOON
from ecommersss_platform_tests.support.shop import order as placed
from streaming.business_days import JAKARTA, business_day, local_hour
from streaming.database.catalogue import Catalogue
from streaming.decisions import features
from streaming.history import MemoryHistory
from streaming.orders import Order
from streaming.rules import FEATURES
from streaming.velocity import Velocity

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TODAY = business_day(NOON)
WINDOW = Days.between(TODAY, TODAY + DAY)
MODELS = ("order_features_staged", "order_features")
LOOKING_BACK = ", ".join(Velocity.__struct_fields__)


@dataclass(frozen=True)
class Project:
    """The project on a warehouse of its own."""

    settings: Settings

    def dbt(self, *arguments: str) -> None:
        for _ in dbt_events(self.settings, arguments):
            pass

    def build(self, days: Days | None) -> None:
        """Build the facts and features of these days, with the tests of what is staged."""
        self.dbt(
            *build_arguments(days),
            *("--indirect-selection", "empty", "--select", "fact_orders", "fact_orders_staged", *MODELS),
            *("fact_orders_staged+1,resource_type:test", "order_features_staged+1,resource_type:test"),
        )

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return read(self.settings.warehouse_path, sql)

    def compiled(self, days: Days | None) -> str:
        """Return the SELECT that stages features, without the name of the database."""
        window = build_arguments(days)[3:]
        self.dbt("compile", *window, "--select", "order_features_staged")
        folder = artifacts_dir(self.settings) / "compiled" / "ecommersss" / "models" / "core"
        return (folder / "order_features_staged.sql").read_text().replace('"warehouse".', "")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    ensure_manifest()
    project = Project(Settings(home=tmp_path_factory.mktemp("home"), _env_file=None))
    write_raw(project.settings.warehouse_path)
    project.dbt(*build_arguments(), "--select", "+order_features")
    return project


class Memory:
    """The SELECT on orders in memory, without users and prices."""

    def __init__(self, select: str) -> None:
        self._select = select
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.execute("CREATE SCHEMA silver")
        for table, columns in {
            "dim_products_history": "product_id BIGINT, list_price DECIMAL(18, 2)",
            "dim_users_history": "user_id BIGINT, signed_up_at TIMESTAMPTZ",
        }.items():
            periods = "valid_from TIMESTAMPTZ, valid_to TIMESTAMPTZ"
            self._connection.execute(f"CREATE TABLE silver.{table} ({columns}, {periods})")

    def remember(self, signed_up: datetime, prices: Mapping[datetime, int]) -> None:
        """Note when user 1 signed up, of whom nothing else changed, and the prices of product 1."""
        starts = [*prices, None]
        for n, price in enumerate(prices.values()):
            row = [1, price, starts[n], starts[n + 1]]
            self._connection.execute("INSERT INTO silver.dim_products_history VALUES (?, ?, ?, ?)", row)
        row = [1, signed_up, signed_up, None]
        self._connection.execute("INSERT INTO silver.dim_users_history VALUES (?, ?, ?, ?)", row)

    def features(
        self, topic: Sequence[Order], names: Sequence[str] = Velocity.__struct_fields__
    ) -> dict[int, tuple[Any, ...]]:
        """Return these features of the orders that are staged, by order."""
        rows = pa.Table.from_pylist(
            [
                {
                    "order_id": o.id,
                    "user_id": o.user_id,
                    "product_id": o.product_id,
                    "amount": o.amount,
                    "country": o.country,
                    "ordered_at": o.created_date,
                    "flagged_at": o.created_date,
                    "local_hour": local_hour(o.created_date),
                    "topic_position": position * 200,
                    "partition_date": business_day(o.created_date),
                }
                for position, o in enumerate(topic)
            ]
        )
        self._connection.register("rows", rows)
        self._connection.execute(
            "CREATE OR REPLACE TABLE silver.fact_orders AS"
            " SELECT * REPLACE (amount::DECIMAL(18, 2) AS amount) FROM rows ORDER BY order_id % 7"
        )
        found = self._connection.execute(
            f"SELECT order_id, {', '.join(names)} FROM ({self._select}) AS staged"
        ).fetchall()
        return {row[0]: row[1:] for row in found}


@pytest.fixture(scope="module")
def every_day(project: Project) -> Memory:
    return Memory(project.compiled(None))


@pytest.fixture(scope="module")
def two_days(project: Project) -> Memory:
    return Memory(project.compiled(WINDOW))


def seen_by_the_stream(topic: Sequence[Order]) -> dict[int, tuple[Any, ...]]:
    found = observed(MemoryHistory(), StoredInMemory(), list(topic))
    return {
        o.id: tuple(getattr(velocity, name) for name in Velocity.__struct_fields__)
        for o, velocity in zip(topic, found, strict=True)
    }


@given(topics())
@settings(max_examples=60, deadline=None)
def test_features_of_every_day_are_those_of_the_stream(every_day: Memory, topic: list[Order]) -> None:
    assert every_day.features(topic) == seen_by_the_stream(topic)


@given(topics())
@settings(max_examples=60, deadline=None)
def test_features_of_two_days_are_those_of_the_stream(two_days: Memory, topic: list[Order]) -> None:
    """Although only these days and the one before are read whole."""
    days = {o.id: business_day(o.created_date) for o in topic}
    assert two_days.features(topic) == {
        id: features for id, features in seen_by_the_stream(topic).items() if days[id] in WINDOW
    }


def shuffled(seed: int, orders: int, users: int, countries: Sequence[str], step: timedelta) -> list[Order]:
    """Return orders of two days in no order at all, placed at multiples of a step."""
    chosen = random.Random(seed)
    start = WINDOW.start_instant
    return [
        placed(
            id,
            user_id=chosen.randrange(users) + 1,
            created_date=start + step * chosen.randrange(2 * DAY // step),
            country=chosen.choice(countries),
        )
        for id in range(1, orders + 1)
    ]


@pytest.mark.parametrize(
    ("orders", "users", "countries", "step"),
    [
        (3000, 1, ["ID"], MICROSECOND),
        (3000, 1, ["ID", "SG", "MY", "US", "TH"], SECOND),
        (3000, 40, ["ID", "ID", "ID", "SG"], HOUR),  # many at each instant
    ],
)
def test_features_of_a_shuffled_topic_are_those_of_the_stream(
    every_day: Memory, two_days: Memory, orders: int, users: int, countries: list[str], step: timedelta
) -> None:
    topic = shuffled(orders + users, orders, users, countries, step)
    expected = seen_by_the_stream(topic)
    assert every_day.features(topic) == two_days.features(topic) == expected


@pytest.mark.parametrize("backwards", [False, True])
def test_a_last_order_of_long_ago_is_found_as_of_the_position(two_days: Memory, backwards: bool) -> None:
    """Orders of a year ago arrive between the orders of today."""
    topic = [placed(id, created_date=NOON - 400 * DAY + id * HOUR * (id % 5)) for id in range(1, 40, 2)]
    topic += [placed(id, created_date=NOON + (-id if backwards else id) * SECOND) for id in range(2, 40, 2)]
    topic.sort(key=lambda o: o.id)
    expected = seen_by_the_stream(topic)
    assert two_days.features(topic) == {id: expected[id] for id in range(2, 40, 2)}


def test_prices_and_ages_are_as_of_the_order(project: Project) -> None:
    """The second product costs nothing, and the user and product of the last two orders are unknown."""
    found = project.rows(
        "SELECT order_id, local_hour, list_price, user_age_days FROM silver.order_features ORDER BY 1"
    )
    assert [(id, hour, None if price is None else str(price), age) for id, hour, price, age in found] == [
        (101, 0, None, 0),
        (102, 4, None, 0),
        (103, 5, None, 0),
        (104, 23, "10.00", 0),
        (105, 0, "10.00", 1),
        (106, 3, "10.00", 1),
        (107, 12, "0.00", 1),
        (108, 12, "10.00", 1),
        (109, 1, None, None),
        (110, 1, None, None),
    ]


FIRST = date(2024, 3, 10)


def arrived(id: int, user_id: int, day: date, clock: str, position: int) -> Row:
    return order(id, user_id, 1, str(day), clock, "1.00", "OVO") | {"position": position}


ON_TIME = [
    arrived(1, 1, FIRST, "10:00", 100),
    arrived(2, 1, FIRST + DAY, "09:00", 300),
    arrived(3, 2, FIRST + DAY, "09:00", 310),
    arrived(4, 1, FIRST + 9 * DAY, "09:00", 900),
    arrived(5, 2, FIRST + 9 * DAY, "09:00", 910),
]


@pytest.fixture(scope="module")
def on_time(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the warehouse with features of three days, of orders that came on time."""
    copy = Project(Settings(home=tmp_path_factory.mktemp("on_time"), _env_file=None))
    shutil.copy(project.settings.warehouse_path, copy.settings.warehouse_path)
    write_raw(copy.settings.warehouse_path, {ORDERS: ON_TIME})
    copy.build(None)
    return copy.settings.warehouse_path


@pytest.fixture
def published(on_time: Path, tmp_path: Path) -> Project:
    """A project of the test's own on such a copy."""
    settings = Settings(home=tmp_path, _env_file=None)
    shutil.copy(on_time, settings.warehouse_path)
    return Project(settings)


@pytest.mark.parametrize(
    ("late", "last_day", "changed"),
    [
        # Within a day of order 2, and before it in the topic.
        (arrived(9, 1, FIRST, "11:00", 200), FIRST + DAY, {2: (3, 22 * 3600), 4: (1, 8 * 86_400)}),
        # After it in the topic.
        (arrived(9, 1, FIRST, "11:00", 350), FIRST, {2: (2, 23 * 3600), 4: (1, 8 * 86_400)}),
        # The last order before order 4, nine days later.
        (arrived(9, 1, FIRST + DAY, "09:00:01", 800), FIRST + 9 * DAY, {4: (1, 8 * 86_400 - 1)}),
        # Another user's first order.
        (arrived(9, 2, FIRST, "08:00", 90), FIRST + DAY, {3: (1, 25 * 3600), 5: (1, 8 * 86_400)}),
    ],
)
def test_late_orders_change_the_features_of_later_days(
    published: Project, late: Row, last_day: date, changed: dict[int, tuple[int, int]]
) -> None:
    """Only the day of the late order is built; the days up to the last one that it changes are staged."""
    write_raw(published.settings.warehouse_path, {ORDERS: [*ON_TIME, late]})
    day = late["partition_date"]
    published.build(Days.between(day, day))
    days = published.rows("SELECT max(partition_date) FROM silver.order_features_staged")
    assert days == [(last_day,)]
    features = f"SELECT order_id, {LOOKING_BACK} FROM silver.order_features ORDER BY 1"
    found = published.rows(features)
    rows = {id: (of_24h, seconds) for id, _, of_24h, _, seconds, _ in found}
    assert {id: rows[id] for id in changed} == changed
    published.build(None)
    assert published.rows(features) == found


def test_a_late_order_that_fails_a_test_changes_no_later_day(published: Project) -> None:
    """The late order has the wrong day, so that neither its day nor the next is published."""
    before = published.rows("SELECT * FROM silver.order_features ORDER BY ALL")
    wrong = arrived(9, 1, FIRST, "11:00", 200) | {"created_date": at(str(FIRST + DAY), "00:30")}
    write_raw(published.settings.warehouse_path, {ORDERS: [*ON_TIME, wrong]})
    with pytest.raises(Exception, match="fact_orders_lie_in_their_day"):
        published.build(Days.between(FIRST, FIRST))
    assert published.rows("SELECT * FROM silver.order_features ORDER BY ALL") == before


# The examples of docs/features.md.

PAGE = Path(__file__).parents[2] / "docs" / "features.md"


def examples() -> list[list[dict[str, str]]]:
    """Return the tables of the page that begin with when an order was placed, each as its rows."""
    tables: list[list[dict[str, str]]] = []
    header: list[str] = []
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        if line.startswith("| placed |"):
            header = cells
            tables.append([])
        elif not line.startswith("|"):
            header = []
        elif header and not line.startswith("|---"):
            tables[-1].append(dict(zip(header, cells, strict=True)))
    return tables


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=JAKARTA).astimezone(UTC)


def shown(value: Any) -> str:
    return "NULL" if value is None else str(value)


def test_the_page_has_an_example_of_each_feature() -> None:
    features = {name for table in examples() for name in table[0]} - {"placed", "amount", "country", "why"}
    columns = {feature.name for feature in FEATURES.values() if feature.nullable} | {"local_hour"}
    assert features == columns - {"is_blacklisted"}


@pytest.mark.parametrize("table", examples()[:2])
def test_examples_that_look_back_are_so_in_stream_and_warehouse(
    every_day: Memory, table: list[dict[str, str]]
) -> None:
    names = Velocity.__struct_fields__
    topic = [
        placed(
            id,
            created_date=instant(row["placed"]),
            amount=Decimal(row["amount"]),
            country=row["country"],
        )
        for id, row in enumerate(table, 1)
    ]
    expected = [tuple(row[name] for name in names) for row in table]
    assert [tuple(map(shown, features)) for features in seen_by_the_stream(topic).values()] == expected
    found = every_day.features(topic)
    assert [tuple(map(shown, found[o.id])) for o in topic] == expected


def test_examples_of_prices_and_ages_are_so_in_stream_and_warehouse(project: Project) -> None:
    [*_, table] = examples()
    assert len(examples()) == 3
    names = ("local_hour", "list_price", "user_age_days")
    signed_up = instant("2024-05-01 09:00:00")
    prices = {instant("2024-05-01 00:00:00"): 10_000, instant("2024-05-02 12:00:00"): 12_000}
    catalogue = Catalogue()
    catalogue._prices[1] = (list(prices), [Decimal(f"{price}.00") for price in prices.values()])
    topic = [placed(id, created_date=instant(row["placed"])) for id, row in enumerate(table, 1)]
    expected = [tuple(row[name] for name in names) for row in table]
    seen = [features(o, signed_up, catalogue, Velocity(1, 1, o.amount, None, 1)) for o in topic]
    assert [tuple(shown(getattr(row, name)) for name in names) for row in seen] == expected

    memory = Memory(project.compiled(None))
    memory.remember(signed_up, prices)
    found = memory.features(topic, names)
    assert [tuple(map(shown, found[o.id])) for o in topic] == expected
