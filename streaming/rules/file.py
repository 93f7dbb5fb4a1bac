"""A rule book's file, reloaded when it changes."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path

from streaming.rules.book import RuleBook
from streaming.rules.errors import RuleError

logger = logging.getLogger(__name__)

SETTLED_SECONDS = 2.0
"""A file modified within this time is read at every check: a further change may have the same timestamp."""


class RuleFile:
    """The newest valid book of a file. If nothing changed, `refresh` only checks the file's metadata.

    Raises `RuleError` if the first book is invalid. Later invalid books are logged once each, and the last
    valid one stays in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.book = RuleBook.load(path)
        self._stamp: tuple[int, ...] | None = None
        self._last_read: str | None = None
        """The outcome of the last read: a hash of the content, or why the file could not be read."""

    def refresh(self) -> bool:
        """Check the file and return whether there is a new book."""
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
            if stamp == self._stamp:
                return False
            data = self.path.read_bytes()
        except OSError as error:
            self._stamp = None
            problem = RuleError(f"cannot be read: {error.strerror}", str(self.path))
            self._log_once(str(error.strerror), problem)
            return False
        # This is the timestamp before the read: a change during the read causes another one.
        self._stamp = stamp if time.time() - status.st_mtime > SETTLED_SECONDS else None
        digest = hashlib.sha256(data).hexdigest()
        if digest == self._last_read:
            return False
        try:
            book = RuleBook.parse(data, str(self.path))
        except RuleError as error:
            self._log_once(digest, error)
            return False
        self._last_read = digest
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

    def _log_once(self, outcome: str, error: RuleError) -> None:
        if outcome != self._last_read:
            self._last_read = outcome
            logger.error(
                "the changed rule book cannot be used; version %s stays in use: %s",
                self.book.version,
                error,
                extra={"rules_version": self.book.version},
            )
