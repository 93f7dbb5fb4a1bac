"""Files that a reader finds as they were or as they are now, never half written."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def replace_file(path: Path, data: bytes, *, durable: bool = False, keep_mode: bool = False) -> None:
    """Make this the content of a file that only its owner may read. `durable`: also after a power failure.

    `keep_mode`: whoever could read and write the file before still can. Raises `OSError`; the file then stays
    as it was.
    """
    with replacing(path, durable=durable) as file:
        if keep_mode:
            before, now = path.stat(), os.fstat(file.fileno())
            if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
        file.write(data)


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a file to write, which takes the place of the one at `path` when the block ends.

    Only its owner may read it. After an error in the block, the old file stays as it was. `durable`: the new
    one is there after a power failure, too. Raises `OSError`.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
