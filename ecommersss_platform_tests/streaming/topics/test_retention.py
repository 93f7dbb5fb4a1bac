"""Retention: which segments may be removed, and that reading, recovery and writing go on without them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.topics.jsonl import JsonlTopic
from streaming.topics.retention import Segment, judge_segments, list_segments, remove_segments

NOW = datetime(2026, 3, 2, 5, 0, tzinfo=UTC)
KEEP = timedelta(days=30)


def segment(begin: int, end: int, days_old: float) -> Segment:
    return Segment(begin, end, NOW - timedelta(days=days_old))


THREE = [segment(0, 100, 90), segment(100, 200, 60), segment(200, 250, 40)]


def removable(readers: dict[str, int | None], keep: timedelta | None = KEEP) -> list[int]:
    return [v.segment.begin for v in judge_segments(THREE, readers, keep, NOW) if v.removable]


def test_old_segments_that_everyone_read_are_removed_except_the_newest() -> None:
    assert removable({"a": 250}) == [0, 100]
    assert [v.reason for v in judge_segments(THREE, {"a": 250}, KEEP, NOW)][-1] == "it is the newest segment"


@pytest.mark.parametrize(
    ("position", "gone"), [(0, []), (99, []), (100, [0]), (199, [0]), (200, [0, 100]), (250, [0, 100])]
)
def test_a_segment_stays_until_every_reader_has_read_its_last_byte(position: int, gone: list[int]) -> None:
    assert removable({"fast": 250, "slow": position}) == gone


def test_age_counts_from_the_last_change() -> None:
    old = [segment(0, 10, 30), segment(10, 20, 29.999), segment(20, 30, 0)]
    judgements = judge_segments(old, {"a": 30}, KEEP, NOW)
    assert [v.removable for v in judgements] == [True, False, False]
    assert judgements[1].reason == "it was written to less than 30 days ago"


def test_an_old_segment_after_a_young_one_stays() -> None:
    mixed = [segment(0, 10, 5), segment(10, 20, 90), segment(20, 30, 0)]
    judgements = judge_segments(mixed, {"a": 30}, KEEP, NOW)
    assert [v.removable for v in judgements] == [False, False, False]
    assert judgements[1].reason == "an older segment is kept"


def test_every_segment_stays_if_a_reader_is_unknown() -> None:
    assert removable({}) == []
    assert removable({"a": 250, "sensor": None}) == []
    assert judge_segments(THREE, {}, KEEP, NOW)[0].reason == "no reader of the topic is known"
    assert (
        judge_segments(THREE, {"sensor": None}, KEEP, NOW)[0].reason
        == "it is unknown how far sensor has read"
    )


def test_every_segment_stays_if_a_reader_is_past_the_end() -> None:
    assert removable({"a": 251}) == []
    assert "past the topic's end 250" in judge_segments(THREE, {"a": 251}, KEEP, NOW)[0].reason


def test_segments_are_kept_forever_without_a_limit() -> None:
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
    judgements = judge_segments(segments, readers, KEEP, NOW)
    gone = [v.segment for v in judgements if v.removable]
    assert gone == segments[: len(gone)]
    assert len(gone) < len(segments)
    for found in gone:
        assert NOW - found.changed >= KEEP
        assert readers
        assert all(position is not None and position >= found.end for position in readers.values())


# On disk.


def many_segments(directory: Path, count: int = 5) -> JsonlTopic:
    """Return a topic of `count` one-line segments, each a day older than the next."""
    topic = JsonlTopic(directory, segment_bytes=1)
    for number in range(count):
        topic.publish([b"line %d" % number])
    for age, begin in enumerate(reversed(topic.segments())):
        when = (NOW - timedelta(days=age)).timestamp()
        os.utime(topic.path(begin), (when, when))
    return topic


def test_segments_as_they_are_on_disk(tmp_path: Path) -> None:
    topic = many_segments(tmp_path)
    assert list_segments(topic) == [segment(7 * i, 7 * i + 7, 4 - i) for i in range(5)]
    assert list_segments(JsonlTopic(tmp_path / "empty")) == []


def test_removed_segments_are_not_missed(tmp_path: Path) -> None:
    topic = many_segments(tmp_path)
    reader = topic.reader(0)
    assert [reader.read(1, 0).next_position for _ in range(3)] == [7, 14, 21]
    judgements = judge_segments(list_segments(topic), {"a": 21}, timedelta(days=2), NOW)
    assert remove_segments(topic, judgements) == [0, 7, 14]
    assert remove_segments(topic, judgements) == [], "the second time there is nothing to do"
    assert (topic.start(), topic.end()) == (21, 35)

    # Three readers: one under way, one that begins at the gap, one from the very beginning.
    assert [reader.read(9, 0).lines for _ in range(2)] == [[b"line 3"], [b"line 4"]]
    with topic.reader(21) as other:
        assert [other.read(9, 0).lines for _ in range(2)] == [[b"line 3"], [b"line 4"]]
    with topic.reader(0) as late:
        assert late.read(1, 0).lines == [b"line 3"]
    # Writers continue at the same positions.
    assert topic.publish([b"line 5"]) == 42
    assert reader.read(9, 0).positions == [35]
    reader.close()


def test_a_reader_at_the_end_of_the_only_segment_left_goes_on(tmp_path: Path) -> None:
    topic = many_segments(tmp_path)
    assert topic.trim(10_000) == [0, 7, 14, 21]
    with topic.reader(35) as reader:
        assert reader.read(9, 0).next_position == 35
        topic.publish([b"more"])
        assert reader.read(9, 0).lines == [b"more"]
