"""Channels: what a URL may look like, what is said of one that is wrong, and the file `alerts.jsonl`."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ecommersss_platform.alerts import channels as module
from ecommersss_platform.alerts.channels import FileChannel, NotDelivered, try_channels, url_channels
from ecommersss_platform.alerts.problem import Problem
from ecommersss_platform.alerts.state import Message
from ecommersss_platform.alerts.text import without_secrets
from ecommersss_platform_tests.support.inboxes import mailbox, webhook
from streaming.errors import PlatformError

NOW = datetime(2026, 11, 24, 20, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apprise pauses for seconds between two messages to one place."""
    monkeypatch.setattr("apprise.plugins.base.NotifyBase.request_rate_per_sec", 0)


def message(number: int, at: datetime = NOW) -> Message:
    return Message(
        f"id {number}", "opened", at, at, Problem("run_failed", f"job {number}", "no space <b>left</b> é")
    )


@pytest.mark.parametrize("between", [" ", ",", ", ", "\n", ";\n  "])
def test_urls_are_separated_as_people_separate_them_and_may_have_an_owner(between: str) -> None:
    urls = ["json://127.0.0.1:9/a,b", "team:fraud-analytics=json://127.0.0.1:9/c", "mailto://u:p@example.com"]
    found = url_channels(f" {between.join(urls)}{between}")
    assert [(channel.name, channel.owner) for channel in found] == [
        ("json (URL 1)", None),
        ("json (URL 2)", "team:fraud-analytics"),
        ("mailto (URL 3)", None),
    ]
    assert len({channel.id for channel in found}) == 3


def test_a_place_named_twice_is_told_once() -> None:
    assert len(url_channels("json://127.0.0.1 json://127.0.0.1")) == 1
    [first], [again] = url_channels("json://127.0.0.1"), url_channels("json://127.0.0.1")
    assert first.id == again.id, "or what waits for it would be lost at each start"


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        (
            "json://127.0.0.1 slack://s3cret/x",
            "URL 2, slack://..., is not one that apprise understands",
        ),
        ("nosuch://s3cret@host/", "URL 1, nosuch://..., is not one"),
        ("mailto://user:s3cret@", "URL 1, mailto://..., is not one"),
        ("s3cret", "entry 1 is no URL"),
        ("team:fraud=json://s3cret.example.com", "no alert belongs to team:fraud, the owner of URL 1"),
    ],
)
def test_wrong_url_is_named_by_position_and_scheme_and_never_shown(urls: str, said: str) -> None:
    with pytest.raises(PlatformError) as caught:
        url_channels(urls)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_test_message_arrives_by_http_and_mail_or_the_answer_says_why_not() -> None:
    with webhook() as hook, mailbox() as mails:
        text = (
            f"{hook.url}?+X-Key=s3cret {mails.url} json://127.0.0.1:1/s3cret team:fraud-analytics={hook.url}"
        )
        places = url_channels(text)
        rows = try_channels(places)
        assert [(row["channel"], row["owner"], row["arrived"]) for row in rows] == [
            ("json (URL 1)", "all", "yes"),
            ("mailto (URL 2)", "all", "yes"),
            ("json (URL 3)", "all", "no"),
            ("json (URL 4)", "team:fraud-analytics", "yes"),
        ]
        assert "Connection refused" in str(rows[2]["why not"])
        assert [mail["subject"] for mail in mails.mails] == ["Test of the alerts of eCommer$$$"]
        hook.status, mails.answer = 500, "451 try again later"
        again = try_channels(places)
    assert [row["arrived"] for row in again] == ["no"] * 4
    assert "error=500" in str(again[0]["why not"])
    assert "try again later" in str(again[1]["why not"])
    assert "s3cret" not in str(rows + again)


def test_mail_shows_hostile_text_as_text() -> None:
    with mailbox() as mails:
        [place] = url_channels(mails.url)
        place.send([message(1)])
        [mail] = mails.mails
    assert mail["subject"] == "[error] run_failed: job 1"
    assert "no space &lt;b&gt;left&lt;/b&gt; é" in mail["body"] or "no space <b>left</b> é" in mail["body"]


def test_file_has_each_message_once_for_its_owner_only(tmp_path: Path) -> None:
    channel = FileChannel(tmp_path / "home" / "alerts.jsonl", None)
    channel.send([message(1)])
    with channel.path.open("a") as file:
        file.write('{"at": "2026-11-')  # a kill cut it off
    channel.send([message(1), message(2)])
    lines = channel.path.read_text().splitlines()
    assert len(lines) == 3
    assert lines[1] == '{"at": "2026-11-', "a line of its own"
    assert [json.loads(lines[n])["id"] for n in (0, 2)] == ["id 1", "id 2"]
    assert stat.S_IMODE(channel.path.stat().st_mode) == 0o600
    assert json.loads(lines[0]) == {
        "at": "2026-11-24T20:05:00+00:00",
        "id": "id 1",
        "event": "opened",
        "alert": "run_failed",
        "subject": "job 1",
        "severity": "error",
        "owner": "team:data-engineering",
        "message": "no space <b>left</b> é",
        "link": None,
        "since": "2026-11-24T20:05:00+00:00",
    }


def test_file_drops_old_alerts_and_never_grows_beyond_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = FileChannel(tmp_path / "alerts.jsonl", timedelta(days=30))
    channel.path.write_text(
        '{"at": "2026-01-01T00:00:00+00:00", "alert": "run_failed", "run_id": "old"}\nnoise\n'
    )
    for day in range(40):
        channel.send([message(day, NOW + timedelta(days=day))])
    kept = [json.loads(line)["subject"] for line in channel.path.read_text().splitlines()]
    assert kept == [f"job {day}" for day in range(9, 40)]
    assert stat.S_IMODE(channel.path.stat().st_mode) == 0o600
    monkeypatch.setattr(module, "LARGEST_FILE", 5000)
    for day in range(40, 400):
        channel.send([message(day, NOW + timedelta(days=39, seconds=day))])
        assert channel.path.stat().st_size <= 5000
    assert json.loads(channel.path.read_text().splitlines()[-1])["subject"] == "job 399"


def test_file_that_cannot_be_written_is_a_failed_delivery(tmp_path: Path) -> None:
    channel = FileChannel(tmp_path / "alerts.jsonl", None)
    channel.path.mkdir()
    with pytest.raises(NotDelivered, match="Is a directory"):
        channel.send([message(1)])
    with pytest.raises(NotDelivered, match="Is a directory"):
        channel.test()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ecommersss:s3cret@127.0.0.1:5433/dagster", "postgresql://***@127.0.0.1:5433/dagster"),
        ("password=hunter2 host=x", "password=*** host=x"),
        ("PASSWORD: 'two words', next", "PASSWORD: ***, next"),
        ('token="abc"', "token=***"),
        ("see https://docs.example.org/a@b", "see https://docs.example.org/a@b"),
        ("nothing was published for raw.orders", "nothing was published for raw.orders"),
    ],
)
def test_credentials_are_masked(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
