"""Which segments may go: the decision, and that reading, recovery and writing do not miss what is gone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecommersss_platform_tests.support.shop import flagged, read_all
from streaming.database.store import Emission
from streaming.flagged import FlaggedStream
from streaming.orders import Flagged, decode_flagged, encode_flagged
from streaming.topics.jsonl import JsonlTopic
from streaming.topics.retention import Segment, decide, segments_of, trim

NOW = datetime(2026, 3, 2, 5, 0, tzinfo=UTC)
KEEP = timedelta(days=30)


def segment(begin: int, end: int, days_old: float) -> Segment:
    return Segment(begin, end, NOW - timedelta(days=days_old))


THREE = [segment(0, 100, 90), segment(100, 200, 60), segment(200, 250, 40)]


def removable(readers: dict[str, int | None], keep: timedelta | None = KEEP) -> list[int]:
    return [v.segment.begin for v in decide(THREE, readers, keep, NOW) if v.removable]


def test_what_is_old_and_read_goes_but_never_the_newest() -> None:
    assert removable({"a": 250}) == [0, 100]
    assert [v.why for v in decide(THREE, {"a": 250}, KEEP, NOW)][-1] == "it is the newest segment"


@pytest.mark.parametrize(
    ("position", "gone"), [(0, []), (99, []), (100, [0]), (199, [0]), (200, [0, 100]), (250, [0, 100])]
)
def test_a_reader_keeps_what_it_has_not_read_to_the_last_byte(position: int, gone: list[int]) -> None:
    assert removable({"fast": 250, "slow": position}) == gone


def test_age_counts_from_the_last_change_and_is_exact() -> None:
    old = [segment(0, 10, 30), segment(10, 20, 29.999), segment(20, 30, 0)]
    verdicts = decide(old, {"a": 30}, KEEP, NOW)
    assert [v.removable for v in verdicts] == [True, False, False]
    assert verdicts[1].why == "it was written to less than 30 days ago"


def test_no_hole_is_left_where_a_younger_segment_precedes_an_older_one() -> None:
    mixed = [segment(0, 10, 5), segment(10, 20, 90), segment(20, 30, 0)]
    verdicts = decide(mixed, {"a": 30}, KEEP, NOW)
    assert [v.removable for v in verdicts] == [False, False, False]
    assert verdicts[1].why == "an older segment is kept"


def test_nothing_goes_when_it_is_not_known_who_has_read_what() -> None:
    assert removable({}) == []
    assert removable({"a": 250, "sensor": None}) == []
    assert decide(THREE, {}, KEEP, NOW)[0].why == "no reader of the topic is known"
    assert decide(THREE, {"sensor": None}, KEEP, NOW)[0].why == "it is not known how far sensor has read"


def test_a_reader_past_the_end_will_read_a_replaced_topic_again() -> None:
    assert removable({"a": 251}) == []
    assert "past the topic's end 250" in decide(THREE, {"a": 251}, KEEP, NOW)[0].why


def test_kept_for_ever() -> None:
    assert removable({"a": 250}, keep=None) == []


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 90)), min_size=1, max_size=8),
    st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(0, 400), max_size=3),
)
def test_no_reader_ever_misses_a_byte(shapes: list[tuple[int, int]], readers: dict[str, int | None]) -> None:
    segments, begin = [], 0
    for size, age in shapes:
        segments.append(segment(begin, begin + size, age))
        begin += size
    verdicts = decide(segments, readers, KEEP, NOW)
    gone = [v.segment for v in verdicts if v.removable]
    assert gone == segments[: len(gone)]
    assert len(gone) < len(segments)
    for found in gone:
        assert NOW - found.changed >= KEEP
        assert readers
        assert all(position is not None and position >= found.end for position in readers.values())


# On disk.


def many_segments(directory: Path, count: int = 5) -> JsonlTopic:
    """A topic with so many segments of one line, each of them a day older than the next."""
    topic = JsonlTopic(directory, segment_bytes=1)
    for number in range(count):
        topic.publish([b"line %d" % number])
    for age, begin in enumerate(reversed(topic.segments())):
        when = (NOW - timedelta(days=age)).timestamp()
        os.utime(topic.path(begin), (when, when))
    return topic


def test_segments_as_they_are_on_disk(tmp_path: Path) -> None:
    topic = many_segments(tmp_path)
    assert segments_of(topic) == [segment(7 * i, 7 * i + 7, 4 - i) for i in range(5)]
    assert segments_of(JsonlTopic(tmp_path / "empty")) == []


def test_removed_segments_are_not_missed(tmp_path: Path) -> None:
    topic = many_segments(tmp_path)
    reader = topic.reader(0)
    assert [reader.read(1, 0).next_position for _ in range(3)] == [7, 14, 21]
    verdicts = decide(segments_of(topic), {"a": 21}, timedelta(days=2), NOW)
    assert trim(topic, verdicts) == [0, 7, 14]
    assert trim(topic, verdicts) == [], "a second time there is nothing to do"
    assert (topic.start(), topic.end()) == (21, 35)

    # A reader under way, one that begins there, and one from the very beginning.
    assert [reader.read(9, 0).lines for _ in range(2)] == [[b"line 3"], [b"line 4"]]
    with topic.reader(21) as other:
        assert [other.read(9, 0).lines for _ in range(2)] == [[b"line 3"], [b"line 4"]]
    with topic.reader(0) as late:
        assert late.read(1, 0).lines == [b"line 3"]
    # Writers go on at the same positions.
    assert topic.publish([b"line 5"]) == 42
    assert reader.read(9, 0).positions == [35]
    reader.close()


def test_a_position_at_the_end_of_the_only_segment_that_is_left(tmp_path: Path) -> None:
    topic = many_segments(tmp_path)
    assert topic.trim(10_000) == [0, 7, 14, 21]
    with topic.reader(35) as reader:
        assert reader.read(9, 0).next_position == 35
        topic.publish([b"more"])
        assert reader.read(9, 0).lines == [b"more"]


class Committed:
    """What the order store answers when the batch `last` was committed after all others."""

    def __init__(self, orders: list[Flagged], last: list[Flagged], start: int) -> None:
        self._orders, self._last, self._start = orders, last, start

    def emission(self) -> Emission:
        return Emission(self._start, [order.id for order in self._last])

    def flagged(self, ids: Sequence[int]) -> list[Flagged]:
        return [order for order in self._orders if order.id in ids]

    def flagged_after(self, position: int) -> list[Flagged]:
        return [order for order in self._orders if order.position > position]


@pytest.mark.parametrize("written", [0, 1, 2])
def test_the_flagged_stream_is_completed_though_its_beginning_was_removed(
    tmp_path: Path, written: int
) -> None:
    """Killed after a commit, with none, one or both lines of the batch written; old segments are gone."""
    topic = JsonlTopic(tmp_path, segment_bytes=1)
    orders = [flagged(id_) for id_ in range(1, 6)]
    before, last = orders[:3], orders[3:]
    stream = FlaggedStream(topic)
    for order in before:
        stream.emit([order])
        stream.end = topic.end()
    start = topic.end()
    topic.publish(encode_flagged(order) for order in last[:written])
    assert topic.trim(start)[:2] == topic_begins(before)[:2]

    assert FlaggedStream(topic).recover(Committed(orders, last, start)) == 2 - written
    ids = [decode_flagged(line).id for line in read_all(topic).values()]
    assert ids[-2:] == [4, 5]
    assert 1 not in ids


def topic_begins(orders: Sequence[Flagged]) -> list[int]:
    begins, at = [], 0
    for order in orders:
        begins.append(at)
        at += len(encode_flagged(order)) + 1
    return begins


def test_lines_lost_behind_removed_segments_are_written_again_but_not_what_was_removed(
    tmp_path: Path,
) -> None:
    topic = JsonlTopic(tmp_path, segment_bytes=1)
    orders = [flagged(id_) for id_ in range(1, 6)]
    for order in orders:
        topic.publish([encode_flagged(order)])
    begins = topic.segments()
    topic.trim(begins[2])
    topic.path(begins[4]).unlink()  # lost, though the database says that it was written
    assert FlaggedStream(topic).recover(Committed(orders, orders[4:], begins[4] + 1)) == 1
    assert [decode_flagged(line).id for line in read_all(topic).values()] == [3, 4, 5]
