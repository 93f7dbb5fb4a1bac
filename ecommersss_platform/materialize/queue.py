"""Waiting until no other run uses the warehouse."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ecommersss_platform.instance.runs import fail_orphaned_runs
from ecommersss_platform.materialize.follower import Kind, Progress
from ecommersss_platform.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance


def wait_for_turn(
    settings: Settings, instance: DagsterInstance, progress: Callable[[Progress], None]
) -> None:
    """Wait while a run that uses a pool is active, as the daemon's queue would.

    The queue in turn sees this run and waits for it. If two runs begin at the same moment, the warehouse's
    own lock keeps them apart.
    """
    from dagster import DagsterRunStatus, RunsFilter

    active = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    reported = ""
    while True:
        if settings.dagster_url is None:  # then all processes are on this machine
            fail_orphaned_runs(instance)
        for other in instance.get_runs(RunsFilter(statuses=active)):
            if other.run_op_concurrency and other.run_op_concurrency.all_pools:
                break
        else:
            return
        if reported != other.run_id:
            reported = other.run_id
            message = f"waiting for run {other.run_id} ({other.job_name}), which has the warehouse"
            progress(Progress(Kind.WAITING, other.run_id, 0, 0, message))
        time.sleep(1)
