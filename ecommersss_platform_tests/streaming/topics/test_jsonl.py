"""The topic on disk: positions, segments, broken ends, waiting."""

from __future__ import annotations

import logging
import os
import threading
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.orders import MAX_LINE_BYTES
from streaming.topics import Batch, Reader, Topic
from streaming.topics import jsonl as jsonl_module
from streaming.topics.jsonl import EndMoved, JsonlReader, JsonlTopic, TopicTruncated


def drain(topic: JsonlTopic, position: int = 0, max_lines: int = 1000) -> list[tuple[int, bytes]]:
    """All lines from a position on, each with its own position."""
    found: list[tuple[int, bytes]] = []
    with topic.reader(position) as reader:
        while True:
            batch = reader.read(max_lines, 0)
            if not batch.lines:
                assert batch.next_position == reader.position
                return found
            found += zip(batch.positions, batch.lines, strict=True)


def lines_of(topic: JsonlTopic, position: int = 0) -> list[bytes]:
    return [line for _, line in drain(topic, position)]


def write(topic: JsonlTopic, data: bytes, segment: int = 0) -> None:
    """Append bytes as another program would, without the lock."""
    with topic.path(segment).open("ab") as file:
        file.write(data)


def test_it_is_a_topic(tmp_path: Path) -> None:
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
def test_every_line_from_every_position(
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
    # Each segment begins where the one before it ends.
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


def test_bytes_that_came_just_before_the_rotation_are_read(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path, 4)
    with topic.reader(0) as reader:
        topic.publish([b"a"])
        assert reader.read(1, 0).lines == [b"a"]
        look = topic.segments

        def between() -> list[int]:
            topic.segments = look  # type: ignore[method-assign]
            topic.publish([b"b"])
            topic.publish([b"c"])  # begins the second segment
            return look()

        topic.segments = between  # type: ignore[method-assign]
        assert reader.read(1, 0) == Batch([2], [b"b"], 4)
        assert reader.read(1, 0) == Batch([4], [b"c"], 6)
    assert topic.segments() == [0, 4]


def test_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path)
    topic.publish([b"a"])
    with topic.reader(0) as reader:
        assert reader.read(5, 0).lines == [b"a"]
        write(topic, b"bb")
        assert reader.read(5, 0) == Batch([], [], 2)
        assert topic.open_end() == (2, b"bb")
        assert topic.end() == 2
        write(topic, b"b\nc")
        assert reader.read(5, 0) == Batch([2], [b"bbb"], 6)


def test_a_dead_writers_partial_line_becomes_a_line_of_its_own(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path, 4)
    write(topic, b'{"a":1}\n{"b"')
    assert topic.publish([b"c"]) == 15
    assert drain(topic) == [(0, b'{"a":1}'), (8, b'{"b"'), (13, b"c")]
    assert topic.segments() == [0], "a line never spans segments, so this one had to be ended first"


def test_line_ends(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path)
    write(topic, b"a\r\n\r\n\nb\rc\n\xff\xfe\n\x00\n")
    assert drain(topic) == [(0, b"a"), (3, b""), (5, b""), (6, b"b\rc"), (10, b"\xff\xfe"), (13, b"\x00")]
    with pytest.raises(ValueError, match=r"line of 3 bytes holds a line end at 1"):
        topic.publish([b"a\nb"])
    assert topic.end() == 15


@pytest.mark.parametrize(
    "length", [MAX_LINE_BYTES - 1, MAX_LINE_BYTES, MAX_LINE_BYTES + 1, 1 << 17, 3_000_000]
)
def test_long_lines_come_cut(tmp_path: Path, length: int) -> None:
    topic = JsonlTopic(tmp_path)
    end = topic.publish([b"a", b"x" * length, b"b"])
    assert drain(topic) == [(0, b"a"), (2, b"x" * min(length, MAX_LINE_BYTES + 1)), (2 + length + 1, b"b")]
    assert drain(topic, 2, 1) == drain(topic)[1:]
    assert end == length + 5


