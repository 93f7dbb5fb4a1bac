"""A consumer in a process of its own, to be killed: `python -m ... HOME MAX_LINES [options]`.

HOME holds the rule book (rules.yml), the flagged stream, and the orders unless they come from Pub/Sub. The
database's URL comes in the environment, because it holds a password.

With `--crash N` the process kills itself with SIGKILL at about the Nth of the moments that are hard to hit
from outside: before a commit, after it, in the middle of a write to a stream on disk, and right after that.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ecommersss_platform_tests.faults.traffic import jumping
from streaming.consumer import Consumer
from streaming.consumer_loop import ConsumerLoop
from streaming.database.shared import SharedOrderStore
from streaming.database.store import OrderStore
from streaming.rules import RuleBook
from streaming.shared_consumer import SharedConsumer
from streaming.topics import jsonl
from streaming.topics.jsonl import JsonlTopic


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("max_lines", type=int)
    parser.add_argument("--crash", type=int, help="the moment of death")
    parser.add_argument("--clock", type=int, help="seed of a wall clock that jumps")
    parser.add_argument("--file-limit", type=int, help="the largest size of a file, in bytes")
    parser.add_argument("--pubsub", metavar="TOPIC", help="name of an emulated topic")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    if arguments.crash is not None:
        crash_at(arguments.crash)
    if arguments.file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.file_limit, arguments.file_limit))
    if arguments.clock is not None:
        time.time = jumping(arguments.clock)
    consumer = make_consumer(arguments.home, arguments.max_lines, arguments.pubsub)
    signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
    consumer.run()


def make_consumer(home: Path, max_lines: int, pubsub: str | None) -> ConsumerLoop:
    url, flagged, book = (
        os.environ["CONSUMER_URL"],
        JsonlTopic(home / "flagged"),
        RuleBook.load(home / "rules.yml"),
    )
    if pubsub is not None:
        import pytest

        from ecommersss_platform_tests.support.pubsub_emulator import PROJECT, end_streams_soon
        from streaming.topics.pubsub import PubSubTopic

        end_streams_soon(pytest.MonkeyPatch())
        topic = PubSubTopic(PROJECT, pubsub, f"{pubsub}-fraud")
        return SharedConsumer(url, topic, flagged, book, max_lines=max_lines)
    return Consumer(
        url,
        JsonlTopic(home / "orders"),
        flagged,
        book,
        max_lines=max_lines,
        clock=lambda: datetime.fromtimestamp(time.time(), UTC),
    )


def crash_at(moment: int) -> None:
    passed = 0
    write = jsonl._write

    def is_now() -> bool:
        nonlocal passed
        passed += 1
        return passed > moment

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def deadly(commit: Callable[..., Any]) -> Callable[..., Any]:
        def deadly_commit(*args: Any, **options: Any) -> Any:
            if is_now():
                die()
            answer = commit(*args, **options)
            if is_now():
                die()
            return answer

        return deadly_commit

    def deadly_write(file: int, data: bytes) -> None:
        if is_now():
            write(file, data[: random.randrange(len(data) + 1)])
            die()
        write(file, data)
        if is_now():
            die()

    OrderStore.commit = deadly(OrderStore.commit)  # type: ignore[method-assign]
    SharedOrderStore.put = deadly(SharedOrderStore.put)  # type: ignore[method-assign]
    jsonl._write = deadly_write


if __name__ == "__main__":
    main()
