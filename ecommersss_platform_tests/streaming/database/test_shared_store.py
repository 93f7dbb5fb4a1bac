"""The order store that consumers share, on a real server: turns, positions, lists, and the stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ecommersss_platform_tests.support.shop import execute, flagged, open_shop, query, read_all
from streaming.database.shared import TURN_LOCK, SharedOrderStore
from streaming.database.store import Collision, OrderStore
from streaming.database.user_lists import add_entry
from streaming.decisions import Rejected
from streaming.flagged import FlaggedFollower
from streaming.orders import Flagged, encode_flagged
from streaming.topics import SHARED_POSITIONS
from streaming.topics.jsonl import JsonlTopic

pytestmark = pytest.mark.integration


FIRST, LAST = SHARED_POSITIONS.start, SHARED_POSITIONS[-1]


@pytest.fixture
def url(database: str) -> str:
    open_shop(database)
    return database


def opened(url: str) -> SharedOrderStore:
    store = SharedOrderStore(url)
    store.open()
    return store


def order_at(position: int, id: int, user_id: int = 1) -> Flagged:
    return flagged(id, position=position, user_id=user_id)


def put(store: SharedOrderStore, *ids: int, user_id: int = 1) -> list[int]:
    """Store a batch of a user's orders and return their positions."""
    positions = store.take_turn({user_id}, len(ids))
    store.put([order_at(p, id, user_id) for p, id in zip(positions, ids, strict=True)], [], {})
    return positions


