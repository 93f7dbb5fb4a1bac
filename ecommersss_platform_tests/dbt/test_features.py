"""The features of the warehouse equal those that the stream saw, whatever the order of the topic.

The SQL of `order_features_staged` is compiled once, and then runs on made-up orders in memory.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

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
from ecommersss_platform_tests.support.shop import NOON, add_users, execute, query, write
from ecommersss_platform_tests.support.shop import order as placed
from streaming.business_days import JAKARTA, business_day, local_hour
from streaming.database import connect
from streaming.database.catalogue import Catalogue
from streaming.database.user_lists import read_lists
from streaming.decisions import features
from streaming.history import MemoryHistory
from streaming.orders import Order
from streaming.rules import FEATURES
from streaming.velocity import Velocity

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TODAY = business_day(NOON)
WINDOW = Days.between(TODAY, TODAY + DAY)
MODELS = ("order_features_staged", "order_features")
STAGED_TESTS = (
    *("--indirect-selection", "empty", "--select"),
    *("fact_orders_staged+1,resource_type:test", "order_features_staged+1,resource_type:test"),
)
"""Nothing is published without these tests. Names of models follow."""
LOOKING_BACK = ", ".join(Velocity.__struct_fields__)


class Compiled(NamedTuple):
    """The SELECT of each of these models, without the name of the database."""

    order_features_staged: str
    stg_user_list_events: str


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
            *(*STAGED_TESTS, "fact_orders", "fact_orders_staged", *MODELS),
        )

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return read(self.settings.warehouse_path, sql)

    def compiled(self, days: Days | None) -> Compiled:
        self.dbt("compile", *build_arguments(days)[3:], "--select", *Compiled._fields)
        folder = artifacts_dir(self.settings) / "compiled" / "ecommersss" / "models"
        [*texts] = (next(folder.rglob(f"{name}.sql")).read_text() for name in Compiled._fields)
        return Compiled(*(text.replace('"warehouse".', "") for text in texts))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    ensure_manifest()
    project = Project(Settings(home=tmp_path_factory.mktemp("home"), _env_file=None))
    write_raw(project.settings.warehouse_path)
    project.dbt(*build_arguments(), *STAGED_TESTS, "+order_features")
    return project


ORDERS_IN_MEMORY = pa.schema(
    [
        *((name, pa.int64()) for name in ("order_id", "user_id", "product_id")),
        ("amount", pa.decimal128(18, 2)),
        ("country", pa.string()),
        *((name, pa.timestamp("us", "UTC")) for name in ("ordered_at", "flagged_at")),
        *((name, pa.int64()) for name in ("lists_version", "local_hour", "topic_position")),
        ("partition_date", pa.date32()),
    ]
)


class Memory:
    """The SELECT on orders in memory, at first without users, prices and lists."""

    PRODUCTS = (
        "bronze.stg_product_versions (product_id BIGINT, list_price DECIMAL(18, 2), version BIGINT,"
        " valid_from TIMESTAMPTZ, recorded_at TIMESTAMPTZ)"
    )
    USERS = (
        "bronze.stg_user_versions (user_id BIGINT, signed_up_at TIMESTAMPTZ, version BIGINT,"
        " valid_from TIMESTAMPTZ, recorded_at TIMESTAMPTZ)"
    )
    LIST_EVENTS = (
        "raw.user_list_events (event_id BIGINT, entry BIGINT, event VARCHAR, lists_version BIGINT,"
        " event_at TIMESTAMPTZ, user_id BIGINT, list VARCHAR, source VARCHAR, reason VARCHAR,"
        " expires_at TIMESTAMPTZ, partition_date DATE)"
    )

    def __init__(self, compiled: Compiled) -> None:
        self._select = compiled.order_features_staged
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'UTC'")
        for schema in ("raw", "bronze", "silver"):
            self._connection.execute(f"CREATE SCHEMA {schema}")
        for columns in (self.PRODUCTS, self.USERS, self.LIST_EVENTS):
            self._connection.execute(f"CREATE TABLE {columns}")
        self._connection.execute(
            f"CREATE VIEW bronze.stg_user_list_events AS {compiled.stg_user_list_events}"
        )

    def remember(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Put rows into one of these tables, in place of what it had."""
        name = table.split()[0]
        self._connection.execute(f"DELETE FROM {name}")
        marks = ", ".join("?" * len(rows[0]))
        self._connection.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)

    def features(
        self,
        topic: Sequence[Order],
        names: Sequence[str] = Velocity.__struct_fields__,
        decided: Sequence[datetime] | None = None,
        lists: Sequence[int | None] | None = None,
    ) -> dict[int, tuple[Any, ...]]:
        """Return these features of the orders that are staged, by order.

        `decided`: when each was decided, by default as it was placed; `lists`: with which version of them.
        """
        rows = pa.Table.from_pylist(
            [
                {
                    "order_id": o.id,
                    "user_id": o.user_id,
                    "product_id": o.product_id,
                    "amount": o.amount,
                    "country": o.country,
                    "ordered_at": o.created_date,
                    "flagged_at": decided[position] if decided else o.created_date,
                    "lists_version": lists[position] if lists else 0,
                    "local_hour": local_hour(o.created_date),
                    "topic_position": position * 200,
                    "partition_date": business_day(o.created_date),
                }
                for position, o in enumerate(topic)
            ],
            ORDERS_IN_MEMORY,
        )
        self._connection.register("rows", rows)
        self._connection.execute(
            "CREATE OR REPLACE TABLE silver.fact_orders AS SELECT * FROM rows ORDER BY order_id % 7"
        )
        found = self._connection.execute(
            f"SELECT order_id, {', '.join(names)} FROM ({self._select}) AS staged"
        ).fetchall()
        return {row[0]: row[1:] for row in found}

    def plan(self) -> str:
        """Return how DuckDB executes the SELECT."""
        return str(self._connection.execute(f"EXPLAIN {self._select}").fetchall()[0][1])


