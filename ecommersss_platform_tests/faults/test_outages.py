"""Everything that the consumer needs is killed, filled up or stopped: nothing is lost, doubled or changed.

Each test ends with `assert_stored_exactly_once`: every line of the topic is an order, a rejected line or a
repetition; the flagged stream holds each order once, as its row says; verdicts are those of an undisturbed
run. `ECOMMERSSS_FAULT_RUNS` sets the number of kills, and makes the stall a minute long.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice, pairwise
from pathlib import Path

import psutil
import pytest

from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform_tests.faults.traffic import (
    LOOKING_BACK,
    PRODUCTS,
    USERS,
    Traffic,
    change_lists,
    start_consumer,
    write_rules,
)
from ecommersss_platform_tests.support.project import PROJECT
from ecommersss_platform_tests.support.shop import (
    add_products,
    add_users,
    assert_stored_exactly_once,
    execute,
    open_shop,
    query,
)
from streaming.consumer import Consumer
from streaming.database import migrate
from streaming.rules import RuleBook
from streaming.topics.jsonl import JsonlTopic

pytestmark = pytest.mark.faults

LONG = "ECOMMERSSS_FAULT_RUNS" in os.environ
RUNS = int(os.environ.get("ECOMMERSSS_FAULT_RUNS", "5"))
STALL_SECONDS = 60 if LONG else 2
NEW_SEGMENT = "SELECT pg_switch_wal()"
MEGABYTE = 1 << 20


class Stream:
    """A shop with its two topics, and consumers of them in processes of their own."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.home = home
        self.topic = JsonlTopic(home / "orders")
        self.flagged = JsonlTopic(home / "flagged", segment_bytes=200_000)
        self.book: RuleBook = write_rules(home)
        self.log = home / "consumer.log"
        open_shop(url, USERS, PRODUCTS)

    def start(
        self,
        crash: int | None = None,
        max_lines: int = 500,
        clock: int | None = None,
        file_limit: int | None = None,
    ) -> subprocess.Popen[str]:
        """Start a consumer, and wait until it consumes or has died."""
        begun = self.logged().count("consuming topic")
        with self.log.open("a") as log:
            process = start_consumer(
                self.url, self.home, max_lines, crash=crash, clock=clock, file_limit=file_limit, stderr=log
            )
        eventually(
            lambda: self.logged().count("consuming topic") > begun or process.poll() is not None,
            what=self.logged,
        )
        return process

    def logged(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def committed(self) -> int:
        [(position,)] = query(self.url, "SELECT position FROM topic_positions") or [(0,)]
        return int(position)

    def drained(self) -> bool:
        return self.committed() == self.topic.end()

    def finish(self) -> Consumer:
        """Add the users and products that orders wait for, drain the topic, and check all of it."""
        add_users(self.url, range(USERS + 1, USERS + 5))
        add_products(self.url, range(PRODUCTS + 1, PRODUCTS + 3))
        consumer = Consumer(self.url, self.topic, self.flagged, self.book)
        consumer.run(once=True)
        assert consumer.lag() == 0
        assert_stored_exactly_once(self.url, self.topic, self.flagged, self.book)
        return consumer


def eventually(
    condition: Callable[[], bool], seconds: float = 60, what: Callable[[], str] = lambda: ""
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s\n{what()}"
        time.sleep(0.02)


@pytest.fixture
def stream(database: str, tmp_path: Path) -> Stream:
    return Stream(database, tmp_path)


def processes(server: EmbeddedPostgres) -> list[psutil.Process]:
    """Return the processes of a server, the postmaster first."""
    pid = server.pid()
    assert pid is not None
    postmaster = psutil.Process(pid)
    return [postmaster, *postmaster.children(recursive=True)]


def signal_all(found: list[psutil.Process], number: int) -> None:
    for process in found:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


# Kills.


@pytest.mark.slow
@pytest.mark.timeout(180 + 15 * RUNS)
def test_everything_is_killed_at_random_while_the_clock_jumps(
    stream: Stream, postgres: EmbeddedPostgres
) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}, {RUNS} runs")
    pick = random.Random(seed)
    acknowledged = [0]
    consumer: subprocess.Popen[str] | None = None
    producer: subprocess.Popen[str] | None = None
    victims, cut = Counter[str](), 0
    try:
        for victim in islice(cycle(["consumer", "producer", "postgres", "moment", "all"]), RUNS):
            victims[victim] += 1
            if victim == "moment" and consumer is not None:
                # The one that kills itself takes the place of the one that is there.
                consumer.kill()
                consumer.wait()
            if consumer is None or consumer.poll() is not None:
                crash = 4 * pick.randrange(8) + pick.randrange(4) if victim == "moment" else None
                max_lines = pick.choice([1, 7, 100, 5000])
                consumer = stream.start(crash, max_lines, clock=pick.randrange(10_000))
            if producer is None or producer.poll() is not None:
                producer = _producer(
                    stream.home, pick.randrange(1 << 30), pick.randrange(2, 40), acknowledged
                )
            change_lists(stream.url, pick)
            time.sleep(pick.random() * 0.4)
            if victim == "producer":
                # It kills itself in the middle of a write.
                producer.wait(60)
                cut += stream.topic.open_end()[1] != b""
            if victim in ("postgres", "all"):
                signal_all(processes(postgres), signal.SIGKILL)
            if victim == "all":
                producer.kill()
                producer.wait()
            if victim in ("consumer", "all"):
                consumer.kill()
            if victim in ("consumer", "all", "moment"):
                if victim == "moment" and consumer.poll() is None:
                    time.sleep(0.5)
                    consumer.kill()
                assert consumer.wait(60) == -signal.SIGKILL, stream.logged()
            if victim in ("postgres", "all"):
                postgres.up()
            if victim == "postgres":
                assert consumer.poll() is None, f"the consumer did not outlive PostgreSQL\n{stream.logged()}"
        if consumer is None or consumer.poll() is not None:
            consumer = stream.start()
        if producer is not None:
            producer.kill()
            producer.wait()
        consumer.terminate()
        assert consumer.wait(30) == 0, stream.logged()
    finally:
        for process in (consumer, producer):
            if process is not None:
                process.kill()
                process.wait()

    assert stream.topic.end() >= acknowledged[-1]
    [(before,)] = query(stream.url, "SELECT count(*) FROM orders")
    assert before > 0, "nothing was stored while things were being killed"
    last = stream.finish()
    log = stream.logged()
    print(f"killed {dict(victims)}; {cut} producers left a partial line; then {last.summary()}")
    print(f"{log.count('completed the flagged stream')} starts completed the flagged stream")
    print(f"PostgreSQL away {log.count('PostgreSQL is away')} times")
    if RUNS >= 40:  # in fewer runs, chance may miss one of these
        assert "PostgreSQL is away" in log
        assert cut > 0
        assert "completed the flagged stream" in log
        held = {rule for (rule,) in query(stream.url, "SELECT DISTINCT unnest(fraud_reasons) FROM orders")}
        assert held >= LOOKING_BACK


def _producer(home: Path, seed: int, crash: int, acknowledged: list[int]) -> subprocess.Popen[str]:
    """Start a producer. `acknowledged` collects the positions up to which it reported lines as published."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ecommersss_platform_tests.faults.run_producer"),
            *(str(home), str(seed), str(crash)),
        ],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )

    def listen() -> None:
        assert process.stdout is not None
        with process.stdout:
            acknowledged.extend(int(line) for line in process.stdout if line.endswith("\n"))

    threading.Thread(target=listen, daemon=True).start()
    return process


def test_a_consumer_outlives_postgres_killed_under_load(stream: Stream, postgres: EmbeddedPostgres) -> None:
    traffic = Traffic(stream.topic, 7)
    consumer = stream.start(max_lines=50)
    try:
        with traffic.flowing():
            eventually(lambda: stream.committed() > 0, what=stream.logged)
            killed = processes(postgres)
            signal_all(killed, signal.SIGKILL)
            psutil.wait_procs(killed, timeout=10)
            eventually(lambda: "PostgreSQL is away" in stream.logged(), what=stream.logged)
            postgres.up()
            reached = stream.committed()
            eventually(lambda: stream.committed() > reached, what=stream.logged)
        eventually(stream.drained, what=stream.logged)
        assert consumer.poll() is None, stream.logged()
        assert stream.logged().count("PostgreSQL is back") == 1
    finally:
        consumer.kill()
        consumer.wait()
    stream.finish()


# A clock that jumps back.


def test_a_wall_clock_that_jumps_back_changes_no_verdict(stream: Stream) -> None:
    traffic = Traffic(stream.topic, 11)
    traffic.burst(2_000)
    consumer = stream.start(max_lines=20, clock=3)
    try:
        eventually(stream.drained, what=stream.logged)
    finally:
        consumer.kill()
        consumer.wait()
    flagged_at = [at for (at,) in query(stream.url, "SELECT flagged_at FROM orders ORDER BY position")]
    back = sum(later < earlier for earlier, later in pairwise(flagged_at))
    assert back > 3, "the clock must have jumped back"
    stream.finish()


# One consumer at a time.


def test_a_second_consumer_refuses_to_start_and_names_the_first(stream: Stream) -> None:
    first = stream.start()
    second = None
    try:
        second = stream.start()
        assert second.wait(30) == 1
        log = stream.logged()
        assert 'topic "orders" already has a "fraud" consumer: "consumer fraud pid ' in log
        assert f'"consumer fraud pid {first.pid} ' in log
        assert "from 127.0.0.1, connected since 20" in log
        assert log.count("consuming topic") == 1
        # The first is not disturbed.
        Traffic(stream.topic, 1).burst(100)
        eventually(stream.drained, what=stream.logged)
        assert first.poll() is None
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.wait()
    # A killed one is in nobody's way.
    third = stream.start()
    third.terminate()
    assert third.wait(30) == 0
    stream.finish()


# Full disks.


@contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[None]:
    """Mount a file system of that size at `directory`. Skips, saying why, where none can be mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system to fill up")
    directory.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_flagged_stream_on_a_full_disk_is_completed_later(database: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "flagged", megabytes=1):
        stream = Stream(database, tmp_path)
        Traffic(stream.topic, 5).burst(6_000)
        consumer = stream.start()
        assert consumer.wait(60) == 1
        log = stream.logged()
        assert "a topic cannot be read or written: No space left on device" in log
        assert "nothing is lost, and the next start goes on from there" in log
        position = stream.committed()
        assert 0 < position < stream.topic.end()

        # Started again with the disk still full it fails again, and stores nothing that it cannot pass on.
        assert stream.start().wait(60) == 1
        assert stream.committed() == position
        subprocess.run(["mount", "-o", "remount,size=64m", str(tmp_path / "flagged")], check=True)
        assert stream.finish().counters.orders > 0


def test_a_flagged_stream_at_the_limit_of_file_sizes_is_completed_later(stream: Stream) -> None:
    """The same without a file system of its own: writing fails in the middle of a batch's lines."""
    Traffic(stream.topic, 6).burst(1_000)
    consumer = stream.start(max_lines=150, file_limit=100_001)
    assert consumer.wait(60) == 1
    assert "a topic cannot be read or written: File too large" in stream.logged()
    assert stream.flagged.open_end()[1] != b"", "the limit was to cut a line"
    assert 0 < stream.committed() < stream.topic.end()
    stream.finish()


def test_a_database_on_a_full_disk_loses_nothing(
    tmp_path: Path, open_directory: Path, copy_server: Callable[[Path], EmbeddedPostgres]
) -> None:
    place = open_directory / "full"
    place.mkdir()
    with small_disk(place, megabytes=400):
        copied = copy_server(place / "postgres")
        server = EmbeddedPostgres(copied.directory, log=tmp_path / "postgres.log").up()
        try:
            migrate(server.url())
            stream = Stream(server.url(), tmp_path)
            traffic = Traffic(stream.topic, 8)
            traffic.burst(200)
            first = stream.start()
            eventually(stream.drained, what=stream.logged)
            first.terminate()
            assert first.wait(30) == 0
            stored = query(stream.url, "SELECT count(*) FROM orders")

            # The rest of the disk is taken, but for less than the orders that come now. The log has room in a
            # new segment: without, the server would end itself.
            traffic.burst(8_000)
            credentials = server._credentials()
            administrator = f"postgres:{credentials.admin_password}@"
            query(stream.url.replace(f"ecommersss:{credentials.password}@", administrator), NEW_SEGMENT)
            execute(stream.url, "CREATE TABLE in_new_segment (n INT)")
            free = os.statvfs(place)
            ballast = place / "ballast"
            ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - MEGABYTE // 2))
            consumer = stream.start(max_lines=1_000)
            assert consumer.wait(60) == 1, stream.logged()
            assert "PostgreSQL cannot go on, nothing was stored: could not extend file" in stream.logged()
            assert "No space left on device" in stream.logged()
            assert stream.committed() < stream.topic.end()

            ballast.unlink()
            stream.finish()
            assert query(stream.url, "SELECT count(*) FROM orders") > stored
        finally:
            server.down()


@pytest.mark.long  # a server that dies of it takes long to come back
def test_a_write_ahead_log_on_a_full_disk_is_waited_for(tmp_path: Path, open_directory: Path) -> None:
    """PostgreSQL ends itself then. To the consumer that is an outage: it waits until the server has room."""
    log_disk = open_directory / "log"
    log_disk.mkdir()
    server = EmbeddedPostgres(open_directory / "server", log=tmp_path / "postgres.log")
    with small_disk(log_disk, megabytes=200):
        server.up()
        migrate(server.url())
        stream = Stream(server.url(), tmp_path)
        server.down()
        moved = log_disk / "pg_wal"
        wal = server.data / "pg_wal"
        shutil.copytree(wal, moved, copy_function=shutil.copy2)
        owner = wal.stat()
        for path in (log_disk, moved, *moved.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
        moved.chmod(0o700)
        shutil.rmtree(wal)
        wal.symlink_to(moved)
        server.up()
        consumer = stream.start(max_lines=1_000)
        try:
            free = os.statvfs(log_disk)
            ballast = log_disk / "ballast"
            ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - MEGABYTE))
            traffic = Traffic(stream.topic, 8)
            while "PANIC" not in server.log.read_text():
                traffic.burst(2_000)
                time.sleep(0.2)
            assert "No space left on device" in server.log.read_text()
            ballast.unlink()
            server.up()
            eventually(stream.drained, what=stream.logged)
            assert consumer.poll() is None, stream.logged()
            assert "PostgreSQL is away, waiting for it" in stream.logged()
        finally:
            consumer.kill()
            consumer.wait()
        stream.finish()
        server.down()


