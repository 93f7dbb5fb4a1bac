"""Materialise a range of days from the command line: the same job as in the UI, in one run, with progress.

A child process executes the run (`child`); the parent waits for its turn (`queue`) and follows the run's
events in Dagster's storage (`follower`), as the UI does. The parent needs no code location for it.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, date, datetime

from pydantic import SecretStr

from ecommersss_platform.alerts.monitor import tell_failed_runs
from ecommersss_platform.days import Days
from ecommersss_platform.environment import child_environment
from ecommersss_platform.instance.dagster_home import dagster_instance
from ecommersss_platform.materialize.child import child_process
from ecommersss_platform.materialize.follower import (
    Kind,
    Materialized,
    MaterializeError,
    Progress,
    RunFollower,
)
from ecommersss_platform.materialize.queue import wait_for_turn
from ecommersss_platform.settings import Settings
from streaming.business_days import business_day

__all__ = ["Kind", "MaterializeError", "Materialized", "Progress", "check_days", "materialize"]

DEFINITIONS = "ecommersss_platform.definitions"
POLL_SECONDS = 0.3


def check_days(days: Days, first_day: date, today: date) -> None:
    """Raise `MaterializeError` for days that have no partition."""
    if days.first < first_day:
        raise MaterializeError(
            f"{days.first} is before the first partition, {first_day}: ask for {first_day} or later, or set"
            " ECOMMERSSS_FIRST_DAY to an earlier day"
        )
    if days.last > today:
        raise MaterializeError(f"{days.last} has not begun: today is {today} in Jakarta")


def materialize(
    settings: Settings,
    days: Days,
    *,
    rebuild: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    dagster_url: str | None = None,
    definitions: str = DEFINITIONS,
) -> Materialized:
    """Run the job `daily_pipeline` once for all of `days`, and wait for it.

    The run belongs to the platform's own Dagster instance, so the UI lists it. It waits while another run has
    the warehouse. Without `dagster_url`, the home and the schema are made if they are missing, and the
    embedded server is started if it is not up; `say` gets messages about that. `rebuild`: build everything,
    even if no row has changed. `progress` is called from this
    thread. Raises `MaterializeError`.
    """
    check_days(days, settings.first_partition_day(), business_day(datetime.now(UTC)))
    settings.check_pseudonym_key()
    with ExitStack() as stack:
        if dagster_url is None:
            from ecommersss_platform.instance.databases import dagster_storage, migrated_database
            from ecommersss_platform.instance.home import record_first_day

            record_first_day(settings)
            stack.enter_context(migrated_database(settings, say=say))
            dagster_url = stack.enter_context(dagster_storage(settings, say))
        instance = stack.enter_context(dagster_instance(settings, dagster_url))
        wait_for_turn(settings, instance, progress)
        began = time.monotonic()
        run = RunFollower(instance, Materialized(str(uuid.uuid4()), days), progress)
        output = stack.enter_context(tempfile.TemporaryFile())
        variables = child_environment(settings, dagster_url)
        with child_process(definitions, run.id, days, variables, output, rebuild=rebuild) as child:
            try:
                while child.poll() is None:
                    run.follow()
                    time.sleep(POLL_SECONDS)
                run.follow()
            except (KeyboardInterrupt, SystemExit):
                run.cancel()
                raise
        run.result.seconds = time.monotonic() - began
        try:
            return run.ended(child.returncode, output)
        finally:
            tell_failed_runs(settings.model_copy(update={"dagster_url": SecretStr(dagster_url)}))