@pytest.fixture(scope="module")
def of_every_day(project: Project) -> Compiled:
    return project.compiled(None)


@pytest.fixture(scope="module")
def of_two_days(project: Project) -> Compiled:
    return project.compiled(WINDOW)


@pytest.fixture(scope="module")
def every_day(of_every_day: Compiled) -> Memory:
    return Memory(of_every_day)


@pytest.fixture(scope="module")
def two_days(of_two_days: Compiled) -> Memory:
    return Memory(of_two_days)


def seen_by_the_stream(topic: Sequence[Order]) -> dict[int, tuple[Any, ...]]:
    found = observed(MemoryHistory(), StoredInMemory(), list(topic))
    return {
        o.id: tuple(getattr(velocity, name) for name in Velocity.__struct_fields__)
        for o, velocity in zip(topic, found, strict=True)
    }


@given(topics())
@settings(max_examples=30, deadline=None)
def test_features_of_every_day_are_those_of_the_stream(every_day: Memory, topic: list[Order]) -> None:
    assert every_day.features(topic) == seen_by_the_stream(topic)


@given(topics())
@settings(max_examples=30, deadline=None)
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


def test_no_join_compares_every_pair_of_rows(two_days: Memory) -> None:
    """As an outer join does whose conditions are more than comparisons."""
    two_days.features([placed(1)])
    plan = two_days.plan()
    assert "HASH_JOIN" in plan
    assert "BLOCKWISE_NL_JOIN" not in plan


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
    of_every_day: Compiled,
    published: Project,
    late: Row,
    last_day: date,
    changed: dict[int, tuple[int, int]],
) -> None:
    """Only the day of the late order is built; the days up to the last one that it changes are staged."""
    write_raw(published.settings.warehouse_path, {ORDERS: [*ON_TIME, late]})
    day = late["partition_date"]
    published.build(Days.between(day, day))
    days = published.rows("SELECT max(partition_date) FROM silver.order_features_staged")
    assert days == [(last_day,)]
    found = published.rows(f"SELECT order_id, {LOOKING_BACK} FROM silver.order_features ORDER BY 1")
    rows = {id: (of_24h, seconds) for id, _, of_24h, _, seconds, _ in found}
    assert {id: rows[id] for id in changed} == changed
    every_day = f"SELECT order_id, {LOOKING_BACK} FROM ({of_every_day.order_features_staged}) ORDER BY 1"
    assert published.rows(every_day) == found


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


