"""A thread that commits one batch while the consumer's own thread decides about the next."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class CommitThread:
    """Runs one task at a time in its own thread, for an owner that calls `submit` and `wait` in turn.

    It is a daemon thread, unlike those of the standard library's executors: a server that hangs must not keep
    the process from ending. It lives on between tasks, because starting a thread waits for the interpreter's
    lock.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: SimpleQueue[Callable[[], None]] | None = None
        self._results: SimpleQueue[BaseException | None] = SimpleQueue()

    def submit(self, task: Callable[[], None]) -> None:
        """Start a task and return at once."""
        if self._tasks is None:
            self._tasks = SimpleQueue()
            threading.Thread(target=self._work, args=(self._tasks,), name=self._name, daemon=True).start()
        self._tasks.put(task)

    def wait(self) -> None:
        """Wait for the task to end. Raises what it raised."""
        if (error := self._results.get()) is not None:
            raise error

    def _work(self, tasks: SimpleQueue[Callable[[], None]]) -> None:
        while True:
            try:
                tasks.get()()
            except BaseException as error:
                self._results.put(error)
            else:
                self._results.put(None)
