"""The order store of a topic that several consumers share and that has no positions of its own (Pub/Sub).

Three locks make any number of consumers together store what one would. They are always taken in this order,
and the server releases them when a transaction or its connection ends:

1. Each user of a batch: transaction-level advisory locks, in ascending order, so that two batches never
   deadlock. Until the commit no other consumer decides about these users. Each later statement sees all of
   their orders of earlier batches.
2. The turn lock, shared: any number of batches hold it at the same time. Under it a batch takes its positions
   from the sequence `order_positions`. A user's next batch takes greater ones, because it waits at 1; within
   a batch, lines are numbered as they came. So when a user's order is decided, the user's stored orders are
   exactly those at earlier positions. The user lists change under the exclusive turn lock (see migration
   0003), so their versions grow with positions too.
3. The locks that PostgreSQL takes for rows. Those of probations and of a rule that is pulled come last, so
   that a batch which waits for them holds up only others that do.

Positions become visible out of order: a batch may commit after one with greater positions. A reader that must
not miss any takes the exclusive turn lock for a moment (`horizon`): by then every transaction that took a
position has ended, and later ones take greater positions.

If a consumer's machine vanishes, its locks stay until the server notices, after half a minute; if it is stuck
in the middle of a batch, for a minute and a half. Orders of the same users, the flagged stream and changes of
the lists wait for that. A transaction that changed `user_lists` and is left open makes all consumers wait.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from psycopg2 import errors
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from streaming.database.rows import Rows, rejected_row
from streaming.database.store import Collision, OrderStore
from streaming.database.user_lists import TURN_LOCK
from streaming.decisions import Rejected
from streaming.orders import Flagged
from streaming.rules import RuleBook
from streaming.rules.brake import Count

# Lines are published again within a transaction, which takes at most a minute.
_SESSION = """
    SET idle_in_transaction_session_timeout = '90s';
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 4
"""
_LOCK_USERS = "SELECT pg_advisory_xact_lock(%s, id) FROM unnest(%s::int[]) AS id"
_TAKE_POSITIONS = "SELECT nextval('order_positions') FROM generate_series(1, %s)"
_LAST_POSITION = "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM order_positions"
_CONNECTED = """
    SELECT application_name, backend_start, extract(epoch FROM clock_timestamp() - state_change)::float
    FROM pg_stat_activity
    WHERE datname = current_database() AND starts_with(application_name, %s) ORDER BY backend_start
"""
_REJECT = """
    INSERT INTO rejected_orders (position, raw, reason, detail, missing_id, message_id) VALUES %s
    ON CONFLICT (message_id) WHERE message_id IS NOT NULL DO NOTHING RETURNING position
"""


@dataclass(frozen=True, slots=True)
class Connected:
    """A connected consumer. `host` may be truncated; `quiet` is the seconds since its last statement."""

    host: str
    pid: int
    since: datetime
    quiet: float


def connected(connection: Connection, consumer: str = "fraud") -> list[Connected]:
    """Return the consumers that are connected to the database, the longest connected first."""
    with connection.cursor() as cursor:
        cursor.execute(_CONNECTED, (f"consumer {consumer} pid ",))
        found = []
        for name, since, quiet in cursor:
            pid, _, host = name.split(" ")[3:6]
            found.append(Connected(host, int(pid), since, quiet))
        return found


class SharedOrderStore(OrderStore):
    """Stores what one of several consumers decides about a topic, over one connection."""

    def __init__(self, url: str, topic: str = "orders", consumer: str = "fraud") -> None:
        super().__init__(url, topic, consumer)
        digest = sha256(f"{topic}/users".encode()).digest()
        self._users_class = int.from_bytes(digest[:4], "big", signed=True)

    # A batch is read under its locks, in its transaction.
    _separate_reads = False

    def _lock(self, cursor: Cursor) -> None:
        cursor.execute(_SESSION)

    def _position(self, cursor: Cursor) -> int:
        return self._last_position(cursor)

    def take_turn(self, user_ids: Collection[int], lines: int) -> list[int]:
        """Begin a batch of these users and return the positions of its lines, ascending. `put` ends it.

        Waits for other consumers' batches of the same users. From here on `stored`, `refresh` and
        `past_orders` return what holds at these positions.
        """
        with self._rollback_on_error(), self.connection.cursor() as cursor:
            if user_ids:
                cursor.execute(_LOCK_USERS, (self._users_class, sorted(user_ids)))
            cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", (TURN_LOCK,))
            cursor.execute(_TAKE_POSITIONS, (lines,))
            return [position for (position,) in cursor]

    def put(
        self,
        orders: Sequence[Flagged],
        rejected: Sequence[Rejected],
        message_ids: Mapping[int, str],
        book: RuleBook | None = None,
        counts: Sequence[Count] = (),
    ) -> set[int]:
        """Store what was decided since `take_turn`, and commit.

        `message_ids` maps the position of each rejected line to its message. A message that was rejected
        before and is delivered again is not stored again. Returns the positions of the others. `book` is the
        rule book that decided; the first batch that it decides keeps its text. `counts` are those of its
        rules on probation.

        Raises `PlatformError` if another text with the book's version is kept, and `Collision` if an order
        cannot be stored (take a turn again). Then, as for any error, nothing was stored. Only after a
        `psycopg2.OperationalError` it is unknown; a redelivery finds out.
        """
        try:
            with self._rollback_on_error(), self.connection.cursor() as cursor:
                rows = Rows.of(orders, self.catalogue.lists.version)
                self._insert(cursor, rows)
                new: list[tuple[int]] = []
                if rejected:
                    # Always in the same order: two batches with the same messages must not deadlock.
                    lines = [(*rejected_row(line), message_ids[line.position]) for line in rejected]
                    lines.sort(key=lambda line: line[-1])
                    new = execute_values(cursor, _REJECT, lines, fetch=True)
                self._commit(cursor, rows, book, counts)
                return {position for (position,) in new}
        except (errors.UniqueViolation, errors.ForeignKeyViolation) as error:
            self.catalogue.forget()
            raise Collision(str(error)) from error

    def horizon(self, after: int, patience: float = 1.0) -> int | None:
        """Return a position after `after` up to which no order or rejected line can appear any more.

        Returns None if there is none yet, or if a running batch does not end within `patience` seconds: ask
        again.
        """
        with self._rollback_on_error(), self.connection.cursor() as cursor:
            if self._last_position(cursor) <= after:
                self.connection.rollback()
                return None
            try:
                cursor.execute("SET LOCAL lock_timeout = %s", (round(patience * 1000),))
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", (TURN_LOCK,))
            except errors.LockNotAvailable:
                self.connection.rollback()
                return None
            last = self._last_position(cursor)
            self.connection.commit()
            return last

    def _last_position(self, cursor: Cursor) -> int:
        cursor.execute(_LAST_POSITION)
        [(last,)] = cursor.fetchall()
        return int(last)
