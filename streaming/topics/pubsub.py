"""A topic at Google Pub/Sub: published in order for each user, read by any number of consumers at once.

Pub/Sub has no positions. It hands every message to one of the subscription's consumers, again and again until
one of them acknowledges it, and at times once more after that. So a consumer stores first and acknowledges
then, and what comes twice is known by its order id. The ordering key is the order's user: the messages of a
user come in the order in which they were published, one at a time, to one consumer at a time.

Google's client library looks for the environment variable PUBSUB_EMULATOR_HOST (host:port): with it, messages
go to an emulator and no credentials are looked for.
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
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from streaming.errors import PlatformError
from streaming.orders import MAX_LINE_BYTES, Reference
from streaming.topics import Batch

if TYPE_CHECKING:
    from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient
    from google.cloud.pubsub_v1.subscriber.message import Message

logger = logging.getLogger(__name__)

EMULATOR_VARIABLE: Final = "PUBSUB_EMULATOR_HOST"
"""Google's own name: all of its client libraries look for it."""

PUBLISH_SECONDS: Final = 60.0
"""How long the service may take to say that it has a message."""

LEASE_SECONDS: Final = 10
"""How long a message stays with a consumer that does not answer any more (the least that Pub/Sub allows). One
that does answer keeps its messages for as long as it works on them."""

_WINDOW = 500
# Pub/Sub takes no message without data, but an empty line is a line.
_EMPTY: Final = {"empty": "true"}
_BYTES_AHEAD = 32 << 20
_CLOSE_SECONDS = 5.0


class TopicUnavailable(PlatformError):
    """Pub/Sub refuses, or is not reached."""


class _Keyed(msgspec.Struct):
    user_id: Reference


@dataclass(frozen=True, slots=True)
class Delivered(Batch):
    """Lines that Pub/Sub has handed to this consumer. `positions` only number them: 0, 1, 2..."""

    messages: list[Message] = field(default_factory=list)


