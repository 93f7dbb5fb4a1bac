"""Publishing files: `replay` of valid orders and `publish_raw` of any lines."""

from __future__ import annotations

import gzip
import os
import threading
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from streaming.errors import PlatformError
from streaming.orders import MAX_LINE_BYTES, Order, encode
from streaming.replay import RefusedLine, publish_raw, replay
from streaming.topics.jsonl import JsonlTopic


def order(id_: int) -> Order:
    return Order(id_, 1, 2, 3, Decimal("4500.00"), "OVO", "ID", datetime(2025, 6, 1, 5, tzinfo=UTC))


def lines_of(topic: JsonlTopic) -> list[bytes]:
    with topic.reader(topic.start()) as reader:
        return reader.read(100_000, timeout=0).lines


@pytest.fixture
def topic(tmp_path: Path) -> JsonlTopic:
    return JsonlTopic(tmp_path / "topic")


def test_replay_publishes_valid_orders_byte_for_byte_and_names_refused_lines(
    topic: JsonlTopic, tmp_path: Path
) -> None:
    spaced = encode(order(1)).replace(b",", b", ")
    long = encode(order(4))[:-1] + b',"note":"' + b"x" * (3 * MAX_LINE_BYTES) + b'"}'
    file = tmp_path / "orders.jsonl"
    negative = encode(order(3)).replace(b'"quantity":3', b'"quantity":-3')
    file.write_bytes(
        b"\n".join(
            [spaced, b"", b"{no json", encode(order(2)) + b"\r", negative, b"  ", long, encode(order(5))]
        )
    )
    refused: list[RefusedLine] = []
    result = replay(topic, file, on_refused=refused.append)
    assert lines_of(topic) == [spaced, encode(order(2)), encode(order(5))]
    assert result.published == 3
    assert result.refused == {"malformed_json": 1, "invalid_quantity": 1, "line_too_long": 1}
    assert [(r.line_number, r.reason) for r in refused] == [
        (3, "malformed_json"),
        (5, "invalid_quantity"),
        (7, "line_too_long"),
    ]
    assert str(refused[1]).startswith("line 5: quantity must be an integer from 1")


def test_replay_keeps_the_order_of_many_lines(topic: JsonlTopic, tmp_path: Path) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_bytes(b"".join(encode(order(n)) + b"\n" for n in range(1, 2_501)))
    reports: list[tuple[str, int, int]] = []
    result = replay(topic, file, progress=lambda *args: reports.append(args))
    assert result.published == 2_500
    assert lines_of(topic) == [encode(order(n)) for n in range(1, 2_501)]
    size = file.stat().st_size
    assert reports[-1] == ("bytes", size, size)
    assert [done for _, done, _ in reports] == sorted(done for _, done, _ in reports)


def test_publish_raw_publishes_every_line_unchanged(topic: JsonlTopic, tmp_path: Path) -> None:
    file = tmp_path / "anything"
    file.write_bytes(b'\xff\xfe\n\n{"id":1}\nno end of line')
    assert publish_raw(topic, file) == 4
    assert lines_of(topic) == [b"\xff\xfe", b"", b'{"id":1}', b"no end of line"]


@pytest.mark.parametrize("function", [replay, publish_raw])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_pipe_is_published_to_its_end(function, pack, topic: JsonlTopic, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = pack(b"".join(encode(order(n)) + b"\n" for n in range(1, 2_501)))
    threading.Thread(target=pipe.write_bytes, args=[data], daemon=True).start()
    reports: list[object] = []
    function(topic, pipe, progress=lambda *args: reports.append(args))
    assert lines_of(topic) == [encode(order(n)) for n in range(1, 2_501)]
    assert reports == []


def test_a_byte_order_mark_is_no_part_of_the_first_order(topic: JsonlTopic, tmp_path: Path) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + encode(order(1)))
    assert replay(topic, file).published == 1
    publish_raw(topic, file)
    assert lines_of(topic) == [encode(order(1)), b"\xef\xbb\xbf" + encode(order(1))]


def test_a_json_array_publishes_nothing(topic: JsonlTopic, tmp_path: Path) -> None:
    file = tmp_path / "orders.json"
    file.write_bytes(b"\n[" + encode(order(1)) + b",\n" + encode(order(2)) + b"]\n")
    with pytest.raises(PlatformError, match="is a JSON array"):
        replay(topic, file)
    assert topic.end() == 0


def test_damaged_gzip_says_how_many_lines_were_published(topic: JsonlTopic, tmp_path: Path) -> None:
    file = tmp_path / "orders.jsonl.gz"
    lines = b"".join(encode(order(n)) + b"\n" for n in range(1, 20_001))
    file.write_bytes(gzip.compress(lines)[:-100])
    with pytest.raises(PlatformError, match=r"end too early \([0-9,]+ lines were published before"):
        replay(topic, file)


@pytest.mark.parametrize("function", [replay, publish_raw])
def test_unreadable_file_is_named(function, topic: JsonlTopic, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"cannot read .*missing\.jsonl: No such file"):
        function(topic, tmp_path / "missing.jsonl")
    with pytest.raises(PlatformError, match="Is a directory"):
        function(topic, tmp_path)
    assert topic.end() == 0
