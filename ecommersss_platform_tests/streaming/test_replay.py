"""What the producer does with files: replay, raw lines, and the ground truth beside the topic."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from streaming.errors import PlatformError
from streaming.orders import MAX_LINE_BYTES, Order, encode
from streaming.simulator.ground_truth import GroundTruth
from streaming.simulator.producer import RefusedLine, publish, publish_raw, replay
from streaming.simulator.shoppers import Placed
from streaming.topics.jsonl import JsonlTopic


def order(id_: int) -> Order:
    return Order(id_, 1, 2, 3, Decimal("4500.00"), "OVO", "ID", datetime(2025, 6, 1, 5, tzinfo=UTC))


def lines_of(topic: JsonlTopic) -> list[bytes]:
    with topic.reader(topic.start()) as reader:
        return reader.read(100_000, timeout=0).lines


@pytest.fixture
def topic(tmp_path: Path) -> JsonlTopic:
    return JsonlTopic(tmp_path / "topic")


def test_replay_publishes_orders_as_written_and_names_the_lines_that_are_none(
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


def test_replay_of_many_lines_keeps_their_order(topic: JsonlTopic, tmp_path: Path) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_bytes(b"".join(encode(order(n)) + b"\n" for n in range(1, 2_501)))
    told: list[tuple[str, int, int]] = []
    result = replay(topic, file, progress=lambda *args: told.append(args))
    assert result.published == 2_500
    assert lines_of(topic) == [encode(order(n)) for n in range(1, 2_501)]
    size = file.stat().st_size
    assert told[-1] == ("bytes", size, size)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_raw_lines_are_published_as_they_are(topic: JsonlTopic, tmp_path: Path) -> None:
    file = tmp_path / "anything"
    file.write_bytes(b'\xff\xfe\n\n{"id":1}\nno end of line')
    assert publish_raw(topic, file) == 4
    assert lines_of(topic) == [b"\xff\xfe", b"", b'{"id":1}', b"no end of line"]


@pytest.mark.parametrize("function", [replay, publish_raw])
def test_a_file_that_cannot_be_read_is_named(function, topic: JsonlTopic, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"cannot read .*missing\.jsonl: No such file"):
        function(topic, tmp_path / "missing.jsonl")
    with pytest.raises(PlatformError, match="Is a directory"):
        function(topic, tmp_path)
    assert topic.end() == 0


def test_the_truth_is_written_before_the_order_is_published(tmp_path: Path) -> None:
    truth = GroundTruth(tmp_path / "home" / "truth.jsonl")

    class FullTopic(JsonlTopic):
        def publish(self, lines):
            assert truth.read() == {1: "rapid_fire", 2: None}
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        publish(
            FullTopic(tmp_path / "topic"), [Placed(order(1), "rapid_fire"), Placed(order(2), None)], truth
        )
    assert truth.path.read_text() == '{"id":1,"pattern":"rapid_fire"}\n{"id":2,"pattern":null}\n'


def test_a_truth_that_was_cut_off_does_not_spoil_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    path.write_bytes(b'{"id":1,"pattern":null}\n{"id":2,"pat')
    GroundTruth(path).append([Placed(order(2), "foreign_card")])
    GroundTruth(path).append([Placed(order(3), None)])
    assert GroundTruth(path).read() == {1: None, 2: "foreign_card", 3: None}
    assert GroundTruth(tmp_path / "none").read() == {}