def test_a_line_without_end_takes_no_memory_and_is_searched_once(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path)
    with topic.reader(0) as reader:
        for _ in range(32):
            write(topic, b"x" * (1 << 20))
            assert reader.read(9, 0).lines == []
        tracemalloc.start()
        try:
            write(topic, b"\nlast\n")
            reads: list[int] = []
            pread = os.pread
            jsonl_module.os.pread = lambda *args: reads.append(args[1]) or pread(*args)  # type: ignore
            try:
                assert reader.read(1, 0) == Batch([0], [b"x" * (MAX_LINE_BYTES + 1)], (32 << 20) + 1)
            finally:
                jsonl_module.os.pread = pread  # type: ignore[attr-defined]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert sum(reads) < 4 << 20
        assert peak < 4 << 20
        assert reader.read(9, 0).lines == [b"last"]


def test_a_restart_goes_on_where_it_stopped(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path, 50)
    lines = [b"line %d" % n for n in range(100)]
    for line in lines:
        topic.publish([line])
    position, found = 0, []
    while True:
        with JsonlTopic(tmp_path).reader(position) as reader:
            batch = reader.read(7, 0)
        if not batch.lines:
            break
        found += batch.lines
        position = batch.next_position
    assert found == lines
    assert position == topic.end()


# Gaps, cuts, replacements.


def test_removed_segments_are_skipped_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    topic = JsonlTopic(tmp_path, 4)
    for line in (b"aaa", b"bbb", b"ccc", b"ddd"):
        topic.publish([line])
    early, late = topic.reader(0), topic.reader(4)
    assert early.read(1, 0).lines == [b"aaa"]
    assert late.read(1, 0).lines == [b"bbb"]
    topic.path(4).unlink()
    topic.path(8).unlink()
    with caplog.at_level(logging.WARNING):
        assert early.read(9, 0) == Batch([12], [b"ddd"], 16)
        assert "skipped the 8 bytes from position 4 to 12" in caplog.text
        assert late.read(9, 0) == Batch([12], [b"ddd"], 16)
    assert drain(topic, 0) == [(0, b"aaa"), (12, b"ddd")]
    topic.path(0).unlink()
    assert (topic.start(), topic.end()) == (12, 16)
    assert drain(topic, 0) == [(12, b"ddd")]
    early.close()
    late.close()


def read_three_of_four(topic: JsonlTopic) -> JsonlReader:
    topic.publish([b"one"])
    topic.publish([b"two", b"three", b"four"])
    assert topic.segments() == [0, 4]
    reader = topic.reader(0)
    assert reader.read(1, 0).lines == [b"one"]
    assert reader.read(2, 0) == Batch([4, 8], [b"two", b"three"], 14)
    return reader


def cut_to_a_line(path: Path) -> None:
    os.truncate(path, 4)


def cut_in_a_line(path: Path) -> None:
    os.truncate(path, 7)


def cut_to_nothing(path: Path) -> None:
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
        (cut_to_a_line, [b"two"]),
        (cut_in_a_line, [b"two"]),
        (cut_to_nothing, []),
        (replace_shorter, [b"new"]),
        (replace_longer, [b"another line of that length"]),
        (rewrite_longer, [b"another line of that length"]),
    ],
)
@pytest.mark.parametrize("reopened", [True, False])
def test_a_cut_or_replaced_segment(
    tmp_path: Path, damage: Callable[[Path], None], left: list[bytes], reopened: bool
) -> None:
    topic = JsonlTopic(tmp_path, 4)
    reader = read_three_of_four(topic)
    damage(topic.path(4))
    if reopened:
        reader.close()
        reader = topic.reader(14)
    elif damage in (replace_shorter, replace_longer):
        # What is open goes on to its end; the new file is noticed there.
        assert reader.read(9, 0) == Batch([14], [b"four"], 19)
    with pytest.raises(TopicTruncated, match=r"at position 1[49]: .*repair\(\)"):
        reader.read(9, 0)
    position = reader.position
    reader.close()
    go_on = topic.repair(position)
    assert go_on >= position
    assert lines_of(topic, go_on) == left
    assert topic.repair(go_on) == go_on, "once repaired, it is sound"
    topic.publish([b"five"])
    assert lines_of(topic, go_on) == [*left, b"five"]
    positions = [at for at, _ in drain(topic)]
    assert positions == sorted(set(positions))
    assert not list(tmp_path.glob(".repair*"))


