"""The Pub/Sub queue without a server: credentials, ordering keys, the compose file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.project import PROJECT
from ecommersss_platform_tests.support.shop import order
from streaming.orders import encode
from streaming.topics.pubsub import EMULATOR_VARIABLE, PubSubTopic, TopicUnavailable, ordering_key


def test_without_an_emulator_credentials_are_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # No network: Google's library finds no login in files, and is set not to look for a Google machine.
    monkeypatch.delenv(EMULATOR_VARIABLE, raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    topic = PubSubTopic("some-project")
    assert topic.emulator is None
    for use in (lambda: topic.publish([b"{}"]), topic.reader):
        with pytest.raises(
            TopicUnavailable, match=r"at Google Pub/Sub: .*gcloud auth application-default login"
        ):
            use()


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (encode(order(1, user_id=42)), "42"),
        (b'{"user_id": 7}', "7"),
        (b'{"user_id": 0}', ""),
        (b'{"user_id": 2147483648}', ""),
        (b'{"user_id": 1e400}', ""),
        (b'{"user_id": "7"}', ""),
        (b'{"user": 7}', ""),
        (b"", ""),
        (b"\xff", ""),
        (b"[" * 60_000, ""),
    ],
)
def test_the_ordering_key_is_the_user(line: bytes, key: str) -> None:
    assert ordering_key(line) == key


def test_the_pubsub_compose_file_names_existing_services_and_settings() -> None:
    compose: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
    pubsub: dict[str, Any] = yaml.safe_load((PROJECT / "deploy" / "pubsub.yml").read_text())
    assert pubsub["services"].keys() == {"migrate", "alerts", "code", "daemon", "producer", "consumer"}
    assert pubsub["services"].keys() < compose["services"].keys()
    for service in pubsub["services"].values():
        names = service["environment"].keys() - {"GOOGLE_APPLICATION_CREDENTIALS"}
        assert {name.removeprefix("ECOMMERSSS_").lower() for name in names} < Settings.model_fields.keys()
        assert service["environment"]["ECOMMERSSS_TOPIC"] == "pubsub"
        assert service["secrets"] == list(pubsub["secrets"])
    assert "GOOGLE_APPLICATION_CREDENTIALS:?" in pubsub["secrets"]["google"]["file"]
