"""A topic on disk: a directory of append-only segments, each named by the position of its first byte.

Positions count bytes since the topic began. Any number of processes may publish and read at the same time:
writers take a lock in turn, readers take none. A writer killed in the middle of a line leaves a partial line.
The next writer ends it, so it becomes a line of its own (which is rejected) and never merges with the next.
Lines are as durable as the operating system's cache, or as the device with `sync`.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from streaming.topics.jsonl_reader import JsonlReader
from streaming.topics.segments import ends_line, segment_path, segment_positions

logger = logging.getLogger(__name__)

_WRITE_BYTES = 1 << 20
_COPY_BYTES = 1 << 20
_LOCK = ".lock"
_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT


class EndMoved(RuntimeError):
    """The topic does not end where `publish_at` expected, or ends in another writer's partial line."""

    def __init__(self, directory: Path, expected: int, end: int, partial: bytes) -> None:
        self.expected, self.end, self.partial = expected, end, partial
        problem = f"ends at {end}, not at {expected}" if end != expected else "ends in another partial line"
        super().__init__(f"topic {directory} {problem}: another program writes to it")


class JsonlTopic:
    """A topic in a directory, which is created if it does not exist.

    A new segment begins once the newest has `segment_bytes`. With `sync`, each publish reaches the device
    before it returns. With `notify=False`, readers poll every few milliseconds instead of waiting for the
    operating system to report changes. Raises `OSError` if the directory cannot be used.
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
        """Return the positions at which the segments begin, oldest first."""
        return segment_positions(self.directory)

    def path(self, segment: int) -> Path:
        """Return the file of the segment that begins at this position."""
        return segment_path(self.directory, segment)

    def start(self) -> int:
        """Return the position of the oldest line that still exists."""
        return next(iter(self.segments()), 0)

    def end(self) -> int:
        """Return the position after the last complete line."""
        return self.open_end()[0]

    def open_end(self) -> tuple[int, bytes]:
        """Return the position after the last complete line, and the partial line that follows it, if any.

        A partial line is one that its writer has not finished yet, or never will.
        """
        segments = self.segments()
        if not segments:
            return 0, b""
        with _opened(self.path(segments[-1]), os.O_RDONLY) as file:
            size = os.fstat(file).st_size
            complete = _complete_length(file, size)
            return segments[-1] + complete, os.pread(file, size - complete, complete)

    def publish(self, lines: Iterable[bytes]) -> int:
        """Append lines (without line ends) and return the position after the last one.

        Each write holds about a megabyte of complete lines and is visible at once. Raises `ValueError` if a
        line holds a line end, and `OSError` if the disk is full: the lines before are then written, and the
        partial line after them becomes a line of its own, to be rejected.
        """
        end: int | None = None
        for data in _joined(lines):
            with self._writer() as (file, segment):
                if not ends_line(file, os.fstat(file).st_size):
                    data = b"\n" + data
                self._append(file, data)
                end = segment + os.fstat(file).st_size
        return self.end() if end is None else end

    def publish_at(self, expected: int, data: bytes) -> int:
        """Append `data`, complete lines with line ends, if the topic's complete lines end at `expected`.

        If the topic already ends in the beginning of `data` (a writer was killed), only the rest is written.
        Returns the position after `data`. Raises `EndMoved`, with nothing written, if another program has
        written meanwhile; `ValueError` if `data` does not end in a line end; `OSError` as `publish` does.
        """
        if data and not data.endswith(b"\n"):
            raise ValueError("publish_at: data must be complete lines, each with its line end")
        with self._writer() as (file, segment):
            size = os.fstat(file).st_size
            complete = _complete_length(file, size)
            partial = os.pread(file, size - complete, complete)
            if segment + complete != expected or not data.startswith(partial):
                raise EndMoved(self.directory, expected, segment + complete, partial)
            self._append(file, data[len(partial) :])
        return expected + len(data)

    def reader(self, position: int) -> JsonlReader:
        """Return a reader that begins at `position`: 0, or one that a batch gave. Close it when done."""
        return JsonlReader(self.directory, position, notify=self._notify)

    def repair(self, position: int, known: int | None = None) -> int:
        """Make a truncated or replaced topic readable from `position` on; return where to resume.

        The complete lines left in the damaged segment are copied to a new segment at the end (at `position`
        or later, since positions only grow). No line is lost; lines already read come again, and their order
        ids show it. An intact topic is left unchanged. Raises `OSError`.

        With `known`, the topic differs from what was read after that position, even if a line begins at
        `position`: all complete lines from `known` on are copied, and come again in their order.
        """
        with self._locked():
            segments = self.segments() or [0]
            damaged = max((s for s in segments if s <= position), default=segments[0])
            with _opened(self.path(damaged), os.O_RDWR | os.O_CREAT) as file:
                offset, size = position - damaged, os.fstat(file).st_size
                if known is None and (offset <= 0 or (offset <= size and ends_line(file, offset))):
                    return position
            first = damaged if known is None else known
            begin = max(position, segments[-1] + self.path(segments[-1]).stat().st_size)
            # Rename the copy into place once it is complete: readers see all of it or nothing.
            temporary = self.directory / f".repair-{begin:020d}"
            copied, resume = 0, begin
            with _opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as copy:
                for segment, end in pairwise((*segments, begin)):
                    if end <= first:
                        continue
                    if known is None and segment > damaged:
                        resume = segment
                        break
                    copied += self._copy(segment, max(first - segment, 0), copy)
                os.fsync(copy)
            temporary.rename(self.path(begin))
        logger.warning(
            "topic %s was truncated or replaced below position %d: the %d bytes left come again at %d",
            self.directory,
            position,
            copied,
            begin,
        )
        return resume

    def _copy(self, segment: int, offset: int, copy: int) -> int:
        """Append the complete lines of a segment from `offset` on to an open file; return their length."""
        with _opened(self.path(segment), os.O_RDONLY) as file:
            complete = _complete_length(file, os.fstat(file).st_size)
            for at in range(offset, complete, _COPY_BYTES):
                _write(copy, os.pread(file, min(_COPY_BYTES, complete - at), at))
        return max(0, complete - offset)

    def trim(self, before: int) -> list[int]:
        """Remove the segments that end at or before a position, and return their positions, oldest first.

        The newest segment always stays, because writers append to it, and so does the one with the last whole
        line, where a flagged stream goes on. Call this only if no reader will need these lines again. Raises
        `OSError`.
        """
        with self._locked():
            before = min(before, self.end() - 1)
            gone = [begin for begin, end in pairwise(self.segments()) if end <= before]
            for begin in gone:
                self.path(begin).unlink(missing_ok=True)
        return gone

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # Opened each time: the lock belongs to the open file, so it also excludes threads and forked
        # children.
        with _opened(self.directory / _LOCK, os.O_RDWR | os.O_CREAT) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _writer(self) -> Iterator[tuple[int, int]]:
        """Yield the segment to append to, under the lock: its file descriptor and its position."""
        with self._locked():
            segment = next(reversed(self.segments()), 0)
            with _opened(self.path(segment), _APPEND) as file:
                size = os.fstat(file).st_size
                # A partial line is ended in its own segment: a line never spans two.
                if 0 < size < self.segment_bytes or not ends_line(file, size):
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


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _complete_length(file: int, size: int) -> int:
    """Return the length of the complete lines in the first `size` bytes of a file."""
    end = size
    while end:
        begin = max(0, end - 65_536)
        at = os.pread(file, end - begin, begin).rfind(b"\n")
        if at >= 0:
            return begin + at + 1
        end = begin
    return 0


def _joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Join lines with their line ends into pieces of about `_WRITE_BYTES`. Raises `ValueError`."""
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