class Background:
    """A call that runs in a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._failure: BaseException | None = None

        def work() -> None:
            try:
                call()
            except BaseException as error:
                self._failure = error

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def ended(self, within: float) -> bool:
        self._thread.join(within)
        if self._failure is not None:
            raise self._failure
        return not self._thread.is_alive()


def test_positions_are_ascending_and_above_any_on_disk(url: str) -> None:
    with opened(url) as store:
        assert store.take_turn({1, 2}, 3) == [FIRST, FIRST + 1, FIRST + 2]
        store.put([], [Rejected(FIRST, b"{", "malformed_json", "no")], {FIRST: "7"})
        assert store.open() == FIRST + 2
        assert store.take_turn(set(), 1) == [FIRST + 3]
    assert query(url, "SELECT position FROM rejected_orders") == [(FIRST,)]
    [(definition,)] = query(url, "SELECT pg_get_indexdef('orders_shared_position'::regclass)")
    assert str(FIRST) in definition
    [(lists_trigger,)] = query(url, "SELECT prosrc FROM pg_proc WHERE proname = 'next_lists_version'")
    assert f"pg_advisory_xact_lock({TURN_LOCK})" in lists_trigger


def test_a_users_next_batch_waits_for_the_last_and_other_users_do_not(url: str) -> None:
    with opened(url) as one, opened(url) as two, opened(url) as three:
        [first] = one.take_turn({3, 1, 2}, 1)
        second: list[int] = []
        waiting = Background(lambda: second.extend(two.take_turn({2, 5}, 1)))
        assert not waiting.ended(within=0.3)
        [other] = put(three, 30, user_id=4)  # nobody waits for other users
        one.put([order_at(first, 10, user_id=2)], [], {})
        assert waiting.ended(within=5)
        assert first < other < second[0]
        assert sorted(two.stored([10, 30])) == [10, 30]
        with two.past_orders() as past:
            assert past.newest([2])[2] is not None
        two.put([], [], {})


def test_batches_of_the_same_users_never_deadlock(url: str) -> None:
    def many(store: SharedOrderStore, ids: range) -> None:
        for id in ids:
            [position] = store.take_turn(set(range(1, 11)), 1)
            store.put([order_at(position, id)], [], {})

    with opened(url) as one, opened(url) as two, opened(url) as three:
        stores = (one, two, three)
        work = [
            Background(lambda s=s, n=n: many(s, range(n, n + 30)))
            for s, n in zip(stores, (1, 101, 201), strict=True)
        ]
        assert all(w.ended(within=30) for w in work)
    assert query(url, "SELECT count(*), count(DISTINCT position) FROM orders") == [(90, 90)]


def test_a_dead_consumers_locks_are_released_and_its_batch_undone(url: str) -> None:
    with opened(url) as dead, opened(url) as alive:
        [position] = dead.take_turn({1}, 1)
        pid = dead.connection.get_backend_pid()
        waiting = Background(lambda: put(alive, 2))
        assert not waiting.ended(within=0.2)
        execute(url, "SELECT pg_terminate_backend(%s)", (pid,))
        assert waiting.ended(within=5)
    assert query(url, "SELECT id, position > %s FROM orders", (position,)) == [(2, True)]


def test_an_order_id_of_two_users_collides_and_stores_nothing_of_the_batch(url: str) -> None:
    with opened(url) as one, opened(url) as two:
        [first] = one.take_turn({1}, 1)
        positions = two.take_turn({2}, 2)
        one.put([order_at(first, 7)], [], {})
        with pytest.raises(Collision):
            two.put([order_at(positions[0], 8, 2), order_at(positions[1], 7, 2)], [], {})
        assert two.take_turn({2}, 1) > positions
        assert list(two.stored([7, 8])) == [7]
        two.put([], [], {})


def test_no_order_appears_below_a_horizon(url: str) -> None:
    with opened(url) as slow, opened(url) as quick, opened(url) as looking:
        assert looking.horizon(-1) is None or looking.horizon(-1) == FIRST - 1
        [early] = slow.take_turn({1}, 1)
        [late] = put(quick, 2, user_id=2)
        assert early < late
        assert [o.position for o in looking.flagged_after(-1, LAST)] == [late]  # out of order, so far
        began = time.monotonic()
        assert looking.horizon(-1, patience=0.2) is None
        assert time.monotonic() - began < 2
        slow.put([order_at(early, 1)], [], {})
        assert looking.horizon(-1) == late
        assert [o.position for o in looking.flagged_after(-1, late)] == [early, late]
        assert looking.horizon(late) is None


def test_list_versions_grow_with_positions(url: str) -> None:
    with opened(url) as one, opened(url) as two, opened(url) as three:
        [before] = one.take_turn({1}, 1)
        one.refresh([order_at(before, 1)])
        change = Background(lambda: add_entry(url, 5, "block", "stolen card"))
        assert not change.ended(within=0.3)  # a batch is being decided
        later: list[int] = []

        def decide_later() -> None:
            later.extend(two.take_turn({2}, 1))
            two.refresh([order_at(later[0], 2, user_id=2)])
            two.put([order_at(later[0], 2, user_id=2)], [], {})

        deciding = Background(decide_later)
        one.put([order_at(before, 1)], [], {})
        assert change.ended(within=5)
        assert deciding.ended(within=5)
        [third] = three.take_turn({3}, 1)
        three.refresh([order_at(third, 3, user_id=3)])
        three.put([order_at(third, 3, user_id=3)], [], {})
    versions = query(url, "SELECT lists_version FROM orders ORDER BY position")
    used = [version for (version,) in versions]
    # Whether the second batch came before the change or after it, its positions did too.
    assert used[0] == 0
    assert used == sorted(used)
    assert used[2] == 2  # an entry of the same kind is removed first, which is a version too


def test_a_message_is_rejected_once(url: str) -> None:
    def reject(store: SharedOrderStore, *messages: str) -> list[str]:
        positions = store.take_turn(set(), len(messages))
        lines = [Rejected(p, b"{", "malformed_json", "no") for p in positions]
        new = store.put([], lines, dict(zip(positions, messages, strict=True)))
        return [message for p, message in zip(positions, messages, strict=True) if p in new]

    with opened(url) as one, opened(url) as two:
        assert reject(one, "b", "a") == ["b", "a"]
        assert reject(two, "a", "c", "b") == ["c"]
        assert reject(one, "c", "d", "d") == ["d"]
    assert query(url, "SELECT message_id FROM rejected_orders ORDER BY position") == [
        ("b",),
        ("a",),
        ("c",),
        ("d",),
    ]


# The flagged stream.


@pytest.fixture
def stream(tmp_path: Path) -> JsonlTopic:
    return JsonlTopic(tmp_path / "flagged", segment_bytes=2_000)


def assert_whole(url: str, stream: JsonlTopic) -> None:
    with opened(url) as store:
        stored = [encode_flagged(o) for o in store.flagged_after(-1, LAST)]
    assert list(read_all(stream).values()) == stored


def test_the_stream_is_the_stored_orders_by_position_each_once(url: str, stream: JsonlTopic) -> None:
    follower = FlaggedFollower(stream)
    with opened(url) as one, opened(url) as two:
        assert follower.advance(one) == 0
        put(one, 1, 2, 3)
        put(two, 4, user_id=2)
        assert follower.advance(one) == 4
        assert follower.advance(one) == 0
        put(two, *range(10, 60), user_id=2)
        assert follower.advance(two) == 50
        put(one, 70)
        assert follower.advance(one) == 1
    follower.release()
    assert len(stream.segments()) > 1
    assert_whole(url, stream)


def test_one_process_writes_and_the_next_resumes_where_it_ended(url: str, stream: JsonlTopic) -> None:
    first, second = FlaggedFollower(stream), FlaggedFollower(JsonlTopic(stream.directory))
    with opened(url) as store:
        put(store, 1, 2)
        assert first.advance(store) == 2
        put(store, 3)
        assert second.advance(store) == 0
        assert (first.writing, second.writing) == (True, False)
        first.release()
        second._next_election = 0
        assert second.advance(store) == 1
        assert first.advance(store) == 0
    second.release()
    assert_whole(url, stream)


def test_a_stream_that_began_with_a_topic_on_disk_goes_on(url: str, stream: JsonlTopic) -> None:
    """The first order of the topic on disk is in the stream; the second was stored but not written."""
    with OrderStore(url) as on_disk:
        position = on_disk.open()
        on_disk.commit(position, 900, [order_at(0, 1), order_at(450, 2)])
    with opened(url) as store:
        first, *_ = store.flagged_after(-1, LAST)
        stream.publish([encode_flagged(first)])
        put(store, 3)
        follower = FlaggedFollower(stream)
        assert follower.advance(store) == 2
        put(store, 4)
        assert follower.advance(store) == 1
        follower.release()
    assert_whole(url, stream)
