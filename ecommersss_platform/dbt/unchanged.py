"""Whether the tables of a run are up to date already: then the run ends at the raw tables, without dbt.

The daily job records with each table that dbt built what it was built from: the code, and the loads that
changed the raw rows. A later run that loaded the same rows compares that with what it would build from now.
Whatever is not known to be the same is built. Pure functions; `instance/builds.py` reads what was recorded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from dagster import AssetKey

from ecommersss_platform.dbt.specs import asset_key
from ecommersss_platform.warehouse.load_log import LoadedDay

BUILT_FROM = "built_from"
"""The metadata that says from which code and raw rows a table was built."""
REBUILD_TAG = "ecommersss/rebuild"
"""The tag of a run that builds everything, changed or not."""
READS_DAYS_OF = "reads_days_of"
"""The `meta` of an incremental model: each day depends on the same day of these raw tables only."""

_CLOCK = re.compile(
    r"\b(current_(date|time|timestamp|datetime)|localtimestamp|run_started_at)\b|\b(now|today)\("
)

Target = tuple[AssetKey, date | None]
"""A table, or one day of a table that is partitioned by day."""


@dataclass(frozen=True)
class Reads:
    """What dbt's models read besides all raw rows."""

    days_of: Mapping[AssetKey, Sequence[str]]
    """The raw tables, such as "raw.orders", of the models that state `READS_DAYS_OF`."""
    clock: bool
    """Whether any model looks at the clock, so that it may be another one tomorrow."""

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Reads:
        nodes = manifest["nodes"].values()
        return cls(
            {
                asset_key(node): node["config"]["meta"][READS_DAYS_OF]
                for node in nodes
                if READS_DAYS_OF in node["config"].get("meta", {})
            },
            reads_clock(manifest),
        )


@dataclass(frozen=True)
class BuiltFrom:
    """What a table is built from."""

    code: str
    loads: str
    """A digest of the loads that changed the rows it reads."""

    def __str__(self) -> str:
        return f"{self.code} {self.loads}"


@dataclass(frozen=True)
class Build:
    """The newest build of a table or of a day."""

    run_id: str
    built_from: str | None
    """What the build recorded; None if it was no run of the daily job."""
    whole: bool
    """Whether its run succeeded, and was for all that the run which asks is for."""


def reads_clock(manifest: Mapping[str, Any]) -> bool:
    """Return whether a model or test, or a macro of the project that it calls, looks at the clock."""
    nodes, macros = manifest["nodes"].values(), manifest["macros"]
    called = {name for node in nodes for name in node["depends_on"]["macros"]}
    for _ in macros:  # macros that macros call
        more = {other for name in called if name in macros for other in macros[name]["depends_on"]["macros"]}
        if more <= called:
            break
        called |= more
    project = manifest["metadata"]["project_name"]
    texts = [node["raw_code"] for node in nodes]
    texts += [macros[name]["macro_sql"] for name in called if name.split(".")[1] == project]
    return any(_CLOCK.search(text.lower()) for text in texts)


def built_from(
    targets: Iterable[Target],
    loaded: Sequence[LoadedDay],
    code: str,
    reads: Reads,
    today: date,
) -> dict[Target, BuiltFrom]:
    """Return what each target is built from now.

    `code` names the version of all code. A target depends on every day of every raw table, and on `today` if
    a model looks at the clock, unless `reads.days_of` names the tables whose same day it reads.
    """
    days_of = reads.days_of
    everything = _digest(loaded, today if reads.clock else None)
    return {
        (key, day): BuiltFrom(
            code,
            _digest((it for it in loaded if it.day == day and it.table in days_of[key]), None)
            if day is not None and key in days_of
            else everything,
        )
        for key, day in targets
    }


def _digest(loaded: Iterable[LoadedDay], today: date | None) -> str:
    # Not the checksums: the same rows may have been loaded into another warehouse, which lacks the tables.
    lines = sorted(f"{it.table} {it.day} {it.changes} {it.changed_at.isoformat()}" for it in loaded)
    return hashlib.sha256("\n".join([*lines, str(today)]).encode()).hexdigest()[:16]


def why_build(
    wanted: Mapping[Target, BuiltFrom],
    builds: Mapping[Target, Build],
    loaded: Iterable[LoadedDay],
    run_id: str,
    *,
    asked: bool = False,
) -> str | None:
    """Return why dbt has to build, as a clause; None if every target is up to date.

    `wanted`: what each target of the run `run_id` would be built from. `builds`: the newest build of each.
    `asked`: whether the run asks for a build in any case.
    """
    if asked:
        return f"the run asks for it, by its config or its tag {REBUILD_TAG}"
    if not any(it.run_id == run_id for it in loaded):
        return "the run loaded no raw day"
    for (key, day), now in wanted.items():
        name = key.to_user_string() + (f" ({day})" if day else "")
        build = builds.get((key, day))
        if build is None:
            return f"{name} was never built"
        if build.built_from is None:
            return f"{name} was last built outside the daily job, by run {build.run_id}"
        if not build.whole:
            return f"run {build.run_id}, which built {name}, failed or was for less than this one"
        if build.built_from != str(now):
            what = "raw rows have" if build.built_from.split()[0] == now.code else "the code has"
            return f"{what} changed since {name} was built"
    return None
