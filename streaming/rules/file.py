"""A rule book's file, taken up again when it changes."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path

from streaming.rules.book import RuleBook
from streaming.rules.errors import RuleError

logger = logging.getLogger(__name__)

SETTLED_SECONDS = 2.0
"""A file changed within so many seconds is read at each look: another change may have the same time."""


class RuleFile:
    """The newest good book of a file. `refresh` costs one look at the file's metadata where nothing changed.

    Raises `RuleError` when the first book cannot be used. Later ones that cannot are logged, once each, and
    the last good one stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.book = RuleBook.load(path)
        self._stamp: tuple[int, ...] | None = None
        self._seen: str | None = None
        """What was found at the last reading: a hash of the content, or why there was none."""

    def refresh(self) -> bool:
        """Look at the file; whether there is a new book."""
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
            if stamp == self._stamp:
                return False
            data = self.path.read_bytes()
        except OSError as error:
            self._stamp = None
            self._complain(
                str(error.strerror), RuleError(f"cannot be read: {error.strerror}", str(self.path))
            )
            return False
        # The time before the reading: what is changed during it is read again.
        self._stamp = stamp if time.time() - status.st_mtime > SETTLED_SECONDS else None
        found = hashlib.sha256(data).hexdigest()
        if found == self._seen:
            return False
        try:
            book = RuleBook.parse(data, str(self.path))
        except RuleError as error:
            self._complain(found, error)
            return False
        self._seen = found
        if book.version == self.book.version:
            return False
        logger.info(
            "rule book changed: version %s, %d rules",
            book.version,
            len(book.rules),
            extra={"rules_version": book.version, "rules_version_before": self.book.version},
        )
        self.book = book
        return True

    def _complain(self, found: str, error: RuleError) -> None:
        if found != self._seen:
            self._seen = found
            logger.error(
                "the changed rule book cannot be used, version %s stays: %s",
                self.book.version,
                error,
                extra={"rules_version": self.book.version},
            )
