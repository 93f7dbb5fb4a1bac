"""Sensors. `order_stream_sensor` re-materialises the days that new flagged orders touch.

The decision is the pure function `decide`: what the cursor remembers, how the runs it asked for ended, and
the stream's new lines, against the runs to ask for, the next cursor and what to say. The sensor around it
only fetches these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING

import msgspec
from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from ecommersss_platform.jobs import range_tags
from ecommersss_platform.partitions import Days, contiguous
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import flagged_stream
from streaming.business_days import JAKARTA, business_day
from streaming.orders import decode_flagged
from streaming.topics.jsonl import JsonlTopic
from streaming.topics.jsonl_reader import TopicTruncated

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

ORDER_STREAM_SENSOR = "order_stream_sensor"
LINES_PER_READ = 1000
MOST_REQUESTS_PER_TICK = 8
"""Orders spread over many single days would otherwise queue a run for each of them at once."""
FIRST_RETRY = timedelta(minutes=1)
LONGEST_RETRY = timedelta(minutes=15)
REQUEST_TAG = "ecommersss/stream_request"
"""On each run that the sensor asked for, and on Dagster's own retry of it: which request it answers."""


class Outcome(Enum):
    """How the runs of one request stand."""

    NONE = "there is no run"
    ACTIVE = "queued or running"
    SUCCEEDED = "succeeded"
    FAILED = "failed or cancelled"


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """Days that must be materialised. `last` is included."""

    first: date
    last: date
    attempt: int = 0
    """How often they were asked for; 0: not yet."""
    again_at: datetime | None = None
    """After a failure: when to ask again."""

    @property
    def days(self) -> Days:
        return Days.between(self.first, self.last)

    def key(self, read_to: int) -> str:
        """The run key. Dagster dedupes it for ever, so it holds what changed (the position) and the
        attempt.
        """
        return f"{self.first}..{self.last}@{read_to}#{self.attempt}"


