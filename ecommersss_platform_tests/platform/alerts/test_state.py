"""What a look changes: each problem told once and once more when it is over, mutes, the bound an hour."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ecommersss_platform.alerts import state as states
from ecommersss_platform.alerts.message import MOST_LINES, as_row, as_text
from ecommersss_platform.alerts.problem import KINDS, Observation, Problem
from ecommersss_platform.alerts.state import (
    EVERYTHING,
    HOUR,
    Message,
    Mute,
    State,
    after_delivery,
    after_failure,
    muted,
    next_batch,
    transition,
    unmuted,
)
from ecommersss_platform.alerts.text import clean, duration
from ecommersss_platform_tests.support.project import PROJECT

NOW = datetime(2026, 11, 24, 20, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
OWNERS = {"log": None, "everyone": None, "analysts": "team:fraud-analytics"}

STALLED = Problem("consumer_stalled", "consumer", "the consumer committed nothing for 60 s")
SPIKE = Problem("fraud_spike", "Gopay", "9 % of Gopay's orders are fraud, usually 1 to 3 %")


def look(state: State, *problems: Problem, minutes: int = 0, unknown: str = "") -> tuple[State, list[str]]:
    """Look `minutes` after `NOW`; return the state and what is told, as "opened kind subject"."""
    seen = Observation(problems, frozenset(unknown.split()))
    state, messages = transition(state, seen, NOW + minutes * MINUTE, OWNERS)
    return state, [f"{m.event} {m.problem.kind} {m.problem.subject}" for m in messages]


def test_problem_is_told_once_when_it_opens_and_once_when_it_is_over() -> None:
    state, told = look(State(), STALLED)
    assert told == ["opened consumer_stalled consumer"]
    state, told = look(state, STALLED, minutes=5)
    assert told == []
    state, told = look(state, minutes=14)
    assert told == ["resolved consumer_stalled consumer"]
    assert as_text([state.outbox[-1].message]).body.startswith("recovered after 14 min\n")
    assert look(state, minutes=15)[1] == []
    assert look(state, STALLED, minutes=16)[1] == ["opened consumer_stalled consumer"], "a new one"


def test_problem_is_its_kind_and_subject_and_not_what_is_said_of_it() -> None:
    state, _ = look(State(), STALLED)
    longer = Problem(STALLED.kind, STALLED.subject, "the consumer committed nothing for 120 s")
    state, told = look(state, longer, Problem(STALLED.kind, "consumer 2", "also"), minutes=1)
    assert told == ["opened consumer_stalled consumer 2"]
    assert state.open[0].problem.summary == longer.summary
    assert state.open[0].since == NOW


def test_problem_of_an_unknown_kind_is_neither_over_nor_new() -> None:
    state, _ = look(State(), STALLED)
    state, told = look(state, minutes=1, unknown="consumer_stalled run_failed")
    assert told == []
    state, told = look(state, STALLED, minutes=2)
    assert told == []
    assert look(state, minutes=3)[1] == ["resolved consumer_stalled consumer"]


def test_messages_have_ids_that_tell_them_apart_and_stay_the_same() -> None:
    first, _ = look(State(), STALLED, SPIKE)
    again, _ = look(State(), STALLED, SPIKE)
    over, _ = look(first, minutes=1)
    assert [q.message.id for q in first.outbox] == [q.message.id for q in again.outbox]
    assert len({q.message.id for q in over.outbox}) == 4


def test_messages_wait_for_the_channels_of_their_owner() -> None:
    state, _ = look(State(), STALLED, SPIKE)
    assert [queued.waiting for queued in state.outbox] == [
        {"log", "everyone"},
        {"log", "everyone", "analysts"},
    ]
    # A channel that is gone keeps no message in the outbox.
    state, _ = transition(state, Observation([STALLED, SPIKE]), NOW, {"analysts": "team:fraud-analytics"})
    assert [queued.message.problem.kind for queued in state.outbox] == ["fraud_spike"]


def test_muted_problem_is_told_when_the_mute_ends_if_it_is_still_open() -> None:
    mute = Mute("consumer_stalled", None, NOW + 10 * MINUTE)
    state, told = look(muted(State(), mute), STALLED, SPIKE)
    assert told == ["opened fraud_spike Gopay"]
    state, told = look(state, STALLED, SPIKE, minutes=9)
    assert told == []
    after, told = look(state, STALLED, SPIKE, minutes=10)
    assert told == ["opened consumer_stalled consumer"]
    assert (after.mutes, after.open[0].since) == ((), NOW)
    assert look(state, SPIKE, minutes=10)[1] == [], "it came and went while it was muted"
    assert look(unmuted(state, "consumer_stalled", None), STALLED, SPIKE, minutes=2)[1] == [
        "opened consumer_stalled consumer"
    ]


def test_recovery_of_a_told_problem_waits_for_the_end_of_a_mute() -> None:
    state, _ = look(State(), STALLED)
    state = muted(state, Mute(EVERYTHING, None, NOW + 10 * MINUTE))
    gone, told = look(state, minutes=3)
    assert told == []
    back, told = look(gone, STALLED, minutes=4)
    assert told == []
    assert back.open[0].over is None
    gone, told = look(gone, minutes=10)
    assert told == ["resolved consumer_stalled consumer"]
    assert as_text([gone.outbox[-1].message]).body.startswith("recovered after 3 min\n")


def test_mute_of_a_subject_holds_back_no_other() -> None:
    state = muted(State(), Mute("fraud_spike", "Gopay", NOW + HOUR))
    other = Problem("fraud_spike", "OVO", "4 % of OVO's orders are fraud")
    state, told = look(state, SPIKE, other)
    assert told == ["opened fraud_spike OVO"]
    state = muted(state, Mute("fraud_spike", "Gopay", NOW + MINUTE))
    assert len(state.mutes) == 1, "the new one replaces the old one"
    assert look(state, SPIKE, other, minutes=1)[1] == ["opened fraud_spike Gopay"]


def messages(count: int) -> list[Message]:
    """New problems of different subjects."""
    return [
        Message(str(n), "opened", NOW, NOW, Problem("run_failed", f"job {n}", f"run {n} failed"))
        for n in range(count)
    ]


def test_channel_gets_so_many_messages_an_hour_and_the_last_sums_up_the_rest() -> None:
    waiting, sent, batches = messages(50), list[datetime](), []
    while waiting:
        batch, again_at = next_batch(waiting, sent, 3, NOW)
        if not batch:
            break
        batches.append(len(batch))
        waiting = waiting[len(batch) :]
        sent.append(NOW)
    assert batches == [1, 1, 48]
    batch, again_at = next_batch(messages(2), sent, 3, NOW + 59 * MINUTE)
    assert (batch, again_at) == ((), NOW + HOUR)
    assert len(next_batch(messages(2), sent, 3, NOW + HOUR)[0]) == 1
    assert next_batch([], sent, 3, NOW) == ((), None)
    assert len(next_batch(messages(9), [NOW] * 9, None, NOW)[0]) == 1, "files get all, one by one"


@pytest.mark.parametrize("most", [1, 2, 10])
def test_bound_an_hour_holds_at_every_moment(most: int) -> None:
    sent: list[datetime] = []
    for minute in range(0, 300):  # one new problem a minute, told as soon as the bound allows
        batch, _ = next_batch(messages(1), sent, most, NOW + minute * MINUTE)
        sent += [NOW + minute * MINUTE] * bool(batch)
    assert all(sum(timedelta(0) <= at - first < HOUR for at in sent) <= most for first in sent)
    assert len(sent) == 5 * most


def test_summary_names_each_problem_and_is_short() -> None:
    text = as_text(messages(MOST_LINES + 5))
    assert text.title == f"{MOST_LINES + 5} alerts in one: {MOST_LINES + 5} new problems, 0 recovered"
    assert "- [error] run_failed: job 0: run 0 failed" in text.body
    assert "- and 5 more, see `ecommersss alerts list --all`" in text.body


def test_delivery_is_marked_for_its_channel_and_names_who_was_told() -> None:
    state, _ = look(State(), SPIKE)
    state = after_delivery(state, "everyone", "slack (URL 1)", state.waiting("everyone"), NOW)
    assert [queued.waiting for queued in state.outbox] == [{"log", "analysts"}]
    assert state.open[0].told_to == ("slack (URL 1)",)
    assert state.channels["everyone"].sent == (NOW,)
    for channel in ("log", "analysts"):
        state = after_delivery(state, channel, channel, state.waiting(channel), NOW)
    assert state.outbox == ()


def test_channel_that_fails_is_tried_again_with_growing_delays() -> None:
    state, delays = State(), []
    for _ in range(12):
        state = after_failure(state, "everyone", "password=hunter2 refused", NOW)
        again_at = state.channels["everyone"].again_at
        assert again_at is not None
        delays.append((again_at - NOW).total_seconds())
    assert delays == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900, 900, 900]
    assert state.channels["everyone"].error == "password=*** refused"
    state = after_delivery(state, "everyone", "slack", [], NOW)
    assert state.channels["everyone"].failures == 0


def test_outbox_of_channels_that_never_answer_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "MOST_WAITING", 10)
    state = State()
    for minute in range(20):  # a problem that comes and goes
        state, _ = look(state, STALLED, minutes=2 * minute)
        state, _ = look(state, minutes=2 * minute + 1)
    assert len(state.outbox) == 10
    assert state.outbox[-1].message.at == NOW + 39 * MINUTE


def test_messages_hold_no_secrets_addresses_or_further_lines() -> None:
    hostile = Problem(
        "run_failed",
        "daily_pipeline\n2026-11-24",
        "connection to postgresql://u:s3cret@db/x refused\nDETAIL: row (Budi, budi@example.co.id), token=abc",
    )
    state, _ = look(State(), hostile)
    message = state.outbox[0].message
    for text in (as_text([message]).title + as_text([message]).body, str(as_row(message))):
        assert "s3cret" not in text
        assert "budi@" not in text
        assert "abc" not in text
    assert message.problem.subject == "daily_pipeline 2026-11-24"
    assert len(clean("x" * 5000)) == 1000


def test_message_for_people_says_what_since_when_for_whom_and_what_to_do() -> None:
    problem = Problem("run_failed", "daily_pipeline 2026-11-24", "raw_orders failed", "https://ui/runs/1")
    state, _ = look(State(), problem)
    text = as_text([state.outbox[0].message])
    assert text.title == "[error] run_failed: daily_pipeline 2026-11-24"
    assert text.body.splitlines() == [
        "raw_orders failed",
        "Since 2026-11-25 03:05 in Jakarta, for team:data-engineering."
        " What to do: docs/operate.md#run_failed",
        "https://ui/runs/1",
        f"Id {state.outbox[0].message.id}",
    ]


def test_kind_that_this_version_does_not_know_is_over_and_told() -> None:
    state, _ = look(State(), Problem("kind_of_an_older_version", "x", "y"))
    assert look(state)[1] == ["resolved kind_of_an_older_version x"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (840, "14 min"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_durations_read_well(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def test_every_kind_has_an_owner_and_a_meaning() -> None:
    assert {kind.owner for kind in KINDS.values()} == {"team:data-engineering", "team:fraud-analytics"}
    assert all(
        kind.meaning.endswith(".") and kind.severity in ("error", "warning") for kind in KINDS.values()
    )


def test_document_says_for_every_kind_what_to_do() -> None:
    text = (PROJECT / "docs" / "operate.md").read_text()
    alerts = text.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    sections = dict(part.split("\n", 1) for part in alerts.split("\n### ")[1:])
    assert sections.keys() == KINDS.keys()
    assert all(len(section.split()) >= 15 for section in sections.values())
