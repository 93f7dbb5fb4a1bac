"""The Dagster resource that runs dbt."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from ecommersss_platform.dbt.project import (
    COMPILE,
    PROJECT_DIR,
    artifacts_dir,
    environment,
    parsed_project,
)
from ecommersss_platform.dbt.runner import run_dbt
from ecommersss_platform.environment import inherited
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import make_warehouse

KEPT_RUNS = 15
"""How many dbt runs keep their artifacts (compiled SQL, results, log) on disk."""

RUN_ID = "DBT_ENV_CUSTOM_ENV_DAGSTER_RUN_ID"
"""The variable that carries the Dagster run id into dbt's artifacts and job labels (macro `job_labels`)."""


@dataclass(frozen=True)
class PlatformDbt:
    """Our dbt project, run in this process with the environment that the settings ask for.

    Opens, runs and writes nothing when it is made.
    """

    settings: Settings

    def new_folder(self, run_id: str) -> Path:
        """Return a folder for the artifacts and the log of one invocation, and remove those of old ones."""
        artifacts = artifacts_dir(self.settings)
        artifacts.mkdir(parents=True, exist_ok=True)
        prune(artifacts, KEPT_RUNS - 1)
        return artifacts / f"{run_id[:8]}-{uuid4().hex[:7]}"

    def events(
        self, arguments: Sequence[str], run_id: str, folder: Path, sign_in: Mapping[str, str]
    ) -> Iterator[dict[str, Any]]:
        """Run dbt with these arguments for a run, print its messages, and yield its events as they happen.

        `folder`: see `new_folder`. `sign_in`: what `Warehouse.check_access` returned. Raises `DbtError` if
        dbt fails.
        """
        variables = {"DAGSTER_DBT_CLI": "true", RUN_ID: run_id}
        for event in self._run(arguments, folder, {**sign_in, **variables}):
            sys.stdout.write(f"{event['info']['msg']}\n")  # the compute log of the step
            sys.stdout.flush()
            yield event

    def compiled(self, model: str, variables: Mapping[str, str], sign_in: Mapping[str, str]) -> str:
        """Return the SELECT of a model for every day, in the warehouse's SQL. Asks the warehouse nothing.

        `variables`: dbt variables that differ from those of the project. Raises `DbtError` if dbt fails.
        """
        with tempfile.TemporaryDirectory(prefix="ecommersss-dbt-") as name:
            folder = Path(name)
            for _ in self._run([*COMPILE, model, "--vars", json.dumps(dict(variables))], folder, sign_in):
                pass
            [path] = (folder / "compiled").rglob(f"{model}.sql")
            return path.read_text()

    def _run(
        self, arguments: Sequence[str], folder: Path, variables: Mapping[str, str]
    ) -> Iterator[dict[str, Any]]:
        options = [
            *("--project-dir", str(PROJECT_DIR), "--profiles-dir", str(PROJECT_DIR)),
            *("--target", make_warehouse(self.settings).dbt_target, "--no-use-colors"),
            *("--target-path", str(folder), "--log-path", str(folder)),
            # Whoever calls prints messages. Without an option of its own, the file would be as silent.
            *("--log-level", "none", "--log-level-file", "debug"),
        ]
        surroundings = {**inherited(os.environ), **environment(self.settings), **variables}
        return run_dbt([*arguments, *options], surroundings, parsed_project(self.settings))


def prune(artifacts: Path, keep: int) -> None:
    """Remove the folders of all but the newest `keep` runs."""
    runs = sorted((path for path in artifacts.iterdir() if path.is_dir()), key=_age)
    for run in runs[keep:]:
        shutil.rmtree(run, ignore_errors=True)


def _age(path: Path) -> float:
    with suppress(FileNotFoundError):  # another run may have removed it
        return -path.stat().st_mtime
    return 0.0
