"""Opening a file of lines to read: a path, a pipe or standard input; plain or gzip; with or without a BOM."""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from streaming.errors import PlatformError

STDIN = Path("-")
"""The path that stands for standard input."""

_GZIP, _BOM = b"\x1f\x8b", b"\xef\xbb\xbf"
_ARRAY = re.compile(rb"\s*\[\s*(\{|\]|$)")


@dataclass(frozen=True)
class LinesFile:
    """An open file of lines. `size` is its size on disk in bytes; None if it is not a file on disk."""

    file: BinaryIO
    size: int | None
    _on_disk: BinaryIO

    def read_bytes(self) -> int:
        """Return how many of the `size` bytes were read."""
        return self._on_disk.tell()


@contextmanager
def open_lines(path: Path, *, keep_bom: bool = False) -> Iterator[LinesFile]:
    """Open a file to read its bytes once, unpacked if it is gzip, after its byte order mark.

    Raises `PlatformError` if it cannot be opened, and from the block if its gzip data are damaged.
    """
    try:
        opened = nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb")
    except OSError as error:
        raise PlatformError(f"cannot read {path}: {error.strerror}") from error
    with opened as on_disk:
        file = cast("BinaryIO", gzip.GzipFile(fileobj=on_disk)) if _begins(on_disk, _GZIP) else on_disk
        try:
            if not keep_bom and _begins(file, _BOM):
                file.read(len(_BOM))
            yield LinesFile(file, _size(on_disk), on_disk)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise PlatformError(f"cannot read {path}: its gzip data are damaged or end too early") from error


def _begins(file: BinaryIO, start: bytes) -> bool:
    # Peeked, because a pipe cannot be rewound.
    return cast("io.BufferedReader", file).peek(len(start)).startswith(start)


def _size(file: BinaryIO) -> int | None:
    try:
        status = os.fstat(file.fileno())
    except OSError:  # not a file of the system
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def refuse_array(path: Path, first_line: bytes) -> None:
    """Raise `PlatformError` if the first line that is not blank begins a JSON array."""
    if _ARRAY.match(first_line):
        raise PlatformError(
            f"{path} is a JSON array, not JSON Lines: write one object on each line, for example with"
            f" `jq -c '.[]'`"
        )
