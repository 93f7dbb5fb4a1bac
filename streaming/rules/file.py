"""A rule book's file, reloaded when it changes."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from pathlib import Path

from streaming.rules.book import RuleBook, read_bytes
from streaming.rules.errors import RuleError

logger = logging.getLogger(__name__)

SETTLED_SECONDS = 2.0
"""A file modified within this time is read at every check: a further change may have the same timestamp."""

PATIENCE_SECONDS = 0.25
"""How long `refresh` waits for a changed book to be parsed. A small book is ready by then."""


class RuleFile:
    """The newest valid book of a file. If nothing changed, `refresh` only checks the file's metadata.

    A changed book is parsed in a thread of its own, so that a large one never pauses the caller for long.

    Raises `RuleError` if the first book is invalid. Later invalid books are logged once each, and the last
    valid one stays in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.book = RuleBook.load(path)
        self._stamp: tuple[int, ...] | None = None
        self._last_read: str | None = None
        """The outcome of the last read: a hash of the content, or why the file could not be read."""
        self._parsing: _Parsing | None = None

    def refresh(self) -> bool:
        """Check the file and return whether there is a new book. Waits at most `PATIENCE_SECONDS`."""
        if self._parsing is None:
            self._parsing = self._changed()
        if self._parsing is None:
            return False
        self._parsing.join(PATIENCE_SECONDS)
        if self._parsing.is_alive():
            return False
        parsed, self._parsing = self._parsing, None
        if parsed.book is None:
            self._log_once(parsed.digest, parsed.error)
            return False
        self._last_read = parsed.digest
        return self._use(parsed.book)

    def _changed(self) -> _Parsing | None:
        """Start to parse the file, if its content changed since the last read."""
        try:
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
            if stamp == self._stamp:
                return None
            data = read_bytes(self.path)
        except OSError as error:
            self._stamp = None
            problem = RuleError(f"cannot be read: {error.strerror}", str(self.path))
            self._log_once(str(error.strerror), problem)
            return None
        # This is the timestamp before the read: a change during the read causes another one.
        self._stamp = stamp if time.time() - status.st_mtime > SETTLED_SECONDS else None
        digest = hashlib.sha256(data).hexdigest()
        return None if digest == self._last_read else _Parsing(data, str(self.path), digest)

    def _use(self, book: RuleBook) -> bool:
        if book.text == self.book.text:
            return False
        logger.info(
            "rule book changed: version %s, %d rules",
            book.version,
            len(book.rules),
            extra={"rules_version": book.version, "rules_version_before": self.book.version},
        )
        self.book = book
        return True

    def _log_once(self, outcome: str, error: Exception) -> None:
        if outcome != self._last_read:
            self._last_read = outcome
            logger.error(
                "the changed rule book cannot be used; version %s stays in use: %s",
                self.book.version,
                error,
                extra={"rules_version": self.book.version},
            )


class _Parsing(threading.Thread):
    """A thread that parses a book. When it ends it has a `book` or an `error`."""

    def __init__(self, data: bytes, name: str, digest: str) -> None:
        super().__init__(name="rule book", daemon=True)
        self._data = data
        self._file = name
        self.digest = digest
        self.book: RuleBook | None = None
        self.error: Exception = RuleError("cannot be parsed", name)
        self.start()

    def run(self) -> None:
        try:
            self.book = RuleBook.parse(self._data, self._file)
        except Exception as error:  # a fault of ours must not stop the stream either: the old book stays
            self.error = error
