"""A topic on disk: positions, segments, partial lines, repair, and several writers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecommersss_platform_tests.support.topics import drain, lines_of, write
from streaming.topics import Batch, Reader, Topic
from streaming.topics.jsonl import EndMoved, JsonlTopic
from streaming.topics.jsonl_reader import JsonlReader, TopicTruncated


def test_a_new_topic_is_empty_and_can_be_read(tmp_path: Path) -> None:
    topic: Topic = JsonlTopic(tmp_path / "made" / "here")
    reader: Reader = topic.reader(0)
    assert reader.read(1, 0) == Batch([], [], 0)
    assert (topic.start(), topic.end(), topic.publish([])) == (0, 0, 0)
    reader.close()


def test_positions_are_bytes(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path)
    assert topic.publish([b"a", b"", b"ccc"]) == 7
    assert topic.publish([b"d"]) == 9
    with topic.reader(0) as reader:
        assert reader.read(2, 0) == Batch([0, 2], [b"a", b""], 3)
        assert reader.read(10, 0) == Batch([3, 7], [b"ccc", b"d"], 9)
        assert reader.read(10, 0) == Batch([], [], 9)
    assert topic.path(0).read_bytes() == b"a\n\nccc\nd\n"
    assert (topic.start(), topic.end()) == (0, 9)


@given(
    st.lists(
        st.binary(max_size=30).filter(lambda line: b"\n" not in line and not line.endswith(b"\r")),
        max_size=40,
    ),
    st.integers(1, 60),
    st.integers(1, 7),
)
@settings(max_examples=60, deadline=None)
def test_every_line_can_be_read_from_its_position(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], segment_bytes: int, max_lines: int
) -> None:
    topic = JsonlTopic(tmp_path_factory.mktemp("topic"), segment_bytes)
    for index in range(0, len(lines), 3):
        topic.publish(lines[index : index + 3])
    found = drain(topic, 0, max_lines)
    assert [line for _, line in found] == lines
    assert [position for position, _ in found] == sorted({position for position, _ in found})
    for index, (position, _) in enumerate(found):
        assert drain(topic, position, max_lines) == found[index:]
    assert drain(topic, topic.end()) == []
    # Each segment begins where the previous one ends.
    segments = topic.segments()
    for this, following in pairwise(segments):
        assert following == this + topic.path(this).stat().st_size


def test_a_full_segment_is_followed_by_a_new_one(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path, 10)
    reader = topic.reader(0)
    assert topic.publish([b"12345", b"1234"]) == 11
    assert reader.read(9, 0).lines == [b"12345", b"1234"]
    assert topic.publish([b"x"]) == 13
    assert topic.segments() == [0, 11]
    assert reader.read(9, 0) == Batch([11], [b"x"], 13)
    reader.close()
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "00000000000000000000.jsonl",
        "00000000000000000011.jsonl",
    ]


def test_a_partial_line_of_a_killed_writer_becomes_a_line_of_its_own(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path, 4)
    write(topic, b'{"a":1}\n{"b"')
    assert topic.publish([b"c"]) == 15
    assert drain(topic) == [(0, b'{"a":1}'), (8, b'{"b"'), (13, b"c")]
    assert topic.segments() == [0], "a line never spans segments, so the partial line is ended first"


# Truncated and replaced segments.


def read_three_of_four(topic: JsonlTopic) -> JsonlReader:
    topic.publish([b"one"])
    topic.publish([b"two", b"three", b"four"])
    assert topic.segments() == [0, 4]
    reader = topic.reader(0)
    assert reader.read(1, 0).lines == [b"one"]
    assert reader.read(2, 0) == Batch([4, 8], [b"two", b"three"], 14)
    return reader


def truncate_to_a_line(path: Path) -> None:
    os.truncate(path, 4)


def truncate_within_a_line(path: Path) -> None:
    os.truncate(path, 7)


def truncate_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def replace_shorter(path: Path) -> None:
    path.with_name("other").write_bytes(b"new\n")
    path.with_name("other").rename(path)


def replace_longer(path: Path) -> None:
    path.with_name("other").write_bytes(b"another line of that length\n")
    path.with_name("other").rename(path)


def rewrite_longer(path: Path) -> None:
    path.write_bytes(b"another line of that length\n")


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (truncate_to_a_line, [b"two"]),
        (truncate_within_a_line, [b"two"]),
        (truncate_to_nothing, []),
        (replace_shorter, [b"new"]),
        (replace_longer, [b"another line of that length"]),
        (rewrite_longer, [b"another line of that length"]),
    ],
)
@pytest.mark.parametrize("reopened", [True, False])
def test_repair_of_a_truncated_or_replaced_segment(
    tmp_path: Path, damage: Callable[[Path], None], left: list[bytes], reopened: bool
) -> None:
    topic = JsonlTopic(tmp_path, 4)
    reader = read_three_of_four(topic)
    damage(topic.path(4))
    if reopened:
        reader.close()
        reader = topic.reader(14)
    elif damage in (replace_shorter, replace_longer):
        # The reader finishes the open file, and notices the new one at its end.
        assert reader.read(9, 0) == Batch([14], [b"four"], 19)
    with pytest.raises(TopicTruncated, match=r"at position 1[49]: .*repair\(\)"):
        reader.read(9, 0)
    position = reader.position
    reader.close()
    resume_at = topic.repair(position)
    assert resume_at >= position
    assert lines_of(topic, resume_at) == left
    assert topic.repair(resume_at) == resume_at, "a repaired topic is intact"
    topic.publish([b"five"])
    assert lines_of(topic, resume_at) == [*left, b"five"]
    positions = [at for at, _ in drain(topic)]
    assert positions == sorted(set(positions))
    assert not list(tmp_path.glob(".repair*"))


def test_repair_copies_a_damaged_older_segment_to_the_end(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path, 12)
    topic.publish([b"aaaa", b"bbbb", b"cccc"])
    topic.publish([b"dddd"])
    topic.path(0).write_bytes(b"zz\nyyyyyyyyyyy\n")
    with topic.reader(5) as reader, pytest.raises(TopicTruncated, match="no line begins there"):
        reader.read(1, 0)
    assert topic.repair(5) == 15
    assert lines_of(topic, 15) == [b"dddd", b"zz", b"yyyyyyyyyyy"]


def test_repair_from_a_known_position_copies_what_follows_it(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path, 4)
    for line in (b"aa", b"bb", b"cc", b"dd", b"ee"):
        topic.publish([line])
    assert topic.segments() == [0, 6, 12]
    assert topic.repair(9, known=3) == 15
    assert lines_of(topic, 15) == [b"bb", b"cc", b"dd", b"ee"]
    assert topic.repair(27, known=24) == 27
    assert lines_of(topic, 27) == [b"ee"]


def test_a_killed_repair_leaves_nothing_to_read(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path)
    topic.publish([b"a", b"b"])
    (tmp_path / ".repair-00000000000000000009").write_bytes(b"half of a co")
    assert lines_of(topic) == [b"a", b"b"]
    os.truncate(topic.path(0), 2)
    assert topic.repair(9) == 9
    assert drain(topic, 9) == [(9, b"a")]


def test_repair_of_a_topic_without_files(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path)
    topic.publish([b"a"])
    with topic.reader(0) as reader:
        assert reader.read(1, 0).lines == [b"a"]
        topic.path(0).unlink()
        with pytest.raises(TopicTruncated, match="the topic ends at 0"):
            reader.read(1, 0)
    assert topic.repair(2) == 2
    assert topic.publish([b"b"]) == 4
    assert drain(topic, 2) == [(2, b"b")]


# Publishing at an expected end.


def test_publish_at_the_expected_end(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path, 4)
    assert topic.publish_at(0, b"a\nb\n") == 4
    assert topic.publish_at(4, b"c\n") == 6
    assert topic.publish_at(6, b"") == 6
    assert drain(topic) == [(0, b"a"), (2, b"b"), (4, b"c")]
    assert topic.segments() == [0, 4]


def test_publish_at_completes_a_partial_line(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path, 4)
    write(topic, b"first\nsec")
    assert topic.open_end() == (6, b"sec")
    assert topic.publish_at(6, b"second\nthird\n") == 19
    assert topic.path(0).read_bytes() == b"first\nsecond\nthird\n"


@pytest.mark.parametrize(
    ("there", "expected", "data", "problem"),
    [
        (b"a\n", 0, b"b\n", "ends at 2, not at 0"),
        (b"a\n", 4, b"b\n", "ends at 2, not at 4"),
        (b"a\nx", 2, b"b\n", "in another partial line"),
        (b"a\nb", 2, b"", "in another partial line"),
        (b"a\nbbb", 2, b"b\n", "in another partial line"),
    ],
)
def test_publish_at_writes_nothing_if_the_end_moved(
    tmp_path: Path, there: bytes, expected: int, data: bytes, problem: str
) -> None:
    topic = JsonlTopic(tmp_path)
    write(topic, there)
    with pytest.raises(EndMoved, match=problem) as raised:
        topic.publish_at(expected, data)
    assert topic.path(0).read_bytes() == there
    assert (raised.value.end, raised.value.partial) == topic.open_end()


def test_publish_at_refuses_a_partial_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="complete lines"):
        JsonlTopic(tmp_path).publish_at(0, b"a")


def test_open_end_finds_a_long_partial_line(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path)
    write(topic, b"a\n" + b"x" * 200_000)
    assert topic.open_end() == (2, b"x" * 200_000)
    assert topic.publish_at(2, b"x" * 200_000 + b"y\n") == 200_004


def test_a_segment_size_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="segment_bytes is 0"):
        JsonlTopic(tmp_path, 0)


PUBLISH_WITHIN_TEN_BYTES = """
import resource, sys
from pathlib import Path
from streaming.topics.jsonl import JsonlTopic
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    JsonlTopic(Path(sys.argv[1])).publish([b"bbbb", b"cccccc"])
except OSError as error:
    print(error.strerror)
