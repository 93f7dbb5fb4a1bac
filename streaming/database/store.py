"""The transactional order store: orders, rejected lines and the position in the topic move together."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from typing import Any

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from streaming.database import connect
from streaming.database.catalogue import Catalogue
from streaming.database.past_orders import PastOrders
from streaming.database.rows import (
    COPY_ORDERS,
    SELECT_FLAGGED,
    Rows,
    flagged_from_row,
    rejected_row,
    select_flagged,
    select_orders,
)
from streaming.decisions import Rejected
from streaming.errors import PlatformError
from streaming.orders import Flagged, Order

logger = logging.getLogger(__name__)

LOCK_PATIENCE = 3.0
"""Seconds to wait for the lock: the server takes a moment to notice that a killed consumer is gone."""

_LAST = 2**63 - 1
# A position is in the topic once, so the same one again is the same line, read anew after someone moved the
# topic's position back by hand: it waits again.
_REJECT = """
    INSERT INTO rejected_orders (position, raw, reason, detail, missing_id) VALUES %s
    ON CONFLICT (position) DO UPDATE SET raw = excluded.raw, reason = excluded.reason,
        detail = excluded.detail, missing_id = excluded.missing_id, rejected_at = now(), retried_at = NULL
"""
_MOVE = """
    UPDATE topic_positions SET position = %(next)s
    WHERE topic = %(topic)s AND consumer = %(consumer)s AND position = %(position)s
"""
_EMIT = """
    INSERT INTO flagged_emissions (stream, consumer, start_position, order_ids)
    VALUES (%(stream)s, %(consumer)s, %(start)s, %(ids)s::bigint[])
    ON CONFLICT (stream, consumer)
        DO UPDATE SET start_position = excluded.start_position, order_ids = excluded.order_ids;
"""
_USED_LISTS = """
    SELECT version FROM user_lists_used WHERE (topic, consumer) = (%s, %s) ORDER BY position DESC LIMIT 1
"""
_USE_LISTS = """
    INSERT INTO user_lists_used (topic, consumer, position, version)
    VALUES (%(topic)s, %(consumer)s, %(position)s, %(version)s)
    ON CONFLICT (topic, consumer, position) DO UPDATE SET version = excluded.version
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
    """Someone else moved this consumer's position: what it is doing would be done twice."""


class Collision(Exception):
    """Nothing was stored: an order's id is stored already, or its user or product is gone."""


@dataclass(frozen=True, slots=True)
class Emission:
    """The orders of the last committed batch that had any, and where their flagged lines begin."""

    start_position: int
    order_ids: list[int]


