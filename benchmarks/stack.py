"""The whole platform in a temporary home, started as `make dev` does, and asked as its UI asks.

A benchmark that needs runs, daemons or idle processes starts from `platform`. All times are seconds since the
epoch: those of Dagster's events and of our requests come from the clock of this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ecommersss_platform.environment import inherited
from ecommersss_platform.instance.databases import database_url
from ecommersss_platform.jobs import DAILY_PIPELINE
from ecommersss_platform.local import stack
from ecommersss_platform.local.accounts import REACHABLE
from ecommersss_platform.local.processes import end_processes
from ecommersss_platform.local.supervision import leftovers
from ecommersss_platform.partitions import Days
from ecommersss_platform.run_tags import range_tags
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import order_broker, orders_topic
from streaming.database import connect
from streaming.simulator.history import simulate_history

_PATIENCE_SECONDS = 300.0
_STOP_SECONDS = 120.0
_POLL_SECONDS = 0.25

_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
  }
}
"""
_RUN = """
query Run($id: ID!) {
  runOrError(runId: $id) { ... on Run { status startTime endTime } }
}
"""
_ERRORS = """
query Errors($id: ID!) {
  runOrError(runId: $id) {
    ... on Run {
      eventConnection(limit: 10000) { events { ... on ErrorEvent { error { message causes { message } } } } }
    }
  }
}
"""
_STEPS = """
query Steps($id: ID!) {
  runOrError(runId: $id) { ... on Run { stepStats { stepKey startTime endTime } } }
}
"""
_ACTIVE = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED")
_COUNT = """
query Count($statuses: [RunStatus!]!) {
  runsOrError(filter: {statuses: $statuses}) { ... on Runs { count } }
}
"""
_REPOSITORIES = """
{
  repositoriesOrError {
    ... on RepositoryConnection {
      nodes { sensors { sensorState { id } } schedules { scheduleState { id } } }
    }
  }
}
"""
_DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { required healthy } } } }"
_STOP_SENSOR = "mutation Stop($id: String!) { stopSensor(id: $id) { __typename } }"
_STOP_SCHEDULE = "mutation Stop($id: String!) { stopRunningSchedule(id: $id) { __typename } }"


class Failed(Exception):
    """What is measured did not do what it should."""


@dataclass(frozen=True)
class Run:
    """A run that succeeded."""

    id: str
    requested: float
    """Just before the request was sent."""
    started: float
    """When the run's process had loaded everything and began the first step."""
    ended: float
    steps: dict[str, tuple[float, float]]
    """When each step began and ended, by its key."""

    @property
    def launch(self) -> float:
        """The seconds from the request to the start of the run."""
        return self.started - self.requested

    @property
    def seconds(self) -> float:
        """The seconds from the request until the run had succeeded."""
        return self.ended - self.requested


