"""The thread that commits beside the consumer's own."""

from __future__ import annotations

import threading

import pytest

from streaming.commit_thread import CommitThread


def test_tasks_run_in_one_other_thread_and_wait_raises_their_errors() -> None:
    commit_thread = CommitThread("commit")
    threads: list[threading.Thread] = []

    def fail() -> None:
        threads.append(threading.current_thread())
        raise ValueError("no")

    commit_thread.submit(fail)
    with pytest.raises(ValueError, match="no"):
        commit_thread.wait()
    commit_thread.submit(lambda: threads.append(threading.current_thread()))
    commit_thread.wait()
    assert threads[0] is threads[1] is not threading.current_thread()
    assert threads[0].daemon, "it must not keep the process from ending"


def test_the_owner_works_on_meanwhile() -> None:
    commit_thread = CommitThread("commit")
    released = threading.Event()
    commit_thread.submit(released.wait)  # type: ignore[arg-type]
    released.set()
    commit_thread.wait()
