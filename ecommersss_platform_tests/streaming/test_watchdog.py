"""The watchdog of a consumer: it ends a process that stands still, and never one that waits."""

from __future__ import annotations

import faulthandler
import logging
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from ecommersss_platform_tests.support.shop import open_shop, order, query
from streaming import consumer_loop
from streaming.consumer import Consumer
from streaming.orders import encode
from streaming.rules import RULES_PATH, RuleBook
from streaming.topics.jsonl import JsonlTopic
from streaming.watchdog import EXIT_CODE, Watchdog


class Watched:
    """A watchdog with a clock and an end of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ended_at: list[float] = []
        self.watchdog = Watchdog(60, lambda: self.now, lambda: self.ended_at.append(self.now))

    def wait(self, seconds: float, step: float = 0.1) -> None:
        """Let time pass, with a tick at each step."""
        for _ in range(round(seconds / step)):
            self.now += step
            self.watchdog.tick()


def test_work_that_takes_a_minute_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    with watched.watchdog.working(4_711, 3):
        watched.wait(59)
        assert watched.ended_at == []
        watched.wait(2)
    assert watched.ended_at[0] == pytest.approx(60, abs=0.3)
    assert "stood still for 60 s at one of 3 lines from position 4711" in caplog.messages[0]
    assert caplog.records[0].position == 4_711  # type: ignore[attr-defined]


def test_waiting_and_many_short_pieces_of_work_do_not_end_the_process() -> None:
    watched = Watched()
    watched.wait(600)
    for position in range(20):
        with watched.watchdog.working(position, 1):
            watched.wait(30)
    for _ in range(20):  # the same lines again, as after a collision
        with watched.watchdog.working(0, 1):
            watched.wait(30)
    assert watched.ended_at == []


def test_time_in_which_the_process_was_suspended_does_not_count() -> None:
    watched = Watched()
    with watched.watchdog.working(0, 1):
        for _ in range(5):
            watched.wait(3_600, step=3_600)
    assert watched.ended_at == []


STUCK = """
import logging, re, sys, time
from streaming.watchdog import Watchdog
logging.basicConfig()
watchdog = Watchdog(0.3)
{setting}
with watchdog.guarding_interpreter() as tick, watchdog.working(42, 1):
    tick()
    {work}
"""


def _run(work: str, setting: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", STUCK.format(work=work, setting=setting)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_process_ends_with_its_position_and_traceback() -> None:
    ended = _run("[(time.sleep(0.05), tick()) for _ in range(600)]")
    assert ended.returncode == EXIT_CODE
    assert "from position 42" in ended.stderr
    assert 'File "<string>"' in ended.stderr


def test_native_code_that_keeps_the_interpreter_ends_the_process() -> None:
    setting = "import streaming.watchdog; streaming.watchdog._ARM_SECONDS = 0.2"
    ended = _run("re.fullmatch('(a*)*b', 'a' * 60)", setting)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "fullmatch" in ended.stderr


@pytest.mark.integration
def test_a_consumer_that_stands_still_at_an_order_is_ended(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    open_shop(database)
    topic, flagged = JsonlTopic(tmp_path / "orders"), JsonlTopic(tmp_path / "flagged")
    topic.publish([encode(order(1))])
    released, decide = Event(), consumer_loop.decide_batch
    monkeypatch.setattr(consumer_loop, "decide_batch", lambda *of: released.wait(30) and decide(*of))
    # It would end the process of the tests.
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: None)
    with caplog.at_level(logging.CRITICAL):
        Consumer(database, topic, flagged, RuleBook.load(RULES_PATH)).run(
            True, Watchdog(0.5, end=released.set)
        )
    assert any("at one of 1 lines from position 0" in message for message in caplog.messages)
    assert query(database, "SELECT id FROM orders") == [(1,)]
