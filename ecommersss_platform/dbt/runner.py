"""dbt in this process: its runner in a thread, and what it reports as a stream of events.

dbt keeps much of its state in globals, so one invocation runs at a time, and it cleans up after itself: the
environment, connections, adapters and log files are released before it returns. Importing dbt takes seconds,
so it is imported here only when it runs. Knows nothing of Dagster.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ecommersss_platform.dbt.project import DbtError
from ecommersss_platform.signals import next_item

if TYPE_CHECKING:
    from dbt_common.events.base_types import EventMsg

CANCEL_SECONDS = 20.0
"""How long a cancelled dbt may take to roll back, before its thread is left to end with the process."""

_PROGRESS = re.compile(r"\d+ of \d+ ")
"""dbt reports a failure in its lines of progress ("28 of 36 FAIL 1 ..."), and again in full at the end."""
_REPORTED = ("info", "warn", "error")
_WORK = ("LogStartLine", "SQLQuery")
"""The events before a node or a statement starts. dbt takes an error in them for one of the node."""
_invocation = threading.Lock()


class _Cancelled(Exception):
    """dbt is told to start nothing more."""


def run_dbt(
    arguments: Sequence[str], variables: Mapping[str, str], parsed: bytes
) -> Iterator[dict[str, Any]]:
    """Run dbt on a parsed project, and yield its events of level info and above as they happen.

    `arguments`: those of the command `dbt`. `variables`: the whole environment that dbt sees. `parsed`: see
    `parsed_project`. The events are those of dbt's structured log. Whoever stops reading before the end, or
    is interrupted, cancels dbt: running statements are interrupted and open transactions rolled back before
    this returns. Raises `DbtError` with dbt's own messages if dbt fails, whether by a failed test or by a
    crash.
    """
    events: SimpleQueue[Any] = SimpleQueue()
    cancelled = threading.Event()
    work = threading.Thread(
        target=_work, args=(list(arguments), parsed, events, cancelled), name="dbt", daemon=True
    )
    messages: list[str] = []
    with _invocation, _environment(variables):
        work.start()
        try:
            while isinstance(event := next_item(events), dict):
                message = event["info"]["msg"]
                if event["info"]["level"] == "error" and not _PROGRESS.match(message):
                    messages.append(message.rstrip())
                yield event
        finally:
            cancelled.set()
            _end(work)
    if event.exception is not None and not messages:
        messages.append(f"{type(event.exception).__name__}: {event.exception}")
    if not event.success or messages:
        raise DbtError("\n".join(messages) or "dbt failed, without a message")


def _work(arguments: list[str], parsed: bytes, events: SimpleQueue[Any], cancelled: threading.Event) -> None:
    """Run dbt, and put its events and at last its result into the queue."""
    with _root_logger_kept():
        from dbt.cli.main import dbtRunner, dbtRunnerResult
        from dbt.contracts.graph.manifest import Manifest
        from dbt_common.events.functions import msg_to_dict

    def report(event: EventMsg) -> None:
        if cancelled.is_set() and event.info.name in _WORK:
            raise _Cancelled
        if event.info.level in _REPORTED:
            events.put(msg_to_dict(event))

    result = dbtRunnerResult(success=False)
    try:
        manifest = Manifest.from_msgpack(parsed)
        manifest.build_flat_graph()  # `graph` in macros; dbt builds it only when it parses
        result = dbtRunner(manifest, [report]).invoke(arguments)
    except BaseException as error:
        result = dbtRunnerResult(success=False, exception=error)
    finally:
        try:
            release()
        finally:
            events.put(result)


def _end(work: threading.Thread) -> None:
    """Wait until dbt has ended; it does so at once if it was cancelled."""
    deadline = time.monotonic() + CANCEL_SECONDS
    work.join(0.05)
    while work.is_alive() and time.monotonic() < deadline:
        # Again and again: a statement may start between the look at `cancelled` and this.
        for adapter in _adapters():
            with suppress(Exception):  # such as: the connection has just been closed
                adapter.cancel_open_connections()
        work.join(0.2)


def release() -> None:
    """Close what dbt leaves open: its connections (dbt-duckdb keeps the file), adapters, and log files."""
    from dbt.adapters.factory import reset_adapters
    from dbt_common.events.event_manager_client import cleanup_event_logger

    for adapter in _adapters():
        adapter.cleanup_connections()
        if hasattr(adapter.connections, "close_all_connections"):
            with suppress(Exception):  # it was never opened
                adapter.connections.env().close()
            adapter.connections.close_all_connections()
    reset_adapters()
    cleanup_event_logger()
    for handler in (log := logging.getLogger("file_log")).handlers[:]:
        log.removeHandler(handler)
        handler.close()


def _adapters() -> list[Any]:
    from dbt.adapters.factory import FACTORY

    return list(FACTORY.adapters.values())


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Keep the root logger's handlers as they are: importing dbt adds one, which would log twice."""
    before = logging.root.handlers[:]
    try:
        yield
    finally:
        logging.root.handlers = before


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Give this process exactly these variables for a while: dbt reads those of its process."""
    before = dict(os.environ)
    _replace_environment(variables)
    try:
        yield
    finally:
        _replace_environment(before)


def _replace_environment(variables: Mapping[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)
