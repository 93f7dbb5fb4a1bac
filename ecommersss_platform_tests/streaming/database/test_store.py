"""The order store on a real server: one transaction, one consumer, rows that read back unchanged."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg2
import pytest

from ecommersss_platform_tests.support.shop import (
    LONG_AGO,
    NOON,
    PRICE,
    add_products,
    add_users,
    execute,
    flagged,
    open_shop,
    order,
    query,
)
from streaming.database import connect, store
from streaming.database.catalogue import Catalogue
from streaming.database.store import (
    Collision,
    ConsumerBusy,
    OrderStore,
    PositionMoved,
)
from streaming.decisions import Rejected
from streaming.errors import PlatformError
from streaming.orders import Flagged, encode_flagged

pytestmark = pytest.mark.integration


@pytest.fixture
def shop(database: str) -> str:
    open_shop(database)
    return database


@pytest.fixture
def orders(shop: str) -> Iterator[OrderStore]:
    with OrderStore(shop) as opened:
        assert opened.open() == 0
        yield opened


def position_of(url: str) -> int:
    [(position,)] = query(
        url, "SELECT position FROM topic_positions WHERE topic = 'orders' AND consumer = 'fraud'"
    )
    return position


AWKWARD = [
    flagged(1, amount=Decimal("0.00")),
    flagged(2, amount=Decimal("9999999999999999.99"), quantity=2**63 - 1),
    flagged(3, amount=Decimal("0.01"), created_date=NOON.replace(microsecond=1)),
    flagged(4, payment_method="tab \\t back\\slash \\N {braces} \"quote\" 'single' 火 😀"),
    flagged(
        5, fraud_reasons=["night_bulk_order", "wallet_limit"], shadow_reasons=['a"b', "c\\d", "e,f", "NULL"]
    ),
    flagged(6, created_date=datetime(2000, 1, 1, tzinfo=UTC), flagged_at=NOON.replace(microsecond=999_999)),
    flagged(2**53 - 1, position=2**62, payment_method=" "),
]


def test_an_order_reads_back_byte_for_byte(orders: OrderStore, shop: str) -> None:
    orders.commit(0, 700, orders=AWKWARD)

    back = list(orders.flagged_after(-1, 2**62))

    assert back == AWKWARD
    assert [encode_flagged(o) for o in back] == [encode_flagged(o) for o in AWKWARD]
    assert [o.id for o in orders.flagged_after(400, 600)] == [5, 6]
    assert query(shop, "SELECT id FROM orders WHERE is_fraud") == [(5,)]


def test_a_commit_moves_rows_and_position_together(orders: OrderStore, shop: str) -> None:
    bad = Rejected(300, b"\xff\x00 no json", "malformed_json", "a detail with \0 and \udc80")

    orders.commit(0, 400, orders=[flagged(2), flagged(1)], rejected=[bad])

    assert position_of(shop) == 400
    assert query(shop, "SELECT id FROM orders ORDER BY id") == [(1,), (2,)]
    [(position, raw, reason, detail, retried_at, missing_id)] = query(
        shop, "SELECT position, raw, reason, detail, retried_at, missing_id FROM rejected_orders"
    )
    assert (position, bytes(raw), reason) == (300, b"\xff\x00 no json", "malformed_json")
    assert (detail, retried_at, missing_id) == ("a detail with \\x00 and \\udc80", None, None)
    orders.commit(400, 500, rejected=[Rejected(400, b"x", "malformed_json", "")])
    assert position_of(shop) == 500


@pytest.mark.parametrize(
    "clash",
    [flagged(1, position=900), flagged(3, user_id=11), flagged(3, product_id=6)],
    ids=["stored id", "no such user", "no such product"],
)
def test_a_collision_stores_nothing(orders: OrderStore, shop: str, clash: Flagged) -> None:
    orders.commit(0, 100, orders=[flagged(1)])
    with pytest.raises(Collision):
        orders.commit(100, 900, orders=[flagged(2), clash], rejected=[Rejected(5, b"", "empty_line", "")])
    assert query(shop, "SELECT id FROM orders") == [(1,)]
    assert query(shop, "SELECT count(*) FROM rejected_orders") == [(0,)]
    assert position_of(shop) == 100
    # The connection goes on.
    assert orders.stored([1, 2]) == {1: order(1)}
    orders.commit(100, 900, orders=[flagged(2)])
    assert position_of(shop) == 900


def test_a_position_that_someone_else_moved_stores_nothing(orders: OrderStore, shop: str) -> None:
    execute(shop, "UPDATE topic_positions SET position = 50")
    with pytest.raises(PositionMoved, match=r"no longer 0"):
        orders.commit(0, 100, orders=[flagged(1)])
    assert query(shop, "SELECT count(*) FROM orders") == [(0,)]
    assert position_of(shop) == 50


def test_a_second_consumer_learns_who_holds_the_topic(
    orders: OrderStore, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOCK_PATIENCE", 0.2)
    [(backend,)] = query(
        shop, "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'consumer fraud pid %'"
    )
    with pytest.raises(ConsumerBusy, match=rf'"orders".*"consumer fraud pid \d+ .*127\.0\.0\.1.*{backend}'):
        OrderStore(shop).open()
    # Another topic, or another consumer of this one, is no conflict.
    with OrderStore(shop, topic="returns") as other, OrderStore(shop, consumer="audit") as another:
        assert (other.open(), another.open()) == (0, 0)
    orders.commit(0, 10)


def test_a_consumer_that_is_just_going_away_is_waited_for(orders: OrderStore, shop: str) -> None:
    orders.commit(0, 123)
    threading.Timer(0.4, orders.close).start()
    with OrderStore(shop) as successor:
        assert successor.open() == 123


def test_reopening_ends_its_own_lost_connection(orders: OrderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an outage the server may still believe the old connection to be alive."""
    ghost = orders.connection
    monkeypatch.setattr(OrderStore, "close", lambda self: None)
    assert orders.open() == 0
    with pytest.raises(psycopg2.OperationalError), ghost.cursor() as cursor:
        cursor.execute("SELECT 1")


