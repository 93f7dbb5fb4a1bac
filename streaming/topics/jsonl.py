"""A topic on disk: a directory of append-only segments, each named by the position of its first byte.

Positions are bytes since the topic began. Any number of processes may publish and read at the same time:
writers take a lock in turn, readers none. A writer that is killed in mid-line leaves the beginning of a line;
the next writer ends it, so that it becomes a line of its own (which is rejected) and is never glued to the
next one. Lines are as durable as the operating system's cache, or as the device with `sync`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import select
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate, count, pairwise
from operator import add
from pathlib import Path
from typing import Any, Final

from streaming.orders import MAX_LINE_BYTES
from streaming.topics import Batch

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.005
"""Between two looks where changes are not notified."""

MAX_WAIT_SECONDS: Final = 0.5
"""Between two looks where they are: some file systems, shared over a network, do not notify of everything."""

_WRITE_BYTES = 1 << 20
_READ_BYTES = 1 << 20
_LEAST_READ_BYTES = 2 * MAX_LINE_BYTES
_SEGMENT = re.compile(r"[0-9]{20}\.jsonl")
_LOCK = ".lock"
_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT


class TopicTruncated(RuntimeError):
    """The topic ends before the position, or has other bytes there than were read: somebody cut or replaced
    its last segment. `JsonlTopic.repair` makes it readable on from there."""

    def __init__(self, directory: Path, position: int, problem: str) -> None:
        self.position = position
        super().__init__(
            f"topic {directory} at position {position}: {problem}. Its last segment was cut or replaced; "
            "repair() goes on behind it, reading again what is left of that segment"
        )


class EndMoved(RuntimeError):
    """The topic does not end where `publish_at` expected, or ends in the beginning of another line."""

    def __init__(self, directory: Path, expected: int, end: int, partial: bytes) -> None:
        self.expected, self.end, self.partial = expected, end, partial
        problem = (
            f"ends at {end}, not at {expected}"
            if end != expected
            else "ends in the beginning of another line"
        )
        super().__init__(f"topic {directory} {problem}: somebody else writes to it")


class JsonlTopic:
    """A topic in a directory, which is made if need be.

    A segment that has reached `segment_bytes` is followed by a new one. `sync` writes through to the device
    before a publish returns. `notify=False` makes readers look every few milliseconds instead of waiting for
    the operating system to say that there is more. Raises `OSError` where the directory cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        segment_bytes: int = 64 << 20,
        *,
        sync: bool = False,
        notify: bool = True,
    ) -> None:
        if segment_bytes < 1:
            raise ValueError(f"segment_bytes is {segment_bytes}: give at least 1")
        self.directory = Path(directory)
        self.segment_bytes = segment_bytes
        self._sync = sync
        self._notify = notify
        self.directory.mkdir(parents=True, exist_ok=True)

    def segments(self) -> list[int]:
        """The positions at which the segments begin, oldest first."""
        names = os.listdir(self.directory)  # noqa: PTH208  (at every publish: paths take ten times as long)
        return sorted(int(name[:20]) for name in names if _SEGMENT.fullmatch(name))

    def path(self, segment: int) -> Path:
        """The file of the segment that begins at this position."""
        return self.directory / f"{segment:020d}.jsonl"

    def start(self) -> int:
        """The position of the oldest line that is still there."""
        return next(iter(self.segments()), 0)

    def end(self) -> int:
        """The position after the last whole line."""
        return self.open_end()[0]

    def open_end(self) -> tuple[int, bytes]:
        """The position after the last whole line, and what follows it: the beginning of a line that its
        writer has not finished (or never will), mostly nothing."""
        segments = self.segments()
        if not segments:
            return 0, b""
        with _opened(self.path(segments[-1]), os.O_RDONLY) as file:
            size = os.fstat(file).st_size
            whole = _whole_lines(file, size)
            return segments[-1] + whole, os.pread(file, size - whole, whole)

    def publish(self, lines: Iterable[bytes]) -> int:
        """Append lines, given without line ends, and return the position after the last one.

        Lines are gathered to writes of about a megabyte; each write holds whole lines and is visible at once.
        Raises `ValueError` for a line that holds a line end, and `OSError` when the disk is full: the lines
        before are then written, and what is there of the next is a line of its own, to be rejected.
        """
        end: int | None = None
        for data in _joined(lines):
            with self._writer() as (file, segment):
                if not _ends_line(file, os.fstat(file).st_size):
                    data = b"\n" + data
                self._append(file, data)
                end = segment + os.fstat(file).st_size
        return self.end() if end is None else end

    def publish_at(self, expected: int, data: bytes) -> int:
        """Append `data`, whole lines with their line ends, if the topic's whole lines end at `expected`.

        Where they are followed by the beginning of `data` (a writer was killed), only the rest is written.
        Returns the position after `data`. Raises `EndMoved`, with nothing written, where somebody else has
        written in between; `ValueError` where `data` does not end in a line end; `OSError` as `publish`.
        """
        if data and not data.endswith(b"\n"):
            raise ValueError("publish_at: data must be whole lines, each with its line end")
        with self._writer() as (file, segment):
            size = os.fstat(file).st_size
            whole = _whole_lines(file, size)
            partial = os.pread(file, size - whole, whole)
            if segment + whole != expected or not data.startswith(partial):
                raise EndMoved(self.directory, expected, segment + whole, partial)
            self._append(file, data[len(partial) :])
        return expected + len(data)

    def reader(self, position: int) -> JsonlReader:
        """A reader that begins at `position`, which a batch gave, or 0. Close it when done."""
        return JsonlReader(self, position)

    def repair(self, position: int) -> int:
        """Make a topic that was cut or replaced readable on from `position`; returns where to read on.

        What is left of the damaged segment, its whole lines, is copied to a new segment at the end (and at
        `position` at least, since positions only grow). So lines that were read before come again, which are
        known by their ids, and none is lost. A topic that is sound is left as it is. Raises `OSError`.
        """
        with self._locked():
            segments = self.segments() or [0]
            damaged = max((s for s in segments if s <= position), default=segments[0])
            last = segments[-1]
            with _opened(self.path(damaged), os.O_RDWR | os.O_CREAT) as file:
                size = os.fstat(file).st_size
                if position <= damaged or (
                    position - damaged <= size and _ends_line(file, position - damaged)
                ):
                    return position
                whole = _whole_lines(file, size)
                begin = max(position, last + self.path(last).stat().st_size)
                # Renamed into place when it is complete, so that readers see all of it or nothing.
                temporary = self.directory / f".repair-{begin:020d}"
                with _opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as copy:
                    for at in range(0, whole, _READ_BYTES):
                        _write(copy, os.pread(file, min(_READ_BYTES, whole - at), at))
                    os.fsync(copy)
                temporary.rename(self.path(begin))
        logger.warning(
            "topic %s was cut or replaced below position %d: its %d bytes left there come again at %d",
            self.directory,
            position,
            whole,
            begin,
        )
        return min(segment for segment in (*segments, begin) if segment > damaged)

    def trim(self, before: int) -> list[int]:
        """Remove the segments that end at or before a position, oldest first, and return which these were.

        The newest segment stays, whatever the position: writers go on behind it. Only for whoever knows that
        no reader will ask for these lines again. Raises `OSError`.
        """
        with self._locked():
            gone = [begin for begin, end in pairwise(self.segments()) if end <= before]
            for begin in gone:
                self.path(begin).unlink(missing_ok=True)
        return gone

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # Opened each time: the lock belongs to the open file, so threads and forked children exclude each
        # other too.
        with _opened(self.directory / _LOCK, os.O_RDWR | os.O_CREAT) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _writer(self) -> Iterator[tuple[int, int]]:
        """The segment to append to, under the lock: its file descriptor and its position."""
        with self._locked():
            segment = next(reversed(self.segments()), 0)
            with _opened(self.path(segment), _APPEND) as file:
                size = os.fstat(file).st_size
                # The beginning of a line is ended where it is: a line never spans segments.
                if 0 < size < self.segment_bytes or not _ends_line(file, size):
                    yield file, segment
                    return
            segment += size
            with _opened(self.path(segment), _APPEND) as file:
                if self._sync:
                    with _opened(self.directory, os.O_RDONLY) as directory:
                        os.fsync(directory)
                yield file, segment

    def _append(self, file: int, data: bytes) -> None:
        _write(file, data)
        if self._sync:
            os.fsync(file)


