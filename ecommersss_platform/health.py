"""The judgement on a consumer's or a producer's health: None if it is healthy, or what is wrong.

It depends on what a process does, not on whether it exists: a container's restart policy restarts a dead one.
`cli/health.py` gathers the facts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streaming.database.shared import Connected

CONSUMER_PATIENCE = 5.0
"""The seconds within which a consumer that lags must commit something."""
SHARED_CONSUMER_PATIENCE = 30.0
"""The seconds within which a consumer of a shared topic must have used its database connection."""
PRODUCER_PATIENCE = 120.0
"""The seconds within which a producer must publish something: far above its longest back-off."""


def consumer_problem(
    committed: Callable[[], int],
    end: Callable[[], int],
    patience: float,
    pause: Callable[[float], None] = time.sleep,
) -> str | None:
    """Return None if a consumer has committed the whole topic, or commits more within `patience` seconds.

    `committed` returns the committed position and `end` the topic's end, both in bytes of the topic.
    """
    begin = committed()
    lag = end() - begin
    if lag <= 0:
        return None
    # Look five times: usually the first look is enough.
    for _ in range(5):
        pause(patience / 5)
        if committed() != begin:
            return None
    return (
        f"the consumer is at position {begin}, {lag} bytes behind, and committed nothing for {patience:g} s"
    )


def rule_book_problem(path: Path) -> str | None:
    """Return why the rule book in the file cannot be used, or None."""
    from streaming.rules import RuleBook, RuleError

    try:
        RuleBook.load(path)
    except RuleError as error:
        return (
            f"{error}. A running consumer goes on with the last valid rule book, and none can start with it:"
            " correct the file, see `ecommersss rules check`"
        )
    return None


def producer_problem(
    topic_directory: Path, patience: float = PRODUCER_PATIENCE, now: float | None = None
) -> str | None:
    """Return None if a segment of the topic changed within `patience` seconds."""
    changed = [segment.stat().st_mtime for segment in topic_directory.glob("*.jsonl")]
    if not changed:
        return f"the topic {topic_directory} has no segment: nothing was published yet"
    return _too_long_ago(max(changed), f"nothing was published to {topic_directory}", patience, now)


def shared_producer_problem(
    ground_truth: Path, patience: float = PRODUCER_PATIENCE, now: float | None = None
) -> str | None:
    """Return None if the ground truth changed within `patience` seconds.

    A shared topic cannot be inspected, but a producer writes its orders to this file before publishing them.
    """
    try:
        changed = ground_truth.stat().st_mtime
    except FileNotFoundError:
        return f"there is no {ground_truth}: nothing was published yet"
    return _too_long_ago(changed, f"no order was written to {ground_truth}", patience, now)


def _too_long_ago(changed: float, problem: str, patience: float, now: float | None) -> str | None:
    age = (time.time() if now is None else now) - changed
    return None if age <= patience else f"{problem} for {age:.0f} s"


def shared_consumer_problem(here: str, connected: Sequence[Connected], patience: float) -> str | None:
    """Return None if this machine's consumer of a shared topic used its connection within `patience` seconds.

    It uses its database connection every second, with or without orders. Only the queue knows its backlog.
    `here` is the machine's name.
    """
    own = [consumer.quiet for consumer in connected if here.startswith(consumer.host)]
    return consumers_problem(own, patience, f" of this machine ({here})")


def consumers_problem(quiet: Sequence[float], patience: float, which: str = "") -> str | None:
    """Return None if one of these consumers used its database connection within `patience` seconds.

    `quiet`: the seconds since each of them last did. `which`: says of whom they are, for the sentence.
    """
    if not quiet:
        return f"no consumer{which} is connected to the database"
    if min(quiet) <= patience:
        return None
    return f"the consumer has said nothing to the database for {min(quiet):.0f} s"
