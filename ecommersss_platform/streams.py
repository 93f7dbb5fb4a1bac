"""The two streams and their consumer, as the settings say they are. Nothing here is opened at import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streaming.topics.jsonl import JsonlTopic

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings
    from streaming.consumer import Consumer

TOPIC = "orders"
FLAGGED = "flagged_orders"
CONSUMER = "fraud"


def orders_topic(settings: Settings) -> JsonlTopic:
    """The topic that orders are published to."""
    return JsonlTopic(settings.orders_topic_dir)


def flagged_stream(settings: Settings) -> JsonlTopic:
    """The stream of flagged orders, which the consumer writes and `order_stream_sensor` reads."""
    return JsonlTopic(settings.flagged_topic_dir)


def fraud_consumer(settings: Settings, url: str) -> Consumer:
    """The consumer of the orders topic, storing to the database at `url`, with the rule book of the settings.

    A changed rule book is taken up between batches. Raises `RuleError` for a rule book that cannot be used.
    """
    from streaming.consumer import Consumer
    from streaming.rules import RuleFile

    return Consumer(
        url,
        orders_topic(settings),
        flagged_stream(settings),
        RuleFile(settings.rules_path),
        topic_name=TOPIC,
        consumer=CONSUMER,
        stream=FLAGGED,
    )
