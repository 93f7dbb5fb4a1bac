"""The transactional order store: orders, rejected lines and the position in the topic move together."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from io import BytesIO
from typing import Any, NamedTuple
from zlib import crc32

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from streaming.database import connect
from streaming.database.catalogue import Catalogue
from streaming.database.overrides import count_orders
from streaming.database.past_orders import PastOrders
from streaming.database.rows import (
    COPY_ORDERS,
    SELECT_FLAGGED,
    Rows,
    flagged_from_row,
    rejected_row,
    select_orders,
)
from streaming.database.rule_books import keep_book
from streaming.decisions import Rejected
from streaming.errors import PlatformError
from streaming.orders import Flagged, Order
from streaming.rules import RuleBook
from streaming.rules.brake import Count
from streaming.topics import Batch

logger = logging.getLogger(__name__)

LOCK_PATIENCE = 3.0
"""Seconds to wait for the lock: the server takes a moment to notice that a killed consumer is gone."""

# A position occurs once in a topic. The same one again means that somebody moved the topic's position back by
# hand and the line was read again, so it waits again.
_REJECT = """
    INSERT INTO rejected_orders (position, raw, reason, detail, missing_id) VALUES %s
    ON CONFLICT (position) DO UPDATE SET raw = excluded.raw, reason = excluded.reason,
        detail = excluded.detail, missing_id = excluded.missing_id, rejected_at = now(), retried_at = NULL
"""
_MOVE = """
    UPDATE topic_positions SET position = %(next)s, line_end = %(next)s,
        line_position = %(at)s, line_checksum = %(checksum)s
    WHERE topic = %(topic)s AND consumer = %(consumer)s AND position = %(position)s
"""
_LAST_LINE = """
    SELECT line_position, line_checksum FROM topic_positions
    WHERE (topic, consumer) = (%s, %s) AND line_end = position AND line_position IS NOT NULL
"""
_LOCK_HOLDER = """
    SELECT a.pid, a.application_name, coalesce(host(a.client_addr), 'a local socket'), a.backend_start
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (l.classid::bigint << 32) | l.objid::bigint = %s
"""


class ConsumerBusy(PlatformError):
    """Another consumer already works on the topic."""


class PositionMoved(PlatformError):
    """Another process moved this consumer's position, so going on would do its work twice."""


class Collision(Exception):
    """Nothing was stored: an order's id is stored already, or its user or product is gone."""


class LastLine(NamedTuple):
    """The line before a position of a topic on disk: where it begins, and its CRC-32."""

    line_position: int
    line_checksum: int

    @classmethod
    def of(cls, batch: Batch) -> LastLine:
        """Return the last line of a batch that has one."""
        return cls(batch.positions[-1], crc32(batch.lines[-1]))


