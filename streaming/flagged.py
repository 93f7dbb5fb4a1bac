"""The flagged stream: each stored order as one line, exactly once, also through crashes.

A batch is committed first and its lines are written after that, before the next commit. So only lines of the
last committed batch can be missing after a crash, and the database knows which orders they are of and where
they begin. A line is made from the order alone and encodes one way only: made again from the stored row it
is the same, byte for byte, so that even half a line can be completed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol

from streaming.database.store import Emission
from streaming.orders import Flagged, decode_flagged, encode_all_flagged, encode_flagged
from streaming.topics.jsonl import EndMoved, JsonlTopic
from streaming.topics.jsonl_reader import TopicTruncated

logger = logging.getLogger(__name__)

_CHUNK = 5_000
_BEFORE_ALL = -1


class FlaggedOrders(Protocol):
    """What a recovery asks of the order store; each answer is about committed orders only."""

    def emission(self) -> Emission | None: ...

    def flagged(self, ids: Sequence[int]) -> list[Flagged]: ...

    def flagged_after(self, position: int) -> Iterable[Flagged]: ...


class FlaggedStream:
    """Writes flagged orders to a topic that nobody else writes to."""

    def __init__(self, topic: JsonlTopic) -> None:
        self.topic = topic
        self.end = 0
        """Where the next line will begin. Known after `recover`."""

    def emit(self, orders: Sequence[Flagged]) -> None:
        """Write the lines of orders that were committed as beginning at `end`.

        Raises `EndMoved` when the stream does not end there, and `OSError` when it cannot be written. Both
        times `recover` completes it.
        """
        if orders:
            self.end = self.topic.publish_at(self.end, encode_all_flagged(orders))

    def recover(self, orders: FlaggedOrders) -> int:
        """Complete the stream from what the database holds, and return how many lines were missing.

        Raises `OSError` when it cannot be written; the next call then goes on.
        """
        self.end, _ = self.topic.open_end()
        written = 0
        for chunk in _chunks(self._missing(orders), _CHUNK):
            try:
                self.emit(chunk)
            except EndMoved as error:
                # The beginning of a line that nobody was to write. Publishing ends it where it is.
                logger.error("%s; %d bytes of it are left as a line of their own", error, len(error.partial))
                self.end = self.topic.publish(encode_flagged(order) for order in chunk)
            written += len(chunk)
        if written:
            message = "completed the flagged stream with %d missing lines"
            logger.warning(message, written, extra={"flagged_lines": written})
        return written

    def _missing(self, orders: FlaggedOrders) -> Iterable[Flagged]:
        emission = orders.emission()
        if emission is None:
            return ()
        try:
            there = {flagged.id for flagged in self._read(emission.start_position)}
        except TopicTruncated as error:
            last = self._last()
            logger.error(
                "lines of the flagged stream were lost, by a power failure or because someone removed them"
                " (%s); writing every stored order after position %d of the orders topic again",
                error,
                last,
                extra={"flagged_end": self.end, "flagged_expected": emission.start_position},
            )
            return orders.flagged_after(last)
        return [order for order in orders.flagged(emission.order_ids) if order.id not in there]

    def _last(self) -> int:
        """The place in the orders topic of the last order in the stream. Lines are in that order."""
        for segment in reversed(self.topic.segments()):
            positions = [flagged.position for flagged in self._read(segment)]
            if positions:
                return positions[-1]
        return _BEFORE_ALL

    def _read(self, position: int) -> Iterator[Flagged]:
        """The flagged orders from a position on. Raises `TopicTruncated` when the stream ends before it."""
        with self.topic.reader(position) as reader:
            while batch := reader.read(_CHUNK, timeout=0):
                for at, line in zip(batch.positions, batch.lines, strict=True):
                    try:
                        yield decode_flagged(line)
                    except ValueError as error:
                        logger.error("the flagged stream at position %d: %s", at, error)


def _chunks(orders: Iterable[Flagged], size: int) -> Iterator[list[Flagged]]:
    iterator = iter(orders)
    while chunk := list(islice(iterator, size)):
        yield chunk
