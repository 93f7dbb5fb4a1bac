"""Signals that end a process cleanly, and interrupts that must not wait."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, Queue, SimpleQueue
from typing import TypeVar

INTERRUPT_SECONDS = 1.0
"""The longest time between an interrupt and its effect."""

Item = TypeVar("Item")


@contextmanager
def on_signals(action: Callable[[], None], *numbers: signal.Signals) -> Iterator[None]:
    """Call `action` for each of these signals inside the block, SIGINT and SIGTERM by default."""
    numbers = numbers or (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda _number, _frame: action()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def next_item(items: Queue[Item] | SimpleQueue[Item]) -> Item:
    """Wait for the next item of a queue, and let an interrupt through within a second.

    A library may handle SIGINT so that the system call goes on (SA_RESTART), as polars does. Then nothing
    wakes a wait without an end, and Python raises no `KeyboardInterrupt`.
    """
    while True:
        with suppress(Empty):
            return items.get(timeout=INTERRUPT_SECONDS)
