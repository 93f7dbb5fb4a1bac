"""End the process of a consumer whose loop stands still, so that its supervisor starts it again.

Watched is the work that a line or a rule book could make long: decoding lines and deciding about orders.
Waiting for lines, the database or a disk is not watched: a new process would wait as long.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

logger = logging.getLogger(__name__)

STILL_SECONDS: Final = 60.0
EXIT_CODE: Final = 70
"""The exit code of a process that was ended: EX_SOFTWARE of sysexits.h."""

_LONGEST_TICK = 1.0
_ARM_SECONDS = 5.0


class Watchdog:
    """Ends the process when one piece of work takes longer than `limit` seconds.

    The worker marks its work with `working`. Another thread calls `tick` several times a second. Each tick
    counts for a second at most, so time in which the whole process was suspended does not count.
    """

    def __init__(
        self,
        limit: float = STILL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[], None] | None = None,
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._end = end or _end_process
        self._work: tuple[int, int] | None = None
        self._seen: tuple[int, int] | None = None
        self._still = 0.0
        self._ticked = clock()

    @contextmanager
    def working(self, position: int, lines: int) -> Iterator[None]:
        """Mark work on `lines` lines of the topic from `position` on."""
        self._work = (position, lines)
        try:
            yield
        finally:
            self._work = None

    def tick(self) -> None:
        """Count the time since the last tick, and end the process if its work stands still."""
        now = self._clock()
        passed, self._ticked = min(now - self._ticked, _LONGEST_TICK), now
        work = self._work
        if work is None or work is not self._seen:
            self._seen, self._still = work, 0.0
            return
        self._still += passed
        if self._still >= self._limit:
            position, lines = work
            logger.critical(
                "the consumer has stood still for %.0f s at one of %d lines from position %d. It ends to be"
                " started again, which loses nothing. If it stops there again, look at these lines and at"
                " the rule book.",
                self._still,
                lines,
                position,
                extra={"position": position},
            )
            self._end()

    @contextmanager
    def guarding_interpreter(self) -> Iterator[Callable[[], None]]:
        """Yield a `tick` that also ends the process if no thread but one can run.

        Native code that never returns keeps the interpreter's lock, so that no Python code could end the
        process. faulthandler's timer needs no lock: it prints where each thread is, and exits with code 1.
        """
        armed_at = float("-inf")

        def tick() -> None:
            nonlocal armed_at
            self.tick()
            if time.monotonic() - armed_at >= _ARM_SECONDS:
                armed_at = time.monotonic()
                faulthandler.dump_traceback_later(self._limit + _ARM_SECONDS, exit=True)

        try:
            yield tick
        finally:
            faulthandler.cancel_dump_traceback_later()


def _end_process() -> None:
    faulthandler.dump_traceback()
    os._exit(EXIT_CODE)
