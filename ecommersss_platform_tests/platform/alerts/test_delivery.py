"""Delivery to real servers that are down, slow or broken: nothing lost, nothing doubled, nothing held up."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ecommersss_platform.alerts import state as states
from ecommersss_platform.alerts.channels import url_channels
from ecommersss_platform.alerts.delivery import Delivery, deliver_next, telling
from ecommersss_platform.alerts.observe import observe
from ecommersss_platform.alerts.problem import Observation, Problem
from ecommersss_platform.alerts.state import State, transition
from ecommersss_platform.alerts.store import Store
from ecommersss_platform.local.ports import free_port
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.inboxes import mailbox, webhook

NOW = datetime(2026, 11, 24, 20, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apprise pauses for seconds between two messages to one place."""
    monkeypatch.setattr("apprise.plugins.base.NotifyBase.request_rate_per_sec", 0)


class Clock:
    """A clock that tests set forward."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Settings(home=tmp_path / "home"))


def problems(*names: str) -> Observation:
    return Observation([Problem("run_failed", name, f"{name} failed") for name in names])


def queue(store: Store, channel: str, seen: Observation, now: datetime = NOW) -> None:
    store.update(lambda state: transition(state, seen, now, {channel: None})[0])


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_webhook_that_is_down_then_broken_then_well_gets_each_message_once_in_order(
    store: Store, clock: Clock
) -> None:
    port = free_port(0)
    [place] = url_channels(f"json://127.0.0.1:{port}/hook")

    def turn() -> float | None:
        return deliver_next(store, place, 10, clock)

    queue(store, place.id, problems("a"))
    assert turn() == pytest.approx(5, abs=1), "down"
    assert turn() == pytest.approx(5, abs=1), "not before its time"
    clock.forward(5)
    with webhook(port) as hook:
        hook.status = 500
        assert turn() == pytest.approx(10, abs=1), "broken"
        assert hook.asked == 1
        queue(store, place.id, problems("b"), clock.now)  # a is over, b is new
        assert turn() is not None
        assert hook.asked == 1, "what comes meanwhile waits, too"
        hook.status = 200
        clock.forward(10)
        assert [turn(), turn(), turn(), turn()] == [0, 0, 0, None]
        assert hook.titles == ["[error] run_failed: a", "[recovered] run_failed: a", "[error] run_failed: b"]
    assert store.read().outbox == ()


def test_mail_server_that_refuses_for_a_while_gets_each_message_once(store: Store, clock: Clock) -> None:
    with mailbox() as mails:
        [place] = url_channels(mails.url)
        mails.answer = "451 try again later"
        queue(store, place.id, problems("a"))
        assert deliver_next(store, place, 10, clock) == pytest.approx(5, abs=1)
        assert "try again later" in store.read().channels[place.id].error
        mails.answer = "250 OK"
        clock.forward(5)
        assert deliver_next(store, place, 10, clock) == 0
        assert deliver_next(store, place, 10, clock) is None
        assert [mail["subject"] for mail in mails.mails] == ["[error] run_failed: a"]


def test_slow_and_dead_channels_hold_up_neither_others_nor_looks(store: Store) -> None:
    with webhook() as slow, webhook() as fast:
        slow.delay = 1.5
        places = url_channels(f"{slow.url} json://127.0.0.1:1/dead {fast.url}")
        delivery = Delivery(store, places, 10)
        delivery.start()
        began = time.monotonic()
        delivery.take(problems("a"))
        delivery.take(problems("a", "b"))
        assert time.monotonic() - began < 1
        wait_until(lambda: len(fast.received) == 2)
        assert time.monotonic() - began < 1.4, "while the slow one still has the first"
        wait_until(lambda: len(slow.received) == 2)
        assert not delivery.drain(0.1), "the dead one keeps its messages"
        delivery.stop(5)
        assert slow.titles == fast.titles == ["[error] run_failed: a", "[error] run_failed: b"]
        assert {q.waiting for q in store.read().outbox} == {frozenset([places[1].id])}


def test_stop_lets_a_slow_channel_finish_so_that_nothing_is_sent_twice(store: Store) -> None:
    with webhook() as hook:
        asked = threading.Event()
        hook.delay, hook.on_request = 0.5, asked.set
        delivery = Delivery(store, url_channels(hook.url), 10)
        delivery.start()
        delivery.take(problems("a"))
        assert asked.wait(10)
        delivery.stop(10)
        assert (hook.titles, store.read().outbox) == (["[error] run_failed: a"], ())


def test_burst_is_a_few_messages_and_a_summary_even_after_a_restart(store: Store, clock: Clock) -> None:
    with webhook() as hook:
        [place] = url_channels(hook.url)
        queue(store, place.id, problems(*(f"job {n}" for n in range(20))))
        assert [deliver_next(store, place, 3, clock) for _ in range(4)] == [0, 0, 0, None]
        assert hook.titles == [
            "[error] run_failed: job 0",
            "[error] run_failed: job 1",
            "18 alerts in one: 18 new problems, 0 recovered",
        ]
        queue(store, place.id, problems())
        assert deliver_next(Store(Settings(home=store.path.parent)), place, 3, clock) == 3600
        clock.forward(3600)
        assert deliver_next(store, place, 3, clock) == 0
        assert len(hook.received) == 4


def test_one_process_at_a_time_tells(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with telling(settings) as first, telling(settings) as second:
        assert (first, second) == (True, False)
    with telling(settings) as again:
        assert again


def test_state_is_for_its_owner_only_and_survives(store: Store) -> None:
    store.update(lambda state: states.muted(state, states.Mute("run_failed", "x", NOW)))
    queue(store, "log", problems("a"))
    store.update(lambda state: states.after_failure(state, "log", "boom", NOW))
    store.update(lambda state: states.after_delivery(state, "log", "log", [], NOW))
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    copy = Store(Settings(home=store.path.parent))
    assert copy.read() == store.read() != State()
    assert sorted(path.name for path in store.path.parent.iterdir()) == ["alerts.json", "alerts.lock"]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"open": [{"problem": 7}]}', b"\xff\x00" * 100])
def test_damaged_state_is_moved_aside_told_and_alerts_go_on(store: Store, damage: bytes) -> None:
    store.path.parent.mkdir()
    store.path.write_bytes(damage)
    assert store.read() == State()
    queue(store, "log", problems("a"))
    [aside] = store.path.parent.glob("alerts.json.damaged-*")
    assert aside.read_bytes() == damage
    assert len(store.read().outbox) == 1
    settings = Settings(home=store.path.parent)
    found = [p for p in observe(settings, NOW).problems if p.kind == "alert_state_damaged"]
    assert [problem.subject for problem in found] == [aside.name]
    aside.unlink()
    assert "alert_state_damaged" not in {problem.kind for problem in observe(settings, NOW).problems}


def test_full_disk_stops_no_alert(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    queue(store, "log", problems())
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "fsync", full)
        queue(store, "log", problems("a"))
        assert [message.problem.subject for message in store.read().waiting("log")] == ["a"]
        queue(store, "log", problems("a", "b"))
    assert Store(Settings(home=store.path.parent)).read().outbox == ()
    store.update(lambda state: state)  # there is space again
    assert len(Store(Settings(home=store.path.parent)).read().outbox) == 2
