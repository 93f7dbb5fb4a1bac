"""Whether a run of the daily job has to build: the facts, from the warehouse and from Dagster's storage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from dagster import AssetExecutionContext, AssetObservation, MetadataValue

from ecommersss_platform.dbt.unchanged import (
    REBUILD_TAG,
    Build,
    BuiltFrom,
    Reads,
    Target,
    built_from,
    why_build,
)
from ecommersss_platform.instance.builds import newest_builds
from ecommersss_platform.reasons import reason_metadata
from ecommersss_platform.warehouse import QueryError, TableNotFound, Warehouse
from ecommersss_platform.warehouse.load_log import LoadedDay, loaded_days
from streaming.business_days import business_day
from streaming.errors import first_line

UNCHANGED = "unchanged"
"""The metadata of an observation which says that a table was not built."""


@dataclass(frozen=True)
class State:
    """What the targets of a run would be built from, how they were built last, and why to build them."""

    now: Mapping[Target, BuiltFrom] = field(default_factory=dict)
    builds: Mapping[Target, Build] = field(default_factory=dict)
    loaded: Sequence[LoadedDay] = ()
    why_build: str | None = "this is not a run of the daily job"
    """A clause; None if all targets are up to date."""

    def observations(self, tags: Mapping[str, str]) -> Iterator[AssetObservation]:
        """Yield for each target that it is as its newest build left it. `tags`: of the run that found it so.

        No materialisation, because nothing was built: the checks of the newest build still speak for it.
        """
        newest = max(it.changed_at for it in self.loaded)
        for key, day in self.now:
            yield AssetObservation(
                key,
                partition=str(day) if day else None,
                description="Not built again: no raw row and no code has changed since its newest build.",
                metadata={
                    UNCHANGED: True,
                    **reason_metadata(tags),
                    "built_by": MetadataValue.dagster_run(self.builds[key, day].run_id),
                    "newest_change_of_raw": MetadataValue.timestamp(newest),
                },
            )


def look(
    context: AssetExecutionContext,
    warehouse: Warehouse,
    code: str,
    reads: Reads,
    targets: Iterable[Target],
    *,
    asked: bool = False,
) -> State:
    """Return the state of the targets of this run. `code` names the version of dbt's project.

    `asked`: whether the run's config asks for a build in any case, as its tag can, too.
    """
    loaded: list[LoadedDay] = []
    with suppress(TableNotFound, QueryError):  # nothing was ever loaded
        loaded = loaded_days(warehouse)
    now = built_from(targets, loaded, code, reads, business_day(datetime.now(UTC)))
    builds = newest_builds(context.instance, context.run, now)
    asked = asked or REBUILD_TAG in context.run.tags
    reason = why_build(now, builds, loaded, context.run.run_id, asked=asked)
    return State(now, builds, loaded, reason or missing_table(warehouse, now))


def missing_table(warehouse: Warehouse, targets: Iterable[Target]) -> str | None:
    """Return that a table is not in the warehouse, as a clause, or None. A person may have dropped one."""
    tables = sorted({".".join(key.path) for key, _ in targets})
    selects = (f"SELECT 1 AS n FROM {table} WHERE FALSE" for table in tables)  # noqa: S608
    try:
        warehouse.query(" UNION ALL ".join(selects))
    except (TableNotFound, QueryError) as error:
        return f"a table is missing ({first_line(error)})"
    return None
