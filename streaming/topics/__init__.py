"""Topics and queues: where lines are published, and how a consumer reads them.

A topic has positions: a reader that keeps the position after its last line resumes exactly there, in any
process and at any time. A queue has none: it delivers each line to one of its consumers, repeatedly, until
one acknowledges it. A position is one integer that only grows; what it counts is up to the topic.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol, Self, runtime_checkable


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines read together, without their line ends. `lines[i]` begins at `positions[i]`.

    `next_position` is where to resume once the whole batch is processed. An empty batch has it too: a read
    returns one when it times out or is woken.
    """

    positions: list[int] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    next_position: int = 0

    def __len__(self) -> int:
        return len(self.lines)


@dataclass(frozen=True, slots=True)
class Delivery(Batch):
    """Lines that a queue delivered to this consumer. `positions` only number them: 0, 1, 2...

    `message_ids[i]` is the queue's own id of `lines[i]`, the same each time the queue delivers that message.
    """

    message_ids: list[str] = field(default_factory=list)


DISK_POSITIONS: Final = range(10**15)
"""The positions of a topic on disk, in bytes."""

SHARED_POSITIONS: Final = range(DISK_POSITIONS.stop, 2**63)
"""The positions that the database gives to orders of a queue: beyond any of a topic on disk."""


class Reader(Protocol):
    """Reads batches of lines, in one thread. Only `wake` may be called from another."""

    def read(self, max_lines: int, timeout: float) -> Batch:
        """Return up to `max_lines` lines as soon as there are any, or none after `timeout` seconds."""
        ...

    def wake(self) -> None:
        """End a waiting read at once, or the next one that would wait. Safe in signal handlers."""
        ...

    def close(self) -> None:
        """Release what the reader holds. Closing twice is harmless."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Publisher(Protocol):
    """Anything that lines can be published to."""

    def publish(self, lines: Iterable[bytes]) -> int | None:
        """Append lines (without line ends); they are published once this returns.

        Returns the position after the last one, or None if the publisher has no positions.
        """
        ...


@runtime_checkable
class Topic(Publisher, Protocol):
    """A stream of lines: publish at the end, read from any position."""

    def publish(self, lines: Iterable[bytes]) -> int:
        """Append lines (without line ends) and return the position after the last one."""
        ...

    def reader(self, position: int) -> Reader:
        """Return a reader that begins at `position`: the start of a line, as batches give it."""
        ...

    def start(self) -> int:
        """Return the position of the oldest line that still exists."""
        ...

    def end(self) -> int:
        """Return the position after the last complete line."""
        ...


class QueueReader(Reader, Protocol):
    """A consumer's connection to a queue. Lines that it does not acknowledge are delivered again."""

    def read(self, max_lines: int, timeout: float) -> Delivery:
        """Return up to `max_lines` lines as soon as there are any, or none after `timeout` seconds."""
        ...

    def acknowledge(self, batch: Delivery) -> None:
        """Tell the queue not to deliver a batch again. It may do so anyway if this message is lost."""
        ...

    def close(self) -> None:
        """Return unacknowledged lines to the queue and release what the reader holds."""
        ...


class Queue(Publisher, Protocol):
    """A stream of lines that consumers share: each line goes to one of them until it is acknowledged.

    A queue delivers at least once. The lines of one user should arrive in the order they were published.
    """

    @property
    def name(self) -> str:
        """What messages call the place that is read from, such as a subscription's full name."""
        ...

    def publish(self, lines: Iterable[bytes]) -> None:
        """Append lines (without line ends); the queue has stored them once this returns."""
        ...

    def reader(self, max_lines: int) -> QueueReader:
        """Start receiving lines, in batches of up to `max_lines`. Close the reader when done."""
        ...
