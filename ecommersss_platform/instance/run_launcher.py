"""How Dagster launches runs, and finds out that one has lost its process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import DefaultRunLauncher
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

from ecommersss_platform.instance.runs import HOST_TAG, lost_processes

if TYPE_CHECKING:
    from dagster import DagsterRun


class PlatformRunLauncher(DefaultRunLauncher):
    """Dagster's own launcher, which can also tell whether the process of a run on this machine is gone.

    With it, run monitoring fails such a run, whatever became of the code server that started it. Otherwise
    only that code server would notice.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        # A code server whose socket is here has its runs here. One on a port may be in another container.
        code_socket = json.loads(run.tags.get(GRPC_INFO_TAG, "{}")).get("socket")
        started_here = HOST_TAG in run.tags or (code_socket is not None and Path(code_socket).exists())
        if started_here and (gone := lost_processes(self._instance, run)):
            return CheckRunHealthResult(WorkerStatus.FAILED, gone)
        return CheckRunHealthResult(WorkerStatus.RUNNING)
