"""The fraud consumer of a topic on disk: reads orders, decides, stores, and writes the flagged stream.

    topic -> decode -> users and products -> features -> rules -> one transaction -> flagged stream

A batch is whatever has arrived: a lone order does not wait for others, and a backlog is read in large
batches. A consumer that was killed goes on exactly after the last committed batch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import pairwise

from streaming.chunks import chunks
from streaming.commit_thread import CommitThread
from streaming.consumer_loop import COLLISIONS, ConsumerLoop, utc_now
from streaming.database.rows import Rows, copy_text
from streaming.database.store import Collision, LastLine, OrderStore
from streaming.decisions import Candidate, Decision, Rejected, candidates
from streaming.errors import PlatformError
from streaming.flagged import FlaggedStream
from streaming.history import MAX_ORDERS, MemoryHistory
from streaming.orders import encode_all_flagged
from streaming.rules import RuleBook, RuleFile
from streaming.topics import DISK_POSITIONS, Batch
from streaming.topics.jsonl import EndMoved, JsonlTopic
from streaming.topics.jsonl_reader import TopicTruncated

logger = logging.getLogger(__name__)

MAX_LINES = 5_000
"""Most lines of a batch. Larger ones are hardly faster and delay their first lines."""

_PIECE = 250


class Consumer(ConsumerLoop):
    """Flags every order of a topic on disk, stores it, and writes it to the flagged stream.

    `topic` and `flagged` are the two streams. `rules` is a book, or a file that is checked between batches: a
    changed one applies from the next batch. `max_orders` bounds the cached history. `clock` gives the time of
    decisions (aware).

    The life of a batch:

    1. `_consume` reads the lines that have arrived, `max_lines` at most, and calls `_process`.
    2. `_process` decodes the lines; `_decide` judges the orders, taking their ids for new, and makes their
       rows and flagged lines.
    3. `_finish_pending` waits for the batch before this one. If that one collided, it was decided again,
       knowing which ids are stored, and so is this one.
    4. `_commit` stores orders, rejected lines and the position in one transaction. The commit thread does it
       for a full batch, while this thread decides about the next; a smaller batch is finished at once.
    5. After the commit, `_pass_on` writes the flagged lines. The next batch is committed after that, so a
       crash leaves at most one batch without its lines. `FlaggedStream.recover` writes them on start.

    If the connection fails, `_abandon` ends the pending batch, and the next connection starts from what the
    database holds.
    """

    def __init__(
        self,
        url: str,
        topic: JsonlTopic,
        flagged: JsonlTopic,
        rules: RuleBook | RuleFile,
        *,
        topic_name: str = "orders",
        consumer: str = "fraud",
        max_lines: int = MAX_LINES,
        max_orders: int = MAX_ORDERS,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(topic, rules, max_lines, clock)
        self.topic = topic
        self.flagged = FlaggedStream(flagged, DISK_POSITIONS)
        self.store = OrderStore(url, topic_name, consumer)
        self.history = MemoryHistory(max_orders)
        self._commit_thread = CommitThread("commit")
        self._pending_batch: _PendingBatch | None = None
        # After a batch with ids that were already stored, the next one is looked up before it is stored.
        self._look_first = False

    def lag(self) -> int:
        """Return how far the stored position is behind the end of the topic, in bytes."""
        return max(0, self.topic.end() - self.position)

    def summary(self) -> str:
        """Return one line for people: what was done since the consumer was made."""
        return f"{self.counters}; {self.lag():,} bytes behind"

    def _begin(self) -> None:
        self.position = self.store.open()
        self._recognise_topic()
        self.flagged.recover(self.store)
        with self.store.past_orders() as past_orders:
            self.history.reset(past_orders)
        logger.info(
            'consuming topic "%s" from position %d',
            self.store.topic,
            self.position,
            extra={"position": self.position, "lag": self.lag(), "rules_version": self.book.version},
        )

    def _recognise_topic(self) -> None:
        """Compare the topic with the last line that was read, and read again what differs.

        After a power failure, a topic may end before what was read, and new lines may have filled the gap.
        """
        last = self.store.last_line()
        if last is None or self._has(last):
            return
        known = self._last_known()
        logger.error(
            'topic "%s" is not what was read up to position %d: it was truncated or replaced. Its lines after'
            " position %d, the last order that the database knows, are read again",
            self.store.topic,
            self.position,
            known,
            extra={"position": self.position, "known": known},
        )
        resume = self.topic.repair(self.position, known)
        self.store.commit(self.position, resume)
        self.position = resume

    def _has(self, last: LastLine) -> bool:
        """Return whether the topic has this line before the position; True if the line was removed by age."""
        if last.line_position < self.topic.start():
            return True
        try:
            with self.topic.reader(last.line_position) as reader:
                batch = reader.read(1, 0)
        except TopicTruncated:
            return False
        return bool(batch.lines) and batch.next_position == self.position and LastLine.of(batch) == last

    def _last_known(self) -> int:
        """Return the position after the topic's last line whose order is stored at that line's position."""
        segments = [segment for segment in self.topic.segments() if segment < self.position]
        for begin, end in reversed(list(pairwise([*segments, self.position]))):
            stored = self.store.ids_by_position(begin, end)
            known = None
            with self.topic.reader(begin) as reader:
                while (batch := reader.read(MAX_LINES, 0)).lines and batch.positions[0] < end:
                    ends = dict(pairwise([*batch.positions, batch.next_position]))
                    for candidate in candidates(batch)[0]:
                        if stored.get(candidate.position) == candidate.order.id:
                            known = ends[candidate.position]
            if known is not None:
                return known
        return self.topic.start()

    def _follow(self, once: bool) -> None:
        repaired_at = None
        while True:
            with self.topic.reader(self.position) as reader:
                self._reader = reader
                try:
                    self._consume(reader, once)
                    self._finish_pending()
                    return
                except TopicTruncated as error:
                    self._finish_pending()
                    if self.position == repaired_at:
                        raise PlatformError(f"the topic could not be repaired: {error}") from error
                    logger.error("%s", error)
                finally:
                    self._reader = None
                    self._abandon()
            repaired_at = self.topic.repair(self.position)
            self.store.commit(self.position, repaired_at)
            self.position = repaired_at

    @property
    def _pending(self) -> bool:
        return self._pending_batch is not None

    def _process(self, batch: Batch) -> None:
        with self._watchdog.working(batch.positions[0], len(batch)):
            pending = _PendingBatch(batch, *candidates(batch), read_at=time.monotonic())
        if self._look_first:
            self._finish_pending()
        self._decide(pending, self._look_first)
        if self._finish_pending():
            self._decide(pending, look=True)
        self._pending_batch = pending
        # While a rule is on probation, the outcome of a batch may change the book of the next one.
        if len(batch) >= self._max_lines and not pending.decision.counts:
            pending.committing = True
            self._commit_thread.submit(partial(self._commit, pending))
        else:
            self._finish_pending()

    def _decide(self, pending: _PendingBatch, look: bool) -> None:
        """Decide about a batch; with `look` knowing which ids are stored, else taking them all for new.

        The clock is read before the catalogue, so what is recorded later counts as unknown
        (`Catalogue.at`).
        """
        pending.decision = Decision()
        if pending.decoded:
            orders = [candidate.order for candidate in pending.decoded]
            flagged_at = self._clock()
            stored = self.store.stored([order.id for order in orders]) if look else {}
            self.store.refresh(orders)
            with self.store.past_orders() as past_orders:
                self.history.load(past_orders, orders)
            with self._watchdog.working(pending.batch.positions[0], len(pending.batch)):
                pending.decision = self._decide_batch(pending.decoded, stored, flagged_at, len(pending.batch))
        pending.decision.rejected.extend(pending.invalid)
        pending.encode()

    def _commit(self, pending: _PendingBatch) -> None:
        """Store a batch. Nothing else may use the store's connection meanwhile."""
        decision = pending.decision
        self.store.commit(
            self.position,
            pending.batch.next_position,
            pending.rows,
            decision.rejected,
            decision.book,
            LastLine.of(pending.batch),
            decision.counts,
        )

    def _finish_pending(self) -> bool:
        """Store the pending batch, if any, and write its flagged lines. Returns whether it was decided again.

        Raises `PlatformError` for a batch that collides again and again.
        """
        pending, self._pending_batch = self._pending_batch, None
        if pending is None:
            return False
        for attempt in range(COLLISIONS):
            try:
                if pending.committing:
                    pending.committing = False
                    self._commit_thread.wait()
                else:
                    self._commit(pending)
            except Collision:
                # Later decisions counted orders that are not stored either.
                self.history.rolled_back()
                self.store.catalogue.forget()
                self._decide(pending, look=True)
            else:
                self._pass_on(pending)
                return attempt > 0
        raise PlatformError(
            f"the batch at position {self.position} collided {COLLISIONS} times with stored orders: another"
            " program writes to the table orders"
        )

    def _pass_on(self, pending: _PendingBatch) -> None:
        """Write the flagged lines of a committed batch."""
        decision = pending.decision
        self.position = pending.batch.next_position
        try:
            self.flagged.append(pending.lines)
        except EndMoved as error:
            logger.error("%s", error)
            self.flagged.recover(self.store)
        self.history.committed(len(decision.orders))
        self._look_first = decision.known_ids > 0
        self._record(decision, len(pending.batch), pending.read_at)

    def _abandon(self) -> None:
        """Wait for a commit that is still running and ignore its outcome, which the database knows."""
        pending, self._pending_batch = self._pending_batch, None
        if pending is not None and pending.committing:
            with suppress(BaseException):
                self._commit_thread.wait()


@dataclass
class _PendingBatch:
    """A batch between reading and its flagged lines. `committing`: the commit thread is storing it."""

    batch: Batch
    decoded: list[Candidate]
    invalid: list[Rejected]
    read_at: float
    """Monotonic seconds."""
    decision: Decision = field(default_factory=Decision)
    rows: Rows = field(default_factory=lambda: Rows.of(()))
    lines: bytes = b""
    """The flagged lines."""
    committing: bool = False

    def encode(self) -> None:
        """Make the rows and the flagged lines of the decision.

        This is done before the batch's turn to be committed: the commit thread would wait for the
        interpreter's lock, and PostgreSQL would wait after each commit. Rows and lines are made of a few
        orders at a time, which a core's cache holds. That takes a third less time.
        """
        orders, lists_version = self.decision.orders, self.decision.lists_version
        text, lines = [], []
        for piece in chunks(orders, _PIECE):
            text.append(copy_text(piece, lists_version))
            lines.append(encode_all_flagged(piece))
        self.rows = Rows(orders[0] if orders else None, b"".join(text))
        self.lines = b"".join(lines)
