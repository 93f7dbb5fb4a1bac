"""The topic and the consumer that the settings choose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import fraud_consumer, orders_topic
from streaming.consumer import Consumer
from streaming.shared_consumer import SharedConsumer
from streaming.topics.jsonl import JsonlTopic
from streaming.topics.pubsub import PubSubTopic


def test_setting_chooses_the_topic_and_its_consumer(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="ECOMMERSSS_PUBSUB_PROJECT is needed when"):
        Settings(home=tmp_path, topic="pubsub", _env_file=None)  # type: ignore[call-arg]
    settings = Settings(  # type: ignore[call-arg]
        home=tmp_path, topic="pubsub", pubsub_project="shop-1", _env_file=None
    )
    topic = orders_topic(settings)
    assert isinstance(topic, PubSubTopic)
    assert topic.path == "projects/shop-1/topics/orders"
    assert topic.subscription_path == "projects/shop-1/subscriptions/orders-fraud"
    shared = fraud_consumer(settings, "postgresql://nobody@127.0.0.1:1/none")
    assert isinstance(shared, SharedConsumer)
    assert shared.flagged is not None
    without = settings.model_copy(update={"flagged_stream": False})
    shared = fraud_consumer(without, "postgresql://nobody@127.0.0.1:1/none")
    assert isinstance(shared, SharedConsumer)
    assert shared.flagged is None
    on_disk = Settings(home=tmp_path, _env_file=None)  # type: ignore[call-arg]
    assert isinstance(orders_topic(on_disk), JsonlTopic)
    assert isinstance(fraud_consumer(on_disk, "postgresql://nobody@127.0.0.1:1/none"), Consumer)


@pytest.mark.integration
def test_pubsub_library_is_imported_only_if_it_is_chosen() -> None:
    code = (
        "import sys, ecommersss_platform.cli.app, ecommersss_platform.topics, streaming.consumer\n"
        "import streaming.shared_consumer\n"
        "print([m for m in sys.modules if m.startswith(('google.cloud.pubsub', 'grpc'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
