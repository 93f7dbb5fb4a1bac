"""Append orders to a topic at a rate: `python -m benchmarks.produce DIRECTORY USERS FIRST RATE SECONDS`.

It appends the orders that are due, at most a thousand times a second. At its end it prints, as JSON, when
each order was about to be appended, in seconds of the monotonic clock that all processes share.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.shop import Shop
from streaming.topics.jsonl import JsonlTopic


def main(directory: Path, users: int, first: int, rate: float, seconds: float) -> None:
    topic = JsonlTopic(directory / "orders")
    lines = list(Shop(users).lines(first, int(rate * seconds)))
    appended: list[float] = []
    began = time.monotonic()
    while len(appended) < len(lines):
        now, done = time.monotonic(), len(appended)
        due = min(len(lines), int((now - began) * rate) + 1)
        appended += [now] * (due - done)
        topic.publish(lines[done:due])
        time.sleep(max(0.001, began + len(appended) / rate - time.monotonic()))
    print(json.dumps(appended))


if __name__ == "__main__":
    home, users, first, rate, seconds = sys.argv[1:]
    main(Path(home), int(users), int(first), float(rate), float(seconds))
