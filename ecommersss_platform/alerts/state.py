"""What is open, muted and not delivered yet, and how a look at the platform changes it. Pure.

`transition` turns a look into messages and queues them for each channel. `next_batch` says what a channel may
get now. `after_delivery` and `after_failure` record what became of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from ecommersss_platform.alerts.problem import Observation, Problem, kind_of
from ecommersss_platform.alerts.text import clean

HOUR: Final = timedelta(hours=1)
EVERYTHING: Final = "all"
"""The kind of a mute that holds back every message."""

MOST_WAITING: Final = 1000
"""How many messages wait at most: those that no channel took for that long are only in `alerts.jsonl`."""

_FIRST_DELAY, _LONGEST_DELAY = 5.0, 900.0  # seconds

Key = tuple[str, str]


@dataclass(frozen=True)
class Open:
    """A problem that is open, or that is over and whose recovery is still held back by a mute (`over`)."""

    problem: Problem
    since: datetime
    told: bool
    told_to: tuple[str, ...] = ()
    over: datetime | None = None

    @property
    def key(self) -> Key:
        return self.problem.kind, self.problem.subject


@dataclass(frozen=True)
class Mute:
    """Holds back the messages of a kind, or of one subject of it, until an instant."""

    kind: str
    subject: str | None
    until: datetime

    def holds(self, key: Key, now: datetime) -> bool:
        return now < self.until and self.kind in (EVERYTHING, key[0]) and self.subject in (None, key[1])


@dataclass(frozen=True)
class Message:
    """That a problem was opened or resolved. `at`: when that was seen. The same message has the same id."""

    id: str
    event: Literal["opened", "resolved"]
    at: datetime
    since: datetime
    problem: Problem


@dataclass(frozen=True)
class Queued:
    """A message and the ids of the channels that do not have it yet."""

    message: Message
    waiting: frozenset[str]


@dataclass(frozen=True)
class Progress:
    """How far a channel is: what it got in the last hour, and how often it failed since it last worked."""

    sent: tuple[datetime, ...] = ()
    failures: int = 0
    again_at: datetime | None = None
    error: str = ""


@dataclass(frozen=True)
class State:
    """All that is remembered between two looks. `channels`: by id."""

    open: tuple[Open, ...] = ()
    mutes: tuple[Mute, ...] = ()
    outbox: tuple[Queued, ...] = ()
    channels: Mapping[str, Progress] = field(default_factory=dict)

    def mute_of(self, key: Key, now: datetime) -> Mute | None:
        """Return the mute that holds back this problem for longest, or None."""
        holding = [mute for mute in self.mutes if mute.holds(key, now)]
        return max(holding, key=lambda mute: mute.until, default=None)

    def waiting(self, channel: str) -> list[Message]:
        """Return the messages that a channel does not have yet, in order."""
        return [queued.message for queued in self.outbox if channel in queued.waiting]


def transition(
    state: State, seen: Observation, now: datetime, owners: Mapping[str, str | None]
) -> tuple[State, list[Message]]:
    """Return the state after a look, and the messages that it adds to the outbox.

    A problem is told when it opens and when it is over, once each. A muted one is told when the mute ends, if
    it is still open. A problem of an unknown kind stays as it is. `owners`: the owner whose messages
    a channel gets, by id; None: all owners.
    """
    found = {(problem.kind, problem.subject): problem for problem in map(_clean, seen.problems)}
    after: list[Open] = []
    messages: list[Message] = []

    def tell(event: Literal["opened", "resolved"], entry: Open) -> None:
        messages.append(Message(_id(event, entry), event, entry.over or now, entry.since, entry.problem))

    for entry in state.open:
        problem = found.pop(entry.key, None)
        muted = state.mute_of(entry.key, now) is not None
        if problem is not None:
            entry = replace(entry, problem=problem, over=None)
            if not entry.told and not muted:
                entry = replace(entry, told=True)
                tell("opened", entry)
            after.append(entry)
        elif entry.problem.kind in seen.unknown:
            after.append(entry)
        elif entry.told and muted:
            after.append(replace(entry, over=entry.over or now))
        elif entry.told:
            tell("resolved", entry)
    for key, problem in found.items():
        entry = Open(problem, now, told=state.mute_of(key, now) is None)
        if entry.told:
            tell("opened", entry)
        after.append(entry)
    return (
        State(
            open=tuple(after),
            mutes=tuple(mute for mute in state.mutes if now < mute.until),
            outbox=_outbox(state, messages, owners),
            channels={id: progress for id, progress in state.channels.items() if id in owners},
        ),
        messages,
    )


def _clean(problem: Problem) -> Problem:
    return replace(problem, subject=clean(problem.subject), summary=clean(problem.summary))


def _id(event: str, entry: Open) -> str:
    text = "\0".join((*entry.key, entry.since.isoformat(), event))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _outbox(
    state: State, messages: Sequence[Message], owners: Mapping[str, str | None]
) -> tuple[Queued, ...]:
    """Return the outbox with new messages, without channels that are gone and messages that all have."""
    queued = [replace(old, waiting=old.waiting.intersection(owners)) for old in state.outbox]
    for message in messages:
        owner = kind_of(message.problem).owner
        queued.append(Queued(message, frozenset(id for id, only in owners.items() if only in (None, owner))))
    return tuple(item for item in queued if item.waiting)[-MOST_WAITING:]


def next_batch(
    waiting: Sequence[Message], sent: Sequence[datetime], most: int | None, now: datetime
) -> tuple[Sequence[Message], datetime | None]:
    """Return the messages that a channel gets now as one, and when to ask again if that is none of them.

    `sent`: when it got others. At most `most` an hour: the last one sums up all that wait, so that a person
    learns of everything at once.
    """
    if not waiting:
        return (), None
    recent = [at for at in sent if now - at < HOUR]
    if most is None or len(recent) + 1 < most:
        return waiting[:1], None
    if len(recent) < most:
        return waiting, None
    return (), sorted(recent)[-most] + HOUR


def after_delivery(
    state: State, channel: str, name: str, delivered: Sequence[Message], now: datetime
) -> State:
    """Return the state after a channel took these messages as one. `name`: the channel's, for people."""
    ids = {message.id for message in delivered}
    told = {
        (message.problem.kind, message.problem.subject, message.since)
        for message in delivered
        if message.event == "opened"
    }
    before = state.channels.get(channel, Progress())
    return replace(
        state,
        open=tuple(
            replace(entry, told_to=(*entry.told_to, name)) if (*entry.key, entry.since) in told else entry
            for entry in state.open
        ),
        outbox=tuple(
            item
            for queued in state.outbox
            for item in [
                replace(queued, waiting=queued.waiting - {channel}) if queued.message.id in ids else queued
            ]
            if item.waiting
        ),
        channels={
            **state.channels,
            channel: Progress(sent=(*(at for at in before.sent if now - at < HOUR), now)),
        },
    )


def after_failure(state: State, channel: str, error: str, now: datetime) -> State:
    """Return the state after a channel did not take what it was given: it is tried again, ever later."""
    before = state.channels.get(channel, Progress())
    failures = before.failures + 1
    delay = min(_FIRST_DELAY * 2.0 ** min(failures - 1, 32), _LONGEST_DELAY)
    progress = replace(before, failures=failures, again_at=now + timedelta(seconds=delay), error=clean(error))
    return replace(state, channels={**state.channels, channel: progress})


def muted(state: State, mute: Mute) -> State:
    """Return the state with a mute, which replaces an earlier one of the same kind and subject."""
    return replace(state, mutes=(*unmuted(state, mute.kind, mute.subject).mutes, mute))


def unmuted(state: State, kind: str, subject: str | None) -> State:
    """Return the state without the mute of this kind and subject."""
    return replace(
        state, mutes=tuple(mute for mute in state.mutes if (mute.kind, mute.subject) != (kind, subject))
    )
