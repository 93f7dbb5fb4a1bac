"""The fraud consumer of a topic that it shares with others (Pub/Sub): any number of them, anywhere.

    messages -> decode -> turn -> users and products, history -> rules -> one transaction -> acknowledge

A message is acknowledged only after its order is committed. If a consumer fails, its messages are delivered
again, to any consumer: one that was committed counts as a duplicate, any other is decided then.
`streaming.database.shared` says how several consumers reach the same verdicts as one.

Each batch reads its users' history from the database, because other consumers' orders count too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime

from streaming.consumer_loop import COLLISIONS, ConsumerLoop, utc_now
from streaming.database.shared import SharedOrderStore
from streaming.database.store import Collision
from streaming.decisions import Candidate, Decision, candidates
from streaming.errors import PlatformError
from streaming.flagged import FlaggedFollower
from streaming.history import FreshHistory
from streaming.rules import RuleBook, RuleFile
from streaming.topics import Batch, Delivery, Queue, QueueReader
from streaming.topics.jsonl import JsonlTopic

logger = logging.getLogger(__name__)

MAX_LINES = 500
"""Most lines of a batch. A batch locks each of its users, and all connections together can hold 6,400 locks
with PostgreSQL's default settings."""

SILENCE_SECONDS = 5.0
"""Without deliveries for so long, a topic counts as drained: a queue does not say that it is empty."""


class SharedConsumer(ConsumerLoop):
    """Flags orders of a topic that other consumers read too, and stores them.

    It also keeps the flagged stream in the directory of `flagged`, unless another process does; with None it
    never does. `rules` is a book, or a file that is checked between batches. `clock` gives the time of
    decisions (aware).
    """

    store: SharedOrderStore

    def __init__(
        self,
        url: str,
        topic: Queue,
        flagged: JsonlTopic | None,
        rules: RuleBook | RuleFile,
        *,
        topic_name: str = "orders",
        consumer: str = "fraud",
        max_lines: int = MAX_LINES,
        silence: float = SILENCE_SECONDS,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(topic, rules, max_lines, clock)
        self.topic = topic
        self.flagged = FlaggedFollower(flagged) if flagged is not None else None
        self.store = SharedOrderStore(url, topic_name, consumer)
        self.history = FreshHistory()
        self._silence = silence
        self._pulled: QueueReader | None = None

    def _begin(self) -> None:
        self.position = self.store.open()
        logger.info(
            'consuming topic "%s" through %s',
            self.store.topic,
            self.topic.name,
            extra={"position": self.position, "rules_version": self.book.version},
        )

    def _follow(self, once: bool) -> None:
        try:
            with self.topic.reader(self._max_lines) as reader:
                self._reader = self._pulled = reader
                if self._stopping:  # `stop` was called while there was no reader to wake
                    return
                self._consume(reader, once)
        finally:
            self._reader = self._pulled = None
            if self.flagged is not None:
                self.flagged.release()

    def _process(self, batch: Batch) -> None:
        assert self._pulled is not None
        assert isinstance(batch, Delivery)
        began = time.monotonic()
        decision, self.position = self._store(batch)
        self._pulled.acknowledge(batch)
        self._record(decision, len(batch), began)

    def _after_read(self) -> None:
        if self.flagged is not None:
            self.flagged.advance(self.store)

    def _store(self, batch: Delivery) -> tuple[Decision, int]:
        """Decide about a batch and commit it. Returns the decision and the last position that it took."""
        with self._watchdog.working(self.position, len(batch)):
            decoded, invalid = candidates(batch)
        orders = [candidate.order for candidate in decoded]
        users = {order.user_id for order in orders}
        for _ in range(COLLISIONS):
            positions = self.store.take_turn(users, len(batch))
            decision, flagged_at = Decision(), self._clock()
            if decoded:
                stored = self.store.stored([order.id for order in orders])
                self.store.refresh(orders)
                with self.store.past_orders() as past_orders:
                    self.history.load(past_orders, orders)
                placed = [Candidate(positions[c.position], c.line, c.order) for c in decoded]
                with self._watchdog.working(positions[0], len(batch)):
                    decision = self._decide_batch(placed, stored, flagged_at, len(batch))
            decision.rejected.extend(line.at(positions[line.position]) for line in invalid)
            ids = dict(zip(positions, batch.message_ids, strict=True))
            try:
                new = self.store.put(decision.orders, decision.rejected, ids, decision.book, decision.counts)
            except Collision:
                self.history.rolled_back()
            else:
                self.history.committed(len(decision.orders))
                decision.duplicates += len(decision.rejected) - len(new)
                decision.rejected = [line for line in decision.rejected if line.position in new]
                return decision, positions[-1]
        raise PlatformError(
            f"a batch of {len(batch)} messages collided {COLLISIONS} times with stored orders: another"
            " program writes to the table orders"
        )