def test_a_database_without_tables_says_what_to_do(postgres: object, database: str) -> None:
    execute(database, "ALTER TABLE topic_positions RENAME TO gone")
    with pytest.raises(PlatformError, match="ecommersss db init"):
        OrderStore(database).open()


class TestCatalogue:
    def test_knows_users_and_products_that_exist(self, orders: OrderStore) -> None:
        catalogue = orders.refresh([order(1), order(2, user_id=99, product_id=77), order(3, user_id=2)])
        assert catalogue.users == {1: LONG_AGO, 2: LONG_AGO}
        assert catalogue.has_product(1)
        assert not catalogue.has_product(77)

    def test_a_new_user_is_known_to_the_next_batch(self, orders: OrderStore, shop: str) -> None:
        newcomer = order(1, user_id=50, product_id=60)
        for _ in range(3):
            assert 50 not in orders.refresh([newcomer]).users
            orders.commit(0, 0)
        add_users(shop, [50], signed_up=NOON)
        add_products(shop, [60])
        catalogue = orders.refresh([newcomer])
        assert catalogue.users == {50: NOON}
        assert catalogue.has_product(60)

    def test_the_price_is_that_of_the_orders_instant(self, orders: OrderStore, shop: str) -> None:
        dear, moment = Decimal("2000.00"), timedelta(microseconds=1)
        for _ in range(3):
            assert orders.refresh([order()]).list_price(1, NOON) == PRICE
            orders.commit(0, 0)
        reprice(shop, 1, dear, NOON)
        catalogue = orders.refresh([order()])
        assert catalogue.list_price(1, NOON) == dear
        assert catalogue.list_price(1, NOON - moment) == PRICE
        assert catalogue.list_price(1, LONG_AGO) == PRICE
        assert catalogue.list_price(1, LONG_AGO - moment) is None

    def test_a_price_is_seen_that_commits_after_a_later_one(self, orders: OrderStore, shop: str) -> None:
        """Versions are numbered when written but visible when committed: the lower one may come second."""
        cheap, dear = Decimal("10.00"), Decimal("9000.00")
        with connect(shop) as slow, slow.cursor() as cursor:
            cursor.execute("UPDATE products SET price = %s WHERE id = 1", (cheap,))
            reprice(shop, 2, dear, datetime.now(UTC))
            both, later = [order(1), order(2, product_id=2)], datetime.now(UTC) + timedelta(days=1)
            for _ in range(4):
                catalogue = orders.refresh(both)
                assert (catalogue.list_price(1, later), catalogue.list_price(2, later)) == (PRICE, dear)
                orders.commit(0, 0)
            slow.commit()
        for _ in range(4):
            catalogue = orders.refresh(both)
            assert (catalogue.list_price(1, later), catalogue.list_price(2, later)) == (cheap, dear)
            orders.commit(0, 0)
        slow.close()

    def test_what_was_recorded_later_was_not_known(self, shop: str) -> None:
        """Whatever time a load or a correction claims."""
        moments = [now(shop)]
        for price, back, signed_up in ((2, 30, 20), (3, 10, 40)):
            reprice(shop, 1, Decimal(price), NOON - timedelta(days=back))
            execute(shop, "UPDATE users SET created_date = %s", (NOON - timedelta(days=signed_up),))
            moments.append(now(shop))
        with connect(shop) as connection, connection.cursor() as cursor:
            known = [Catalogue.at(cursor, moment, 1, 1) for moment in (LONG_AGO, *moments)]
        connection.close()
        assert [c.list_price(1, NOON) for c in known] == [PRICE, PRICE, 2, 3]
        assert [c.list_price(1, NOON - timedelta(days=20)) for c in known] == [PRICE, PRICE, 2, 2]
        days = [(NOON - c.users[1]).days for c in known]
        assert days == [400, 400, 20, 40]

    def test_stays_within_its_bounds(self, orders: OrderStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("streaming.database.catalogue.MAX_CACHED", 4)
        for _ in range(3):  # until it keeps anything from batch to batch
            orders.refresh([order()])
            orders.commit(0, 0)
        assert orders.refresh([order(user_id=u, product_id=u) for u in (1, 2, 3)]).users.keys() == {1, 2, 3}
        orders.commit(0, 0)
        catalogue = orders.refresh([order(user_id=u, product_id=u) for u in (3, 4, 5)])
        assert catalogue.users.keys() == {3, 4, 5}
        assert [p for p in range(1, 6) if catalogue.has_product(p)] == [3, 4, 5]


def now(url: str) -> datetime:
    [(instant,)] = query(url, "SELECT clock_timestamp()")
    return instant


def reprice(url: str, product: int, price: Decimal, at: datetime) -> None:
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT set_config('ecommersss.clock', %s, true)", (at.isoformat(),))
        cursor.execute("UPDATE products SET price = %s WHERE id = %s", (price, product))
    connection.close()
