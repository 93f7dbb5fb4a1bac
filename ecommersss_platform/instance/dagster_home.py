"""Dagster's home directory, and its instance."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from ecommersss_platform.environment import DAGSTER_URL_VARIABLE
from ecommersss_platform.settings import Settings
from streaming.database.urls import pinned_url

if TYPE_CHECKING:
    from dagster import DagsterInstance


def ensure_dagster_home(settings: Settings) -> None:
    """Make Dagster's home and write `dagster.yaml` there, unless it is up to date."""
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    template = files("ecommersss_platform.instance").joinpath("dagster.yaml").read_text()
    text = Template(template).substitute(concurrent_runs=settings.runs_at_once)
    target = settings.dagster_home / "dagster.yaml"
    if not target.exists() or target.read_text() != text:
        temporary = target.with_suffix(f".{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(target)


@contextmanager
def dagster_instance(settings: Settings, dagster_url: str) -> Iterator[DagsterInstance]:
    """Open the platform's Dagster instance, the one that the UI shows.

    The storages read the URL from an environment variable, which is set inside the block.
    """
    from dagster import DagsterInstance

    ensure_dagster_home(settings)
    before = os.environ.get(DAGSTER_URL_VARIABLE)
    os.environ[DAGSTER_URL_VARIABLE] = pinned_url(dagster_url)
    try:
        with DagsterInstance.from_config(str(settings.dagster_home)) as instance:
            yield instance
    finally:
        if before is None:
            os.environ.pop(DAGSTER_URL_VARIABLE, None)
        else:
            os.environ[DAGSTER_URL_VARIABLE] = before


def announce_pool(instance: DagsterInstance, pool: str | None) -> None:
    """Register the pool with the instance before a run uses it.

    Dagster 1.13 gives an unknown pool its default limit when it first sees it, but respects the limit only
    from the next round of the queue: the first round would launch two runs at once.
    """
    storage = instance.event_log_storage
    # Dagster's own method fails on PostgreSQL for a pool that is already known.
    if pool is not None and pool not in storage.get_concurrency_keys():
        storage.initialize_concurrency_limit_to_default(pool)
