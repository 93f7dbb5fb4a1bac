"""A producer in a process of its own, to be killed: `python -m ... HOME SEED CRASH`.

It publishes traffic without end, with a wall clock that jumps, and prints the topic's end after each burst:
up to there its lines are published. It kills itself with SIGKILL in the middle of its CRASHth write.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from ecommersss_platform_tests.faults.traffic import Traffic, jumping
from streaming.topics import jsonl
from streaming.topics.jsonl import JsonlTopic


def main(home: Path, seed: int, crash: int) -> None:
    topic = JsonlTopic(home / "orders")
    traffic = Traffic(topic, seed, jumping(seed))
    pick, write, writes = random.Random(seed), jsonl._write, 0

    def deadly_write(file: int, data: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes >= crash:
            write(file, data[: pick.randrange(len(data))])
            os.kill(os.getpid(), signal.SIGKILL)
        write(file, data)

    jsonl._write = deadly_write
    while True:
        traffic.burst(pick.choice([1, 5, 30]))
        print(topic.end(), flush=True)
        time.sleep(0.02)


if __name__ == "__main__":
    _, home, seed, crash = sys.argv
    main(Path(home), int(seed), int(crash))
