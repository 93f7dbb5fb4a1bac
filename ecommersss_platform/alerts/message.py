"""How a message reads: for people, as a title and a body, and for programs, as a JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ecommersss_platform.alerts.problem import kind_of
from ecommersss_platform.alerts.state import Message
from ecommersss_platform.alerts.text import duration
from streaming.business_days import JAKARTA

HELP = "docs/operate.md"
MOST_LINES = 30
"""How many messages a summary spells out."""

Level = Literal["error", "warning", "resolved"]


@dataclass(frozen=True)
class Text:
    """A message, or several in one, for people."""

    title: str
    body: str
    level: Level


def as_text(messages: Sequence[Message]) -> Text:
    """Return one message for people, or a summary of several. `messages` has at least one."""
    if len(messages) == 1:
        [message] = messages
        problem = message.problem
        if message.event == "opened":
            since, owner = f"{message.since.astimezone(JAKARTA):%Y-%m-%d %H:%M}", kind_of(problem).owner
            about = f"Since {since} in Jakarta, for {owner}. What to do: {HELP}#{problem.kind}"
        else:
            about = f"It was: {problem.summary}"
        lines = [_what(message), about, *([problem.link] if problem.link else []), f"Id {message.id}"]
        return Text(_title(message), "\n".join(lines), _level(message))
    shown = [f"- {_title(message)}: {_what(message)}" for message in messages[:MOST_LINES]]
    if more := len(messages) - len(shown):
        shown.append(f"- and {more} more, see `ecommersss alerts list --all`")
    levels = {_level(message) for message in messages}
    level: Level = "error" if "error" in levels else "warning" if "warning" in levels else "resolved"
    opened = sum(message.event == "opened" for message in messages)
    title = f"{len(messages)} alerts in one: {opened} new problems, {len(messages) - opened} recovered"
    ids = f"Ids {messages[0].id} to {messages[-1].id}"
    return Text(title, "\n".join([*shown, ids]), level)


def _title(message: Message) -> str:
    state = "recovered" if message.event == "resolved" else kind_of(message.problem).severity
    return f"[{state}] {message.problem.kind}: {message.problem.subject}"


def _what(message: Message) -> str:
    if message.event == "opened":
        return message.problem.summary
    return f"recovered after {duration((message.at - message.since).total_seconds())}"


def _level(message: Message) -> Level:
    return "resolved" if message.event == "resolved" else kind_of(message.problem).severity


def as_row(message: Message) -> dict[str, Any]:
    """Return the message as the object of a line of `alerts.jsonl`. Instants are in UTC."""
    problem, kind = message.problem, kind_of(message.problem)
    return {
        "at": message.at.isoformat(timespec="seconds"),
        "id": message.id,
        "event": message.event,
        "alert": problem.kind,
        "subject": problem.subject,
        "severity": kind.severity,
        "owner": kind.owner,
        "message": problem.summary,
        "link": problem.link,
        "since": message.since.isoformat(timespec="seconds"),
    }