class OrderStore:
    """Stores what one consumer decides about one topic, over two connections.

    While open it holds an advisory lock on (topic, consumer), so only one such consumer works at a time. Each
    commit also compares and sets the position, so even a lost lock cannot make anything happen twice.

    `refresh` and `past_orders` read through a connection of their own: one thread may decide about a batch
    while another commits the one before it. Everything else is for one thread at a time.
    """

    _separate_reads = True

    def __init__(self, url: str, topic: str = "orders", consumer: str = "fraud") -> None:
        self.topic = topic
        self.consumer = consumer
        self.catalogue = Catalogue()
        self.counted: list[Count] = []
        """What the last commit's counts came to, of the probations that were not over."""
        self._url = url
        self._connection: Connection | None = None
        self._reading: Connection | None = None
        self._had_lock = False
        self._kept_book: RuleBook | None = None
        # Identifies this store in pg_stat_activity (63 bytes at most). The token distinguishes it from
        # other stores of this process.
        self._application = (
            f"consumer {consumer} pid {os.getpid()} {secrets.token_hex(4)} {socket.gethostname()}"[:63]
        )
        digest = sha256(f"{topic}/{consumer}".encode()).digest()
        self._lock_key = int.from_bytes(digest[:8], "big") >> 1

    # Opening and closing.

    def open(self) -> int:
        """Connect, take the lock, and return the position to read from. Also reopens after a failure.

        Raises `ConsumerBusy` if another consumer holds the lock, `PlatformError` for a database that cannot
        be used, and `psycopg2.OperationalError` if the server is not reached.
        """
        self.close()
        self.catalogue, self._kept_book = Catalogue(), None
        self._connection = connect(self._url, application=self._application)
        try:
            self._connection.set_session(isolation_level="READ COMMITTED", autocommit=True)
            with self._connection.cursor() as cursor:
                # A commit must be durable before the flagged lines that follow from it.
                cursor.execute("SET synchronous_commit = on")
                self._check(cursor)
                self._lock(cursor)
                position = self._position(cursor)
            self._connection.autocommit = False
            if self._separate_reads:
                self._reading = connect(self._url, application=f"reading for {self._application}"[:63])
                self._reading.autocommit = True
        except BaseException:
            self.close()
            raise
        return position

    def close(self) -> None:
        """Release the lock and close the connections; uncommitted work is undone. Safe to repeat."""
        connections = self._connection, self._reading
        self._connection = self._reading = None
        for connection in connections:
            if connection is not None:
                with suppress(psycopg2.Error):
                    connection.close()

    def __enter__(self) -> OrderStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connection(self) -> Connection:
        """The open connection. Raises `psycopg2.InterfaceError` if the store is not open."""
        if self._connection is None:
            raise psycopg2.InterfaceError("the order store is not open")
        return self._connection

    @property
    def lost(self) -> bool:
        """Whether an open connection broke, which the class of a broken COPY's error does not say."""
        connections = self._connection, self._reading
        return any(connection is not None and connection.closed != 0 for connection in connections)

    def _check(self, cursor: Cursor) -> None:
        cursor.execute(
            "SELECT current_setting('server_encoding'), to_regclass('topic_positions') IS NOT NULL"
        )
        encoding, migrated = _one(cursor)
        if encoding != "UTF8":
            raise PlatformError(
                f"the database's encoding is {encoding}, which cannot hold every order: create it with UTF8"
            )
        if not migrated:
            raise PlatformError("the database has no table topic_positions: run `ecommersss db init` first")

    def _lock(self, cursor: Cursor) -> None:
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (self._lock_key,))
            if _one(cursor)[0]:
                self._had_lock = True
                return
            cursor.execute(_LOCK_HOLDER, (self._lock_key,))
            holder = cursor.fetchone()
            if holder and self._had_lock and holder[1] == self._application:
                # Our own connection from before an outage, which the server still believes to be alive.
                cursor.execute("SELECT pg_terminate_backend(%s)", (holder[0],))
            elif holder and time.monotonic() >= deadline:
                raise ConsumerBusy(
                    f'topic "{self.topic}" already has a "{self.consumer}" consumer: "{holder[1]}" from'
                    f" {holder[2]}, connected since {holder[3]:%Y-%m-%d %H:%M:%S} UTC"
                    f" (server process {holder[0]}). Stop that one first; two would only take turns."
                )
            time.sleep(0.05)

    def _position(self, cursor: Cursor) -> int:
        names = (self.topic, self.consumer)
        cursor.execute("INSERT INTO topic_positions VALUES (%s, %s, 0) ON CONFLICT DO NOTHING", names)
        cursor.execute("SELECT position FROM topic_positions WHERE (topic, consumer) = (%s, %s)", names)
        return int(_one(cursor)[0])

    # Recognising the topic.

    def last_line(self) -> LastLine | None:
        """Return the line before the position, or None if it is unknown or the position was moved by hand."""
        with self._rollback_on_error(), self.connection.cursor() as cursor:
            cursor.execute(_LAST_LINE, (self.topic, self.consumer))
            found = cursor.fetchone()
            self.connection.commit()
        return LastLine(*found) if found else None

    def ids_by_position(self, first: int, end: int) -> dict[int, int]:
        """Return the ids of the stored orders with positions in [`first`, `end`), by position."""
        with self._rollback_on_error(), self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT position, id FROM orders WHERE position >= %s AND position < %s", (first, end)
            )
            found = dict(cursor.fetchall())
            self.connection.commit()
        return found

    # Reading what decisions need.

    def refresh(self, orders: Sequence[Order]) -> Catalogue:
        """Return the catalogue, up to date, with all existing users and products of these orders."""
        with self._reads() as cursor:
            self.catalogue.refresh(cursor, {o.user_id for o in orders}, {o.product_id for o in orders})
        return self.catalogue

    @contextmanager
    def past_orders(self) -> Iterator[PastOrders]:
        """Yield the stored orders for a history to read: those committed at the time of each query."""
        with self._reads() as cursor:
            yield PastOrders(cursor)

    @contextmanager
    def _reads(self) -> Iterator[Cursor]:
        if self._reading is not None:
            with self._reading.cursor() as cursor:
                yield cursor
        else:
            with self._rollback_on_error(), self.connection.cursor() as cursor:
                yield cursor

    def stored(self, ids: Iterable[int]) -> dict[int, Order]:
        """Return the stored orders among these ids, by id."""
        with self._rollback_on_error(), self.connection.cursor() as cursor:
            return select_orders(cursor, ids)

    def flagged_after(self, position: int, last: int) -> Iterator[Flagged]:
        """Stream the stored orders with positions in (`position`, `last`], in that order."""
        with self._rollback_on_error():
            with self.connection.cursor(name="flagged_after") as cursor:
                cursor.itersize = 5_000
                cursor.execute(
                    f"{SELECT_FLAGGED} WHERE position > %s AND position <= %s ORDER BY position",
                    (position, last),
                )
                for row in cursor:
                    yield flagged_from_row(row)
            self.connection.commit()

    # Writing.

    def commit(
        self,
        position: int,
        next_position: int,
        orders: Sequence[Flagged] | Rows = (),
        rejected: Sequence[Rejected] = (),
        book: RuleBook | None = None,
        last_line: LastLine | None = None,
        counts: Sequence[Count] = (),
    ) -> None:
        """Store a batch and move the position from `position` to `next_position`, in one transaction.

        `book` is the rule book that decided about `orders`; the first batch that it decides keeps its text.
        `last_line` is the line that ends at `next_position`, if known. `counts` of rules on probation go to
        the database in the same transaction.

        Raises `PlatformError` if another text with the book's version is kept, and `PositionMoved`. Raises
        `Collision` if an order cannot be stored: call `catalogue.forget`, then `stored` and `refresh`, and
        decide again. In these cases, as for any error, nothing was stored. Only after a
        `psycopg2.OperationalError` it is unknown whether all or nothing was; `open` finds out.
        """
        rows = orders if isinstance(orders, Rows) else Rows.of(orders)
        names = {"topic": self.topic, "consumer": self.consumer}
        try:
            with self._rollback_on_error(), self.connection.cursor() as cursor:
                self._insert(cursor, rows)
                if rejected:
                    execute_values(cursor, _REJECT, [rejected_row(line) for line in rejected])
                at, checksum = last_line or (None, None)
                move = {"position": position, "next": next_position, "at": at, "checksum": checksum}
                cursor.execute(_MOVE, {**names, **move})
                if cursor.rowcount != 1:
                    raise PositionMoved(
                        f'the position of consumer "{self.consumer}" in topic "{self.topic}" is no longer'
                        f" {position}: another process moved it. Nothing was stored twice; start again to go"
                        " on from the new position."
                    )
                self._commit(cursor, rows, book, counts)
        except (errors.UniqueViolation, errors.ForeignKeyViolation) as error:
            raise Collision(str(error)) from error

    def _insert(self, cursor: Cursor, rows: Rows) -> None:
        """Insert the orders of a batch."""
        if rows.first is None:
            return
        # Measured: COPY is as fast as an array or VALUES insert for one order and twice as fast for fifty, so
        # small batches need no second way. It is sent in one piece: each piece waits for the interpreter's
        # lock.
        cursor.copy_expert(COPY_ORDERS, BytesIO(rows.text), size=len(rows.text))

    def _commit(self, cursor: Cursor, rows: Rows, book: RuleBook | None, counts: Sequence[Count]) -> None:
        """Add the counts, keep the book that decided about the rows, unless this store has, and commit.

        This comes last, because it may wait for another consumer that is just counting the same probation or
        keeping the same book. That one takes both in this sequence and commits, and waits for nothing else
        that this one holds.
        """
        self.counted = count_orders(cursor, counts, book.version) if counts and book else []
        if rows.first is None or book is self._kept_book:
            self.connection.commit()
            return
        if book is not None:
            keep_book(cursor, book, rows.first.position, rows.first.flagged_at)
        self.connection.commit()
        self._kept_book = book

    @contextmanager
    def _rollback_on_error(self) -> Iterator[None]:
        """Leave no failed transaction behind."""
        try:
            yield
        except BaseException:
            if self._connection is not None:
                with suppress(psycopg2.Error):
                    self._connection.rollback()
            raise


def _one(cursor: Cursor) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None
    return row
