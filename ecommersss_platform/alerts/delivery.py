"""Deliver the outbox: a thread for each channel, so that none waits for another, and nothing waits for any.

A channel gets its messages in order. A message is sent, and then marked: a kill between the two sends it
again, under the same id. `alerts.jsonl` looks for the id, and has it once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ecommersss_platform.alerts.channels import Channel, NotDelivered
from ecommersss_platform.alerts.problem import Observation
from ecommersss_platform.alerts.state import (
    Message,
    Progress,
    State,
    after_delivery,
    after_failure,
    next_batch,
    transition,
)
from ecommersss_platform.alerts.store import Store
from ecommersss_platform.local.locks import FileLock
from ecommersss_platform.settings import Settings

_log = logging.getLogger("ecommersss.alerts")


def teller_path(settings: Settings) -> Path:
    """Return the file that the process which tells holds a lock on, and touches after each look."""
    return settings.home / "alerts_monitor.lock"


@contextmanager
def telling(settings: Settings, *, wait: Callable[[], object] | None = None) -> Iterator[bool]:
    """Be the one process that tells the alerts of this home, for the block; yield whether it is.

    If another one is, yield False at once, or wait for its end if `wait` is given, which is called once.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(teller_path(settings))
    if wait is not None:
        with lock.held(waiting=wait):
            yield True
        return
    mine = lock.acquire(wait=False)
    try:
        yield mine
    finally:
        lock.release()


def deliver_next(store: Store, channel: Channel, per_hour: int, now: Callable[[], datetime]) -> float | None:
    """Send what a channel may get now. Return the seconds until there may be more; None: nothing waits.

    Only for the process that tells.
    """
    state, at = store.read(), now()
    waiting, progress = state.waiting(channel.id), state.channels.get(channel.id, Progress())
    if waiting and progress.again_at is not None and at < progress.again_at:
        return (progress.again_at - at).total_seconds()
    most = per_hour if channel.limited else None
    batch, again_at = next_batch(waiting, progress.sent, most, at)
    if not batch:
        return None if again_at is None else (again_at - at).total_seconds()
    try:
        channel.send(batch)
    except NotDelivered as error:
        reason = str(error)
        after = store.update(lambda state: after_failure(state, channel.id, reason, now()))
        failed = after.channels[channel.id]
        assert failed.again_at is not None
        delay = (failed.again_at - now()).total_seconds()
        _log.warning("%s took no alert, tried again in %.0f s: %s", channel.name, delay, failed.error)
        return max(delay, 0.0)
    store.update(lambda state: after_delivery(state, channel.id, channel.name, batch, now()))
    return 0.0


class Delivery:
    """Takes looks, and tells through channels what changed. Only for the process that tells."""

    def __init__(
        self,
        store: Store,
        channels: Sequence[Channel],
        per_hour: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._channels, self._per_hour, self._now = store, channels, per_hour, now
        self._wakes = {channel.id: threading.Event() for channel in channels}
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, args=(channel,), name=channel.name, daemon=True)
            for channel in channels
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def take(self, seen: Observation) -> list[Message]:
        """Compare a look with what is open, queue the messages, and return them."""
        owners = {channel.id: channel.owner for channel in self._channels}
        messages: list[Message] = []

        def change(state: State) -> State:
            after, new = transition(state, seen, self._now(), owners)
            messages.extend(new)
            return after

        self._store.update(change)
        if messages:
            for wake in self._wakes.values():
                wake.set()
        return messages

    def drain(self, seconds: float) -> bool:
        """Wait until every channel has its messages or has failed, and return whether all have them."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = self._store.read()
            if all(
                not state.waiting(channel.id) or state.channels.get(channel.id, Progress()).failures
                for channel in self._channels
            ):
                return not state.outbox
            time.sleep(0.05)
        return False

    def stop(self, seconds: float) -> None:
        """Let each channel finish the message that it is sending, at most `seconds` for all."""
        self._stopping = True
        for wake in self._wakes.values():
            wake.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self, channel: Channel) -> None:
        wake = self._wakes[channel.id]
        while not self._stopping:
            wake.clear()
            try:
                pause = deliver_next(self._store, channel, self._per_hour, self._now)
            except Exception:  # a full disk, say: the thread must live
                _log.exception("%s: tried again in a minute", channel.name)
                pause = 60.0
            if pause != 0.0 and not self._stopping:
                wake.wait(pause)
