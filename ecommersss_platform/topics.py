"""The two streams and their consumer, as the settings say they are. Nothing here is opened at import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streaming.topics.jsonl import JsonlTopic

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings
    from streaming.consumer_loop import ConsumerLoop
    from streaming.topics.pubsub import PubSubTopic

TOPIC = "orders"
FLAGGED = "flagged_orders"
CONSUMER = "fraud"


def orders_topic(settings: Settings) -> JsonlTopic | PubSubTopic:
    """The topic that orders are published to."""
    return orders_on_disk(settings) or orders_at_pubsub(settings)


def orders_on_disk(settings: Settings) -> JsonlTopic | None:
    """The topic that orders are published to, where it is on disk: one with positions."""
    return JsonlTopic(settings.orders_topic_dir) if settings.topic == "jsonl" else None


def orders_at_pubsub(settings: Settings) -> PubSubTopic:
    """The topic that orders are published to, where it is at Pub/Sub. Connects to nothing yet."""
    from streaming.topics.pubsub import PubSubTopic

    assert settings.pubsub_project is not None  # held to by the settings
    return PubSubTopic(settings.pubsub_project, settings.pubsub_topic, settings.pubsub_subscription)


def flagged_stream(settings: Settings) -> JsonlTopic:
    """The stream of flagged orders, which the consumer writes and `order_stream_sensor` reads."""
    return JsonlTopic(settings.flagged_topic_dir)


def fraud_consumer(settings: Settings, url: str) -> ConsumerLoop:
    """A consumer of the orders topic, storing to the database at `url`, with the rule book of the settings.

    A changed rule book is taken up between batches. Raises `RuleError` for a rule book that cannot be used.
    """
    from streaming.rules import RuleFile

    rules = RuleFile(settings.rules_path)
    topic = orders_on_disk(settings)
    if topic is not None:
        from streaming.consumer import Consumer

        return Consumer(
            url,
            topic,
            flagged_stream(settings),
            rules,
            topic_name=TOPIC,
            consumer=CONSUMER,
            stream=FLAGGED,
        )
    from streaming.shared_consumer import SharedConsumer

    return SharedConsumer(
        url,
        orders_at_pubsub(settings),
        flagged_stream(settings) if settings.flagged_stream else None,
        rules,
        topic_name=TOPIC,
        consumer=CONSUMER,
    )
