"""A consumer of Pub/Sub in a process of its own, to be killed: `python -m ... TOPIC HOME MAX_LINES [CRASH]`.

TOPIC is the name of an emulated topic, HOME holds rules.yml and the flagged stream. The database's URL comes
in the environment, because it holds a password. With CRASH, a number, the process kills itself with SIGKILL
at about the CRASHth of the moments that are hard to hit from outside: before a commit, after it (so before
anything is acknowledged), in the middle of writing to the flagged stream, and right after that.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from ecommersss_platform_tests.support.pubsub_emulator import PROJECT, end_streams_soon
from streaming.database.shared import SharedOrderStore
from streaming.rules import RuleBook
from streaming.shared_consumer import SharedConsumer
from streaming.topics import jsonl
from streaming.topics.jsonl import JsonlTopic
from streaming.topics.pubsub import PubSubTopic


def main(topic: str, home: Path, max_lines: int, crash: int | None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    end_streams_soon(pytest.MonkeyPatch())
    if crash is not None:
        crash_at(crash)
    consumer = SharedConsumer(
        os.environ["CONSUMER_URL"],
        PubSubTopic(PROJECT, topic, f"{topic}-fraud"),
        JsonlTopic(home / "flagged"),
        RuleBook.load(home / "rules.yml"),
        max_lines=max_lines,
    )
    signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
    consumer.run()


def crash_at(moment: int) -> None:
    passed = 0
    put, write = SharedOrderStore.put, jsonl._write

    def maybe() -> bool:
        nonlocal passed
        passed += 1
        return passed > moment

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def deadly_put(self: SharedOrderStore, *args: Any) -> set[int]:
        if maybe():
            die()
        new = put(self, *args)
        if maybe():
            die()
        return new

    def deadly_write(file: int, data: bytes) -> None:
        if maybe():
            write(file, data[: random.randrange(len(data) + 1)])
            die()
        write(file, data)
        if maybe():
            die()

    SharedOrderStore.put = deadly_put  # type: ignore[method-assign]
    jsonl._write = deadly_write


if __name__ == "__main__":
    _, topic, home, max_lines, *crash = sys.argv
    main(topic, Path(home), int(max_lines), int(crash[0]) if crash else None)
