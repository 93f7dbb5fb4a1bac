"""How long a topic on disk keeps its segments. The decision is pure; `JsonlTopic.trim` carries it out.

A segment goes when it is old enough and every reader is past it, the oldest first, and never the newest one.
A reader of which it is not known how far it has read keeps everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import zip_longest

from streaming.topics.jsonl import JsonlTopic


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of a topic: positions [begin, end), written to last at `changed` (aware)."""

    begin: int
    end: int
    changed: datetime

    @property
    def bytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of a segment, and why in words."""

    segment: Segment
    removable: bool
    why: str


def segments_of(topic: JsonlTopic) -> list[Segment]:
    """The segments that a topic has now, oldest first. Raises `OSError`."""
    begins = topic.segments()
    found = []
    for begin, following in zip_longest(begins, begins[1:]):
        stat = topic.path(begin).stat()
        end = begin + stat.st_size if following is None else following
        found.append(Segment(begin, end, datetime.fromtimestamp(stat.st_mtime, UTC)))
    return found


def decide(
    segments: Sequence[Segment], readers: Mapping[str, int | None], keep: timedelta | None, now: datetime
) -> list[Verdict]:
    """What is to become of each segment, given oldest first.

    `readers` says for each reader of the topic up to which position it will never read again, None where that
    is not known; a topic of which no reader is known keeps everything. `keep`: how long a segment stays
    after its last change, None for ever.
    """
    verdicts: list[Verdict] = []
    blocked = ""
    for segment in segments:
        why = blocked or _reason_to_keep(segment, segments[-1], readers, keep, now)
        verdicts.append(Verdict(segment, not why, why or "old enough, and every reader is past it"))
        if why:
            blocked = "an older segment is kept"
    return verdicts


def _reason_to_keep(
    segment: Segment,
    newest: Segment,
    readers: Mapping[str, int | None],
    keep: timedelta | None,
    now: datetime,
) -> str:
    if keep is None:
        return "segments are kept for ever"
    if segment is newest:
        return "it is the newest segment"
    if now - segment.changed < keep:
        return f"it was written to less than {keep.days} days ago"
    if not readers:
        return "no reader of the topic is known"
    for name, position in readers.items():
        if position is None:
            return f"it is not known how far {name} has read"
        if position > newest.end:
            return (
                f"{name} is at position {position}, past the topic's end {newest.end}: somebody replaced the"
                " topic, and it will be read again"
            )
        if position < segment.end:
            return f"{name} is at position {position}, before its end {segment.end}"
    return ""


def trim(topic: JsonlTopic, verdicts: Sequence[Verdict]) -> list[int]:
    """Remove the segments that were found removable; which ones there were to remove. Raises `OSError`."""
    ends = [verdict.segment.end for verdict in verdicts if verdict.removable]
    return topic.trim(max(ends)) if ends else []
