"""Health checks of the consumer and the producer: None for a healthy process, or what is wrong.

They check what a process does, not whether it exists: a container's restart policy restarts a dead one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings
    from streaming.database.shared import Connected

CONSUMER_PATIENCE = 5.0
"""Seconds in which a consumer that lags must commit something."""
SHARED_CONSUMER_PATIENCE = 30.0
"""Seconds in which a consumer of a shared topic must have spoken to the database."""
PRODUCER_PATIENCE = 120.0
"""Seconds in which a producer must publish something: well above the pause of one that waits."""


def consumer_problem(
    committed: Callable[[], int],
    end: Callable[[], int],
    patience: float,
    pause: Callable[[float], None] = time.sleep,
) -> str | None:
    """What is wrong with a consumer, or None: it has committed all that is in the topic, or goes on doing so.

    `committed` gives the committed position and `end` the topic's end, both in bytes of the topic.
    """
    begin = committed()
    lag = end() - begin
    if lag <= 0:
        return None
    # Five looks: most often the first one settles it.
    for _ in range(5):
        pause(patience / 5)
        if committed() != begin:
            return None
    return (
        f"the consumer is at position {begin}, {lag} bytes behind, and committed nothing for {patience:g} s"
    )


def producer_problem(
    topic_directory: Path, patience: float = PRODUCER_PATIENCE, now: float | None = None
) -> str | None:
    """What is wrong with a producer, or None: a segment of the topic changed within `patience` seconds."""
    changed = [segment.stat().st_mtime for segment in topic_directory.glob("*.jsonl")]
    if not changed:
        return f"the topic {topic_directory} has no segment: nothing was published yet"
    return _too_long_ago(max(changed), f"nothing was published to {topic_directory}", patience, now)


def shared_producer_problem(
    ground_truth: Path, patience: float = PRODUCER_PATIENCE, now: float | None = None
) -> str | None:
    """The same for one that publishes where nobody can look: it writes its orders down here before that."""
    try:
        changed = ground_truth.stat().st_mtime
    except FileNotFoundError:
        return f"there is no {ground_truth}: nothing was published yet"
    return _too_long_ago(changed, f"no order was written to {ground_truth}", patience, now)


def _too_long_ago(changed: float, problem: str, patience: float, now: float | None) -> str | None:
    age = (time.time() if now is None else now) - changed
    return None if age <= patience else f"{problem} for {age:.0f} s"


def shared_consumer_problem(here: str, connected: Sequence[Connected], patience: float) -> str | None:
    """What is wrong with the consumer of a shared topic on the machine named `here`, or None.

    It speaks to the database every second, orders or none. How many orders wait is Pub/Sub's to know.
    """
    own = [consumer.quiet for consumer in connected if here.startswith(consumer.host)]
    if not own:
        return f"no consumer of this machine ({here}) is connected to the database"
    quiet = min(own)
    return None if quiet <= patience else f"the consumer has said nothing to the database for {quiet:.0f} s"


def check(process: str, settings: Settings) -> str | None:
    """What is wrong with the process ("consumer" or "producer"), or None."""
    from ecommersss_platform.topics import order_broker

    broker = order_broker(settings)
    if process == "producer":
        return broker.producer_problem()
    import psycopg2

    from ecommersss_platform.instance.databases import database_url
    from streaming.database import connect

    try:
        connection = connect(database_url(settings), application="ecommersss health")
    except psycopg2.OperationalError as error:
        return f"PostgreSQL is unreachable: {str(error).strip()}"
    with closing(connection):
        connection.autocommit = True
        return broker.consumer_problem(connection)
