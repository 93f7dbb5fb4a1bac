"""Topics: append-only streams of lines, read from a position.

A position is one integer that only grows; what it counts is the topic's own affair. A reader that keeps the
position after the last line it has dealt with goes on exactly there, in another process or another year.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines read together. `positions[i]` is where `lines[i]` begins; line ends are taken off.

    `next_position` is where to read on once the whole batch is dealt with; also for an empty batch, which is
    what a read ends with when its time is up or it was woken.
    """

    positions: list[int] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    next_position: int = 0

    def __len__(self) -> int:
        return len(self.lines)


class Reader(Protocol):
    """Reads a topic on from a position. Not for several threads, apart from `wake`."""

    def read(self, max_lines: int, timeout: float) -> Batch:
        """At most `max_lines` lines, as soon as there are any; none after `timeout` seconds without."""
        ...

    def wake(self) -> None:
        """End a waiting read, or the next one, at once. From any thread or signal handler."""
        ...

    def close(self) -> None:
        """Give back what the reader holds. The second time does nothing."""
        ...


class Publisher(Protocol):
    """What lines can be published to."""

    def publish(self, lines: Iterable[bytes]) -> int | None:
        """Append lines (without line ends); they are published once this returns.

        Returns the position after the last one, None where the topic has no positions.
        """
        ...


@runtime_checkable
class Topic(Publisher, Protocol):
    """A stream of lines: publish at the end, read from any position."""

    def publish(self, lines: Iterable[bytes]) -> int:
        """Append lines (without line ends) and return the position after the last one."""
        ...

    def reader(self, position: int) -> Reader:
        """A reader that begins at `position`: a line's beginning, as batches give it."""
        ...

    def start(self) -> int:
        """The position of the oldest line that is still there."""
        ...

    def end(self) -> int:
        """The position after the last whole line."""
        ...
