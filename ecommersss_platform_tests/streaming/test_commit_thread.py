"""The thread beside the consumer's own."""

from __future__ import annotations

import threading

from streaming.commit_thread import Aside


def test_tasks_are_done_in_one_other_thread_and_their_failures_come_back() -> None:
    aside = Aside("aside")
    threads: list[threading.Thread] = []
    failure = ValueError("no")

    def fail() -> None:
        threads.append(threading.current_thread())
        raise failure

    aside.begin(fail)
    assert aside.failure() is failure
    aside.begin(lambda: threads.append(threading.current_thread()))
    assert aside.failure() is None
    assert threads[0] is threads[1] is not threading.current_thread()
    assert threads[0].daemon, "it must not keep the process from ending"


def test_the_owner_goes_on_meanwhile() -> None:
    aside = Aside("aside")
    let_go = threading.Event()
    aside.begin(let_go.wait)
    let_go.set()
    assert aside.failure() is None
