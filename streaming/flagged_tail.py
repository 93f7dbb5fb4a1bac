"""The flagged stream of orders that several consumers decide about: a copy of the database, in its order.

With one consumer, who decides also writes (`streaming.flagged`). With several, on several machines perhaps,
nobody's own orders are the whole stream. So whoever keeps a stream follows the database: it writes every
stored order after the last line that is there, by position, up to a horizon below which nothing can appear
any more (`SharedOrderStore.horizon`). Lines and their order follow from the rows alone. So each order is in
the stream once, whatever crashes and whoever goes on; half a line is completed by the same bytes; and two
machines that each keep a stream keep the same one.

One process at a time writes to a directory: it holds a file lock there, which is free again when it ends,
however it ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

from streaming.orders import Flagged, decode_flagged, encode_flagged
from streaming.topics.jsonl import EndMoved, JsonlTopic

logger = logging.getLogger(__name__)

_CHUNK = 5_000
_BEFORE_ALL = -1
_ELECTION_SECONDS = 1.0
_LOCK = ".tail"


class StoredOrders(Protocol):
    """What the stream is written from."""

    def horizon(self, after: int) -> int | None:
        """A position up to which nothing can appear any more; None where nothing is new after `after`."""
        ...

    def flagged_after(self, position: int, last: int) -> Iterable[Flagged]:
        """The stored orders in (`position`, `last`], in that order."""
        ...


class FlaggedTail:
    """Writes stored orders to the flagged stream in a directory, if nobody else does."""

    def __init__(self, topic: JsonlTopic) -> None:
        self.topic = topic
        self._lock: int | None = None
        self._next_election = 0.0
        self._after: int | None = None
        self._end = 0

    @property
    def writing(self) -> bool:
        """Whether it is this one that writes."""
        return self._lock is not None

    def advance(self, orders: StoredOrders) -> int:
        """Write what is new, if it is up to this one, and return how many lines.

        Raises `OSError` when the stream cannot be written; the next call goes on where it ends.
        """
        if not self._elected():
            return 0
        if self._after is None:
            self._end, _ = self.topic.open_end()
            self._after = last_position(self.topic)
        horizon = orders.horizon(self._after)
        if horizon is None:
            return 0
        written = 0
        try:
            for chunk in _chunks(orders.flagged_after(self._after, horizon), _CHUNK):
                self._emit(chunk)
                written += len(chunk)
        except BaseException:
            self._after = None  # the stream itself tells how far it came
            raise
        self._after = horizon
        return written

    def release(self) -> None:
        """Let somebody else write. Safe to repeat."""
        lock, self._lock, self._after = self._lock, None, None
        if lock is not None:
            os.close(lock)

    def _elected(self) -> bool:
        now = time.monotonic()
        if self._lock is None and now >= self._next_election:
            self._next_election = now + _ELECTION_SECONDS
            lock = os.open(self.topic.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            except BaseException:
                os.close(lock)
                raise
            else:
                self._lock = lock
                logger.info("writing the flagged stream in %s", self.topic.directory)
        return self._lock is not None

    def _emit(self, orders: list[Flagged]) -> None:
        lines = [encode_flagged(order) for order in orders]
        try:
            self._end = self.topic.publish_at(self._end, b"".join([line + b"\n" for line in lines]))
        except EndMoved as error:
            # The beginning of a line, or whole ones, that nobody was to write. Publishing leaves them there.
            logger.error("%s", error)
            self._end = self.topic.publish(lines)


def last_position(topic: JsonlTopic) -> int:
    """The last position in a flagged stream, which is in the order of positions; -1: it has no order."""
    for segment in reversed(topic.segments()):
        last = _BEFORE_ALL
        with topic.reader(segment) as reader:
            while batch := reader.read(_CHUNK, timeout=0):
                for at, line in zip(batch.positions, batch.lines, strict=True):
                    try:
                        last = max(last, decode_flagged(line).position)
                    except ValueError as error:
                        logger.error("the flagged stream at position %d: %s", at, error)
        if last != _BEFORE_ALL:
            return last
    return _BEFORE_ALL


def _chunks(orders: Iterable[Flagged], size: int) -> Iterator[list[Flagged]]:
    iterator = iter(orders)
    while chunk := list(islice(iterator, size)):
        yield chunk