class JsonlReader:
    """Reads whole lines of a `JsonlTopic`. See `streaming.topics.Reader`.

    Line ends are LF or CRLF. A line of more than `MAX_LINE_BYTES` comes as its first `MAX_LINE_BYTES + 1`
    bytes, and the rest is passed over without being held. Where segments were removed, reading goes on at
    the next one and says in the log how much was skipped.
    """

    def __init__(self, topic: JsonlTopic, position: int) -> None:
        if position < 0:
            raise ValueError(f"position is {position}: give 0 or what a batch gave")
        self._topic = topic
        self._position = position
        self._file: int | None = None
        self._segment = 0
        # How far a line that is longer than one read was searched for its end.
        self._searched = 0
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        # Watched before the first look, so that nothing falls between a look and the wait after it.
        self._changes = _watch(topic.directory) if topic._notify else None
        self._poll = select.poll()
        self._poll.register(self._woken, select.POLLIN)
        if self._changes is not None:
            self._poll.register(self._changes, select.POLLIN)

    @property
    def position(self) -> int:
        """Where the next line begins."""
        return self._position

    @property
    def notified(self) -> bool:
        """Whether waiting is for notifications, not for looking again every few milliseconds."""
        return self._changes is not None

    def read(self, max_lines: int, timeout: float) -> Batch:
        """At most `max_lines` lines, as soon as there are any; none after `timeout` seconds, or when woken.

        Raises `TopicTruncated` when what was read before is no longer there, and `OSError`.
        """
        if max_lines < 1:
            raise ValueError(f"max_lines is {max_lines}: give at least 1")
        deadline = time.monotonic() + timeout
        while True:
            batch = self._look(max_lines)
            if batch.lines:
                return batch
            left = deadline - time.monotonic()
            if left <= 0 or self._wait(left):
                return batch

    def wake(self) -> None:
        """End a waiting read, or the next one that would wait. From any thread or signal handler."""
        # A full buffer means that it is awake already; a closed one, that nobody reads.
        with suppress(OSError):
            self._waker.send(b"\0")

    def close(self) -> None:
        """Give back what the reader holds. The second time does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._changes is not None:
            self._changes.close()
        self._woken.close()
        self._waker.close()

    def __enter__(self) -> JsonlReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, seconds: float) -> bool:
        """Until there may be more, at most so long. Returns whether the reader was woken."""
        seconds = min(seconds, MAX_WAIT_SECONDS if self._changes is not None else POLL_SECONDS)
        ready = {file for file, _ in self._poll.poll(max(seconds, 0.001) * 1000)}
        if self._changes is not None and self._changes.fileno() in ready:
            with suppress(BlockingIOError):
                os.read(self._changes.fileno(), _READ_BYTES)
        if self._woken.fileno() not in ready:
            return False
        with suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
        return True

    def _look(self, max_lines: int) -> Batch:
        """The whole lines that are there now, from the next segment on where one is read to its end."""
        while True:
            if self._file is None and not self._open():
                return Batch(next_position=self._position)
            batch = self._take(max_lines, complete=False)
            if batch.lines:
                return batch
            if any(segment > self._segment for segment in self._topic.segments()):
                # A segment that has a successor is complete, but may not have been a moment ago.
                batch = self._take(max_lines, complete=True)
                if batch.lines:
                    return batch
            elif not self._replaced():
                return batch
            self._leave()

    def _open(self) -> bool:
        """Open the segment that holds the next line. False: the topic is still empty."""
        while self._file is None:
            segments = self._topic.segments()
            if not segments and self._position == 0:
                return False
            held = max((s for s in segments if s <= self._position), default=None)
            following = min((s for s in segments if s > self._position), default=None)
            end = 0
            if held is not None:
                try:
                    self._file = os.open(self._topic.path(held), os.O_RDONLY)
                except FileNotFoundError:
                    continue  # removed since the listing
                self._segment = held
                end = held + os.fstat(self._file).st_size
                if self._position < end or (self._position == end and following is None):
                    break
                self._leave()
            if following is None:
                raise TopicTruncated(self._topic.directory, self._position, f"the topic ends at {end}")
            if following > self._position:
                logger.warning(
                    "topic %s: skipped the %d bytes from position %d to %d, whose segments are gone",
                    self._topic.directory,
                    following - self._position,
                    self._position,
                    following,
                )
            self._position = following
        return True

    def _leave(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._searched = 0

    def _replaced(self) -> bool:
        """Whether the segment's file is no longer the one that is open. Raises `TopicTruncated`."""
        assert self._file is not None
        ours = os.fstat(self._file)
        if self._segment + ours.st_size < self._position:
            raise TopicTruncated(
                self._topic.directory, self._position, f"the topic ends at {self._segment + ours.st_size}"
            )
        try:
            return not os.path.samestat(ours, self._topic.path(self._segment).stat())
        except FileNotFoundError:
            return True

    def _take(self, max_lines: int, complete: bool) -> Batch:
        """Whole lines of the open segment; of a complete one, also its last line if that has no end."""
        assert self._file is not None
        file, begin = self._file, self._position
        offset = begin - self._segment
        if not _ends_line(file, offset):
            raise TopicTruncated(self._topic.directory, begin, "no line begins there")
        data = os.pread(file, min(_READ_BYTES, max(_LEAST_READ_BYTES, max_lines * 512)), offset)
        lines = data.split(b"\n", max_lines)
        rest = lines.pop()
        if lines:
            positions = list(map(add, accumulate(map(len, lines), initial=begin), count()))
            self._position = positions.pop()
            self._searched = 0
        elif (
            len(rest) > MAX_LINE_BYTES
            and (end := self._line_end(file, offset + len(rest), complete)) is not None
        ):
            lines, positions = [rest], [begin]
            self._position = self._segment + end
            self._searched = 0
            if complete and not _ends_line(file, end):
                self._leave()
        elif rest and complete:
            # What a cut left of a line. There is nothing behind it, and no line end to check for.
            lines, positions = [rest], [begin]
            self._position += len(rest)
            self._leave()
        else:
            return Batch(next_position=begin)
        if b"\r" in data:
            lines = [line.removesuffix(b"\r") for line in lines]
        if max(map(len, lines)) > MAX_LINE_BYTES:
            lines = [line[: MAX_LINE_BYTES + 1] for line in lines]
        return Batch(positions, lines, self._position)

    def _line_end(self, file: int, offset: int, complete: bool) -> int | None:
        """Where the line goes on after, whose beginning was read up to `offset`; None: not known yet."""
        self._searched = max(self._searched, offset)
        while data := os.pread(file, _READ_BYTES, self._searched):
            at = data.find(b"\n")
            if at >= 0:
                return self._searched + at + 1
            self._searched += len(data)
        return self._searched if complete else None


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        yield file
    finally:
        os.close(file)


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _ends_line(file: int, offset: int) -> bool:
    """Whether a line may begin at `offset`: at the beginning of the file, or after a line end."""
    return offset == 0 or os.pread(file, 1, offset - 1) == b"\n"


