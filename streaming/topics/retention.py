"""Which segments of a topic on disk may be removed: a pure decision, carried out by `JsonlTopic.trim`.

Segments are removed oldest first, once they are old enough and every reader has passed them. The newest
always stays. If it is unknown how far a reader has read, every segment stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import zip_longest

from streaming.topics.jsonl import JsonlTopic


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment of a topic: positions [begin, end), last written to at `changed` (aware)."""

    begin: int
    end: int
    changed: datetime

    @property
    def bytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a segment may be removed, and why, in words."""

    segment: Segment
    removable: bool
    reason: str


def list_segments(topic: JsonlTopic) -> list[Segment]:
    """Return the segments that a topic has now, oldest first. Raises `OSError`."""
    positions = topic.segments()
    segments = []
    for begin, following in zip_longest(positions, positions[1:]):
        stat = topic.path(begin).stat()
        end = begin + stat.st_size if following is None else following
        segments.append(Segment(begin, end, datetime.fromtimestamp(stat.st_mtime, UTC)))
    return segments


def judge_segments(
    segments: Sequence[Segment], readers: Mapping[str, int | None], keep: timedelta | None, now: datetime
) -> list[Judgement]:
    """Judge each segment, given and returned oldest first.

    `readers` maps each reader of the topic to the position before which it will never read again, or to None
    if that is unknown. Without any known reader, every segment stays. `keep` is how long a segment stays
    after its last change; None keeps it forever.
    """
    judgements: list[Judgement] = []
    blocked = ""
    for segment in segments:
        reason = blocked or _reason_to_keep(segment, segments[-1], readers, keep, now)
        judgements.append(
            Judgement(segment, not reason, reason or "old enough, and every reader has passed it")
        )
        if reason:
            blocked = "an older segment is kept"
    return judgements


def _reason_to_keep(
    segment: Segment,
    newest: Segment,
    readers: Mapping[str, int | None],
    keep: timedelta | None,
    now: datetime,
) -> str:
    """Return why a segment must stay, or nothing if it may go."""
    if keep is None:
        return "segments are kept forever"
    if segment is newest:
        return "it is the newest segment"
    if now - segment.changed < keep:
        return f"it was written to less than {keep.days} days ago"
    if not readers:
        return "no reader of the topic is known"
    for name, position in readers.items():
        if position is None:
            return f"it is unknown how far {name} has read"
        if position > newest.end:
            return (
                f"{name} is at position {position}, past the topic's end {newest.end}: the topic was replaced"
                " and will be read again"
            )
        if position < segment.end:
            return f"{name} is at position {position}, before its end {segment.end}"
    return ""


def remove_segments(topic: JsonlTopic, judgements: Sequence[Judgement]) -> list[int]:
    """Remove the removable segments and return the positions of those removed. Raises `OSError`."""
    ends = [judgement.segment.end for judgement in judgements if judgement.removable]
    return topic.trim(max(ends)) if ends else []
