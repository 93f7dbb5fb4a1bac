"""The loop that consumers of every kind of topic share: running, stopping, and waiting out an outage."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime

import psycopg2
from psycopg2 import errors

from streaming.counters import Counters
from streaming.database.store import OrderStore
from streaming.decisions import Candidate, Decision, decide_batch
from streaming.errors import PlatformError, first_line
from streaming.history import History
from streaming.orders import Order
from streaming.rejected import retry_arrived
from streaming.rules import RuleBook, RuleFile
from streaming.rules.in_use import BookInUse
from streaming.topics import Batch, Publisher, Reader
from streaming.watchdog import Watchdog

logger = logging.getLogger(__name__)

STOP_SECONDS = 1.5
"""How long the current batch may take to finish after `stop`."""

COLLISIONS = 5
"""How often a batch is decided again because the database held something that the decision did not know."""

_IDLE_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_BUSY_RETRY_SECONDS = 5.0
# Looking for arrived users and products may take at most this share of the time.
_RETRY_SHARE = 0.05
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0

# A connection error has no code, only the server's message. Waiting does not help with these.
_LASTING = ("authentication failed", "no password supplied", "does not exist", "no pg_hba.conf entry")


def tune_interpreter() -> None:
    """Tune the interpreter for a process that only consumes.

    Together these gave a tenth more orders a second. The commit thread needs the interpreter's lock only
    briefly, and by default waits 5 ms for it each time, while PostgreSQL has nothing to do. Most of what a
    batch allocates lives until the batch is stored, so frequent garbage collections would scan all of it and
    free nothing.
    """
    sys.setswitchinterval(0.0001)
    gc.set_threshold(100_000, 50, 100)


def utc_now() -> datetime:
    """Return the current time; the default clock of consumers."""
    return datetime.now(UTC)


class ConsumerLoop(ABC):
    """A consumer of a topic, apart from what depends on the kind of topic.

    A subclass says how to start on a new connection (`_begin`), what to read (`_follow`, which calls
    `_consume` with a reader), and what to do with a batch (`_process`). One thread may `run` a consumer;
    `stop` may be called from any thread and from a signal handler.
    """

    store: OrderStore
    history: History

    def __init__(
        self, publisher: Publisher, rules: RuleBook | RuleFile, max_lines: int, clock: Callable[[], datetime]
    ) -> None:
        self.book = rules if isinstance(rules, RuleBook) else rules.book
        """The book of the file; read once for each batch, so it may be replaced at any time."""
        self.in_use = BookInUse(self.book)
        self._rule_file = rules if isinstance(rules, RuleFile) else None
        self.counters = Counters()
        self.position = 0
        """The position after the last stored line."""
        self._publisher = publisher
        self._max_lines = max_lines
        self._clock = clock
        self._watchdog = Watchdog()
        self._stopping = False
        self._reader: Reader | None = None
        # How long a topic must be silent to count as drained.
        self._silence = 0.0
        self._next_retry = 0.0
        self._away_since: float | None = None
        self._pause = _FIRST_PAUSE

    # Running and stopping.

    def run(self, once: bool = False, watchdog: Watchdog | None = None) -> None:
        """Consume until `stop`, or with `once` until the topic is drained.

        A `watchdog` ends the whole process if the consumer stands still; it is for a process that only
        consumes.

        Waits while the database is away. Raises `PlatformError` for what waiting does not cure, such as
        another consumer on the topic or a full disk. Nothing is lost then: the next run goes on.
        """
        # Python calls signal handlers in the main thread only, and not while it waits for the database. So
        # the work is done in another thread.
        failure: list[BaseException] = []

        def work() -> None:
            try:
                self._run(once)
            except BaseException as error:
                failure.append(error)

        self._watchdog = watchdog or self._watchdog
        worker = threading.Thread(target=work, name="consumer", daemon=True)
        worker.start()
        try:
            with watchdog.guarding_interpreter() if watchdog else nullcontext() as tick:
                while worker.is_alive() and not self._stopping:
                    worker.join(0.1)
                    if tick is not None:
                        tick()
        finally:
            if worker.is_alive():
                self.stop()
                worker.join(STOP_SECONDS)
        if worker.is_alive():
            raise PlatformError(
                f"PostgreSQL did not finish the current batch within {STOP_SECONDS} s of the request to stop."
                " The batch was abandoned: the next start goes on exactly after the last committed batch."
            )
        if failure:
            raise failure[0]

    def stop(self) -> None:
        """Make `run` finish the current batch and return. May be called before `run`."""
        self._stopping = True
        if (reader := self._reader) is not None:
            reader.wake()

    @property
    def waiting(self) -> bool:
        """Whether the consumer is waiting for a database that is away."""
        return self._away_since is not None

    def summary(self) -> str:
        """Return one line for people: what was done since the consumer was made."""
        return str(self.counters)

    # What depends on the kind of topic.

    @abstractmethod
    def _begin(self) -> None:
        """Open the store and complete what the previous run left unfinished."""

    @abstractmethod
    def _follow(self, once: bool) -> None:
        """Call `_consume` with a reader that starts where the store is."""

    @abstractmethod
    def _process(self, batch: Batch) -> None:
        """Decide about the lines of a batch, store the outcome, and pass it on."""

    @property
    def _pending(self) -> bool:
        """Whether `_process` left a batch unfinished."""
        return False

    def _finish_pending(self) -> bool:
        """Finish the batch that `_process` left unfinished, if any. Returns whether it was decided again."""
        return False

    def _after_read(self) -> None:
        """Do what is due after each read, whether or not it returned lines."""
        return

    # The life of a connection.

    def _run(self, once: bool) -> None:
        try:
            while not self._stopping:
                try:
                    # The database alone says where to resume, so each connection starts from what it holds.
                    self._begin()
                    self._follow(once)
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

    def _wait_out(self, error: psycopg2.Error) -> None:
        """Pause before the next try, longer each time. Raises `PlatformError` if waiting does not help."""
        waits = passes_by_waiting(error) or self.store.lost
        self.store.close()
        if not waits:
            raise PlatformError(
                f"PostgreSQL cannot go on, nothing was stored: {first_line(error)}"
            ) from error
        if self._away_since is None:
            self._away_since = time.monotonic()
            logger.warning("PostgreSQL is away, waiting for it: %s", first_line(error))
        deadline = time.monotonic() + self._pause
        while not self._stopping and time.monotonic() < deadline:
            time.sleep(min(0.05, self._pause))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _note_database_is_back(self) -> None:
        if self._away_since is not None:
            logger.info("PostgreSQL is back after %.1f s", time.monotonic() - self._away_since)
            self._away_since, self._pause = None, _FIRST_PAUSE

    # The loop.

    def _consume(self, reader: Reader, once: bool) -> None:
        while not self._stopping:
            # A pending batch does not wait for the next one to arrive.
            patience = 0.0 if self._pending else self._silence if once else _IDLE_SECONDS
            batch = reader.read(self.in_use.max_lines(self._max_lines), patience)
            if self._rule_file is not None and self._rule_file.refresh():
                self.book = self._rule_file.book
            if batch.lines:
                self._process(batch)
            else:
                self._finish_pending()
            self._after_read()
            drained = once and not batch.lines
            retried = self._retry_arrived(busy=bool(batch.lines), now=drained)
            # Only now: a server may accept connections and still refuse to work.
            self._note_database_is_back()
            if drained and not retried:
                return

    def _decide_batch(
        self, decoded: list[Candidate], stored: Mapping[int, Order], flagged_at: datetime, lines: int
    ) -> Decision:
        """Decide about the orders of a batch of `lines` lines with the book in use (see `decide_batch`)."""
        catalogue = self.store.catalogue
        book = self.in_use.choose(self.book, catalogue.lists.version, catalogue.overrides, lines)
        decision = decide_batch(decoded, stored, catalogue, self.history, book, flagged_at)
        decision.counts = self.in_use.count(decision.orders)
        return decision

    def _record(self, decision: Decision, lines: int, read_at: float) -> None:
        """Count and log a stored batch of `lines` lines that was read at `read_at` (monotonic seconds)."""
        self.counters.record(decision, lines, time.monotonic() - read_at)
        self.in_use.learn(decision.counts, self.store.counted, decision.lists_version)
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
        """Publish lines again whose user or product has arrived, if a look is due. Returns how many."""
        if not now and time.monotonic() < self._next_retry:
            return 0
        self._finish_pending()
        began = time.monotonic()
        count = retry_arrived(self.store.connection, self._publisher)
        ended = time.monotonic()
        pause = _BUSY_RETRY_SECONDS if busy and not count else _RETRY_SECONDS
        self._next_retry = ended + max(pause, (ended - began) / _RETRY_SHARE)
        if count:
            self.counters.retried += count
            logger.info("published %d lines again whose user or product has arrived", count)
        return count


def passes_by_waiting(error: psycopg2.Error) -> bool:
    """Return whether what failed may succeed later, because the server is away, restarting or busy."""
    if isinstance(error, errors.DiskFull):
        return False
    if not isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return False
    return error.pgcode is not None or not any(words in str(error) for words in _LASTING)