def _whole_lines(file: int, size: int) -> int:
    """The length of the whole lines in the first `size` bytes of a file."""
    end = size
    while end:
        begin = max(0, end - 65_536)
        at = os.pread(file, end - begin, begin).rfind(b"\n")
        if at >= 0:
            return begin + at + 1
        end = begin
    return 0


def _joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their line ends, in pieces of about `_WRITE_BYTES`. Raises `ValueError`."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if b"\n" in line:
            raise ValueError(
                f"a line of {len(line)} bytes holds a line end at {line.index(10)}: publish it as two"
            )
        piece.append(line)
        size += len(line) + 1
        if size >= _WRITE_BYTES:
            yield b"\n".join(piece) + b"\n"
            piece, size = [], 0
    if piece:
        yield b"\n".join(piece) + b"\n"


def _watch(directory: Path) -> Any | None:
    """Notifications of changes in a directory, or None where they are not to be had."""
    if sys.platform != "linux":
        return None
    from inotify_simple import INotify, flags

    try:
        changes = INotify(nonblocking=True)
        changes.add_watch(
            directory, flags.MODIFY | flags.CREATE | flags.DELETE | flags.MOVED_TO | flags.MOVED_FROM
        )
    except OSError as error:
        logger.warning("no notifications for %s (%s): looking every %g s", directory, error, POLL_SECONDS)
        return None
    return changes
