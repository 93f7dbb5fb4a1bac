"""Locks between processes: who waits says so, once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ecommersss_platform.local import locks
from ecommersss_platform.local.locks import FileLock


def test_a_long_wait_for_a_lock_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "NOTICE_SECONDS", 0.1)
    said: list[str] = []
    path = tmp_path / "lock"
    with FileLock(path).held(lambda: said.append("nobody else has it")):
        assert said == []
        heard = threading.Event()
        got: list[bool] = []

        def wait() -> None:
            with FileLock(path).held(lambda: (said.append("waiting"), heard.set())):
                got.append(True)

        waiter = threading.Thread(target=wait)
        waiter.start()
        assert heard.wait(10)
        assert got == []
    waiter.join(10)
    assert (said, got) == (["waiting"], [True])
