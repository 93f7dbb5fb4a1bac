"""The Pub/Sub queue on Google's emulator."""

from __future__ import annotations

import time

import pytest

from ecommersss_platform_tests.support import pubsub_emulator as emulator
from ecommersss_platform_tests.support.shop import order
from streaming.orders import MAX_LINE_BYTES, encode
from streaming.topics.pubsub import PubSubReader, PubSubTopic, TopicUnavailable, ordering_key

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.pubsub,
    pytest.mark.skipif(bool(emulator.missing()), reason=str(emulator.missing())),
]


def read(reader: PubSubReader, count: int, seconds: float = 30) -> list[bytes]:
    """Return the next `count` lines, acknowledging each batch."""
    lines: list[bytes] = []
    deadline = time.monotonic() + seconds
    while len(lines) < count:
        assert time.monotonic() < deadline, f"{len(lines)} of {count} lines came in {seconds} s"
        batch = reader.read(1_000, timeout=0.2)
        assert batch.positions == list(range(len(batch)))
        lines += batch.lines
        if batch:
            reader.acknowledge(batch)
    return lines


def by_user(lines: list[bytes]) -> dict[str, list[bytes]]:
    users: dict[str, list[bytes]] = {}
    for line in lines:
        users.setdefault(ordering_key(line), []).append(line)
    return users


def test_lines_of_a_user_arrive_in_sequence(topic: PubSubTopic) -> None:
    lines = [encode(order(n, user_id=n % 7 + 1)) for n in range(1, 701)]
    topic.publish(lines)
    with topic.reader() as reader:
        received = read(reader, len(lines))
        assert not reader.read(1_000, timeout=0.5)
    assert by_user(received) == by_user(lines)


def test_lines_arrive_as_from_a_topic_on_disk(topic: PubSubTopic) -> None:
    too_long = b"x" * (MAX_LINE_BYTES + 10_000)
    topic.publish([b"", b"no json", b"\xff\xfe", b'{"user_id": "x"}', b"text\r", b"[1,\n2]\n", too_long])
    with topic.reader() as reader:
        received = read(reader, 7)
    assert sorted(received) == sorted(
        [
            b"",
            b"no json",
            b"\xff\xfe",
            b'{"user_id": "x"}',
            b"text",
            b"[1,\n2]",
            too_long[: MAX_LINE_BYTES + 1],
        ]
    )


def test_only_unacknowledged_lines_are_delivered_again(topic_read_again: PubSubTopic) -> None:
    topic = topic_read_again
    topic.publish([encode(order(n, user_id=n)) for n in range(1, 11)])
    with topic.reader() as reader:
        first = read(reader, 1)
        kept = []
        while len(kept) + len(first) < 10:
            batch = reader.read(2, timeout=10)
            assert 0 < len(batch) <= 2
            kept += batch.lines
    with topic.reader() as reader:
        again = read(reader, len(kept), seconds=60)
        assert not reader.read(1_000, timeout=0.5)
    assert sorted(again) == sorted(kept)
    assert not set(again) & set(first)


def test_wake_ends_a_waiting_read(topic: PubSubTopic) -> None:
    with topic.reader() as reader:
        reader.wake()
        began = time.monotonic()
        assert not reader.read(10, timeout=20)
        assert not reader.read(10, timeout=0)
        assert time.monotonic() - began < 5


def test_close_is_quick_and_can_be_repeated(topic: PubSubTopic) -> None:
    reader = topic.reader()
    reader.read(1, timeout=0.5)
    began = time.monotonic()
    reader.close()
    reader.close()
    assert time.monotonic() - began < 1


def test_the_error_names_a_missing_topic_or_subscription(topic: PubSubTopic) -> None:
    missing = PubSubTopic(emulator.PROJECT, "missing", "missing")
    for use, path in (
        (lambda: missing.publish([b"{}"]), missing.path),
        (missing.reader, missing.subscription_path),
    ):
        with pytest.raises(TopicUnavailable) as error:
            use()
        assert str(error.value).endswith(
            f"{path} at the emulator at {missing.emulator}: it does not exist; create it as docs/pubsub.md"
            " shows, or set ECOMMERSSS_PUBSUB_*"
        )


def test_publishing_continues_after_a_failure(pubsub: str, topic: PubSubTopic) -> None:
    from google.cloud import pubsub_v1

    line = encode(order(1))
    late = PubSubTopic(emulator.PROJECT, f"{topic.topic}-late", f"{topic.topic}-late")
    with pytest.raises(TopicUnavailable):
        late.publish([line])
    pubsub_v1.PublisherClient().create_topic(name=late.path)
    with pubsub_v1.SubscriberClient() as client:
        client.create_subscription(
            request={"name": late.subscription_path, "topic": late.path, "enable_message_ordering": True}
        )
    late.publish([line])
    with late.reader() as reader:
        assert read(reader, 1) == [line]


def test_a_subscription_of_another_topic_is_refused(topic: PubSubTopic) -> None:
    other = PubSubTopic(emulator.PROJECT, "another", topic.subscription)
    with pytest.raises(TopicUnavailable, match=rf"belongs to {topic.path}, not to {other.path}"):
        other.reader()


def test_a_subscription_without_ordering_is_logged(pubsub: str, caplog: pytest.LogCaptureFixture) -> None:
    with emulator.emulated(pubsub, ordering=False) as topic, topic.reader():
        pass
    assert f"subscription {topic.subscription_path} has no message ordering" in caplog.text


def test_read_raises_if_the_subscription_is_deleted(topic: PubSubTopic) -> None:
    from google.cloud import pubsub_v1

    with topic.reader() as reader:
        with pubsub_v1.SubscriberClient() as client:
            client.delete_subscription(subscription=topic.subscription_path)
        with pytest.raises(TopicUnavailable, match="it does not exist"):
            read(reader, 1)
