"""Files that people name: lines to read (from a path, a pipe, gzip, with a BOM), and new files to write."""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import sys
import tempfile
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


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file to write. It appears at `path` when the block ends, complete, for its owner only.

    It overwrites nothing and follows no link. Raises `PlatformError` if something is at `path` already, or if
    the file cannot be written; after an error in the block there is no file.
    """
    if os.path.lexists(path):
        raise _exists(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
            # Claim the name: whatever appeared there meanwhile is somebody else's.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        if error.errno is None:  # not of the system: reading what is to be written failed
            raise
        raise PlatformError(f"cannot write {path}: {error.strerror}") from error


def _exists(path: Path) -> PlatformError:
    return PlatformError(f"{path} exists already: remove it, or name another file")
