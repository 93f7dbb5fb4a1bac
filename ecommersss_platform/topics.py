"""The topic of orders, the flagged stream and the consumer, as the settings choose them.

Only this module knows which kind of topic is configured. `order_broker` returns an object that answers every
question whose answer differs between the kinds: progress, health, retention. Nothing is opened at import.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ecommersss_platform import health
from streaming.topics.jsonl import JsonlTopic

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ecommersss_platform.settings import Settings
    from streaming.consumer_loop import ConsumerLoop
    from streaming.rules import RuleFile
    from streaming.topics.pubsub import PubSubTopic

TOPIC = "orders"
FLAGGED = "flagged_orders"
CONSUMER = "fraud"

_SHARED_PROGRESS = """
SELECT (SELECT max(position) FROM orders WHERE position >= %(first)s),
       (SELECT count(*) FROM orders WHERE position >= %(first)s AND position > %(written)s)
"""


@dataclass(frozen=True)
class RetainedStream:
    """A stream on disk whose old segments are removed."""

    name: str
    topic: JsonlTopic
    keep_days: int
    """How many days a segment stays; 0: for ever."""
    readers: dict[str, int | None] = field(default_factory=dict)
    """The position that each reader has read to; None where that is unknown."""


class ConsumerLook(NamedTuple):
    """What one look at the consumers shows.

    `position` and `lag` are in units of the topic; None where only the queue knows them. `problem`: what is
    wrong for certain, or None.
    """

    position: int | None
    lag: int | None
    problem: str | None = None


class ProgressTable(NamedTuple):
    """The progress of the topic, for printing."""

    title: str
    columns: list[str]
    rows: list[dict[str, Any]]


class OrderBroker(Protocol):
    """What carries orders from producers to consumers, and what can be observed of it."""

    def topic(self) -> JsonlTopic | PubSubTopic:
        """Return the topic that orders are published to. Connects to nothing yet."""
        ...

    def consumer(self, url: str, rules: RuleFile) -> ConsumerLoop:
        """Return a consumer of the topic that stores to the operational database at `url`."""
        ...

    def has_orders(self) -> bool:
        """Return whether the topic is known to hold orders; False where that cannot be seen."""
        ...

    def progress(self, connection: Connection) -> dict[str, Any]:
        """Return where the topic and its consumers are, as plain values."""
        ...

    def consumer_problem(self, connection: Connection) -> str | None:
        """Return what is wrong with the consumer on this machine, or None. `connection` is in autocommit."""
        ...

    def look_at_consumers(self, connection: Connection) -> ConsumerLook:
        """Return where the consumers are, wherever they run, without waiting. `connection`: in autocommit."""
        ...

    def producer_problem(self, patience: float = health.PRODUCER_PATIENCE) -> str | None:
        """Return what is wrong with the producer on this machine, or None. `patience`: seconds."""
        ...

    def retained_streams(self, connection: Connection) -> list[RetainedStream]:
        """Return the streams on disk, with the readers that the operational database knows."""
        ...


@dataclass(frozen=True)
class DiskBroker:
    """Orders in a topic on disk, read by one consumer. Positions are bytes."""

    settings: Settings

    def topic(self) -> JsonlTopic:
        return JsonlTopic(self.settings.orders_topic_dir, sync=self.settings.topic_sync)

    def consumer(self, url: str, rules: RuleFile) -> ConsumerLoop:
        from streaming.consumer import Consumer

        flagged, max_orders = flagged_stream(self.settings), self.settings.history_orders
        return Consumer(
            url, self.topic(), flagged, rules, topic_name=TOPIC, consumer=CONSUMER, max_orders=max_orders
        )

    def has_orders(self) -> bool:
        return self.topic().end() > 0

    def progress(self, connection: Connection) -> dict[str, Any]:
        topic = self.topic()
        # Positions before the end: what is published in between counts as lag, and no lag is negative.
        positions = _positions(connection) or {CONSUMER: topic.start()}
        end = topic.end()
        return {
            "kind": "jsonl",
            "start": topic.start(),
            "end": end,
            "consumers": [
                {"consumer": name, "position": position, "lag": end - position}
                for name, position in positions.items()
            ],
        }

    def consumer_problem(self, connection: Connection) -> str | None:
        topic = self.topic()
        return health.consumer_problem(
            lambda: _positions(connection).get(CONSUMER, topic.start()), topic.end, health.CONSUMER_PATIENCE
        )

    def look_at_consumers(self, connection: Connection) -> ConsumerLook:
        topic = self.topic()
        position = _positions(connection).get(CONSUMER, topic.start())
        return ConsumerLook(position, topic.end() - position)

    def producer_problem(self, patience: float = health.PRODUCER_PATIENCE) -> str | None:
        return health.producer_problem(self.settings.orders_topic_dir, patience)

    def retained_streams(self, connection: Connection) -> list[RetainedStream]:
        consumers: dict[str, int | None] = {
            f'the consumer "{name}"': position for name, position in _positions(connection).items()
        }
        return [
            RetainedStream(TOPIC, self.topic(), self.settings.topic_retention_days, consumers),
            _retained_flagged_stream(self.settings),
        ]


@dataclass(frozen=True)
class PubSubBroker:
    """Orders at Google Pub/Sub, shared by any number of consumers. Positions come from the database."""

    settings: Settings

    def topic(self) -> PubSubTopic:
        from streaming.topics.pubsub import PubSubTopic

        assert self.settings.pubsub_project is not None  # the settings make sure of it
        return PubSubTopic(
            self.settings.pubsub_project, self.settings.pubsub_topic, self.settings.pubsub_subscription
        )

    def consumer(self, url: str, rules: RuleFile) -> ConsumerLoop:
        from streaming.shared_consumer import SharedConsumer

        flagged = flagged_stream(self.settings) if self.settings.flagged_stream else None
        return SharedConsumer(url, self.topic(), flagged, rules, topic_name=TOPIC, consumer=CONSUMER)

    def has_orders(self) -> bool:
        return False

    def progress(self, connection: Connection) -> dict[str, Any]:
        from streaming.database.shared import connected
        from streaming.flagged import last_position
        from streaming.topics import SHARED_POSITIONS

        topic = self.topic()
        # Read the stream before the database: what is stored in between counts as missing from the stream.
        written = last_position(flagged_stream(self.settings), SHARED_POSITIONS)
        with connection.cursor() as cursor:
            cursor.execute(_SHARED_PROGRESS, {"first": SHARED_POSITIONS.start, "written": written})
            [(last, missing)] = cursor.fetchall()
        return {
            "kind": "pubsub",
            "topic": topic.path,
            "subscription": topic.subscription_path,
            "emulator": topic.emulator,
            "last_position": last,
            "not_in_flagged_stream": missing,
            "unacknowledged": None,  # only Google's monitoring knows
            "consumers": [
                {
                    "host": consumer.host,
                    "pid": consumer.pid,
                    "connected_since": consumer.since,
                    "quiet_seconds": round(consumer.quiet, 1),
                }
                for consumer in connected(connection, CONSUMER)
            ],
        }

    def consumer_problem(self, connection: Connection) -> str | None:
        from streaming.database.shared import connected

        return health.shared_consumer_problem(
            socket.gethostname(), connected(connection, CONSUMER), health.SHARED_CONSUMER_PATIENCE
        )

    def look_at_consumers(self, connection: Connection) -> ConsumerLook:
        from streaming.database.shared import connected

        quiet = [consumer.quiet for consumer in connected(connection, CONSUMER)]
        return ConsumerLook(None, None, health.consumers_problem(quiet, health.SHARED_CONSUMER_PATIENCE))

    def producer_problem(self, patience: float = health.PRODUCER_PATIENCE) -> str | None:
        return health.shared_producer_problem(self.settings.ground_truth_path, patience)

    def retained_streams(self, connection: Connection) -> list[RetainedStream]:
        return [_retained_flagged_stream(self.settings)]  # Pub/Sub keeps the orders itself


def _retained_flagged_stream(settings: Settings) -> RetainedStream:
    # Recovery after a crash needs only the last line, which is never removed.
    return RetainedStream(FLAGGED, flagged_stream(settings), settings.flagged_retention_days)


def order_broker(settings: Settings) -> OrderBroker:
    """Return the broker that the settings choose. Opens nothing."""
    return DiskBroker(settings) if settings.topic == "jsonl" else PubSubBroker(settings)


def orders_topic(settings: Settings) -> JsonlTopic | PubSubTopic:
    """Return the topic that orders are published to. Connects to nothing yet."""
    return order_broker(settings).topic()


def flagged_stream(settings: Settings) -> JsonlTopic:
    """Return the stream of flagged orders, which the consumer writes and `order_stream_sensor` reads."""
    return JsonlTopic(settings.flagged_topic_dir)


def fraud_consumer(settings: Settings, url: str) -> ConsumerLoop:
    """Return a consumer of the orders topic that stores to the database at `url`.

    It uses the rule book of the settings, and takes up changes of it between batches. Raises `RuleError`
    for a book that cannot be used.
    """
    from streaming.rules import RuleFile

    return order_broker(settings).consumer(url, RuleFile(settings.rules_path))


def progress_tables(progress: dict[str, Any]) -> list[ProgressTable]:
    """Return what `OrderBroker.progress` reported, as tables for printing."""
    if progress["kind"] == "jsonl":
        rows = [
            {
                "consumer": row["consumer"],
                "position": row["position"],
                "topic end": progress["end"],
                "lag (bytes)": row["lag"],
            }
            for row in progress["consumers"]
        ]
        return [ProgressTable("topic orders", ["consumer", "position", "topic end", "lag (bytes)"], rows)]
    at = f"the emulator at {progress['emulator']}" if progress["emulator"] else "Google Pub/Sub"
    subscription = {
        "subscription": progress["subscription"],
        "last position": progress["last_position"],
        "not yet in the flagged stream": progress["not_in_flagged_stream"],
        "unacknowledged": "see Cloud Monitoring: num_undelivered_messages",
    }
    consumers = progress["consumers"]
    return [
        ProgressTable(f"topic orders at {at}", list(subscription), [subscription]),
        ProgressTable(
            f"{len(consumers)} consumers connected",
            ["host", "pid", "connected_since", "quiet_seconds"],
            consumers,
        ),
    ]


def progress_figures(progress: dict[str, Any]) -> dict[str, int]:
    """Return what `OrderBroker.progress` reported, as figures that can be plotted."""
    if progress["kind"] == "jsonl":
        return {"end": progress["end"], "lag": max((row["lag"] for row in progress["consumers"]), default=0)}
    names = ("last_position", "not_in_flagged_stream")
    return {name: progress[name] for name in names if progress[name] is not None}


def _positions(connection: Connection) -> dict[str, int]:
    """Return the committed position of each consumer of the topic, by name."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT consumer, position FROM topic_positions WHERE topic = %s ORDER BY consumer", (TOPIC,)
        )
        return {name: int(position) for name, position in cursor}
