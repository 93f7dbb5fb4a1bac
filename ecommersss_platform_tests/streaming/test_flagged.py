"""The flagged stream is completed from the database at every byte at which a crash can have cut it."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecommersss_platform_tests.support.shop import flagged, read_all
from streaming.flagged import FlaggedStream, last_position
from streaming.orders import Flagged, decode_flagged, encode_flagged
from streaming.topics import DISK_POSITIONS, SHARED_POSITIONS, jsonl
from streaming.topics.jsonl import EndMoved, JsonlTopic


class Stored:
    """The committed orders. Records the intervals that are asked for."""

    def __init__(self, orders: Sequence[Flagged]) -> None:
        self.orders = list(orders)
        self.asked: list[tuple[int, int]] = []

    def flagged_after(self, position: int, last: int) -> list[Flagged]:
        self.asked.append((position, last))
        found = [o for o in self.orders if position < o.position <= last]
        return sorted(found, key=lambda o: o.position)


def lines(orders: Sequence[Flagged]) -> bytes:
    return b"".join(encode_flagged(o) + b"\n" for o in orders)


def content(topic: JsonlTopic) -> bytes:
    return b"".join(topic.path(segment).read_bytes() for segment in topic.segments())


def ids(topic: JsonlTopic) -> list[int]:
    return [decode_flagged(line).id for line in read_all(topic).values()]


def on_disk(topic: JsonlTopic) -> FlaggedStream:
    return FlaggedStream(topic, DISK_POSITIONS)


# In topic order; ids come in any.
ORDERS = [
    flagged(7, 100),
    flagged(3, 200, fraud_reasons=["foreign_country"], country="SG"),
    flagged(9, 300, payment_method="火"),
    flagged(1, 400),
]


@pytest.fixture
def topic(tmp_path: Path) -> JsonlTopic:
    return JsonlTopic(tmp_path / "flagged", notify=False)


def test_an_empty_stream_of_an_empty_database_has_nothing_to_complete(topic: JsonlTopic) -> None:
    stream = on_disk(topic)
    assert stream.recover(Stored([])) == 0
    stream.append(lines(ORDERS[:2]))
    stream.append(lines([]))
    stream.append(lines(ORDERS[2:]))
    assert content(topic) == lines(ORDERS)


@pytest.mark.parametrize("segment_bytes", [1, 64 << 20])
def test_a_stream_cut_at_any_byte_is_completed_to_the_same_bytes(
    tmp_path: Path, segment_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    """After a crash, or a power failure that took whole batches, or when somebody removed the files."""
    whole = lines(ORDERS)
    for cut in range(0, len(whole) + 1, 1 if segment_bytes > 1 else 5):
        topic = JsonlTopic(tmp_path / str(cut), segment_bytes, notify=False)
        begin = 0
        for size in [len(whole)] if segment_bytes > 1 else [len(lines([o])) for o in ORDERS]:
            if begin < cut:
                topic.path(begin).write_bytes(whole[begin : min(cut, begin + size)])
            begin += size
        caplog.clear()
        missing = 4 - whole[:cut].count(b"\n")
        stream, stored = on_disk(topic), Stored(ORDERS)
        assert stream.recover(stored) == missing
        assert content(topic) == whole
        warned = [r.message for r in caplog.records if r.levelno == logging.WARNING]
        expected = f"completed the flagged stream with {missing} missing lines"
        assert warned == ([expected] if missing else [])
        stored.orders.append(flagged(50, 500))
        stream.append(lines(stored.orders[-1:]))
        assert on_disk(topic).recover(stored) == 0, "the second recovery finds nothing to do"
        assert ids(topic) == [7, 3, 9, 1, 50]


def test_the_database_is_asked_only_for_what_follows_the_last_line(topic: JsonlTopic) -> None:
    stored = Stored(ORDERS)
    on_disk(topic).recover(stored)
    stored.asked.clear()
    on_disk(topic).recover(stored)
    assert stored.asked == [(SHARED_POSITIONS.start - 1, SHARED_POSITIONS[-1]), (400, DISK_POSITIONS[-1])]


def test_what_a_stranger_wrote_is_left_and_ended(topic: JsonlTopic, caplog: pytest.LogCaptureFixture) -> None:
    before = lines(ORDERS[:2])
    topic.path(0).write_bytes(before + b'{"id": "half a li')
    assert on_disk(topic).recover(Stored(ORDERS)) == 2
    assert content(topic) == before + b'{"id": "half a li\n' + lines(ORDERS[2:])
    assert "left as a line of their own" in caplog.text
    # And its line is no obstacle to the next recovery.
    topic.publish([b"a stranger's line"])
    assert on_disk(topic).recover(Stored(ORDERS)) == 0


def test_a_moved_end_is_noticed_and_the_stream_completed(topic: JsonlTopic) -> None:
    stream = on_disk(topic)
    stream.append(lines(ORDERS[:2]))
    topic.publish([b"a stranger's line"])
    with pytest.raises(EndMoved):
        stream.append(lines(ORDERS[2:]))
    assert stream.recover(Stored(ORDERS)) == 2
    assert content(topic) == lines(ORDERS[:2]) + b"a stranger's line\n" + lines(ORDERS[2:])


def test_a_full_disk_is_raised_and_the_stream_completed_later(
    topic: JsonlTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_a_little(file: int, data: bytes) -> None:
        os.write(file, data[:40])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stream = on_disk(topic)
    with monkeypatch.context() as full:
        full.setattr(jsonl, "_write", write_a_little)
        with pytest.raises(OSError, match="No space left"):
            stream.append(lines(ORDERS))
        with pytest.raises(OSError, match="No space left"):
            stream.recover(Stored(ORDERS))
    assert content(topic) == lines(ORDERS)[:80]
    assert on_disk(topic).recover(Stored(ORDERS)) == 4
    assert content(topic) == lines(ORDERS)


def test_a_position_that_was_moved_back_by_hand_repeats_no_line(topic: JsonlTopic) -> None:
    """An order that was rejected at first comes after orders with greater positions."""
    stream = on_disk(topic)
    stream.append(lines(ORDERS))
    late = flagged(60, 250)
    stream.append(lines([late]))
    assert on_disk(topic).recover(Stored([*ORDERS, late])) == 0


@pytest.mark.parametrize("half_a_line", [b"", b'{"id":1,'])
def test_lines_that_retention_removed_are_not_written_again(tmp_path: Path, half_a_line: bytes) -> None:
    """Though the consumer died when it began a segment, and all lines before that are old enough to go."""
    topic = JsonlTopic(tmp_path, segment_bytes=1, notify=False)
    for order in ORDERS[:3]:
        topic.publish([encode_flagged(order)])
    topic.path(topic.end()).write_bytes(half_a_line)
    assert len(topic.trim(topic.end())) == 2
    assert on_disk(topic).recover(Stored(ORDERS)) == 1
    assert ids(topic) == [9, 1]


# A database that had both kinds of topic.

SHARED = [flagged(id, SHARED_POSITIONS.start + id) for id in (20, 21, 22)]


@given(st.lists(st.tuples(st.sampled_from("ds"), st.integers(0, 3), st.booleans()), max_size=8))
def test_lines_are_neither_skipped_nor_repeated_when_the_kind_of_topic_changes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, bool]]
) -> None:
    """Each step starts a consumer of a kind, which stores some orders and may be killed before it wrote all.

    A consumer of a topic on disk that follows a shared one writes at least one line.
    """
    topic = JsonlTopic(tmp_path_factory.mktemp("flagged"), segment_bytes=1_000, notify=False)
    stored = Stored([])
    next_id = 1
    for kind, count, killed in steps:
        positions = DISK_POSITIONS if kind == "d" else SHARED_POSITIONS
        stream = FlaggedStream(topic, positions)
        stream.recover(stored)
        assert sorted(ids(topic)) == sorted(o.id for o in stored.orders)
        new = [flagged(id, positions.start + 10 * id) for id in range(next_id, next_id + count)]
        next_id += count
        stored.orders += new
        stream.append(lines(new[: len(new) // 2 + (kind == "d")] if killed else new))
    on_disk(topic).recover(stored)
    assert sorted(ids(topic)) == sorted(o.id for o in stored.orders)


def test_the_last_position_of_each_kind(topic: JsonlTopic) -> None:
    assert last_position(topic, DISK_POSITIONS) == -1
    assert last_position(topic, SHARED_POSITIONS) == SHARED_POSITIONS.start - 1
    topic.publish(encode_flagged(o) for o in (*SHARED, *ORDERS))
    assert last_position(topic, SHARED_POSITIONS) == SHARED[-1].position
    assert last_position(topic, DISK_POSITIONS) == 400
