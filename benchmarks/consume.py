"""A consumer in its own process: `python -m benchmarks.consume DIRECTORY [options]`.

The environment holds the database's URL, because it contains a password. At its end the process prints, as
JSON, the samples it took: seconds since the start, finished orders, its CPU seconds, resident megabytes, and
the CPU seconds of the threads that decide and commit, by name.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2

from streaming.consumer import Consumer
from streaming.consumer_loop import tune_interpreter
from streaming.decode import decode
from streaming.rules import RULES_PATH, RuleBook
from streaming.topics import jsonl_reader
from streaming.topics.jsonl import JsonlTopic

SAMPLE_SECONDS = 0.1
THREADS = ("consumer", "commit")


class PerOrder:
    """The simple way: a connection, an INSERT, a commit and a flagged line for each order.

    Its rules are three comparisons without history: less work for each order than the consumer does.
    """

    def __init__(self, url: str, topic: JsonlTopic, flagged: JsonlTopic, book: RuleBook) -> None:
        self.url, self.topic, self.flagged, self.book = url, topic, flagged, book
        self.orders = 0
        self._stopping = False

    def run(self, once: bool) -> None:
        with self.topic.reader(0) as reader:
            while not self._stopping:
                batch = reader.read(1, timeout=0 if once else 0.2)
                if batch.lines:
                    self.flag(batch.lines[0], batch.positions[0])
                elif once:
                    return

    def stop(self) -> None:
        self._stopping = True

    def flag(self, line: bytes, position: int) -> None:
        order = decode(line)
        fraud = order.country != "ID" or order.amount >= 300_000_000 or order.quantity > 300
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO orders"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, '{}', '{}', %s, %s, now(), %s, 0)",
                (
                    *(order.id, order.user_id, order.product_id, order.quantity, order.amount),
                    *(order.payment_method, order.country, fraud, self.book.version),
                    *(order.created_date, position),
                ),
            )
        self.flagged.publish([line[:-1] + (b',"status":"fraud"}' if fraud else b',"status":"genuine"}')])
        self.orders += 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--once", action="store_true", help="end when the topic is drained")
    parser.add_argument("--poll", type=float, help="look at the topic every so many seconds")
    parser.add_argument("--per-order", action="store_true", help="the simple way instead")
    arguments = parser.parse_args()
    if arguments.poll:
        jsonl_reader.POLL_SECONDS = arguments.poll  # type: ignore[misc]
    tune_interpreter()
    make = PerOrder if arguments.per_order else Consumer
    consumer = make(
        os.environ["BENCHMARK_URL"],
        JsonlTopic(arguments.directory / "orders", notify=not arguments.poll),
        JsonlTopic(arguments.directory / "flagged"),
        RuleBook.load(RULES_PATH),
    )
    signal.signal(signal.SIGTERM, lambda *_: consumer.stop())

    process, samples, ended = psutil.Process(), [], threading.Event()
    threads = dict.fromkeys(THREADS, 0.0)
    began, cpu = time.perf_counter(), time.process_time()

    def sample() -> None:
        orders = consumer.orders if isinstance(consumer, PerOrder) else consumer.counters.orders
        now = time.perf_counter() - began
        names = {thread.native_id: thread.name for thread in threading.enumerate() if thread.name in THREADS}
        spent = {names[t.id]: t.user_time + t.system_time for t in process.threads() if t.id in names}
        threads.update(spent)  # one that has ended keeps what it had
        memory = process.memory_info().rss / 2**20
        samples.append((now, orders, time.process_time() - cpu, memory, dict(threads)))

    def keep_sampling() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            sample()

    sampler = threading.Thread(target=keep_sampling)
    sampler.start()
    try:
        consumer.run(once=arguments.once)
    finally:
        ended.set()
        sampler.join()
    sample()
    print(json.dumps(samples))


if __name__ == "__main__":
    main()