def test_a_damaged_older_segment_comes_again_at_the_end(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path, 12)
    topic.publish([b"aaaa", b"bbbb", b"cccc"])
    topic.publish([b"dddd"])
    topic.path(0).write_bytes(b"zz\nyyyyyyyyyyy\n")
    with topic.reader(5) as reader, pytest.raises(TopicTruncated, match="no line begins there"):
        reader.read(1, 0)
    assert topic.repair(5) == 15
    assert lines_of(topic, 15) == [b"dddd", b"zz", b"yyyyyyyyyyy"]


def test_a_repair_that_was_killed_leaves_nothing_to_read(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path)
    topic.publish([b"a", b"b"])
    (tmp_path / ".repair-00000000000000000009").write_bytes(b"half of a co")
    assert lines_of(topic) == [b"a", b"b"]
    os.truncate(topic.path(0), 2)
    assert topic.repair(9) == 9
    assert drain(topic, 9) == [(9, b"a")]


def test_a_topic_that_vanished(tmp_path: Path) -> None:
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


def test_a_position_that_is_within_a_line_is_refused(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path)
    topic.publish([b"aaaa"])
    for position in (1, 4, 6):
        with topic.reader(position) as reader, pytest.raises(TopicTruncated):
            reader.read(1, 0)
    with pytest.raises(ValueError, match="position is -1"):
        topic.reader(-1)


# Publishing at a known place.


def test_publish_at_the_expected_end(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path, 4)
    assert topic.publish_at(0, b"a\nb\n") == 4
    assert topic.publish_at(4, b"c\n") == 6
    assert topic.publish_at(6, b"") == 6
    assert drain(topic) == [(0, b"a"), (2, b"b"), (4, b"c")]
    assert topic.segments() == [0, 4]


def test_publish_at_completes_what_was_begun(tmp_path: Path) -> None:
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
        (b"a\nx", 2, b"b\n", "the beginning of another line"),
        (b"a\nb", 2, b"", "the beginning of another line"),
        (b"a\nbbb", 2, b"b\n", "the beginning of another line"),
    ],
)
def test_publish_at_another_end_writes_nothing(
    tmp_path: Path, there: bytes, expected: int, data: bytes, problem: str
) -> None:
    topic = JsonlTopic(tmp_path)
    write(topic, there)
    with pytest.raises(EndMoved, match=problem) as raised:
        topic.publish_at(expected, data)
    assert topic.path(0).read_bytes() == there
    assert (raised.value.end, raised.value.partial) == topic.open_end()


def test_publish_at_takes_whole_lines_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="whole lines"):
        JsonlTopic(tmp_path).publish_at(0, b"a")


def test_open_end_looks_back_over_long_beginnings(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path)
    write(topic, b"a\n" + b"x" * 200_000)
    assert topic.open_end() == (2, b"x" * 200_000)
    assert topic.publish_at(2, b"x" * 200_000 + b"y\n") == 200_004


def test_a_full_disk_is_an_error_and_the_topic_goes_on(tmp_path: Path) -> None:
    """A limit on the file's size stands for the full disk: part of the write succeeds, the rest fails."""
    resource = pytest.importorskip("resource")
    topic = JsonlTopic(tmp_path)
    topic.publish([b"a"])

    def limited() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        try:
            topic.publish([b"bbbb", b"cccccc"])
        except OSError:
            os._exit(7)
        os._exit(0)

    pid = os.fork()
    if pid == 0:
        limited()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert topic.path(0).read_bytes() == b"a\nbbbb\nccc"
    topic.publish([b"d"])
    assert lines_of(topic) == [b"a", b"bbbb", b"ccc", b"d"]


