"""Read a topic on disk from a position, and wait for more lines."""

from __future__ import annotations

import logging
import os
import select
import socket
import sys
import time
from contextlib import suppress
from itertools import accumulate, count
from operator import add
from pathlib import Path
from typing import Any, Final, Self

from streaming.orders import MAX_LINE_BYTES
from streaming.topics import Batch
from streaming.topics.segments import ends_line, segment_path, segment_positions

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.005
"""How often to look for new lines without notifications of changes."""

MAX_WAIT_SECONDS: Final = 0.5
"""How often to look with notifications: some network file systems do not report every change."""

_READ_BYTES = 1 << 20
_LEAST_READ_BYTES = 2 * MAX_LINE_BYTES


class TopicTruncated(RuntimeError):
    """The topic ends before the position, or no line begins there.

    Its last segment was truncated or replaced. `JsonlTopic.repair` makes the topic readable from there on.
    """

    def __init__(self, directory: Path, position: int, problem: str) -> None:
        self.position = position
        super().__init__(
            f"topic {directory} at position {position}: {problem}. Its last segment was truncated or"
            " replaced; repair() resumes after it and reads the rest of that segment again"
        )


class JsonlReader:
    """Reads complete lines of the topic in a directory: see `JsonlTopic` and `streaming.topics.Reader`.

    Line ends are LF or CRLF. Of a line longer than `MAX_LINE_BYTES`, only the first `MAX_LINE_BYTES + 1`
    bytes are returned; the rest is skipped without being held in memory. If segments were removed, the reader
    continues at the next one and logs how much it skipped.
    """

    def __init__(self, directory: Path, position: int, *, notify: bool = True) -> None:
        if position < 0:
            raise ValueError(f"position is {position}: give 0, or a position that a batch gave")
        self._directory = directory
        self._position = position
        self._file: int | None = None
        self._segment = 0
        # How far the search for the end of a very long line has come: an offset in the segment.
        self._searched = 0
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        # Watch before the first look, so that no change falls between a look and the wait after it.
        self._changes = _watch(directory) if notify else None
        self._poll = select.poll()
        self._poll.register(self._woken, select.POLLIN)
        if self._changes is not None:
            self._poll.register(self._changes, select.POLLIN)

    @property
    def position(self) -> int:
        """The position at which the next line begins."""
        return self._position

    @property
    def notified(self) -> bool:
        """Whether the operating system reports changes, so that the reader need not poll."""
        return self._changes is not None

    def read(self, max_lines: int, timeout: float) -> Batch:
        """Return up to `max_lines` lines once there are any; none after `timeout` seconds or when woken.

        Raises `TopicTruncated` if the lines already read no longer exist, and `OSError`.
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
        """End a waiting read at once, or the next one that would wait. Safe in signal handlers."""
        # A full buffer: the reader is awake already. A closed socket: the reader is closed.
        with suppress(OSError):
            self._waker.send(b"\0")

    def close(self) -> None:
        """Close the reader's files and sockets. Closing twice is harmless."""
        self._close_segment()
        if self._changes is not None:
            self._changes.close()
        self._woken.close()
        self._waker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, seconds: float) -> bool:
        """Wait up to `seconds` until there may be more lines. Return whether the reader was woken."""
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
        """Return the complete lines available now, moving to the next segment at the end of one."""
        while True:
            if self._file is None and not self._open():
                return Batch(next_position=self._position)
            batch = self._take(max_lines, complete=False)
            if batch.lines:
                return batch
            if any(segment > self._segment for segment in segment_positions(self._directory)):
                # A segment with a successor is complete, but it may not have been at the first attempt.
                batch = self._take(max_lines, complete=True)
                if batch.lines:
                    return batch
            elif not self._replaced():
                return batch
            self._close_segment()

    def _open(self) -> bool:
        """Open the segment that holds the next line. Return False if the topic is still empty."""
        while self._file is None:
            segments = segment_positions(self._directory)
            if not segments and self._position == 0:
                return False
            current = max((s for s in segments if s <= self._position), default=None)
            following = min((s for s in segments if s > self._position), default=None)
            end = 0
            if current is not None:
                try:
                    self._file = os.open(segment_path(self._directory, current), os.O_RDONLY)
                except FileNotFoundError:
                    continue  # removed since the listing
                self._segment = current
                end = current + os.fstat(self._file).st_size
                if self._position < end or (self._position == end and following is None):
                    break
                self._close_segment()
            if following is None:
                raise TopicTruncated(self._directory, self._position, f"the topic ends at {end}")
            if following > self._position:
                logger.warning(
                    "topic %s: skipped the %d bytes from position %d to %d: their segments were removed",
                    self._directory,
                    following - self._position,
                    self._position,
                    following,
                )
            self._position = following
        return True

    def _close_segment(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._searched = 0

    def _replaced(self) -> bool:
        """Return whether the open file is no longer the segment's. Raises `TopicTruncated`."""
        assert self._file is not None
        ours = os.fstat(self._file)
        if (end := self._segment + ours.st_size) < self._position:
            raise TopicTruncated(self._directory, self._position, f"the topic ends at {end}")
        try:
            return not os.path.samestat(ours, segment_path(self._directory, self._segment).stat())
        except FileNotFoundError:
            return True

    def _take(self, max_lines: int, complete: bool) -> Batch:
        """Return complete lines of the open segment; if it is complete, also a last line without an end."""
        assert self._file is not None
        file, begin = self._file, self._position
        offset = begin - self._segment
        if not ends_line(file, offset):
            raise TopicTruncated(self._directory, begin, "no line begins there")
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
            if complete and not ends_line(file, end):
                self._close_segment()
        elif rest and complete:
            # The segment was truncated within this line. Nothing follows it, not even a line end.
            lines, positions = [rest], [begin]
            self._position += len(rest)
            self._close_segment()
        else:
            return Batch(next_position=begin)
        if b"\r" in data:
            lines = [line.removesuffix(b"\r") for line in lines]
        if max(map(len, lines)) > MAX_LINE_BYTES:
            lines = [line[: MAX_LINE_BYTES + 1] for line in lines]
        return Batch(positions, lines, self._position)

    def _line_end(self, file: int, offset: int, complete: bool) -> int | None:
        """Return the offset after a long line that was read up to `offset`, or None if it has no end yet."""
        self._searched = max(self._searched, offset)
        while data := os.pread(file, _READ_BYTES, self._searched):
            at = data.find(b"\n")
            if at >= 0:
                return self._searched + at + 1
            self._searched += len(data)
        return self._searched if complete else None


def _watch(directory: Path) -> Any | None:
    """Return notifications of changes in a directory, or None if the system offers none."""
    if sys.platform != "linux":
        return None
    from inotify_simple import INotify, flags

    try:
        changes = INotify(nonblocking=True)
        changes.add_watch(
            directory, flags.MODIFY | flags.CREATE | flags.DELETE | flags.MOVED_TO | flags.MOVED_FROM
        )
    except OSError as error:
        logger.warning("no notifications for %s (%s): polling every %g s", directory, error, POLL_SECONDS)
        return None
    return changes
