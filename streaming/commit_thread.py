"""A thread that does one thing at a time for its owner, who meanwhile does another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class Aside:
    """Does what it is given in a thread of its own, which does not keep the process from ending.

    For one owner, who calls `begin` and `failure` in turn. The thread stays: to start one for each task costs
    a wait for the interpreter's lock.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: SimpleQueue[Callable[[], None]] | None = None
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()

    def begin(self, task: Callable[[], None]) -> None:
        """Begin a task and return."""
        if self._tasks is None:
            self._tasks = SimpleQueue()
            threading.Thread(target=self._work, args=(self._tasks,), name=self._name, daemon=True).start()
        self._tasks.put(task)

    def failure(self) -> BaseException | None:
        """Wait until the task has ended, and return what it raised."""
        return self._done.get()

    def _work(self, tasks: SimpleQueue[Callable[[], None]]) -> None:
        while True:
            try:
                tasks.get()()
            except BaseException as error:
                self._done.put(error)
            else:
                self._done.put(None)
