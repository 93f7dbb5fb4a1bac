"""Topics on the Pub/Sub emulator. Files about topics on disk have a `topic` of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ecommersss_platform_tests.support import pubsub_emulator as emulator
from streaming.topics.pubsub import PubSubTopic


@pytest.fixture
def topic(pubsub: str) -> Iterator[PubSubTopic]:
    with emulator.emulated(pubsub) as topic:
        yield topic


@pytest.fixture
def topic_read_again(pubsub: str) -> Iterator[PubSubTopic]:
    """A topic that can be read again after a reader ended: see `end_streams_soon`."""
    with emulator.emulated(pubsub, streams_end=True) as topic:
        yield topic