@pytest.mark.parametrize("sync", [True, False])
def test_sync_writes_through(tmp_path: Path, sync: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(jsonl_module.os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    topic = JsonlTopic(tmp_path, sync=sync)
    topic.publish([b"a"])
    topic.publish_at(2, b"bb\n")
    assert synced[-1:] == ([5] if sync else [])
    assert len(synced) >= (3 if sync else 0)


# Waiting.


@pytest.fixture(params=[True, False], ids=["notified", "polled"])
def topic(request: pytest.FixtureRequest, tmp_path: Path) -> JsonlTopic:
    return JsonlTopic(tmp_path, 4, notify=request.param)


def reading(reader: JsonlReader) -> tuple[threading.Thread, list[Batch]]:
    """A read that waits in a thread, for far longer than any test runs."""
    batches: list[Batch] = []
    thread = threading.Thread(target=lambda: batches.append(reader.read(10, 300)), daemon=True)
    thread.start()
    while not thread.is_alive():
        time.sleep(0.001)
    time.sleep(0.05)
    assert not batches
    return thread, batches


def test_a_waiting_read_ends_with_the_line(topic: JsonlTopic) -> None:
    with topic.reader(0) as reader:
        for line, positions in ((b"a", [0]), (b"bbb", [2]), (b"in the next segment", [6])):
            thread, batches = reading(reader)
            topic.publish([line])
            thread.join(60)
            assert [(batch.positions, batch.lines) for batch in batches] == [(positions, [line])]


def test_waiting_is_notified_where_it_can_be(topic: JsonlTopic, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the look every half second turned off, only a notification can end the wait."""
    import sys

    monkeypatch.setattr(jsonl_module, "MAX_WAIT_SECONDS", 300)
    with topic.reader(0) as reader:
        assert reader.notified == (topic._notify and sys.platform == "linux")
        thread, batches = reading(reader)
        topic.publish([b"a"])
        thread.join(60)
        assert batches == [Batch([0], [b"a"], 2)]


def test_without_notifications_it_polls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inotify_simple = pytest.importorskip("inotify_simple")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr(inotify_simple, "INotify", refuse)
    topic = JsonlTopic(tmp_path)
    with topic.reader(0) as reader:
        assert not reader.notified
        assert "inotify instance limit reached" in caplog.text
        thread, batches = reading(reader)
        topic.publish([b"a"])
        thread.join(60)
        assert batches[0].lines == [b"a"]


def test_waking_ends_a_waiting_read(topic: JsonlTopic) -> None:
    with topic.reader(0) as reader:
        thread, batches = reading(reader)
        reader.wake()
        thread.join(60)
        assert batches == [Batch([], [], 0)]


def test_waking_ahead_ends_the_next_wait_once(topic: JsonlTopic) -> None:
    with topic.reader(0) as reader:
        for _ in range(1000):
            reader.wake()
        assert reader.read(1, 300).lines == []
        topic.publish([b"a"])
        assert reader.read(1, 300).lines == [b"a"]
        begun = time.monotonic()
        assert reader.read(1, 0.05).lines == []
        assert time.monotonic() - begun >= 0.05


def test_a_closed_reader_may_be_woken_and_closed(topic: JsonlTopic) -> None:
    reader = topic.reader(0)
    topic.publish([b"a"])
    reader.read(1, 0)
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else None
    reader.close()
    reader.close()
    reader.wake()
    if before is not None:
        assert len(list(Path("/proc/self/fd").iterdir())) == before - (4 if topic._notify else 3)


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="segment_bytes is 0"):
        JsonlTopic(tmp_path, 0)
    with JsonlTopic(tmp_path).reader(0) as reader, pytest.raises(ValueError, match="max_lines is 0"):
        reader.read(0, 0)


# Several at once.


def _publish_many(directory: Path, writer: int, count: int) -> None:
    topic = JsonlTopic(directory, 2000)
    for n in range(0, count, 3):
        topic.publish([b"%d:%d" % (writer, n + i) for i in range(3)])


def test_two_writers_and_a_reader_at_once(tmp_path: Path) -> None:
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
