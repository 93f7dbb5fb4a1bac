"""Google's Pub/Sub emulator on a free loopback port. Nothing here talks to Google."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from ecommersss_platform.local.ports import free_port
from streaming.topics.pubsub import EMULATOR_VARIABLE, PubSubTopic

JAR_VARIABLE = "PUBSUB_EMULATOR_JAR"
PROJECT = "test-project"
STREAM_SECONDS = 1.5
LEASE_SECONDS = 2

_JARS = "platform/pubsub-emulator/lib/*.jar"
_numbers = count(1)


def find_jar(environment: Mapping[str, str]) -> Path | None:
    """Return the emulator's jar: from PUBSUB_EMULATOR_JAR, else in the Cloud SDK (CLOUDSDK_ROOT, gcloud)."""
    if given := environment.get(JAR_VARIABLE):
        return Path(given)
    roots = [Path(root) for root in (environment.get("CLOUDSDK_ROOT"),) if root]
    if gcloud := shutil.which("gcloud", path=environment.get("PATH")):
        roots.append(Path(gcloud).resolve().parents[1])
    return next((jar for root in roots for jar in sorted(root.glob(_JARS))), None)


def missing() -> str | None:
    """Return why the emulator cannot run here, or None."""
    jar = find_jar(os.environ)
    if jar is None or not jar.exists():
        return (
            "no Pub/Sub emulator: install it (gcloud components install pubsub-emulator, or the Debian"
            f" package google-cloud-cli-pubsub-emulator), or set {JAR_VARIABLE}"
        )
    return None if shutil.which("java") else "no Pub/Sub emulator: it needs java"


@contextmanager
def running_emulator(directory: Path) -> Iterator[str]:
    """Run an emulator and return its address. Its log goes to the directory."""
    port = free_port(0)
    log = directory / "pubsub-emulator.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            # It lives for seconds: neither its optimising compiler nor its parallel collector pays off.
            [
                *("java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
                *("-jar", str(find_jar(os.environ)), "--host=127.0.0.1", f"--port={port}"),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 90
        while "Server started" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the Pub/Sub emulator did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        # It holds nothing worth keeping, and an orderly stop may take long.
        process.kill()
        process.wait()


def end_streams_soon(patch: pytest.MonkeyPatch) -> None:
    """Give each streaming pull a deadline, as the service does too; the library then opens the next one.

    The emulator (0.8.20) does not notice before the deadline that a client cancelled its stream or died: it
    keeps sending messages to that stream, for some ordering keys for ever. After the deadline it differs from
    the service too: it sends a key's next messages to another stream while the first stream still holds
    earlier ones. So this is for tests in which readers end, not for tests of the order.

    Leases last a little longer than streams, even those of messages that a reader returns. So what it left
    comes again after two seconds and to a live stream; on the other it would be leased for ten.
    """
    from google.cloud import pubsub_v1
    from google.cloud.pubsub_v1.subscriber._protocol.streaming_pull_manager import StreamingPullManager

    client = pubsub_v1.SubscriberClient
    pull, modify = client.streaming_pull, client.modify_ack_deadline
    patch.setattr(
        client, "streaming_pull", lambda *of, **options: pull(*of, **options | {"timeout": STREAM_SECONDS})
    )
    patch.setattr(
        client,
        "modify_ack_deadline",
        lambda *of, **options: modify(*of, **options | {"ack_deadline_seconds": LEASE_SECONDS}),
    )
    patch.setattr(StreamingPullManager, "_obtain_ack_deadline", lambda _, maybe_update: LEASE_SECONDS)


@contextmanager
def emulated(address: str, *, ordering: bool = True, streams_end: bool = False) -> Iterator[PubSubTopic]:
    """Create a topic with its subscription on the emulator, and send every client there meanwhile."""
    from google.cloud import pubsub_v1

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(EMULATOR_VARIABLE, address)
        if streams_end:
            end_streams_soon(patch)
        number = next(_numbers)
        topic = PubSubTopic(PROJECT, f"orders-{number}", f"orders-{number}-fraud")
        publisher, subscriber = pubsub_v1.PublisherClient(), pubsub_v1.SubscriberClient()
        for client in (publisher, subscriber):
            assert client.transport.host == address  # and not pubsub.googleapis.com
        publisher.create_topic(name=topic.path)
        with subscriber:
            subscriber.create_subscription(
                request={
                    "name": topic.subscription_path,
                    "topic": topic.path,
                    "enable_message_ordering": ordering,
                    "ack_deadline_seconds": 10,
                }
            )
        yield topic