def examples(first: str) -> list[list[dict[str, str]]]:
    """Return the tables of the page whose first column is this one, each as its rows."""
    tables: list[list[dict[str, str]]] = []
    header: list[str] = []
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip(" `") for cell in line.strip("|").split("|")]
        if line.startswith(f"| {first} |"):
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
    others = {"placed", "decided", "lists_version", "amount", "country", "why"}
    shown = {name for table in examples("placed") for name in table[0]} - others
    computed = set(FEATURES) - {*ORDERS_IN_MEMORY.names, "id", "quantity", "payment_method", "created_date"}
    assert shown == computed | {"local_hour"}


@pytest.mark.parametrize("table", examples("placed")[:2])
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


@pytest.fixture
def memory(of_every_day: Compiled) -> Memory:
    """Return a memory of the test's own, which may remember users, prices and lists."""
    return Memory(of_every_day)


SIGN_UP, CORRECTED_SIGN_UP = instant("2024-05-01 09:00:00"), instant("2024-04-20 09:00:00")
PRICES = [(instant("2024-05-01 00:00:00"), 10_000), (instant("2024-05-02 12:00:00"), 12_000)]
CORRECTED_PRICE = (instant("2024-05-01 12:00:00"), 11_000)
CORRECTED = instant("2024-05-10 09:00:00")


def seen(order: Order, catalogue: Catalogue, names: Sequence[str]) -> tuple[str, ...]:
    """Return these features that the stream computes of user 1 with a catalogue, as text."""
    row = features(order, catalogue.users[1], catalogue, Velocity(1, 1, order.amount, None, 1))
    return tuple(shown(getattr(row, name)) for name in names)


def test_examples_of_prices_and_ages_are_so_in_stream_and_warehouse(memory: Memory) -> None:
    table = examples("placed")[2]
    names = ("local_hour", "list_price", "user_age_days")
    catalogue = Catalogue()
    catalogue.users[1] = SIGN_UP
    catalogue._prices[1] = [start for start, _ in PRICES], [Decimal(f"{price}.00") for _, price in PRICES]
    topic = [placed(id, created_date=instant(row["placed"])) for id, row in enumerate(table, 1)]
    expected = [tuple(row[name] for name in names) for row in table]
    assert [seen(o, catalogue, names) for o in topic] == expected
    memory.remember(Memory.USERS, [(1, SIGN_UP, 1, SIGN_UP, None)])
    memory.remember(
        Memory.PRODUCTS, [(1, price, n, start, None) for n, (start, price) in enumerate(PRICES, 1)]
    )
    found = memory.features(topic, names)
    assert [tuple(map(shown, found[o.id])) for o in topic] == expected


KEEP_PRICE = (
    "INSERT INTO products_history (id, product_name, category, price, created_date, updated_at, valid_from,"
    " recorded_at) VALUES %s"
)
KEEP_USER = (
    "INSERT INTO users_history (id, username, email, first_name, last_name, created_date, updated_at,"
    " valid_from, recorded_at) VALUES %s"
)
_VERSIONS = {
    Memory.PRODUCTS: "SELECT id, price, version, valid_from, recorded_at FROM products_history",
    Memory.USERS: "SELECT id, created_date, version, valid_from, recorded_at FROM users_history",
    Memory.LIST_EVENTS: "SELECT event_id, entry, event, lists_version, event_at, user_id, list, source,"
    " reason, expires_at, event_at::date FROM user_list_events",
}


def copy_from(database: str, memory: Memory, *tables: str) -> None:
    for table in tables:
        memory.remember(table, query(database, _VERSIONS[table]))


def keep_price(database: str, start: datetime, price: int, recorded: datetime | None) -> None:
    write(database, KEEP_PRICE, [(1, "Kopi", "Minuman", price, NOON, NOON, start, recorded)])


def keep_sign_up(database: str, start: datetime, signed_up: datetime, recorded: datetime | None) -> None:
    write(database, KEEP_USER, [(1, "siti", "s@a.id", "Siti", "R", signed_up, NOON, start, recorded)])


