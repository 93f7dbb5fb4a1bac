"""The health checks of the consumer and the producer."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from ecommersss_platform.health import (
    consumer_problem,
    producer_problem,
    shared_consumer_problem,
    shared_producer_problem,
)
from streaming.database.shared import Connected


class Positions:
    """Return one position after the other, then the last one again; add up the seconds of pauses."""

    def __init__(self, *positions: int) -> None:
        self._positions = list(positions)
        self.waited = 0.0

    def __call__(self) -> int:
        return self._positions.pop(0) if len(self._positions) > 1 else self._positions[0]

    def pause(self, seconds: float) -> None:
        self.waited += seconds


def test_consumer_at_the_end_is_healthy_at_once() -> None:
    positions = Positions(700)
    assert consumer_problem(positions, lambda: 700, patience=5, pause=positions.pause) is None
    assert positions.waited == 0


def test_consumer_that_lags_but_commits_is_healthy() -> None:
    positions = Positions(100, 100, 100, 160)
    assert consumer_problem(positions, lambda: 100_000, patience=5, pause=positions.pause) is None
    assert positions.waited == 3


def test_consumer_that_lags_and_commits_nothing_is_unhealthy() -> None:
    positions = Positions(100)
    problem = consumer_problem(positions, lambda: 350, patience=5, pause=positions.pause)
    assert problem == "the consumer is at position 100, 250 bytes behind, and committed nothing for 5 s"
    assert positions.waited == 5


def test_producer_is_judged_by_its_newest_segment(tmp_path: Path) -> None:
    for name, changed in (("0", 1_000), ("5000", 2_000)):
        segment = tmp_path / f"{name:0>20}.jsonl"
        segment.write_text("{}\n")
        os.utime(segment, (changed, changed))
    assert producer_problem(tmp_path, patience=120, now=2_120) is None
    assert (
        producer_problem(tmp_path, patience=120, now=2_121)
        == f"nothing was published to {tmp_path} for 121 s"
    )


def test_producer_that_never_published_is_unhealthy(tmp_path: Path) -> None:
    topic = tmp_path / "topics" / "orders"
    assert producer_problem(topic) == f"the topic {topic} has no segment: nothing was published yet"
    topic.mkdir(parents=True)
    (topic / f"{0:020d}.jsonl").write_text("{}\n")
    assert producer_problem(topic) is None


def test_shared_consumer_must_be_connected_from_this_machine_and_active() -> None:
    since = datetime(2026, 3, 2, tzinfo=UTC)
    others = [Connected("pod-2", 7, since, 900.0), Connected("pod-1-cut-of", 8, since, 29.0)]
    assert shared_consumer_problem("pod-1-cut-off", others, 30) is None
    assert (
        shared_consumer_problem("pod-1-cut-off", others, 28)
        == "the consumer has said nothing to the database for 29 s"
    )
    assert (
        shared_consumer_problem("pod-3", others, 30)
        == "no consumer of this machine (pod-3) is connected to the database"
    )


def test_shared_producer_is_judged_by_its_ground_truth_file(tmp_path: Path) -> None:
    truth = tmp_path / "ground_truth.jsonl"
    assert shared_producer_problem(truth) == f"there is no {truth}: nothing was published yet"
    truth.write_text("{}\n")
    os.utime(truth, (2_000, 2_000))
    assert shared_producer_problem(truth, patience=120, now=2_120) is None
    assert (
        shared_producer_problem(truth, patience=120, now=2_121)
        == f"no order was written to {truth} for 121 s"
    )