# Back-pressure.


@pytest.mark.slow
@pytest.mark.timeout(240 + 4 * STALL_SECONDS)
def test_after_a_stall_the_lag_drains_and_memory_stays(stream: Stream, postgres: EmbeddedPostgres) -> None:
    traffic = Traffic(stream.topic, 9)
    traffic.burst(1_000)
    consumer = stream.start()
    try:
        eventually(stream.drained, what=stream.logged)
        process = psutil.Process(consumer.pid)
        before = process.memory_info().rss
        most = before
        with traffic.flowing():
            stopped = processes(postgres)
            signal_all(stopped, signal.SIGSTOP)
            try:
                deadline = time.monotonic() + STALL_SECONDS
                while time.monotonic() < deadline:
                    most = max(most, process.memory_info().rss)
                    time.sleep(0.1)
            finally:
                signal_all(stopped, signal.SIGCONT)
        lag = stream.topic.end() - stream.committed()
        assert lag > 50_000, "the stall must have let a backlog grow"
        began = time.monotonic()
        eventually(stream.drained, 30 + 2 * STALL_SECONDS, what=stream.logged)
        took = time.monotonic() - began
        most = max(most, process.memory_info().rss)
        print(f"{lag:,} bytes behind after {STALL_SECONDS} s, drained in {took:.1f} s")
        print(f"memory before {before / MEGABYTE:.0f} MB, at most {most / MEGABYTE:.0f} MB")
        assert most - before < 64 * MEGABYTE
        assert consumer.poll() is None, stream.logged()
        consumer.terminate()
        assert consumer.wait(30) == 0
    finally:
        consumer.kill()
        consumer.wait()
    stream.finish()


def test_sigterm_during_a_stall_ends_at_once_and_loses_nothing(
    stream: Stream, postgres: EmbeddedPostgres
) -> None:
    traffic = Traffic(stream.topic, 10)
    consumer = stream.start()
    stopped = processes(postgres)
    signal_all(stopped, signal.SIGSTOP)
    try:
        traffic.burst(500)
        time.sleep(0.3)
        consumer.terminate()
        # STOP_SECONDS and the end of the interpreter; the rest is for a busy machine.
        assert consumer.wait(10) == 1
    finally:
        signal_all(stopped, signal.SIGCONT)
        consumer.kill()
        consumer.wait()
    assert "PostgreSQL did not finish the current batch within 1.5 s" in stream.logged()
    stream.finish()
