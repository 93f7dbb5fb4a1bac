"""The ground truth beside the topic."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecommersss_platform_tests.support.shop import order
from streaming.simulator.ground_truth import GroundTruth
from streaming.simulator.producer import publish
from streaming.simulator.shoppers import Placed
from streaming.topics.jsonl import JsonlTopic


def test_ground_truth_is_written_before_the_order_is_published(tmp_path: Path) -> None:
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


def test_ground_truth_survives_a_line_that_a_kill_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    path.write_bytes(b'{"id":1,"pattern":null}\n{"id":2,"pat')
    GroundTruth(path).append([Placed(order(2), "foreign_card")])
    GroundTruth(path).append([Placed(order(3), None)])
    assert GroundTruth(path).read() == {1: None, 2: "foreign_card", 3: None}
    assert GroundTruth(tmp_path / "none").read() == {}
