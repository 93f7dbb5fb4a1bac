"""A consumer in a process of its own, to be killed: `python -m ... HOME MAX_LINES [CRASH]`.

The rule book is HOME/rules.yml. The database's URL comes in the environment, because it holds a password.
With CLOCK, a number, in the environment, the wall clock jumps. With CRASH, a number, the process kills itself
with SIGKILL at about the CRASHth of the moments that are hard to hit from outside: before a commit, after it,
in the middle of writing to the flagged stream, and right after that.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ecommersss_platform_tests.faults.traffic import jumping
from streaming.consumer import Consumer
from streaming.database.store import OrderStore
from streaming.rules import RuleBook
from streaming.topics import jsonl
from streaming.topics.jsonl import JsonlTopic


def main(home: Path, max_lines: int, crash: int | None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    if crash is not None:
        crash_at(crash)
    if jumps := os.environ.get("CLOCK"):
        time.time = jumping(int(jumps))
    consumer = Consumer(
        os.environ["CONSUMER_URL"],
        JsonlTopic(home / "orders"),
        JsonlTopic(home / "flagged"),
        RuleBook.load(home / "rules.yml"),
        max_lines=max_lines,
        clock=lambda: datetime.fromtimestamp(time.time(), UTC),
    )
    signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
    consumer.run()


def crash_at(moment: int) -> None:
    passed = 0
    commit, write = OrderStore.commit, jsonl._write

    def maybe() -> bool:
        nonlocal passed
        passed += 1
        return passed > moment

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def deadly_commit(self: OrderStore, *args: Any, **options: Any) -> None:
        if maybe():
            die()
        commit(self, *args, **options)
        if maybe():
            die()

    def deadly_write(file: int, data: bytes) -> None:
        if maybe():
            write(file, data[: random.randrange(len(data) + 1)])
            die()
        write(file, data)
        if maybe():
            die()

    OrderStore.commit = deadly_commit  # type: ignore[method-assign]
    jsonl._write = deadly_write


if __name__ == "__main__":
    _, home, max_lines, *crash = sys.argv
    main(Path(home), int(max_lines), int(crash[0]) if crash else None)