class OrderStore:
    """Stores what one consumer decides about one topic. Two connections, held for as long as it is open.

    While open it holds an advisory lock on (topic, consumer), so there is one such consumer at a time, and
    each commit compares and sets the position, so that even a lost lock could not make anything happen twice.

    `refresh` and `past_orders` read through a connection of their own: one thread may decide about a batch
    while another commits the one before it. Everything else is for one thread at a time.
    """

    _reads_apart = True

    def __init__(
        self, url: str, topic: str = "orders", consumer: str = "fraud", stream: str = "flagged_orders"
    ) -> None:
        self.topic = topic
        self.consumer = consumer
        self.stream = stream
        self.catalogue = Catalogue()
        self._url = url
        self._connection: Connection | None = None
        self._reading: Connection | None = None
        self._had_lock = False
        self._used_lists = 0
        # Names this store in pg_stat_activity (63 bytes at most); the token tells it from another store of
        # this process.
        self._application = (
            f"consumer {consumer} pid {os.getpid()} {secrets.token_hex(4)} {socket.gethostname()}"[:63]
        )
        digest = sha256(f"{topic}/{consumer}".encode()).digest()
        self._lock_key = int.from_bytes(digest[:8], "big") >> 1

    # Life.

    def open(self) -> int:
        """Connect, take the lock, and return the position to read the topic from. Again after a failure too.

        Raises `ConsumerBusy` when another consumer holds the lock, `PlatformError` for a database that cannot
        be used, `psycopg2.OperationalError` when the server is not reached.
        """
        self.close()
        self.catalogue = Catalogue()
        self._connection = connect(self._url, application=self._application)
        try:
            # The position must never be durable later than a flagged line that follows from it.
            self._connection.set_session(isolation_level="READ COMMITTED", autocommit=True)
            with self._connection.cursor() as cursor:
                cursor.execute("SET synchronous_commit = on")
                self._check(cursor)
                self._lock(cursor)
                position = self._position(cursor)
                cursor.execute(_USED_LISTS, (self.topic, self.consumer))
                self._used_lists = (cursor.fetchone() or (0,))[0]
            self._connection.autocommit = False
            if self._reads_apart:
                self._reading = connect(self._url, application=f"reading for {self._application}"[:63])
                self._reading.autocommit = True
        except BaseException:
            self.close()
            raise
        return position

    def close(self) -> None:
        """Give up the lock and the connection; what was not committed is undone. Safe to repeat."""
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
        """The open connection. Raises `psycopg2.InterfaceError` when the store is not open."""
        if self._connection is None:
            raise psycopg2.InterfaceError("the order store is not open")
        return self._connection

    @property
    def lost(self) -> bool:
        """Whether an open connection broke. A broken COPY does not say so by the class of its error."""
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
                # Our own connection from before an outage, which the server believes to be alive.
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

    # Reading what decisions need.

    def refresh(self, orders: Sequence[Order]) -> Catalogue:
        """The catalogue, up to date, with all users and products of these orders that exist."""
        with self._reads() as cursor:
            self.catalogue.refresh(cursor, {o.user_id for o in orders}, {o.product_id for o in orders})
        return self.catalogue

    @contextmanager
    def past_orders(self) -> Iterator[PastOrders]:
        """Where a history reads stored orders from: those that are committed at each of its readings."""
        with self._reads() as cursor:
            yield PastOrders(cursor)

    @contextmanager
    def _reads(self) -> Iterator[Cursor]:
        if self._reading is not None:
            with self._reading.cursor() as cursor:
                yield cursor
        else:
            with self._undo_on_error(), self.connection.cursor() as cursor:
                yield cursor

    def stored(self, ids: Iterable[int]) -> dict[int, Order]:
        """Those of the orders that are stored, by id."""
        with self._undo_on_error(), self.connection.cursor() as cursor:
            return select_orders(cursor, ids)

    # Writing.

    def commit(
        self,
        position: int,
        next_position: int,
        orders: Sequence[Flagged] | Rows = (),
        rejected: Sequence[Rejected] = (),
        emission_start: int = 0,
        lists_version: int = 0,
    ) -> None:
        """Store a batch and move the position from `position` to `next_position`, in one transaction.

        `emission_start` is where the flagged lines of `orders` will begin in the flagged stream,
        `lists_version` the version of the lists of users that they were decided with.

        Raises `Collision` when an order cannot be stored (`catalogue.forget`, look with `stored` and
        `refresh`, decide anew, try again) and `PositionMoved`; in both cases, as for any error, nothing was
        stored. After a `psycopg2.OperationalError` it is unknown whether all or nothing was: `open` again
        tells.
        """
        rows = orders if isinstance(orders, Rows) else Rows.of(orders)
        names = {"topic": self.topic, "consumer": self.consumer, "stream": self.stream}
        values = {"start": emission_start, "ids": rows.ids, "position": position, "next": next_position}
        try:
            with self._undo_on_error(), self.connection.cursor() as cursor:
                self._insert(cursor, rows, rejected, lists_version)
                cursor.execute(_MOVE if rows.first_position is None else _EMIT + _MOVE, {**names, **values})
                if cursor.rowcount != 1:
                    raise PositionMoved(
                        f'the position of consumer "{self.consumer}" in topic "{self.topic}" is no longer'
                        f" {position}: another process moved it. Nothing was stored twice; start again to go"
                        " on from the new position."
                    )
                self.connection.commit()
                if rows.first_position is not None:
                    self._used_lists = lists_version
        except (errors.UniqueViolation, errors.ForeignKeyViolation) as error:
            raise Collision(str(error)) from error

    def _insert(self, cursor: Cursor, rows: Rows, rejected: Sequence[Rejected], lists_version: int) -> None:
        """The rows of a batch, and which lists it was decided with where that is new."""
        if rows.first_position is not None:
            # Measured: COPY is as fast as an array or VALUES insert for one order and twice as fast for
            # fifty, so there is no second way for small batches.
            # In one piece: for each piece the interpreter's lock is waited for.
            cursor.copy_expert(COPY_ORDERS, BytesIO(rows.text), size=len(rows.text))
            if lists_version != self._used_lists:
                names = {"topic": self.topic, "consumer": self.consumer}
                used = {**names, "position": rows.first_position, "version": lists_version}
                cursor.execute(_USE_LISTS, used)
        if rejected:
            execute_values(cursor, _REJECT, [rejected_row(line) for line in rejected])

    # Completing the flagged stream.

    def emission(self) -> Emission | None:
        """The flagged lines that the last committed batch must have; None before the first order."""
        with self._undo_on_error(), self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT start_position, order_ids FROM flagged_emissions WHERE (stream, consumer) = (%s, %s)",
                (self.stream, self.consumer),
            )
            row = cursor.fetchone()
            self.connection.commit()
        return Emission(*row) if row else None

    def flagged(self, ids: Sequence[int]) -> list[Flagged]:
        """The stored orders with these ids, in the order of `ids`; those that are not stored are left out."""
        with self._undo_on_error(), self.connection.cursor() as cursor:
            found = select_flagged(cursor, ids)
            self.connection.commit()
        return found

    def flagged_after(self, position: int, last: int = _LAST) -> Iterator[Flagged]:
        """Every stored order with a place in (`position`, `last`] of the topic, in topic order, streamed."""
        with self._undo_on_error():
            with self.connection.cursor(name="flagged_after") as cursor:
                cursor.itersize = 5_000
                cursor.execute(
                    f"{SELECT_FLAGGED} WHERE position > %s AND position <= %s ORDER BY position",
                    (position, last),
                )
                for row in cursor:
                    yield flagged_from_row(row)
            self.connection.commit()

    @contextmanager
    def _undo_on_error(self) -> Iterator[None]:
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
