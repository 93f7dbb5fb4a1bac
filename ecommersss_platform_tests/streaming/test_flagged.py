"""The flagged stream is completed from the database at every byte at which a crash can have cut it."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ecommersss_platform_tests.support.shop import flagged
from streaming.database.store import Emission
from streaming.flagged import FlaggedStream
from streaming.orders import Flagged, encode_flagged
from streaming.topics import jsonl
from streaming.topics.jsonl import EndMoved, JsonlTopic


@dataclass
class Committed:
    """What the order store answers, with `orders` committed and `last` of them in the last batch."""

    orders: list[Flagged]
    last: int
    scans: list[int] = field(default_factory=list)

    def emission(self) -> Emission | None:
        if not self.orders:
            return None
        before, batch = self.orders[: -self.last], self.orders[-self.last :]
        return Emission(len(lines(before)), [o.id for o in batch])

    def flagged(self, ids: Sequence[int]) -> list[Flagged]:
        by_id = {o.id: o for o in self.orders}
        return [by_id[i] for i in ids]

    def flagged_after(self, position: int) -> list[Flagged]:
        self.scans.append(position)
        return [o for o in self.orders if o.position > position]


def lines(orders: Sequence[Flagged]) -> bytes:
    return b"".join(encode_flagged(o) + b"\n" for o in orders)


def content(topic: JsonlTopic) -> bytes:
    return b"".join(topic.path(segment).read_bytes() for segment in topic.segments())


# Emission order is topic order, ids come in any.
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
    stream = FlaggedStream(topic)
    assert stream.recover(Committed([], 0)) == 0
    stream.emit(ORDERS[:2])
    stream.emit([])
    stream.emit(ORDERS[2:])
    assert content(topic) == lines(ORDERS)
    assert stream.end == len(lines(ORDERS))


def test_a_crash_at_any_byte_of_the_last_batch_is_completed_to_the_same_bytes(tmp_path: Path) -> None:
    whole = lines(ORDERS)
    last_batch = len(lines(ORDERS[:1]))
    for cut in range(last_batch, len(whole) + 1):
        topic = JsonlTopic(tmp_path / str(cut), notify=False)  # closing a watch takes long
        topic.path(0).write_bytes(whole[:cut])
        committed = Committed(ORDERS, last=3)
        stream = FlaggedStream(topic)
        missing = 4 - whole[:cut].count(b"\n")
        assert stream.recover(committed) == missing
        assert content(topic) == whole
        assert stream.end == len(whole)
        assert committed.scans == []
        assert stream.recover(committed) == 0, "the second recovery finds nothing to do"


def test_lines_lost_before_the_last_batch_are_written_again_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a power failure, or when someone removed the file: back to the same bytes at the same places."""
    whole = lines(ORDERS)
    for cut in range(len(lines(ORDERS[:3]))):
        topic = JsonlTopic(tmp_path / str(cut), notify=False)  # closing a watch takes long
        topic.path(0).write_bytes(whole[:cut])
        caplog.clear()
        FlaggedStream(topic).recover(Committed(ORDERS, last=1))
        assert content(topic) == whole
        assert [r.levelno for r in caplog.records if "were lost" in r.message] == [logging.ERROR]


def test_a_removed_stream_is_written_again(topic: JsonlTopic) -> None:
    committed = Committed(ORDERS, last=2)
    assert FlaggedStream(topic).recover(committed) == 4
    assert content(topic) == lines(ORDERS)
    assert committed.scans == [-1]


def test_a_last_segment_that_was_removed_is_written_again(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path, segment_bytes=1, notify=False)
    stream = FlaggedStream(topic)
    for order in ORDERS:
        stream.emit([order])
    for segment in topic.segments()[-2:]:
        topic.path(segment).unlink()
    committed = Committed(ORDERS, last=1)
    assert FlaggedStream(topic).recover(committed) == 2
    assert content(topic) == lines(ORDERS)
    assert committed.scans == [200]


def test_what_a_stranger_wrote_is_left_and_ended(topic: JsonlTopic, caplog: pytest.LogCaptureFixture) -> None:
    before = lines(ORDERS[:2])
    topic.path(0).write_bytes(before + b'{"id": "half a li')
    stream = FlaggedStream(topic)
    assert stream.recover(Committed(ORDERS, last=2)) == 2
    assert content(topic) == before + b'{"id": "half a li\n' + lines(ORDERS[2:])
    assert "left as a line of their own" in caplog.text
    # And its line is no obstacle to the next recovery.
    assert stream.recover(Committed(ORDERS, last=2)) == 0


def test_the_end_moving_under_a_running_stream_is_noticed_and_mended(topic: JsonlTopic) -> None:
    stream = FlaggedStream(topic)
    stream.emit(ORDERS[:2])
    topic.publish([b"a stranger's line"])
    with pytest.raises(EndMoved):
        stream.emit(ORDERS[2:])
    assert stream.recover(Committed(ORDERS, last=2)) == 2
    assert content(topic) == lines(ORDERS[:2]) + b"a stranger's line\n" + lines(ORDERS[2:])


def test_a_full_disk_is_raised_and_completed_later(
    topic: JsonlTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_a_little(file: int, data: bytes) -> None:
        os.write(file, data[:40])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stream = FlaggedStream(topic)
    with monkeypatch.context() as full:
        full.setattr(jsonl, "_write", write_a_little)
        with pytest.raises(OSError, match="No space left"):
            stream.emit(ORDERS)
        with pytest.raises(OSError, match="No space left"):
            stream.recover(Committed(ORDERS, last=4))
    assert content(topic) == lines(ORDERS)[:80]
    assert FlaggedStream(topic).recover(Committed(ORDERS, last=4)) == 4
    assert content(topic) == lines(ORDERS)