def known_at(database: str, instants: Sequence[datetime]) -> list[Catalogue]:
    """Return what PostgreSQL's history says was known of user 1 and product 1 at each instant."""
    with closing(connect(database)) as connection, connection.cursor() as cursor:
        return [Catalogue.at(cursor, instant, 1, 1) for instant in instants]


def test_examples_of_corrections_are_so_in_stream_and_warehouse(memory: Memory, database: str) -> None:
    table = examples("placed")[3]
    names = ("list_price", "user_age_days")
    for start, price in PRICES:
        keep_price(database, start, price, None)
    keep_price(database, *CORRECTED_PRICE, CORRECTED)
    keep_sign_up(database, SIGN_UP, SIGN_UP, None)
    keep_sign_up(database, SIGN_UP, CORRECTED_SIGN_UP, CORRECTED)
    topic = [placed(id, created_date=instant(row["placed"])) for id, row in enumerate(table, 1)]
    decided = [instant(row["decided"]) for row in table]
    expected = [tuple(row[name] for name in names) for row in table]
    catalogues = known_at(database, decided)
    assert [seen(o, it, names) for o, it in zip(topic, catalogues, strict=True)] == expected
    copy_from(database, memory, Memory.PRODUCTS, Memory.USERS)
    found = memory.features(topic, names, decided)
    assert [tuple(map(shown, found[o.id])) for o in topic] == expected


def test_prices_and_ages_are_those_that_were_known_however_late_they_were_written(
    memory: Memory, database: str
) -> None:
    """Versions claim any time, also the same one, and not each is recorded after the one before. The first
    ones count as known, although the clock says that others were recorded earlier. Orders are decided at any
    time.
    """
    chosen = random.Random(5)
    for n in range(30):
        recorded = None if n in (1, 2) else NOON + chosen.randrange(10, 30) * HOUR
        claimed = NOON + (n if n < 3 else chosen.randrange(40)) * HOUR
        keep_price(database, claimed, 1000 * (n + 1), recorded)
        keep_sign_up(database, claimed, NOON - chosen.randrange(90) * DAY, recorded)
    hours = [(chosen.randrange(-2, 42), chosen.randrange(-2, 42)) for _ in range(500)]
    topic = [placed(id, created_date=NOON + hour * HOUR) for id, (hour, _) in enumerate(hours, 1)]
    decided = [NOON + hour * HOUR for _, hour in hours]
    names = ("list_price", "user_age_days")
    catalogues = known_at(database, decided)
    copy_from(database, memory, Memory.PRODUCTS, Memory.USERS)
    found = memory.features(topic, names, decided)
    assert {id: tuple(map(shown, row)) for id, row in found.items()} == {
        o.id: seen(o, it, names) for o, it in zip(topic, catalogues, strict=True)
    }


def test_versions_recorded_later_change_no_feature_when_a_past_day_is_built_again(
    of_two_days: Compiled,
) -> None:
    """Whatever time they claim: before the first version, between versions, or after the orders."""
    memory, chosen = Memory(of_two_days), random.Random(3)
    start, decided = WINDOW.start_instant, WINDOW.end_instant + HOUR
    claims = [start + hour * HOUR for hour in (-72, -9, 3, 14, 14, 25, 30)]
    prices = [(1, 1000 * n, n, claimed, claimed) for n, claimed in enumerate(claims, 1)]
    sign_ups = [(1, start - n * DAY, n, claimed, claimed) for n, claimed in enumerate(claims, 1)]
    topic = [placed(id, created_date=start + 2 * id * HOUR) for id in range(1, 24)]
    names = ("list_price", "user_age_days")

    def found(decided: datetime, *later: datetime) -> dict[int, tuple[Any, ...]]:
        numbered = list(enumerate(later, len(claims) + 1))
        recorded = WINDOW.end_instant + HOUR + MICROSECOND
        memory.remember(Memory.PRODUCTS, prices + [(1, 9, n, claimed, recorded) for n, claimed in numbered])
        memory.remember(
            Memory.USERS, sign_ups + [(1, start - 900 * DAY, n, claimed, recorded) for n, claimed in numbered]
        )
        return memory.features(topic, names, [decided] * len(topic))

    before = found(decided)
    assert {price for price, _ in before.values()} == {2000, 3000, 5000, 6000, 7000}
    later = [*claims, start - 99 * DAY, *(start + chosen.randrange(-80, 60) * HOUR for _ in range(20))]
    assert found(decided, *later) == before
    # An order that was decided with them, a microsecond later, has their values.
    assert {price for price, _ in found(decided + MICROSECOND, *later).values()} == {9}
    assert {age > 800 for _, age in found(decided + MICROSECOND, *later).values()} == {True}