class Cursor(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the sensor remembers between ticks; Dagster keeps it, as JSON.

    The days of all lines before `position` were materialised after the lines had come. `pending` holds the
    days of the lines in [position, read_to) for which that is not known yet.
    """

    position: int = 0
    read_to: int = 0
    pending: tuple[Request, ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """Raises `ValueError` for a cursor that this sensor did not write."""
        if not text:
            return cls()
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise ValueError(
                f"the cursor of order_stream_sensor cannot be read ({error}): {text[:200]!r}. Reset it in the"
                " UI: with an empty one the whole stream is read again, which does no harm."
            ) from error

    def text(self) -> str:
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True)
class Window:
    """A stretch of the stream: the positions [begin, end), and how many orders it holds for each day."""

    begin: int
    end: int
    orders: Counter[date] = field(default_factory=Counter)
    unreadable: int = 0
    """Lines that are no flagged orders."""
    note: str = ""
    """Why the stretch does not begin where it was asked to."""


@dataclass(frozen=True)
class Decision:
    """What a tick does: the runs to ask for, the cursor to keep, and what to tell people."""

    cursor: Cursor
    requests: tuple[Request, ...]
    notes: tuple[str, ...]


def retry_delay(attempt: int) -> timedelta:
    """How long to wait after attempt number `attempt` (from 1) failed: doubled each time, up to a limit."""
    return min(FIRST_RETRY * 2 ** min(attempt - 1, 20), LONGEST_RETRY)


def decide(
    cursor: Cursor,
    *,
    outcome: Callable[[str], Outcome],
    read: Callable[[int], Window],
    first_day: date,
    now: datetime,
) -> Decision:
    """What a tick does.

    `outcome` says how the runs of the request with this key stand. `read` reads the stream on from a
    position; it is only asked when nothing is pending, so at most one batch is under way however fast
    orders come. Days are never given up: those that fail are asked for again, later each time.
    """
    notes: list[str] = []
    pending, ask = _settle(cursor, outcome, now, notes)
    if not pending:
        window = read(cursor.read_to)
        pending = ask = _touched(window, first_day, business_day(now), notes)
        cursor = Cursor(window.begin if pending else window.end, window.end)
    under_way = sum(request.again_at is None for request in pending) - len(ask)
    room = max(0, MOST_REQUESTS_PER_TICK - under_way)
    asked = {
        request: msgspec.structs.replace(request, attempt=max(request.attempt, 1)) for request in ask[:room]
    }
    return Decision(
        Cursor(cursor.position, cursor.read_to, tuple(asked.get(request, request) for request in pending)),
        tuple(asked.values()),
        tuple(notes),
    )


def _settle(
    cursor: Cursor, outcome: Callable[[str], Outcome], now: datetime, notes: list[str]
) -> tuple[list[Request], list[Request]]:
    """The pending requests that have not succeeded yet, and those of them that are to be asked for now."""
    pending: list[Request] = []
    ask: list[Request] = []
    for request in cursor.pending:
        match outcome(request.key(cursor.read_to)) if request.attempt else Outcome.NONE:
            case Outcome.SUCCEEDED:
                continue
            case Outcome.ACTIVE:
                notes.append(f"{request.days}: the run is under way (attempt {request.attempt})")
                request = msgspec.structs.replace(request, again_at=None)
            case Outcome.FAILED if request.again_at is None or request.again_at > now:
                again_at = request.again_at or now + retry_delay(request.attempt)
                request = msgspec.structs.replace(request, again_at=again_at)
                notes.append(
                    f"{request.days}: attempt {request.attempt} failed or was cancelled, the next is due at"
                    f" {again_at.astimezone(JAKARTA):%Y-%m-%d %H:%M:%S}; newer orders wait for it."
                    " See the failed run for its error."
                )
            case Outcome.FAILED:
                request = msgspec.structs.replace(request, attempt=request.attempt + 1, again_at=None)
                ask.append(request)
            case Outcome.NONE:
                # Not asked for yet, or the run was lost or deleted: the same key again, so that Dagster
                # ignores it if there is a run after all.
                ask.append(request)
        pending.append(request)
    return pending, ask


def _touched(window: Window, first_day: date, today: date, notes: list[str]) -> list[Request]:
    """The days that a stretch of the stream touches, as ranges; what cannot be materialised goes to the
    notes.
    """
    if window.note:
        notes.append(window.note)
    if window.unreadable:
        notes.append(
            f"{window.unreadable} lines of the flagged stream in [{window.begin}, {window.end}) are no"
            " flagged orders: something else wrote them. If they stand for orders, those are in the database;"
            " materialise their days by hand."
        )
    early = {day: n for day, n in window.orders.items() if day < first_day}
    late = {day: n for day, n in window.orders.items() if day > today}
    if early:
        notes.append(
            f"{sum(early.values())} orders are of days before the first partition {first_day}"
            f" ({min(early)} to {max(early)}) and cannot be materialised; they are in the database."
            " To have them, start with an earlier ECOMMERSSS_FIRST_DAY."
        )
    if late:
        notes.append(
            f"{sum(late.values())} orders are of days after today {today} ({min(late)} to {max(late)}): some"
            " clock is wrong. daily_close materialises these days when they are over."
        )
    days = contiguous(window.orders.keys() - early.keys() - late.keys())
    if not notes and not days:
        notes.append(f"no new flagged orders (position {window.end})")
    return [Request(d.first, d.last) for d in days]


# The shell.


def read_window(topic: JsonlTopic, position: int, max_bytes: int) -> Window:
    """Read the flagged stream on from `position`: complete lines only, and no more once `max_bytes` are
    reached.

    A position past the stream's end means that the stream was replaced: it is then read from its start.
    Lines that retention has removed are left out (their days were closed long ago).
    """
    note = ""
    if position > topic.end():
        note = (
            f"the cursor {position} is past the end {topic.end()} of the flagged stream, which must have been"
            " replaced: reading it from its start"
        )
        position = topic.start()
    try:
        return _read(topic, position, max_bytes, note)
    except TopicTruncated as error:
        return _read(topic, topic.start(), max_bytes, f"reading the flagged stream from its start: {error}")


def _read(topic: JsonlTopic, position: int, max_bytes: int, note: str) -> Window:
    orders: Counter[date] = Counter()
    unreadable = read = 0
    begin = position
    reader = topic.reader(position)
    try:
        while read < max_bytes:
            batch = reader.read(LINES_PER_READ, timeout=0)
            position = batch.next_position
            if not batch.lines:
                break
            read += sum(map(len, batch.lines))
            for line in batch.lines:
                try:
                    orders[business_day(decode_flagged(line).created_date)] += 1
                except ValueError:
                    unreadable += 1
    finally:
        reader.close()
    return Window(begin, position, orders, unreadable, note)


def run_outcome(instance: DagsterInstance, key: str) -> Outcome:
    """How the runs that answer a request stand: its own, and Dagster's retries, which carry its tags."""
    statuses = {run.status for run in instance.get_runs(RunsFilter(tags={REQUEST_TAG: key}))}
    if DagsterRunStatus.SUCCESS in statuses:
        return Outcome.SUCCEEDED
    if not statuses:
        return Outcome.NONE
    if statuses <= {DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}:
        return Outcome.FAILED
    return Outcome.ACTIVE


def order_stream_sensor(
    job: UnresolvedAssetJobDefinition, settings: Settings, first_day: date
) -> SensorDefinition:
    """The sensor that re-materialises the days of new flagged orders: today, and any closed day."""

    @sensor(
        name=ORDER_STREAM_SENSOR,
        job=job,
        minimum_interval_seconds=settings.stream_interval_seconds,
        default_status=DefaultSensorStatus.RUNNING,
        description="Reads the flagged stream from its cursor and materialises again the days that new orders"
        " touch. One batch at a time; days that fail are asked for again, later each time.",
    )
    def order_stream(context: SensorEvaluationContext) -> SensorResult:
        decision = decide(
            Cursor.parse(context.cursor),
            outcome=lambda key: run_outcome(context.instance, key),
            read=lambda position: read_window(
                flagged_stream(settings), position, settings.flagged_max_bytes_per_tick
            ),
            first_day=first_day,
            now=datetime.now(UTC),
        )
        for note in decision.notes:
            context.log.info(note)
        read_to = decision.cursor.read_to
        return SensorResult(
            run_requests=[_run_request(request, request.key(read_to)) for request in decision.requests],
            skip_reason=None if decision.requests else SkipReason("; ".join(decision.notes)),
            cursor=decision.cursor.text(),
        )

    return order_stream


def _run_request(request: Request, key: str) -> RunRequest:
    return RunRequest(run_key=key, tags={REQUEST_TAG: key, **range_tags(request.days)})