"""


def test_a_full_disk_is_an_error_and_the_topic_stays_usable(tmp_path: Path) -> None:
    """A limit on the file size stands in for a full disk: part of the write succeeds, the rest fails."""
    pytest.importorskip("resource")
    topic = JsonlTopic(tmp_path)
    topic.publish([b"a"])
    command = [sys.executable, "-c", PUBLISH_WITHIN_TEN_BYTES, tmp_path]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "File too large\n"
    assert topic.path(0).read_bytes() == b"a\nbbbb\nccc"
    topic.publish([b"d"])
    assert lines_of(topic) == [b"a", b"bbbb", b"ccc", b"d"]


@pytest.mark.parametrize("sync", [True, False])
def test_sync_reaches_the_device_before_publish_returns(
    tmp_path: Path, sync: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    topic = JsonlTopic(tmp_path, sync=sync)
    topic.publish([b"a"])
    topic.publish_at(2, b"bb\n")
    assert synced[-1:] == ([5] if sync else [])
    assert len(synced) >= (3 if sync else 0)


# Several writers.


def _publish_many(directory: Path, writer: int, count: int) -> None:
    topic = JsonlTopic(directory, 2000)
    for n in range(0, count, 3):
        topic.publish([b"%d:%d" % (writer, n + i) for i in range(3)])


def test_two_writers_and_a_reader_run_at_once(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path, 2000)
    context = get_context("spawn")
    writers = [context.Process(target=_publish_many, args=(tmp_path, writer, 900)) for writer in range(2)]
    for process in writers:
        process.start()
    found: list[tuple[int, bytes]] = []
    with topic.reader(0) as reader:
        while len(found) < 1800:
            batch = reader.read(50, 60)
            assert batch.lines, "nothing for a minute"
            found += zip(batch.positions, batch.lines, strict=True)
    for process in writers:
        process.join()
    for writer in range(2):
        assert [line for _, line in found if line.startswith(b"%d:" % writer)] == [
            b"%d:%d" % (writer, n) for n in range(900)
        ]
    assert drain(topic) == found
    assert len(topic.segments()) > 3


def test_threads_of_one_topic_exclude_each_other(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path, 300)
    ends: list[int] = []

    def publish(writer: int) -> None:
        for n in range(200):
            ends.append(topic.publish([b"%d:%d" % (writer, n)]))

    threads = [threading.Thread(target=publish, args=(writer,)) for writer in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drain(topic)) == 600
    assert len(set(ends)) == 600
    assert max(ends) == topic.end()