@dataclass(frozen=True)
class Dagster:
    """A Dagster webserver, asked in GraphQL as its UI asks it."""

    address: str
    """Such as http://127.0.0.1:3000."""
    location: str
    """The name of the code location."""
    token: str = ""

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Return the data of the answer. Raises `Failed` if the answer has errors."""
        request = urllib.request.Request(
            f"{self.address}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.loads(response.read())
        if "errors" in answer:
            raise Failed(f"{answer['errors']}")
        return dict(answer["data"])

    def launch(
        self, job: str, tags: Mapping[str, str], assets: Sequence[str] | None = None
    ) -> tuple[str, float]:
        """Ask for a run as the launchpad does, and return its id and when it was asked for.

        `assets`: those of the job to materialise, such as `raw/users`; unset: all.
        """
        selection = assets and [{"path": asset.split("/")} for asset in assets]
        requested = time.time()
        answer = self.ask(
            _LAUNCH,
            params={
                "selector": {
                    "repositoryLocationName": self.location,
                    "repositoryName": "__repository__",
                    "jobName": job,
                    "assetSelection": selection,
                },
                "runConfigData": {},
                "mode": "default",
                "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
            },
        )["launchRun"]
        if "run" not in answer:
            raise Failed(f"{job} was not launched: {answer}")
        return answer["run"]["runId"], requested

    def run(self, job: str, tags: Mapping[str, str], assets: Sequence[str] | None = None) -> Run:
        """Ask for a run, wait until it has succeeded, and return it. Raises `Failed` if it does not."""
        id, requested = self.launch(job, tags, assets)
        ended: dict[str, Any] = {}

        def finished() -> bool:
            ended.update(self.ask(_RUN, id=id)["runOrError"])
            return ended["status"] in ("SUCCESS", "FAILURE", "CANCELED")

        wait_until(finished, f"run {id} of {job} has not ended")
        if ended["status"] != "SUCCESS":
            events = self.ask(_ERRORS, id=id)["runOrError"]["eventConnection"]["events"]
            errors = "\n".join(text for event in events for text in _messages(event.get("error")))
            raise Failed(f"run {id} of {job} for {dict(tags)}: {ended['status']}\n{errors}")
        stats = self.ask(_STEPS, id=id)["runOrError"]["stepStats"]
        steps = {step["stepKey"]: (step["startTime"], step["endTime"]) for step in stats}
        return Run(id, requested, ended["startTime"], ended["endTime"], steps)

    def daemons_beat(self) -> bool:
        """Return whether every daemon that is needed, such as that of the run queue, has sent a heartbeat."""
        statuses = self.ask(_DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
        return all(status["healthy"] for status in statuses if status["required"])

    def runs(self, *statuses: str) -> int:
        """Return the number of runs with one of these statuses, by default of those not yet ended."""
        return int(self.ask(_COUNT, statuses=statuses or _ACTIVE)["runsOrError"]["count"])

    def stop_automation(self) -> None:
        """Switch off every sensor and schedule: from now on only requests make runs."""
        for repository in self.ask(_REPOSITORIES)["repositoriesOrError"]["nodes"]:
            for sensor in repository["sensors"]:
                self.ask(_STOP_SENSOR, id=sensor["sensorState"]["id"])
            for schedule in repository["schedules"]:
                self.ask(_STOP_SCHEDULE, id=schedule["scheduleState"]["id"])


@dataclass(frozen=True)
class Platform:
    """A running `ecommersss up` on a temporary home."""

    settings: Settings
    dagster: Dagster
    supervisor: int
    """The process id of `ecommersss up`."""

    def run(self, days: Days) -> Run:
        """Materialise the days in one run, from the raw tables to the marts."""
        return self.dagster.run(DAILY_PIPELINE, range_tags(days))

    def fill(self, days: Days, orders_per_day: int) -> None:
        """Simulate the marketplace of these days, and wait until the consumer has stored every order."""
        url = database_url(self.settings)
        simulate_history(url, orders_topic(self.settings), days.first, days.end_instant, orders_per_day)
        wait_until(lambda: self.lag() == 0, "the consumer has not stored every order")

    def lag(self) -> int:
        """Return the bytes of the topic that the consumer has not stored yet."""
        with closing(connect(database_url(self.settings))) as connection:
            progress = order_broker(self.settings).progress(connection)
        return max(row["lag"] for row in progress["consumers"])


@contextmanager
def platform(*options: str, first_day: date | None = None) -> Iterator[Platform]:
    """Start `ecommersss up` with these options in a new home, wait until it is ready, and stop it at the end.

    `first_day`: the first partition. Only settings that are given here count, not those of the environment.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as directory:
        home = Path(directory, "home")
        settings = Settings(
            home=home, first_day=first_day, database_url=None, dagster_url=None, _env_file=None
        )
        variables = {"ECOMMERSSS_HOME": str(home)}
        if first_day is not None:
            variables["ECOMMERSSS_FIRST_DAY"] = str(first_day)
        log = Path(directory, "up.log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "ecommersss_platform.cli", "up", "--port", "0", *options],
                env=inherited(os.environ) | variables,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only the benchmark, which then stops this
            )
        try:
            yield Platform(settings, _dagster(settings, process, log), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            finally:
                process.kill()
                end_processes(leftovers(str(home)))
                data = (settings.postgres_dir / "data").resolve()
                if data.is_relative_to(REACHABLE):  # root's server keeps them outside the home
                    shutil.rmtree(data.parent)


def _dagster(settings: Settings, process: subprocess.Popen[bytes], log: Path) -> Dagster:
    """Wait until the platform is ready, and return its webserver."""
    found: dict[str, Any] = {}

    def ready() -> bool:
        if process.poll() is not None:
            raise Failed(f"`ecommersss up` ended with exit code {process.returncode}:\n{log.read_text()}")
        found.update(stack.running(settings) or {})
        return found.get("state") == "ready"

    wait_until(ready, "the platform is not ready")
    address = urlsplit(found["ui"])
    [token] = parse_qs(address.query)["token"]
    return Dagster(f"http://{address.netloc}", "ecommersss_platform", token)


def _messages(error: dict[str, Any] | None) -> list[str]:
    return [cause["message"] for cause in (error, *error["causes"])] if error else []


def wait_until(condition: Callable[[], bool], problem: str, seconds: float = _PATIENCE_SECONDS) -> None:
    """Wait until the condition holds. Raises `Failed` with the problem if it does not in this time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{problem} after {seconds:.0f} s")
        time.sleep(_POLL_SECONDS)
