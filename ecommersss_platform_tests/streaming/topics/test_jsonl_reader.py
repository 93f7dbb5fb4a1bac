"""Reading a topic on disk: complete lines, long lines, gaps, and waiting for more."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from ecommersss_platform_tests.support.topics import drain, write
from streaming.orders import MAX_LINE_BYTES
from streaming.topics import Batch, jsonl_reader
from streaming.topics.jsonl import JsonlTopic
from streaming.topics.jsonl_reader import JsonlReader, TopicTruncated


def test_a_line_is_read_once_it_is_complete(tmp_path: Path) -> None:
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


def test_line_ends_are_lf_or_crlf(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path)
    write(topic, b"a\r\n\r\n\nb\rc\n\xff\xfe\n\x00\n")
    assert drain(topic) == [(0, b"a"), (3, b""), (5, b""), (6, b"b\rc"), (10, b"\xff\xfe"), (13, b"\x00")]
    with pytest.raises(ValueError, match=r"line of 3 bytes holds a line end at 1"):
        topic.publish([b"a\nb"])
    assert topic.end() == 15


@pytest.mark.parametrize(
    "length", [MAX_LINE_BYTES - 1, MAX_LINE_BYTES, MAX_LINE_BYTES + 1, 1 << 17, 3_000_000]
)
def test_long_lines_are_cut(tmp_path: Path, length: int) -> None:
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
            jsonl_reader.os.pread = lambda *args: reads.append(args[1]) or pread(*args)  # type: ignore
            try:
                assert reader.read(1, 0) == Batch([0], [b"x" * (MAX_LINE_BYTES + 1)], (32 << 20) + 1)
            finally:
                jsonl_reader.os.pread = pread  # type: ignore[attr-defined]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert sum(reads) < 4 << 20
        assert peak < 4 << 20
        assert reader.read(9, 0).lines == [b"last"]


def test_a_new_reader_resumes_at_a_position(tmp_path: Path) -> None:
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


def test_bytes_written_just_before_a_rotation_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = JsonlTopic(tmp_path, 4)
    with topic.reader(0) as reader:
        topic.publish([b"a"])
        assert reader.read(1, 0).lines == [b"a"]
        list_segments = jsonl_reader.segment_positions

        def publish_first(directory: Path) -> list[int]:
            monkeypatch.undo()
            topic.publish([b"b"])
            topic.publish([b"c"])  # begins the second segment
            return list_segments(directory)

        monkeypatch.setattr(jsonl_reader, "segment_positions", publish_first)
        assert reader.read(1, 0) == Batch([2], [b"b"], 4)
        assert reader.read(1, 0) == Batch([4], [b"c"], 6)
    assert topic.segments() == [0, 4]


def test_removed_segments_are_skipped_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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


def test_a_position_inside_a_line_is_refused(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path)
    topic.publish([b"aaaa"])
    for position in (1, 4, 6):
        with topic.reader(position) as reader, pytest.raises(TopicTruncated):
            reader.read(1, 0)


@pytest.fixture(params=[True, False], ids=["notified", "polled"])
def topic(request: pytest.FixtureRequest, tmp_path: Path) -> JsonlTopic:
    return JsonlTopic(tmp_path, 4, notify=request.param)


def reading(reader: JsonlReader) -> tuple[threading.Thread, list[Batch]]:
    """Start a read in a thread that waits for longer than any test runs."""
    batches: list[Batch] = []
    thread = threading.Thread(target=lambda: batches.append(reader.read(10, 300)), daemon=True)
    thread.start()
    while not thread.is_alive():
        time.sleep(0.001)
    time.sleep(0.05)
    assert not batches
    return thread, batches


def test_a_waiting_read_returns_a_new_line(topic: JsonlTopic) -> None:
    with topic.reader(0) as reader:
        for line, positions in ((b"a", [0]), (b"bbb", [2]), (b"in the next segment", [6])):
            thread, batches = reading(reader)
            topic.publish([line])
            thread.join(60)
            assert [(batch.positions, batch.lines) for batch in batches] == [(positions, [line])]


def test_a_waiting_read_is_notified_of_changes(topic: JsonlTopic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a notification can end the wait: the look every half second is turned off."""
    monkeypatch.setattr(jsonl_reader, "MAX_WAIT_SECONDS", 300)
    with topic.reader(0) as reader:
        assert reader.notified == (topic._notify and sys.platform == "linux")
        thread, batches = reading(reader)
        topic.publish([b"a"])
        thread.join(60)
        assert batches == [Batch([0], [b"a"], 2)]


def test_a_reader_without_notifications_polls(
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


def test_wake_ends_a_waiting_read(topic: JsonlTopic) -> None:
    with topic.reader(0) as reader:
        thread, batches = reading(reader)
        reader.wake()
        thread.join(60)
        assert batches == [Batch([], [], 0)]


def test_wake_ahead_ends_only_the_next_wait(topic: JsonlTopic) -> None:
    with topic.reader(0) as reader:
        for _ in range(1000):
            reader.wake()
        assert reader.read(1, 300).lines == []
        topic.publish([b"a"])
        assert reader.read(1, 300).lines == [b"a"]
        begun = time.monotonic()
        assert reader.read(1, 0.05).lines == []
        assert time.monotonic() - begun >= 0.05


def test_a_closed_reader_can_be_woken_and_closed_again(topic: JsonlTopic) -> None:
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
    with pytest.raises(ValueError, match="position is -1"):
        JsonlReader(tmp_path, -1)
    with JsonlReader(tmp_path, 0) as reader, pytest.raises(ValueError, match="max_lines is 0"):
        reader.read(0, 0)