class PubSubTopic:
    """A topic of a Google Cloud project, and the subscription that orders are read through.

    All three are plain names, such as "orders". Nothing is connected to before it is used. Consumers with the
    same subscription share its messages.
    """

    def __init__(self, project: str, topic: str = "orders", subscription: str = "orders-fraud") -> None:
        self.project = project
        self.topic = topic
        self.subscription = subscription
        self._publisher: PublisherClient | None = None
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        """The topic's full name at Google."""
        return f"projects/{self.project}/topics/{self.topic}"

    @property
    def subscription_path(self) -> str:
        """The subscription's full name at Google."""
        return f"projects/{self.project}/subscriptions/{self.subscription}"

    @property
    def emulator(self) -> str | None:
        """The emulator that takes Google's place (host:port), if one does."""
        return os.environ.get(EMULATOR_VARIABLE) or None

    def publish(self, lines: Iterable[bytes]) -> None:
        """Publish lines; each is at Pub/Sub, replicated, when this returns.

        Lines of one user are kept in order; lines that show no user have none. Of a line that is too long to
        be an order, the beginning is published that shows it. Raises `TopicUnavailable`: each of the lines
        may or may not be published then, and publishing all of them again does no harm, since orders are
        known by their ids.
        """
        publisher = self._connected_publisher()
        remaining = iter(lines)
        while window := list(islice(remaining, _WINDOW)):
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
                    if key:  # the library holds back what comes after a failure, until it is told to go on
                        publisher.resume_publish(self.path, key)
            if failure is not None:
                raise self._unavailable("publish to", self.path, failure) from failure

    def reader(self, max_lines: int = 1_000) -> PubSubReader:
        """Begin to read what is not acknowledged yet, in batches of up to so many lines. Close it when done.

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
        """The error in words for the person who can do something about it."""
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError

        said = str(error).strip().partition("\n")[0] or type(error).__name__
        where = f"the emulator at {self.emulator}" if self.emulator else "Google Pub/Sub"
        match error:
            case exceptions.NotFound():
                said = "it does not exist"
                advice = 'create it, as README.md shows under "Go to Pub/Sub", or set ECOMMERSSS_PUBSUB_*'
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
                    "is it reachable from here? What was to be published may be there or not;"
                    " publishing it again does no harm"
                )
            case _:
                advice = "see https://cloud.google.com/pubsub/docs/reference/error-codes"
        return TopicUnavailable(f"cannot {what} {path} at {where}: {said}; {advice}")


class PubSubReader:
    """Reads a subscription by streaming pull. For one thread, apart from `wake`.

    The library keeps the messages that it has handed over leased, holds at most two batches of them, and
    connects again by itself where a connection breaks.
    """

    def __init__(self, topic: PubSubTopic, max_lines: int) -> None:
        self._topic = topic
        self._arrived: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._unsettled: list[Delivered] = []
        self._closing = False
        self._client = topic._subscriber()
        try:
            self._check()
            self._pull = self._subscribe(max_lines)
        except BaseException:
            self._client.close()
            raise

    def read(self, max_lines: int, timeout: float) -> Delivered:
        """At most `max_lines` lines, as soon as there are any; none after `timeout` seconds, or when woken.

        Raises `TopicUnavailable` when the service ends the reading for good.
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
            return Delivered()
        batch = Delivered(
            list(range(len(messages))), [_line(message.data) for message in messages], 0, messages
        )
        self._unsettled.append(batch)
        return batch

    def acknowledge(self, batch: Delivered) -> None:
        """Say that a batch is dealt with for good. It may come again all the same, if this gets lost."""
        self._unsettled.remove(batch)
        for message in batch.messages:
            message.ack()

    def wake(self) -> None:
        """End a waiting read, or the next one that would wait. From any thread or signal handler."""
        self._arrived.put(None)

    def close(self) -> None:
        """Give back every message that was not acknowledged: it comes again, here or elsewhere, at once."""
        if self._closing:
            return
        self._closing = True
        for batch in self._unsettled:
            for message in batch.messages:
                message.nack()
        self._unsettled.clear()
        with suppress(queue.Empty):
            while True:
                if (waiting := self._arrived.get_nowait()) is not None:
                    waiting.nack()
        self._pull.cancel()
        # Acknowledgements that wait are sent first. Why the reading ended, if not by this, was told before.
        with suppress(Exception):
            self._pull.result(timeout=_CLOSE_SECONDS)
        self._client.close()

    def __enter__(self) -> PubSubReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        """Look at the subscription before the first read, where this account may: nothing waits for one that
        does not exist."""
        from google.api_core import exceptions

        path = self._topic.subscription_path
        try:
            found = self._client.get_subscription(subscription=path, timeout=PUBLISH_SECONDS)
        except exceptions.PermissionDenied:
            logger.debug("this account may not look at %s: reading without a look", path)
        except Exception as error:
            raise self._topic._unavailable("read from", path, error) from error
        else:
            if found.topic != self._topic.path:
                raise TopicUnavailable(
                    f"subscription {path} is one to {found.topic}, not to {self._topic.path}: correct"
                    " ECOMMERSSS_PUBSUB_SUBSCRIPTION or ECOMMERSSS_PUBSUB_TOPIC"
                )
            if not found.enable_message_ordering:
                logger.warning(
                    "subscription %s has no message ordering: a user's orders may be judged in another order"
                    " than they were placed in; create it anew with ordering, as README.md shows",
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
            # One thread, which only passes messages on.
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
            error = self._pull.exception() or RuntimeError("the service ended the reading")
            raise self._topic._unavailable("read from", self._topic.subscription_path, error) from error


def ordering_key(line: bytes) -> str:
    """What a line is ordered by: its user, or nothing where it does not show one."""
    try:
        return str(_keyed(line).user_id)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


_keyed = msgspec.json.Decoder(_Keyed).decode


def _line(data: bytes) -> bytes:
    """A message as the topic on disk would give it: without line end, and no longer than shows its length."""
    return data.removesuffix(b"\n").removesuffix(b"\r")[: MAX_LINE_BYTES + 1]
