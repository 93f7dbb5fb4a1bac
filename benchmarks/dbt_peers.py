"""Start what a day on the platform is compared with: stock dagster-dbt, and dbt alone in a warm process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.error
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from benchmarks.stack import Dagster, Failed, Platform, wait_until
from ecommersss_platform.dbt.project import PROJECT_DIR, environment
from ecommersss_platform.environment import inherited
from ecommersss_platform.instance.databases import database_url
from ecommersss_platform.local.ports import HOST, free_port
from ecommersss_platform.partitions import Days

JOB, IN_PROCESS_JOB = "stock", "stock_in_process"
"""The jobs of `benchmarks.stock`, which imports nothing of this, because stock Dagster would not."""
PARSING, KEPT = "parses", "keeps the parsed project"
"""How dbt alone comes to its manifest."""
_STOP_SECONDS = 60


@contextmanager
def stock_dagster(platform: Platform, directory: Path) -> Iterator[Dagster]:
    """Start `dagster dev` for `benchmarks.stock` with a copy of our dbt project, and stop it at the end.

    Its storage is what it chooses by itself, SQLite; its run queue looks as often as the platform's.
    """
    shutil.copytree(PROJECT_DIR, directory / "dbt_project", ignore=shutil.ignore_patterns("target", "logs"))
    configuration = yaml.safe_load((platform.settings.dagster_home / "dagster.yaml").read_text())
    kept = {name: configuration[name] for name in ("telemetry", "nux", "run_queue") if name in configuration}
    (directory / "dagster.yaml").write_text(yaml.safe_dump(kept))
    variables = _variables(platform, directory) | {
        "ECOMMERSSS_FIRST_DAY": str(platform.settings.first_partition_day()),
        "ECOMMERSSS_HOME": str(platform.settings.home),  # for the key of the hashes
        "STOCK_PROJECT": str(directory / "dbt_project"),
        "STOCK_DATABASE_URL": database_url(platform.settings),
        "DAGSTER_HOME": str(directory),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    port = free_port(0)
    command = ["-m", "dagster", "dev", "-m", "benchmarks.stock", "-h", HOST, "-p", str(port)]
    log = directory / "dagster.log"
    with log.open("wb") as output, _started(command, directory, variables, stdout=output) as process:
        dagster = Dagster(f"http://{HOST}:{port}", "benchmarks.stock")

        def answers() -> bool:
            if process.poll() is not None:
                raise Failed(f"`dagster dev` ended:\n{log.read_text()}")
            with suppress(urllib.error.URLError, OSError):
                return dagster.daemons_beat()
            return False

        wait_until(answers, "stock Dagster is not ready")
        yield dagster


@contextmanager
def bare_dbt(platform: Platform, directory: Path) -> Iterator[Callable[[Days], Mapping[str, float]]]:
    """Start `benchmarks.bare_dbt`; what is yielded builds days and returns the seconds of each way."""
    command = ["-m", "benchmarks.bare_dbt", str(platform.settings.warehouse_path), str(directory)]
    variables = _variables(platform, directory) | {
        "DAGSTER_DBT_CLI": "true",  # to report rows and columns as under Dagster
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    with _started(command, directory, variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        questions, answers = process.stdin, process.stdout

        def build(days: Days) -> Mapping[str, float]:
            questions.write(f"{days.first} {days.last}\n".encode())
            questions.flush()
            if not (answer := answers.readline()):
                raise Failed(f"dbt alone ended with exit code {process.wait()}")
            return dict(json.loads(answer))

        yield build
        questions.close()  # the end of the input ends it
        process.wait(_STOP_SECONDS)


def _variables(platform: Platform, directory: Path) -> dict[str, str]:
    own = platform.settings.model_copy(update={"home": directory})
    variables = inherited(os.environ) | environment(own)
    del variables["DBT_TARGET_PATH"]  # both choose a place themselves
    # As in an activated environment: dagster-dbt looks for the command `dbt`.
    return variables | {"PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{variables.get('PATH', '')}"}


@contextmanager
def _started(
    command: list[str],
    directory: Path,
    variables: Mapping[str, str],
    stdin: int = subprocess.DEVNULL,
    stdout: object = None,
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=directory,
        env=dict(variables),
        stdin=stdin,
        stdout=stdout,
        stderr=sys.stderr if stdout is subprocess.PIPE else subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches only the benchmark, which then stops this
    )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
