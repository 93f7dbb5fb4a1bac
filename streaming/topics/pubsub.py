"""A queue at Google Pub/Sub: each user's orders stay in sequence, and any number of consumers share the work.

Pub/Sub delivers each message to one of the subscription's consumers, repeatedly until one acknowledges it,
and sometimes once more after that. So a consumer stores first and acknowledges afterwards, and recognises an
order that comes twice by its id. The ordering key is the order's user: messages of one user arrive in the
sequence in which they were published, at one consumer at a time.

If the environment variable PUBSUB_EMULATOR_HOST (host:port) is set, Google's client library sends messages to
that emulator and looks for no credentials.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from streaming.chunks import chunks
from streaming.errors import PlatformError, first_line
from streaming.orders import MAX_LINE_BYTES, Reference
from streaming.topics import Delivery

if TYPE_CHECKING:
    from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient
    from google.cloud.pubsub_v1.subscriber.message import Message

logger = logging.getLogger(__name__)

EMULATOR_VARIABLE: Final = "PUBSUB_EMULATOR_HOST"
"""Google's own name for it, which all of its client libraries read."""

PUBLISH_SECONDS: Final = 60.0
"""How long the service may take to confirm a message."""

LEASE_SECONDS: Final = 10
"""How long a message stays with a consumer that no longer answers (the least that Pub/Sub allows). A consumer
that answers keeps its messages for as long as it works on them."""

_WINDOW = 500
# Pub/Sub refuses a message without data or attributes, but an empty line is a line too.
_EMPTY: Final = {"empty": "true"}
_BYTES_AHEAD = 32 << 20
_CLOSE_SECONDS = 5.0


class TopicUnavailable(PlatformError):
    """Pub/Sub refuses a request, or cannot be reached."""


class _Keyed(msgspec.Struct):
    user_id: Reference


@dataclass(frozen=True, slots=True)
class _Pulled(Delivery):
    """A delivery with the messages to acknowledge."""

    messages: list[Message] = field(default_factory=list)


class PubSubTopic:
    """A topic of a Google Cloud project, and the subscription that orders are read from.

    `project`, `topic` and `subscription` are short names, such as "orders". Consumers with the same
    subscription share its messages. Connects on first use.
    """

    def __init__(self, project: str, topic: str = "orders", subscription: str = "orders-fraud") -> None:
        self.project = project
        self.topic = topic
        self.subscription = subscription
        self._publisher: PublisherClient | None = None
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        """The topic's full name."""
        return f"projects/{self.project}/topics/{self.topic}"

    @property
    def subscription_path(self) -> str:
        """The subscription's full name."""
        return f"projects/{self.project}/subscriptions/{self.subscription}"

    @property
    def name(self) -> str:
        """The subscription's full name: it is what consumers read from."""
        return self.subscription_path

    @property
    def emulator(self) -> str | None:
        """The address of the emulator (host:port) that replaces the service, if one is set."""
        return os.environ.get(EMULATOR_VARIABLE) or None

    def publish(self, lines: Iterable[bytes]) -> None:
        """Publish lines; Pub/Sub has replicated each of them when this returns.

        Lines of one user stay in sequence; lines without a user have none. A line too long to be an order is
        cut to a length that still shows it. If this raises `TopicUnavailable`, some of the lines may be
        published: publishing all of them again is safe, since consumers recognise orders by their ids.
        """
        publisher = self._connected_publisher()
        for window in chunks(lines, _WINDOW):
            keys = [ordering_key(line) for line in window]
            futures = [
                publisher.publish(
                    self.path, line[: MAX_LINE_BYTES + 1], ordering_key=key, **({} if line else _EMPTY)
                )
                for line, key in zip(window, keys, strict=True)
            ]
            failure: BaseException | None = None
            for future, key in zip(futures, keys, strict=True):
                try:
                    future.result(timeout=0.001 if failure else PUBLISH_SECONDS)
                except Exception as error:
                    failure = failure or error
                    if key:  # after a failure, the library holds back the key's messages until resumed
                        publisher.resume_publish(self.path, key)
            if failure is not None:
                raise self._unavailable("publish to", self.path, failure) from failure

    def reader(self, max_lines: int = 1_000) -> PubSubReader:
        """Start receiving unacknowledged lines, in batches of up to `max_lines`. Close the reader when done.

        Raises `TopicUnavailable`.
        """
        return PubSubReader(self, max_lines)

    def _connected_publisher(self) -> PublisherClient:
        with self._lock:
            if self._publisher is None:
                from google.cloud import pubsub_v1

                try:
                    self._publisher = pubsub_v1.PublisherClient(
                        pubsub_v1.types.BatchSettings(max_messages=_WINDOW, max_latency=0.005),
                        pubsub_v1.types.PublisherOptions(enable_message_ordering=True),
                    )
                except Exception as error:
                    raise self._unavailable("publish to", self.path, error) from error
            return self._publisher

    def _subscriber(self) -> SubscriberClient:
        from google.cloud import pubsub_v1

        try:
            return pubsub_v1.SubscriberClient()
        except Exception as error:
            raise self._unavailable("read from", self.subscription_path, error) from error

    def _unavailable(self, what: str, path: str, error: BaseException) -> TopicUnavailable:
        """Return an error that says what happened and what to do about it."""
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError

        said = first_line(error)
        where = f"the emulator at {self.emulator}" if self.emulator else "Google Pub/Sub"
        match error:
            case exceptions.NotFound():
                said = "it does not exist"
                advice = "create it as docs/pubsub.md shows, or set ECOMMERSSS_PUBSUB_*"
            case exceptions.PermissionDenied() | exceptions.Unauthenticated():
                advice = (
                    "this account needs roles/pubsub.publisher on the topic to publish, and"
                    " roles/pubsub.subscriber on the subscription to read"
                )
            case GoogleAuthError():
                advice = "log in with `gcloud auth application-default login`, or run as a service account"
            case FutureTimeoutError():
                said = f"no answer in {PUBLISH_SECONDS:g} s"
                advice = (
                    "check that it is reachable from here. Some of the lines may be published;"
                    " publishing all of them again is safe"
                )
            case _:
                advice = "see https://cloud.google.com/pubsub/docs/reference/error-codes"
        return TopicUnavailable(f"cannot {what} {path} at {where}: {said}; {advice}")


