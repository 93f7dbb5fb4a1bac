"""The fraud consumer: reads orders, decides, stores, and writes the flagged stream.

    topic -> decode -> users and products -> features -> rules -> one transaction -> flagged stream

A batch is whatever has arrived, so a lone order does not wait for others and a backlog goes in big steps.
Killed anywhere, it goes on exactly after the last committed batch.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import psycopg2
from psycopg2 import errors

from streaming.commit_thread import Aside
from streaming.counters import Distribution
from streaming.database.store import Collision, OrderStore, Rejected, Rows
from streaming.decisions import Candidate, Decision, candidates, decide
from streaming.errors import PlatformError
from streaming.flagged import FlaggedStream
from streaming.history import History, MemoryHistory
from streaming.rejected import retry_arrived
from streaming.rules import RuleBook, RuleFile
from streaming.topics import Batch, Publisher, Reader
from streaming.topics.jsonl import EndMoved, JsonlTopic, TopicTruncated

logger = logging.getLogger(__name__)

MAX_LINES = 5_000
"""Most lines of a batch. More are hardly faster, and delay the first of them."""

STOP_SECONDS = 1.5
"""How long a batch in work may take to finish after a stop was asked for."""

COLLISIONS = 5
"""How often a batch is decided anew because the database knew better."""

_IDLE_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_BUSY_RETRY_SECONDS = 5.0
# A look for arrivals may cost this share of the time at most, however many lines wait.
_RETRY_SHARE = 0.05
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0

# A connection error has no code, only the server's words. These do not pass by waiting.
_LASTING = ("authentication failed", "no password supplied", "does not exist", "no pg_hba.conf entry")


def prepare_process() -> None:
    """Set the interpreter up for a process that does nothing but consume.

    Measured together: a tenth more orders a second. The thread that commits wants the interpreter's lock for
    moments only, and by default waits 5 ms for it each time. What a batch allocates lives until it is stored:
    the garbage collector would look at all of it again and again, and find nothing.
    """
    sys.setswitchinterval(0.001)
    gc.set_threshold(100_000, 50, 100)


def utc_now() -> datetime:
    """The time of decisions."""
    return datetime.now(UTC)


@dataclass
class Counters:
    """What this consumer has done since it was made."""

    orders: int = 0
    fraud: int = 0
    fraud_by_rule: Counter[str] = field(default_factory=Counter)
    shadow_by_rule: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    """By reason."""
    duplicates: int = 0
    retried: int = 0
    """Lines published again because their user or product had arrived."""
    batches: int = 0
    sizes: Distribution = field(
        default_factory=lambda: Distribution([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000])
    )
    """Lines of each batch, valid or not."""
    latency: Distribution = field(
        default_factory=lambda: Distribution(
            [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60]
        )
    )
    """Of each line: seconds from when it was read to when its order was committed and its flagged line
    written."""

    def took(self, lines: int, seconds: float) -> None:
        """A batch of so many lines is dealt with for good, so long after it was read."""
        self.sizes.add(lines)
        self.latency.add(seconds, lines)

    def count(self, decision: Decision) -> None:
        self.batches += 1
        self.orders += len(decision.orders)
        self.duplicates += decision.duplicates
        for order in decision.orders:
            if order.fraud_reasons:
                self.fraud += 1
                self.fraud_by_rule.update(order.fraud_reasons)
            if order.shadow_reasons:
                self.shadow_by_rule.update(order.shadow_reasons)
        self.rejected.update(line.reason for line in decision.rejected)

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(self.rejected.items()))
        return (
            f"{self.orders:,} orders, {self.fraud:,} of them fraud; {self.rejected.total():,} lines rejected"
            f"{f' ({reasons})' if reasons else ''}; {self.duplicates:,} duplicates; {self.batches:,} batches"
        )


class ConsumerLoop(ABC):
    """What consumers of any kind of topic have in common: running, stopping, outages, the loop over batches.

    A kind says how it begins on a new connection (`_begin`), what it reads (`_follow`, which calls `_consume`
    with a reader), and how a batch is dealt with for good (`_process`). One thread may `run` a consumer;
    `stop` may be called from any thread and from a signal handler.
    """

    store: OrderStore

    def __init__(
        self, publisher: Publisher, rules: RuleBook | RuleFile, max_lines: int, clock: Callable[[], datetime]
    ) -> None:
        self.book = rules if isinstance(rules, RuleBook) else rules.book
        """Looked at once for each batch, so it may be replaced at any time."""
        self._rule_file = rules if isinstance(rules, RuleFile) else None
        self.counters = Counters()
        self.position = 0
        """After the last line that is stored."""
        self._publisher = publisher
        self._max_lines = max_lines
        self._clock = clock
        self._stopping = False
        self._reader: Reader | None = None
        # What `_process` left in work, for `_settle` to finish.
        self._in_work: _Work | None = None
        # How long a topic must have been silent to be taken for drained.
        self._silence = 0.0
        self._next_retry = 0.0
        self._away_since: float | None = None
        self._pause = _FIRST_PAUSE

    # Running and stopping.

    def run(self, once: bool = False) -> None:
        """Consume until `stop`, or with `once` until the topic is drained.

        Waits for a database that is away. Raises `PlatformError` for what does not pass by waiting, such as
        another consumer on the topic or a full disk; nothing is lost then, and the next run goes on.
        """
        # In a thread of its own, because Python calls signal handlers in the main thread only, and not while
        # that one waits for the database.
        failure: list[BaseException] = []

        def work() -> None:
            try:
                self._run(once)
            except BaseException as error:
                failure.append(error)

        worker = threading.Thread(target=work, name="consumer", daemon=True)
        worker.start()
        try:
            while worker.is_alive() and not self._stopping:
                worker.join(0.1)
        finally:
            if worker.is_alive():
                self.stop()
                worker.join(STOP_SECONDS)
        if worker.is_alive():
            raise PlatformError(
                f"PostgreSQL did not finish the batch in work within {STOP_SECONDS} s of the request to stop."
                " It was left: the next start goes on exactly after the last committed batch."
            )
        if failure:
            raise failure[0]

    def stop(self) -> None:
        """Finish the batch in work and return from `run`. Also before it has begun."""
        self._stopping = True
        if (reader := self._reader) is not None:
            reader.wake()

    @property
    def waiting(self) -> bool:
        """Whether the consumer waits for a database that is away."""
        return self._away_since is not None

    def summary(self) -> str:
        """One line for people: what was done since the consumer was made."""
        return str(self.counters)

    # What the kinds of topic differ in.

    @abstractmethod
    def _begin(self) -> None:
        """Open the store and complete what a predecessor left unfinished."""

    @abstractmethod
    def _follow(self, once: bool) -> None:
        """Call `_consume` with a reader that goes on where the store is."""

    @abstractmethod
    def _process(self, batch: Batch) -> None:
        """Decide about the lines of a batch, store the outcome, and pass it on."""

    def _settle(self) -> bool:
        """Finish what `_process` left in work. Whether it went as it had been decided."""
        return True

    def _pass_on(self) -> None:
        """What is due after each look at the topic, whether it gave lines or none."""
        return

    # The life of a connection.

    def _run(self, once: bool) -> None:
        try:
            while not self._stopping:
                try:
                    self._connected(once)
                    return
                except psycopg2.Error as error:
                    self._wait_out(error)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise PlatformError(
                f"a topic cannot be read or written: {error.strerror or error}{where}. The consumer stopped"
                f" after position {self.position}; nothing is lost, and the next start goes on from there."
            ) from error
        finally:
            self.store.close()
            logger.info("consumer stopped: %s", self.counters, extra={"position": self.position})

    def _connected(self, once: bool) -> None:
        """Consume on a new connection, from what the database says was done: all that there is to resume."""
        self._begin()
        self._follow(once)

    def _wait_out(self, error: psycopg2.Error) -> None:
        """Pause before the next try, longer each time. Raises `PlatformError` when waiting will not help."""
        waits = passes_by_waiting(error) or self.store.lost
        self.store.close()
        if not waits:
            raise PlatformError(
                f"PostgreSQL cannot go on, nothing was stored: {_first_line(error)}"
            ) from error
        if self._away_since is None:
            self._away_since = time.monotonic()
            logger.warning("PostgreSQL is away, waiting for it: %s", _first_line(error))
        deadline = time.monotonic() + self._pause
        while not self._stopping and time.monotonic() < deadline:
            time.sleep(min(0.05, self._pause))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _is_back(self) -> None:
        if self._away_since is not None:
            logger.info("PostgreSQL is back after %.1f s", time.monotonic() - self._away_since)
            self._away_since, self._pause = None, _FIRST_PAUSE

    # The loop.

    def _consume(self, reader: Reader, once: bool) -> None:
        while not self._stopping:
            # A batch in work is not left waiting for the next one.
            patience = 0.0 if self._in_work else self._silence if once else _IDLE_SECONDS
            batch = reader.read(self._max_lines, patience)
            if self._rule_file is not None and self._rule_file.refresh():
                self.book = self._rule_file.book
            if batch.lines:
                self._process(batch)
            else:
                self._settle()
            self._pass_on()
            drained = once and not batch.lines
            retried = self._retry_arrived(busy=bool(batch.lines), now=drained)
            # Only now: a server may take connections and still refuse what is done with them.
            self._is_back()
            if drained and not retried:
                return

    def _count(self, decision: Decision, lines: int, read_at: float) -> None:
        """Note a stored batch of `lines` lines that was read at `read_at` (monotonic seconds)."""
        self.counters.count(decision)
        self.counters.took(lines, time.monotonic() - read_at)
        logger.debug(
            "batch stored",
            extra={
                "position": self.position,
                "orders": len(decision.orders),
                "rejected": len(decision.rejected),
                "duplicates": decision.duplicates,
            },
        )

    def _retry_arrived(self, busy: bool, now: bool) -> int:
        """Publish lines again whose user or product has arrived, if it is time to look. Returns how many."""
        if not now and time.monotonic() < self._next_retry:
            return 0
        self._settle()
        began = time.monotonic()
        count = retry_arrived(self.store.connection, self._publisher)
        ended = time.monotonic()
        pause = _BUSY_RETRY_SECONDS if busy and not count else _RETRY_SECONDS
        self._next_retry = ended + max(pause, (ended - began) / _RETRY_SHARE)
        if count:
            self.counters.retried += count
            logger.info("published %d lines again whose user or product has arrived", count)
        return count


class Consumer(ConsumerLoop):
    """Flags every order of a topic on disk, stores it, and writes it to the flagged stream.

    `topic` and `flagged` are the two streams. `rules` is a book, or a file that is looked at between batches:
    a changed one is taken up with the next batch. `clock` tells the time of decisions (aware).
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
        stream: str = "flagged_orders",
        max_lines: int = MAX_LINES,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(topic, rules, max_lines, clock)
        self.topic = topic
        self.flagged = FlaggedStream(flagged)
        self.store = OrderStore(url, topic_name, consumer, stream)
        self.history: History = MemoryHistory()
        self._aside = Aside("commit")
        # After a batch with ids that were stored already, the next one is looked up before it is stored.
        self._look_first = False

    def lag(self) -> int:
        """How far the stored position is behind the end of the topic, in the topic's measure (bytes)."""
        return max(0, self.topic.end() - self.position)

    def summary(self) -> str:
        """One line for people: what was done since the consumer was made."""
        return f"{self.counters}; {self.lag():,} bytes behind"

    def _begin(self) -> None:
        self.position = self.store.open()
        self.flagged.recover(self.store)
        with self.store.past_orders() as past:
            self.history.reset(past)
        logger.info(
            'consuming topic "%s" from position %d',
            self.store.topic,
            self.position,
            extra={"position": self.position, "lag": self.lag(), "rules_version": self.book.version},
        )

    def _follow(self, once: bool) -> None:
        repaired_at = None
        while True:
            with self.topic.reader(self.position) as reader:
                self._reader = reader
                try:
                    self._consume(reader, once)
                    self._settle()
                    return
                except TopicTruncated as error:
                    self._settle()
                    if self.position == repaired_at:
                        raise PlatformError(f"the topic could not be repaired: {error}") from error
                    logger.error("%s", error)
                finally:
                    self._reader = None
                    self._abandon()
            repaired_at = self.topic.repair(self.position)
            self.store.commit(self.position, repaired_at)
            self.position = repaired_at

    def _process(self, batch: Batch) -> None:
        """Decide about a batch while the one before it is stored; a full one, with more to come, likewise.

        Only if that one collides was the decision made without knowing all, and is made again.
        """
        work = _Work(batch, *candidates(batch), read_at=time.monotonic())
        if self._look_first:
            self._settle()
        self._decide(work, self._look_first)
        if not self._settle():
            self._decide(work, look=True)
        self._in_work = work
        if len(batch) >= self._max_lines:
            work.aside = True
            self._aside.begin(partial(self._store, work, self.flagged.end))
        else:
            self._settle()

    def _decide(self, work: _Work, look: bool) -> None:
        """Decide about a batch; with `look` knowing which of its ids are stored, else taking them for new."""
        work.decision = Decision()
        if work.decoded:
            orders = [candidate.order for candidate in work.decoded]
            stored = self.store.stored([order.id for order in orders]) if look else {}
            catalogue = self.store.refresh(orders)
            with self.store.past_orders() as past:
                self.history.prepare(past, orders)
            work.decision = decide(work.decoded, stored, catalogue, self.history, self.book, self._clock())
        work.decision.rejected.extend(work.invalid)
        # Here, not where they are stored: that thread would wait for the interpreter's lock.
        work.rows = Rows.of(work.decision.orders)

    def _store(self, work: _Work, emission_start: int) -> None:
        """Commit a batch. Nothing else may use the store's connection meanwhile."""
        decision = work.decision
        self.store.commit(
            self.position,
            work.batch.next_position,
            work.rows,
            decision.rejected,
            emission_start,
            decision.lists_version,
        )

    def _settle(self) -> bool:
        """See to it that the batch in work is stored. False when it collided and was decided anew."""
        work, self._in_work = self._in_work, None
        if work is None:
            return True
        for attempt in range(COLLISIONS):
            try:
                if work.aside:
                    work.aside = False
                    if (error := self._aside.failure()) is not None:
                        raise error
                else:
                    self._store(work, self.flagged.end)
            except Collision:
                # What was decided since, too, counted orders that are not stored.
                self.history.rolled_back()
                self.store.catalogue.forget()
                self._decide(work, look=True)
            else:
                self._settled(work)
                return attempt == 0
        raise PlatformError(
            f"the batch at position {self.position} collided {COLLISIONS} times with what is stored: another"
            " program writes to the table orders"
        )

    def _settled(self, work: _Work) -> None:
        """Write the flagged lines of a batch that is committed. The next one is committed after that, so only
        lines of one batch can be missing."""
        decision = work.decision
        self.position = work.batch.next_position
        try:
            self.flagged.emit(decision.orders)
        except EndMoved as error:
            logger.error("%s", error)
            self.flagged.recover(self.store)
        self.history.committed(len(decision.orders))
        self._look_first = decision.known_ids > 0
        self._count(decision, len(work.batch), work.read_at)

    def _abandon(self) -> None:
        """After a failure: let the batch in work end, however it does. What it did, the database knows."""
        work, self._in_work = self._in_work, None
        if work is not None and work.aside:
            self._aside.failure()


@dataclass
class _Work:
    """A batch on its way. `aside`: it is being stored by the other thread."""

    batch: Batch
    decoded: list[Candidate]
    invalid: list[Rejected]
    read_at: float
    decision: Decision = field(default_factory=Decision)
    rows: Rows = field(default_factory=lambda: Rows.of(()))
    aside: bool = False


def passes_by_waiting(error: psycopg2.Error) -> bool:
    """Whether a failed connection or statement may do better later: the server is away, restarts, is busy."""
    if isinstance(error, errors.DiskFull):
        return False
    if not isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return False
    return error.pgcode is not None or not any(words in str(error) for words in _LASTING)


def _first_line(error: BaseException) -> str:
    """What happened, without the rows and statements that PostgreSQL's errors quote further down."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
