"""Dagster's runs in PostgreSQL, as the list of runs should show them.

The list shows the tag `dagster/partition`, but hides the two tags that name a range of days. So a run over a
range gets its days in a tag that the list shows. Every run gets a tag that says why it happened.

A run keeps its partitions twice: in tags, and as a subset that Dagster derives from them. Dagster 1.13
applies the subset to every asset and check of the run, partitioned or not: whole tables and checks are
announced for each day, and the history of a check gains a row "Skipped" for each day beside its result.
Without a subset Dagster falls back to the tags, and applies these to partitioned assets only.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Self

from dagster import DagsterRun
from dagster._serdes import ConfigurableClassData
from dagster_postgres import PostgresRunStorage

from ecommersss_platform.instance.storage import KeepsConnection, be_the_only_daemon, runs_the_daemon
from ecommersss_platform.reasons import reason_of, reason_tag
from ecommersss_platform.run_tags import RANGE_END_TAG, RANGE_START_TAG
from ecommersss_platform.settings import Settings

DAYS_TAG = "days"


class PlatformRunStorage(KeepsConnection, PostgresRunStorage):
    """A run storage that adds the tags `days` and `reason` to runs and stores no subset of partitions.

    It also holds the heartbeats of Dagster's daemon: a second daemon of the home waits here.
    """

    def add_run(self, dagster_run: DagsterRun) -> DagsterRun:
        given = dagster_run.tags
        tags = {**given, **days_tag(given), **reason_tag(reason_of(given))}
        return super().add_run(dagster_run._replace(tags=tags, partitions_subset=None))

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        if runs_the_daemon(sys.argv):
            be_the_only_daemon(Settings().dagster_home)
        return super().from_config_value(inst_data, config_value)


def days_tag(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tag that names the days of a run over a range, both ends included; none for other runs."""
    first, last = tags.get(RANGE_START_TAG), tags.get(RANGE_END_TAG)
    if first is None or last is None:
        return {}
    return {DAYS_TAG: first if first == last else f"{first}..{last}"}
