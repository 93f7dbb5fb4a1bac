"""Writers of a topic killed with -9 in mid-write lose no acknowledged line and merge no two lines."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streaming.topics.jsonl import JsonlTopic

WRITER = """
import sys
from pathlib import Path
from streaming.topics.jsonl import JsonlTopic

topic = JsonlTopic(Path(sys.argv[1]), 3_000_000)
run, n = sys.argv[2], 0
while True:
    # Lines of very different lengths, in writes from a few bytes to several pieces of a megabyte.
    size = 1 + n * 7919 % 9000
    lines = [b"<%s:%d:%s>" % (run.encode(), n + i, b"x" * (size // (1 + i % 9))) for i in range(1 + n % 700)]
    topic.publish(lines)
    n += len(lines)
    print(n, flush=True)
"""


def kill_writers(directory: Path, kills: int, seed: int) -> int:
    """Kill writers one after the other, and return how many left a partial line behind."""
    generator = random.Random(seed)
    topic = JsonlTopic(directory, 3_000_000)
    acknowledged: dict[int, int] = {}
    cut = 0
    for run in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(directory), str(run)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline(), "the writer did not start"
        time.sleep(generator.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read()
        process.wait()
        process.stdout.close()
        # The kill may have cut the last number.
        whole = rest[: rest.rfind("\n") + 1].split()
        acknowledged[run] = int(whole[-1]) if whole else 1
        cut += topic.open_end()[1] != b""
    topic.publish([b"<end>"])

    runs: dict[int, int] = dict.fromkeys(acknowledged, 0)
    partial = 0
    with topic.reader(0) as reader:
        while batch := reader.read(5000, 0).lines:
            for line in batch:
                assert line.startswith(b"<")
                assert line.count(b"<") == 1, "two lines were glued"
                if not line.endswith(b">"):
                    partial += 1
                elif line != b"<end>":
                    run_text, n, _ = line[1:].split(b":", 2)
                    assert int(n) == runs[int(run_text)], "a line was lost, doubled or moved"
                    runs[int(run_text)] += 1
    for run, count in acknowledged.items():
        assert runs[run] >= count
    assert partial == cut
    return cut


@pytest.mark.faults
def test_killed_writers(tmp_path: Path) -> None:
    cut = kill_writers(tmp_path, kills=12, seed=1)
    print(f"{cut} of 12 writers left a partial line")
