"""Kept rule books: written once, with the first order that a book decides, and never changed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import psycopg2
import pytest

from ecommersss_platform_tests.support.shop import NOON, execute, flagged, open_shop, query
from streaming.database import connect
from streaming.database.rule_books import keep_book, kept_book
from streaming.database.shared import SharedOrderStore
from streaming.database.store import Collision, OrderStore
from streaming.decisions import Rejected
from streaming.errors import PlatformError
from streaming.rules import RuleBook

pytestmark = pytest.mark.integration

TEXT = "\ufeffrules:\r\n- {name: a, description: 'Ñ 💸', mode: active, when: quantity > 9}\r\n"
BOOK = RuleBook.parse(TEXT.encode(), "rules.yml")
KEPT = "SELECT version, text, first_position, first_used_at FROM rule_books"


@pytest.fixture
def shop(database: str) -> str:
    open_shop(database)
    return database


@pytest.fixture
def orders(shop: str) -> Iterator[OrderStore]:
    with OrderStore(shop) as opened:
        opened.open()
        yield opened


def test_a_book_is_kept_with_its_first_order(orders: OrderStore, shop: str) -> None:
    orders.commit(0, 100, rejected=[Rejected(5, b"", "empty_line", "")], book=BOOK)
    assert query(shop, KEPT) == [], "it decided nothing yet"
    orders.commit(100, 300, [flagged(1), flagged(2)], book=BOOK)
    kept = [(BOOK.version, TEXT, 100, NOON + timedelta(seconds=1))]
    assert query(shop, KEPT) == kept
    orders.commit(300, 400, [flagged(3)], book=BOOK)
    orders.open()
    orders.commit(400, 500, [flagged(4)], book=RuleBook.parse(TEXT))
    assert query(shop, KEPT) == kept
    with closing(connect(shop)) as connection, connection.cursor() as cursor:
        back = kept_book(cursor, BOOK.version)
        assert back is not None
        assert (back.text.encode(), back.version) == (TEXT.encode(), BOOK.version)
        assert kept_book(cursor, "0" * 16) is None


def test_a_batch_that_collides_keeps_no_book(orders: OrderStore, shop: str) -> None:
    with pytest.raises(Collision):
        orders.commit(0, 100, [flagged(1, user_id=99)], book=BOOK)
    assert query(shop, KEPT) == []
    orders.commit(0, 100, [flagged(1)], book=BOOK)
    assert query(shop, "SELECT version FROM rule_books") == [(BOOK.version,)]


def test_two_consumers_that_keep_a_book_at_once_agree(shop: str) -> None:
    with SharedOrderStore(shop) as store, closing(connect(shop)) as other, other.cursor() as cursor:
        store.open()
        [position] = store.take_turn({1}, 1)
        keep_book(cursor, BOOK, 7, NOON)
        put = threading.Thread(target=store.put, args=([flagged(1, position=position)], [], {}, BOOK))
        put.start()
        put.join(0.2)
        assert put.is_alive(), "it waits for the other one's commit"
        other.commit()
        put.join(10)
    assert query(shop, KEPT) == [(BOOK.version, TEXT, 7, NOON)]
    assert query(shop, "SELECT id FROM orders") == [(1,)]


def test_another_text_with_the_version_of_a_kept_book_is_refused(orders: OrderStore, shop: str) -> None:
    orders.commit(0, 100, [flagged(1)], book=BOOK)
    twin = RuleBook.parse(TEXT.replace("> 9", "> 8"), "twin.yml")
    twin.version = BOOK.version
    with pytest.raises(PlatformError, match=rf"twin.yml has the version {BOOK.version}, which belongs to"):
        orders.commit(100, 200, [flagged(2)], book=twin)
    assert query(shop, "SELECT text FROM rule_books") == [(TEXT,)]
    assert query(shop, "SELECT id FROM orders") == [(1,)]


def test_a_kept_book_is_never_changed_or_removed(orders: OrderStore, shop: str) -> None:
    orders.commit(0, 100, [flagged(1)], book=BOOK)
    change = "UPDATE rule_books SET text = replace(text, '> 9', '> 8')"
    for statement in (change, "DELETE FROM rule_books"):
        with pytest.raises(psycopg2.errors.RaiseException, match="rule_books is append-only"):
            execute(shop, statement)
    execute(shop, f"ALTER TABLE rule_books DISABLE TRIGGER append_only; {change}")
    changed = pytest.raises(PlatformError, match="somebody changed the table rule_books by hand")
    with closing(connect(shop)) as connection, connection.cursor() as cursor, changed:
        kept_book(cursor, BOOK.version)
