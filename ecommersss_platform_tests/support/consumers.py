"""Consumers at work in threads of the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from streaming.consumer_loop import ConsumerLoop


@contextmanager
def running(*consumers: ConsumerLoop) -> Iterator[None]:
    """Run each consumer in a thread. Fails if one of them does, or does not stop in time."""
    failures: list[BaseException] = []

    def work(consumer: ConsumerLoop) -> None:
        try:
            consumer.run()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(consumer,)) for consumer in consumers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for consumer in consumers:
            consumer.stop()
        asked = time.monotonic()
        for thread in threads:
            thread.join(10)
        if failures:
            raise failures[0]
        assert time.monotonic() - asked < 2
