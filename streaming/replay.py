"""Publish the lines of a file: its valid orders (`replay`), or every line unchecked (`publish_raw`).

The file may be a pipe or standard input (`-`), and packed with gzip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from streaming.chunks import chunks
from streaming.decode import InvalidOrder, decode
from streaming.errors import PlatformError
from streaming.files import open_lines, refuse_array
from streaming.orders import MAX_LINE_BYTES
from streaming.progress import Progress, no_progress
from streaming.topics import Publisher

_LINES_PER_BATCH = 1_000


@dataclass(frozen=True)
class RefusedLine:
    """A line of a file that is not a valid order: its number (from 1), the reason, and the detail."""

    line_number: int
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"line {self.line_number}: {self.detail} ({self.reason})"


@dataclass
class Replayed:
    """The result of a replay: the number of lines published, and of lines refused by reason."""

    published: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def replay(
    topic: Publisher,
    path: Path,
    *,
    on_refused: Callable[[RefusedLine], None] = lambda refused: None,
    progress: Progress = no_progress,
) -> Replayed:
    """Publish the valid orders of a JSONL file, byte for byte, and refuse the other lines.

    Each refused line is passed to `on_refused` at once. Blank lines and a byte order mark are skipped. Memory
    does not grow with the file or its longest line. Raises `PlatformError` if the file cannot be read or is a
    JSON array.
    """
    result = Replayed()

    def valid_lines(file: BinaryIO) -> Iterator[bytes]:
        first = True
        for number, line in _numbered_lines(file, MAX_LINE_BYTES + 1):
            if not line.strip():
                continue
            if first:
                refuse_array(path, line)
                first = False
            try:
                decode(line)
            except InvalidOrder as error:
                result.refused[error.reason] += 1
                on_refused(RefusedLine(number, error.reason, error.detail))
            else:
                yield line

    result.published = _publish_lines(topic, path, valid_lines, progress)
    return result


def publish_raw(topic: Publisher, path: Path, *, progress: Progress = no_progress) -> int:
    """Publish every line of a file unchecked, and return the number of lines.

    Only a line feed ends a line; the last line may lack one. Raises `PlatformError` if the file cannot be
    read.
    """

    def lines(file: BinaryIO) -> Iterator[bytes]:
        return (line.removesuffix(b"\n") for line in file)

    return _publish_lines(topic, path, lines, progress, keep_bom=True)


def _publish_lines(
    topic: Publisher,
    path: Path,
    lines_of: Callable[[BinaryIO], Iterable[bytes]],
    progress: Progress,
    *,
    keep_bom: bool = False,
) -> int:
    """Publish the lines that `lines_of` takes from the file, in batches, and return their number."""
    published = 0
    try:
        with open_lines(path, keep_bom=keep_bom) as source:
            for batch in chunks(lines_of(source.file), _LINES_PER_BATCH):
                topic.publish(batch)
                published += len(batch)
                if source.size is not None:
                    progress("bytes", source.read_bytes(), source.size)
            if source.size is not None:
                progress("bytes", source.size, source.size)
    except PlatformError as error:
        if published:
            raise PlatformError(f"{error} ({published:,} lines were published before)") from error
        raise
    return published


def _numbered_lines(file: BinaryIO, longest: int) -> Iterator[tuple[int, bytes]]:
    """Yield each line's number and text without its end (LF or CRLF), cut to `longest` bytes."""
    number = 0
    while line := file.readline(longest + 2):
        number += 1
        if not line.endswith(b"\n"):
            while (rest := file.readline(1 << 16)) and not rest.endswith(b"\n"):
                pass
        yield number, line.removesuffix(b"\n").removesuffix(b"\r")[:longest]
