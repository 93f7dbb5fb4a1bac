"""Signals that end a process cleanly."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
