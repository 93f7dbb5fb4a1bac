"""`ecommersss alerts test|list|mute|unmute`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ecommersss_platform.alerts.channels import FileChannel
from ecommersss_platform.alerts.problem import Observation, Problem
from ecommersss_platform.alerts.state import HOUR, after_delivery, transition
from ecommersss_platform.alerts.store import Store
from ecommersss_platform_tests.support.home import Home
from ecommersss_platform_tests.support.inboxes import webhook

SPIKE = Problem("fraud_spike", "Gopay", "9 % of Gopay's orders are fraud, usually 1 to 3 %")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def look(home: Home, *problems: Problem) -> list[str]:
    """Look and deliver as a monitor does; return what was told."""
    told: list[str] = []
    store, channel = Store(home.settings), FileChannel(home.settings.alerts_path, None)

    def change(state):  # type: ignore[no-untyped-def]
        now = datetime.now(UTC)
        state, messages = transition(state, Observation(problems), now, {channel.id: None})
        for message in messages:
            channel.send([message])
            told.append(message.event)
            state = after_delivery(state, channel.id, channel.name, [message], now)
        return state

    store.update(change)
    return told


def test_list_shows_what_is_open_since_when_and_who_was_told(home: Home) -> None:
    assert home.call("alerts", "list").stdout == "No problem is open.\n"
    look(home, SPIKE)
    [row] = json.loads(home.call("alerts", "list", "--format", "json").stdout)
    assert (row["kind"], row["subject"], row["owner"]) == ("fraud_spike", "Gopay", "team:fraud-analytics")
    assert row["told"] == ["alerts.jsonl"]
    assert row["problem"] == SPIKE.summary
    assert datetime.now(UTC) - datetime.fromisoformat(row["since"]) < timedelta(minutes=5)
    look(home)
    assert json.loads(home.call("alerts", "list", "--format", "json").stdout) == []
    [row] = json.loads(home.call("alerts", "list", "--all", "--format", "json").stdout)
    assert (row["kind"], row["over"] is None) == ("fraud_spike", False)


def test_mute_holds_back_until_its_end_or_unmute(home: Home) -> None:
    assert (
        "fraud_spike of Gopay is muted until "
        in home.call("alerts", "mute", "fraud_spike", "Gopay", "--for", "2h").stdout
    )
    [mute] = Store(home.settings).read().mutes
    assert abs(mute.until - datetime.now(UTC) - 2 * HOUR) < timedelta(minutes=5)
    assert look(home, SPIKE) == []
    [row] = json.loads(home.call("alerts", "list", "--format", "json").stdout)
    assert (row["told"], row["muted until"]) == ([], mute.until.isoformat())
    home.call("alerts", "unmute", "fraud_spike", "Gopay")
    assert look(home, SPIKE) == ["opened"]
    error = home.call("alerts", "unmute", "fraud_spike", exit_code=1).stderr
    assert "there is no such mute: nothing is muted" in error


def test_mute_until_a_day_ends_at_its_beginning_in_jakarta(home: Home) -> None:
    home.call("alerts", "mute", "all", "--until", "tomorrow")
    [mute] = Store(home.settings).read().mutes
    assert f"{mute.until.astimezone(UTC):%H:%M}" == "17:00"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense", "--for", "2h"], "there is no kind nonsense"),
        (["run_failed"], "say until when"),
        (["run_failed", "--for", "2h", "--until", "tomorrow"], "say until when"),
        (["run_failed", "--until", "yesterday"], "is over"),
        (["run_failed", "--for", "soon"], "soon is not a duration"),
        (["run_failed", "--for", "0h"], "0h is not a duration"),
    ],
)
def test_wrong_mutes_are_refused(home: Home, arguments: list[str], said: str) -> None:
    error = home.call("alerts", "mute", *arguments, exit_code=2).stderr
    assert said in " ".join(error.split())
    assert Store(home.settings).read().mutes == ()


def test_test_says_for_each_channel_whether_it_took_the_message(home: Home) -> None:
    with webhook() as hook:
        home.variables["ECOMMERSSS_ALERTS"] = hook.url
        rows = json.loads(home.call("alerts", "test", "--format", "json").stdout)
        assert [(row["channel"], row["arrived"]) for row in rows] == [
            ("log", "yes"),
            ("alerts.jsonl", "yes"),
            ("json (URL 1)", "yes"),
        ]
        assert len(hook.received) == 1
        hook.status = 500
        shown = home.call("alerts", "test", exit_code=1).stdout
        assert "error=500" in shown
