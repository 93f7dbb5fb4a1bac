"""A queue in memory: the least that `streaming.topics.Queue` asks of a queue."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Self

from streaming.topics import Delivery


class MemoryQueue:
    """A queue whose readers share its messages, in the sequence in which they were published."""

    name = "a queue in memory"

    def __init__(self) -> None:
        self.waiting: deque[tuple[str, bytes]] = deque()
        self.changed = threading.Condition()
        self._published = 0

    def publish(self, lines: Iterable[bytes]) -> None:
        with self.changed:
            for line in lines:
                self._published += 1
                self.waiting.append((str(self._published), line))
            self.changed.notify_all()

    def reader(self, max_lines: int) -> MemoryReader:
        return MemoryReader(self)


class MemoryReader:
    """A consumer's connection, which returns what it did not acknowledge when it is closed."""

    def __init__(self, queue: MemoryQueue) -> None:
        self._queue = queue
        self._unacknowledged: dict[str, bytes] = {}
        self._woken = False

    def read(self, max_lines: int, timeout: float) -> Delivery:
        queue = self._queue
        with queue.changed:
            queue.changed.wait_for(lambda: queue.waiting or self._woken, timeout)
            self._woken = False
            messages = [queue.waiting.popleft() for _ in range(min(max_lines, len(queue.waiting)))]
        self._unacknowledged.update(messages)
        return Delivery(
            positions=list(range(len(messages))),
            lines=[line for _, line in messages],
            message_ids=[message_id for message_id, _ in messages],
        )

    def acknowledge(self, batch: Delivery) -> None:
        for message_id in batch.message_ids:
            del self._unacknowledged[message_id]

    def wake(self) -> None:
        with self._queue.changed:
            self._woken = True
            self._queue.changed.notify_all()

    def close(self) -> None:
        with self._queue.changed:
            self._queue.waiting.extendleft(reversed(self._unacknowledged.items()))
            self._unacknowledged.clear()
            self._queue.changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
