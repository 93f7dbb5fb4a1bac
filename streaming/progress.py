"""How long-running work reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of the work, how much of it is done, and how much there is in total."""


def no_progress(what: str, done: int, total: int) -> None:
    """Ignore every report (the default)."""
