"""The monitor: looks at the platform every few seconds, and tells what changed.

It needs neither PostgreSQL nor Dagster. What it remembers is a file in the home.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from ecommersss_platform.alerts.channels import LOG, channels
from ecommersss_platform.alerts.delivery import Delivery, teller_path, telling
from ecommersss_platform.alerts.observe import Observer, observe
from ecommersss_platform.alerts.problem import KINDS, Observation
from ecommersss_platform.alerts.store import Store
from ecommersss_platform.settings import Settings

INTERVAL = 15.0
"""Seconds between two looks."""

PATIENCE = 120.0
"""The seconds within which a monitor must have looked."""

STOP_SECONDS = 15.0
LONE_SECONDS = 20.0
"""How long a command without a monitor waits for slow channels. What they miss, the next monitor tells."""

_log = logging.getLogger("ecommersss.alerts")

Look = Callable[[Settings, datetime], Observation]


def run(
    settings: Settings, stop: threading.Event, *, interval: float = INTERVAL, look: Look = observe
) -> None:
    """Look and tell until `stop` is set. Raises `PlatformError` for a URL that is none.

    Waits while another process tells the alerts of this home.
    """
    places = channels(settings)
    with telling(
        settings, wait=lambda: _log.warning("another process tells the alerts: waiting for its end")
    ):
        delivery = Delivery(Store(settings), places, settings.alerts_per_hour)
        delivery.start()
        _log.info("looking every %g s, telling %s", interval, ", ".join(place.name for place in places))
        try:
            while not stop.is_set():
                delivery.take(look(settings, datetime.now(UTC)))
                teller_path(settings).touch()
                stop.wait(interval)
        finally:
            delivery.stop(STOP_SECONDS)


def monitor_problem(settings: Settings, now: float | None = None) -> str | None:
    """Return None if a monitor has looked within `PATIENCE` seconds."""
    try:
        looked = teller_path(settings).stat().st_mtime
    except FileNotFoundError:
        return "no monitor has looked at the platform yet"
    age = (time.time() if now is None else now) - looked
    return None if age <= PATIENCE else f"the monitor has not looked at the platform for {age:.0f} s"


def _look_once(settings: Settings, now: datetime) -> Observation:
    observer = Observer(settings, patient=False)
    try:
        return observer.look(now)
    finally:
        observer.close()


def tell_failed_runs(settings: Settings, look: Look = _look_once) -> None:
    """Tell once which runs have failed, or have been made good, unless a monitor tells it.

    Waits `LONE_SECONDS` at most, and raises nothing: the command has its own result.
    """
    try:
        with telling(settings) as alone:
            if alone:
                seen = look(settings, datetime.now(UTC))
                runs = [problem for problem in seen.problems if problem.kind == "run_failed"]
                others = frozenset(KINDS) - {"run_failed"}
                # What the command prints is its log.
                places = [place for place in channels(settings) if place.id != LOG]
                delivery = Delivery(Store(settings), places, settings.alerts_per_hour)
                delivery.start()
                delivery.take(Observation(runs, seen.unknown | others))
                delivery.drain(LONE_SECONDS)
                delivery.stop(LONE_SECONDS)
    except Exception as error:
        _log.warning("no alert was told: %s", error)