class PubSubReader:
    """Reads a subscription by streaming pull: see `streaming.topics.QueueReader`.

    Google's library extends the leases of the messages it has delivered, holds at most two batches of them,
    and reconnects by itself.
    """

    def __init__(self, topic: PubSubTopic, max_lines: int) -> None:
        self._topic = topic
        self._arrived: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._unacknowledged: list[_Pulled] = []
        self._closing = False
        self._client = topic._subscriber()
        try:
            self._check()
            self._pull = self._subscribe(max_lines)
        except BaseException:
            self._client.close()
            raise

    def read(self, max_lines: int, timeout: float) -> Delivery:
        """Return up to `max_lines` lines once there are any; none after `timeout` seconds or when woken.

        Raises `TopicUnavailable` if the service has ended the stream.
        """
        if max_lines < 1:
            raise ValueError(f"max_lines is {max_lines}: give at least 1")
        messages: list[Message] = []
        with suppress(queue.Empty):
            message = self._arrived.get(timeout=timeout) if timeout > 0 else self._arrived.get_nowait()
            while message is not None:
                messages.append(message)
                message = self._arrived.get_nowait() if len(messages) < max_lines else None
        if not messages:
            self._raise_failure()
            return Delivery()
        batch = _Pulled(
            positions=list(range(len(messages))),
            lines=[_line(message.data) for message in messages],
            message_ids=[message.message_id for message in messages],
            messages=messages,
        )
        self._unacknowledged.append(batch)
        return batch

    def acknowledge(self, batch: Delivery) -> None:
        """Tell Pub/Sub not to deliver a batch again. It may do so anyway if this message is lost."""
        assert isinstance(batch, _Pulled)
        self._unacknowledged.remove(batch)
        for message in batch.messages:
            message.ack()

    def wake(self) -> None:
        """End a waiting read at once, or the next one that would wait. Safe in signal handlers."""
        self._arrived.put(None)

    def close(self) -> None:
        """Return unacknowledged messages, which Pub/Sub then delivers again. Closing twice is harmless."""
        if self._closing:
            return
        self._closing = True
        for batch in self._unacknowledged:
            for message in batch.messages:
                message.nack()
        self._unacknowledged.clear()
        with suppress(queue.Empty):
            while True:
                if (waiting := self._arrived.get_nowait()) is not None:
                    waiting.nack()
        self._pull.cancel()
        # This sends pending acknowledgements first. If the stream had failed, `read` has raised why.
        with suppress(Exception):
            self._pull.result(timeout=_CLOSE_SECONDS)
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        """Check the subscription if this account may: a read would wait forever for a missing one."""
        from google.api_core import exceptions

        path = self._topic.subscription_path
        try:
            found = self._client.get_subscription(subscription=path, timeout=PUBLISH_SECONDS)
        except exceptions.PermissionDenied:
            logger.debug("this account may not view %s: reading it unchecked", path)
        except Exception as error:
            raise self._topic._unavailable("read from", path, error) from error
        else:
            if found.topic != self._topic.path:
                raise TopicUnavailable(
                    f"subscription {path} belongs to {found.topic}, not to {self._topic.path}: correct"
                    " ECOMMERSSS_PUBSUB_SUBSCRIPTION or ECOMMERSSS_PUBSUB_TOPIC"
                )
            if not found.enable_message_ordering:
                logger.warning(
                    "subscription %s has no message ordering: a user's orders may be judged out of"
                    " sequence; create it again with ordering, as docs/pubsub.md shows",
                    path,
                )

    def _subscribe(self, max_lines: int) -> Any:
        from google.cloud.pubsub_v1.subscriber.scheduler import ThreadScheduler
        from google.cloud.pubsub_v1.types import FlowControl

        pull = self._client.subscribe(
            self._topic.subscription_path,
            callback=self._receive,
            flow_control=FlowControl(
                max_messages=2 * max_lines,
                max_bytes=_BYTES_AHEAD,
                min_duration_per_lease_extension=LEASE_SECONDS,
                max_duration_per_lease_extension=LEASE_SECONDS,
            ),
            # One thread suffices: it only passes messages on.
            scheduler=ThreadScheduler(ThreadPoolExecutor(1, thread_name_prefix="pubsub")),
        )
        pull.add_done_callback(lambda _: self._arrived.put(None))
        return pull

    def _receive(self, message: Message) -> None:
        if self._closing:
            message.nack()
        else:
            self._arrived.put(message)

    def _raise_failure(self) -> None:
        if self._pull.done():
            error = self._pull.exception() or RuntimeError("the service ended the stream")
            raise self._topic._unavailable("read from", self._topic.subscription_path, error) from error


def ordering_key(line: bytes) -> str:
    """Return the key that keeps a user's lines in sequence: the user id, or "" for a line without one."""
    try:
        return str(_keyed(line).user_id)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


_keyed = msgspec.json.Decoder(_Keyed).decode


def _line(data: bytes) -> bytes:
    """Return a message as a topic on disk would: without line end, cut just beyond the longest valid line."""
    return data.removesuffix(b"\n").removesuffix(b"\r")[: MAX_LINE_BYTES + 1]
