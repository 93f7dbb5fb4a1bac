"""Order ids: unique and ordered by time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from streaming.orders import MAX_ID


class OrderIds:
    """A thread-safe generator of ids: 41 bits of milliseconds since 2020, 12 bits of sequence, until 2089.

    The ids of one process always grow, even if the clock stands still or jumps back: the generator then keeps
    the last millisecond, and borrows the next when the sequence is used up. Processes that produce to one
    topic at the same time share the sequence: `OrderIds(producer=1, producers=4)`.
    """

    EPOCH_MS: Final = 1_577_836_800_000  # 2020-01-01T00:00:00Z
    SEQUENCE: Final = 1 << 12

    def __init__(
        self, clock: Callable[[], float] = time.time, *, producer: int = 0, producers: int = 1
    ) -> None:
        """`clock` returns seconds since 1970, real or simulated."""
        if not 0 <= producer < producers <= self.SEQUENCE:
            raise ValueError(
                f"producer {producer} of {producers}: numbers run from 0, and at most {self.SEQUENCE} share"
            )
        self._clock = clock
        self._producer = producer
        self._step = producers
        self._millisecond = -1
        self._sequence = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """Return the next id. Raises `OverflowError` when the milliseconds no longer fit."""
        with self._lock:
            # The first millisecond is never used, so no id is 0.
            now = max(int(self._clock() * 1000) - self.EPOCH_MS, 1)
            self._sequence += self._step
            if now > self._millisecond:
                self._millisecond, self._sequence = now, self._producer
            elif self._sequence >= self.SEQUENCE:
                self._millisecond, self._sequence = self._millisecond + 1, self._producer
            number = self._millisecond * self.SEQUENCE + self._sequence
        if number > MAX_ID:
            raise OverflowError("the clock is past 2089: order ids have 41 bits of milliseconds since 2020")
        return number
