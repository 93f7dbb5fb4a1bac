"""The state of alerts on disk: one file, replaced whole, so that a kill leaves the old or the new one.

The monitor changes it, and so do `ecommersss alerts mute` and a lone `ecommersss materialize`: each change is
made under a lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache

from pydantic import TypeAdapter, ValidationError

from ecommersss_platform.alerts.problem import Problem
from ecommersss_platform.alerts.state import State
from ecommersss_platform.local.locks import FileLock
from ecommersss_platform.local.whole_files import replace_file
from ecommersss_platform.settings import Settings

_log = logging.getLogger("ecommersss.alerts")


@cache
def _adapter() -> TypeAdapter[State]:
    return TypeAdapter(State)


class Store:
    """The state in the home of these settings, for the threads of one process."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.alerts_state_path
        self._lock_path = self.path.with_suffix(".lock")
        self._mutex = threading.Lock()
        self._unsaved: State | None = None

    def read(self) -> State:
        """Return the state, an empty one if there is none yet or the file is damaged."""
        return self._unsaved or self._on_disk() or State()

    def update(self, change: Callable[[State], State]) -> State:
        """Change the state, and return the new one. One process at a time does so.

        On a full disk the new state lives in this process only, until a later change can be written: alerts
        go on.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._mutex, FileLock(self._lock_path).held():
            before = self._unsaved or self._on_disk()
            if before is None and self.path.exists():
                self._move_aside()
            after = change(before or State())
            if after != before or self._unsaved:
                self._write(after)
            return after

    def _on_disk(self) -> State | None:
        try:
            return _adapter().validate_json(self.path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def _write(self, state: State) -> None:
        try:
            replace_file(self.path, _adapter().dump_json(state, indent=1), durable=True)
        except OSError as error:
            if self._unsaved is None:
                _log.error("%s cannot be written, alerts go on in memory: %s", self.path, error.strerror)
            self._unsaved = state
        else:
            self._unsaved = None

    def _move_aside(self) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}")
        self.path.replace(aside)
        _log.error("%s was damaged: it is %s now, and what is wrong is told again", self.path, aside.name)


def damaged_states(settings: Settings) -> list[Problem]:
    """Return a problem for each damaged state that was moved aside and is still there."""
    return [
        Problem(
            "alert_state_damaged",
            path.name,
            f"{settings.alerts_state_path} was no state of alerts: it was moved to {path.name}, mutes are"
            " lost, and what was open is told again. Look at the disk, and remove the file",
        )
        for path in sorted(settings.home.glob(f"{settings.alerts_state_path.name}.damaged-*"))
    ]