def change_lists(database: str, *changes: tuple[str, int, str, datetime | None]) -> None:
    """Make changes, each a version: "add" or "remove" with the user, the list, and when the entry expires."""
    for change, user_id, name, expires in changes:
        if change == "add":
            entry = "INSERT INTO user_lists (user_id, list, reason, source, expires_at) VALUES %s"
            write(database, entry, [(user_id, name, "x", "person", expires)])
        else:
            execute(
                database,
                "UPDATE user_lists SET removed_at = now()"
                " WHERE user_id = %s AND list = %s AND removed_at IS NULL",
                (user_id, name),
            )


def listed(database: str, topic: Sequence[Order], versions: Sequence[int]) -> list[bool]:
    """Return whether each order's user is blacklisted in this version of PostgreSQL's lists."""
    with closing(connect(database)) as connection, connection.cursor() as cursor:
        return [
            read_lists(cursor, version).is_blacklisted(o.user_id, o.created_date)
            for o, version in zip(topic, versions, strict=True)
        ]


def test_examples_of_the_lists_are_so_in_stream_and_warehouse(memory: Memory, database: str) -> None:
    table, [entries] = examples("placed")[4], examples("entry")
    changes: dict[int, tuple[str, int, str, datetime | None]] = {2: ("add", 2, "block", None)}
    for entry in entries:
        expires = None if entry["expires"] == "never" else instant(entry["expires"])
        changes[int(entry["added in version"])] = ("add", 1, entry["list"], expires)
        if (removed := entry["removed in version"]) != "never":
            changes[int(removed)] = ("remove", 1, entry["list"], None)
    assert sorted(changes) == list(range(1, 8))
    add_users(database, (1, 2))
    change_lists(database, *(changes[version] for version in sorted(changes)))
    topic = [placed(id, created_date=instant(row["placed"])) for id, row in enumerate(table, 1)]
    versions = [int(row["lists_version"]) for row in table]
    expected = [row["is_blacklisted"] for row in table]
    assert [shown(it) for it in listed(database, topic, versions)] == expected
    copy_from(database, memory, Memory.LIST_EVENTS)
    found = memory.features(topic, ["is_blacklisted"], lists=versions)
    assert [shown(found[o.id][0]) for o in topic] == expected


def test_users_are_blacklisted_as_in_the_version_of_the_lists_that_decided(
    memory: Memory, database: str
) -> None:
    """Entries are added and removed, and expire. Without a version, the time of the decision counts."""
    chosen = random.Random(11)
    add_users(database, (1, 2, 3))
    changes: list[tuple[str, int, str, datetime | None]] = []
    current: set[tuple[int, str]] = set()
    for _ in range(40):
        key = (chosen.choice((1, 2)), chosen.choice(("allow", "block", "block")))
        change = "remove" if key in current else "add"
        changes.append((change, *key, chosen.choice((None, NOON + chosen.randrange(5) * HOUR))))
        current ^= {key}
    change_lists(database, *changes)
    topic = [
        placed(id, user_id=chosen.choice((1, 2, 3)), created_date=NOON + chosen.randrange(-1, 6) * HOUR)
        for id in range(1, 500)
    ]
    versions = [chosen.randrange(len(changes) + 1) for _ in topic]
    expected = listed(database, topic, versions)
    assert 50 < sum(expected) < 450
    copy_from(database, memory, Memory.LIST_EVENTS)
    found = memory.features(topic, ["is_blacklisted"], lists=versions)
    assert [found[o.id][0] for o in topic] == expected
    changed_at = dict(query(database, "SELECT lists_version, event_at FROM user_list_events"))
    decided = [changed_at.get(version, NOON - 9999 * DAY) for version in versions]
    found = memory.features(topic, ["is_blacklisted"], decided, lists=[None] * len(topic))
    assert [found[o.id][0] for o in topic] == expected
