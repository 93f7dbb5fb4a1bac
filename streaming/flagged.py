"""The flagged stream: the stored orders of a database as lines, each once, by position.

A row makes the same bytes whenever it is written, so the stream follows the database: whoever keeps it writes
every stored order after the last line that is there. That completes what a crash left, even half a line, and
what a power failure took. Two machines that each keep a stream keep the same one.

The only consumer of a topic on disk writes each batch from memory right after its commit
(`FlaggedStream.append`); it reads the database only on start and after a failure (`recover`). Consumers that
share a topic have no such order among them: one process at a time follows the database (`FlaggedFollower`).

A database may have had both kinds of topic, whose positions are in different ranges. A consumer that starts
completes the lines of the other kind first, so only the newest line of each kind matters.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterable, Iterator
from mmap import ACCESS_READ, mmap
from typing import Protocol

from streaming.chunks import chunks
from streaming.orders import Flagged, decode_flagged, encode_all_flagged, encode_flagged
from streaming.topics import DISK_POSITIONS, SHARED_POSITIONS
from streaming.topics.jsonl import EndMoved, JsonlTopic

logger = logging.getLogger(__name__)

_CHUNK = 5_000
_ELECTION_SECONDS = 1.0
_LOCK = ".tail"


class FlaggedOrders(Protocol):
    """What a stream is completed from: the committed orders."""

    def flagged_after(self, position: int, last: int) -> Iterable[Flagged]:
        """Return the stored orders with positions in (`position`, `last`], in that order."""
        ...


class GrowingOrders(FlaggedOrders, Protocol):
    """The committed orders, to which other consumers add, not always in the order of positions."""

    def horizon(self, after: int) -> int | None:
        """Return a position up to which no order can appear any more; None if that is not beyond `after`."""
        ...


class FlaggedStream:
    """Writes the orders of one kind of topic, whose positions are in `positions`, to a stream of its own."""

    def __init__(self, topic: JsonlTopic, positions: range) -> None:
        self.topic = topic
        self.position: int | None = None
        """The stream is complete up to this position; None before `resume` and after a failure."""
        self._positions = positions
        self._end = 0

    def append(self, lines: bytes) -> None:
        """Write the lines of orders that were just committed and follow those in the stream.

        Raises `EndMoved` if somebody else wrote to the stream, and `OSError` if it cannot be written. In both
        cases `recover` completes it.
        """
        if lines:
            self._end = self.topic.publish_at(self._end, lines)

    def recover(self, stored: FlaggedOrders) -> int:
        """Complete the stream from what is stored, and return how many lines were missing.

        Raises `OSError` if the stream cannot be written; the next call goes on where it ends.
        """
        written = self.resume(stored) + self.follow(stored, self._positions[-1])
        if written:
            message = "completed the flagged stream with %d missing lines"
            logger.warning(message, written, extra={"flagged_lines": written})
        return written

    def resume(self, stored: FlaggedOrders) -> int:
        """Find where the stream ends, and complete the lines of the other kind of topic.

        Returns how many of these were missing. Raises `OSError`.
        """
        self.position = None
        self._end, _ = self.topic.open_end()
        own, written = self._positions, 0
        # A shared topic mostly follows one on disk, whose lines were completed before the first shared one
        # and may be far back by now.
        if own is DISK_POSITIONS or _newest(self.topic) not in own:
            other = SHARED_POSITIONS if own is DISK_POSITIONS else DISK_POSITIONS
            if _any_stored(stored, other):
                written = self._write(stored, last_position(self.topic, other), other[-1])
        self.position = last_position(self.topic, own)
        return written

    def follow(self, stored: FlaggedOrders, last: int) -> int:
        """Write the stored orders after `position` up to `last`, and return how many. Needs `resume` first.

        Raises `OSError` if the stream cannot be written; `resume` then finds how far it came.
        """
        assert self.position is not None
        after, self.position = self.position, None
        written = self._write(stored, after, last)
        self.position = last
        return written

    def _write(self, stored: FlaggedOrders, after: int, last: int) -> int:
        written = 0
        for chunk in chunks(stored.flagged_after(after, last), _CHUNK):
            try:
                self.append(encode_all_flagged(chunk))
            except EndMoved as error:
                # Somebody else's bytes, such as the beginning of a line.
                logger.error("%s; %d bytes of it are left as a line of their own", error, len(error.partial))
                self._end = self.topic.publish(encode_flagged(order) for order in chunk)
            written += len(chunk)
        return written


class FlaggedFollower:
    """Keeps the flagged stream of a shared topic in a directory, unless another process does.

    The process that keeps it holds a file lock, which is released when the process ends, however it ends.
    """

    def __init__(self, topic: JsonlTopic) -> None:
        self.stream = FlaggedStream(topic, SHARED_POSITIONS)
        self._lock: int | None = None
        self._next_election = 0.0

    @property
    def writing(self) -> bool:
        """Whether this follower is the one that writes."""
        return self._lock is not None

    def advance(self, orders: GrowingOrders) -> int:
        """Write the new orders, if it is this follower that writes, and return how many.

        Raises `OSError` if the stream cannot be written; the next call goes on where it ends.
        """
        if not self._elected():
            return 0
        written = self.stream.resume(orders) if self.stream.position is None else 0
        assert self.stream.position is not None
        horizon = orders.horizon(self.stream.position)
        return written if horizon is None else written + self.stream.follow(orders, horizon)

    def release(self) -> None:
        """Let another process write. Safe to repeat."""
        lock, self._lock, self.stream.position = self._lock, None, None
        if lock is not None:
            os.close(lock)

    def _elected(self) -> bool:
        now = time.monotonic()
        if self._lock is None and now >= self._next_election:
            self._next_election = now + _ELECTION_SECONDS
            directory = self.stream.topic.directory
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            except BaseException:
                os.close(lock)
                raise
            else:
                self._lock = lock
                logger.info("writing the flagged stream in %s", directory)
        return self._lock is not None


def last_position(topic: JsonlTopic, positions: range) -> int:
    """Return the last of these positions that a flagged stream holds, or the one before them all.

    Reads back from the end of the stream. Of the lines it reads together the greatest position counts, which
    is not the last one if somebody moved the consumer's position back by hand.
    """
    for chunk in chunks(_lines_from_end(topic), _CHUNK):
        found = [p for at, line in chunk if (p := _position(at, line)) in positions]
        if found:
            return max(found)
    return positions.start - 1


def _newest(topic: JsonlTopic) -> int:
    """Return the position of the order in the last line of a flagged stream; -1 without lines."""
    positions = (_position(at, line) for at, line in _lines_from_end(topic))
    return next((position for position in positions if position >= 0), -1)


def _any_stored(stored: FlaggedOrders, positions: range) -> bool:
    return any(True for _ in stored.flagged_after(positions.start - 1, positions[-1]))


def _lines_from_end(topic: JsonlTopic) -> Iterator[tuple[int, bytes]]:
    """Yield the topic's whole lines with the positions where they begin, the last one first."""
    for segment in reversed(topic.segments()):
        path = topic.path(segment)
        if path.stat().st_size == 0:
            continue
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            end = data.rfind(b"\n")
            while end >= 0:
                begin = data.rfind(b"\n", 0, end) + 1
                yield segment + begin, data[begin:end]
                end = begin - 1


def _position(at: int, line: bytes) -> int:
    """Return the position of the order in a line; -1 for a line that somebody else wrote."""
    try:
        return decode_flagged(line).position
    except ValueError as error:
        logger.error("the flagged stream at position %d: %s", at, error)
        return -1
