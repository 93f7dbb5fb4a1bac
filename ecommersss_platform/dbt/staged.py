"""Staged models, as Dagster shows them: one asset for what dbt stages, tests and then publishes.

In dbt, the incremental model `X` publishes the rows of `X_staged`, and the tests between them decide whether
it does (`dbt_project/macros/staged.sql`). In Dagster these are the asset `X` and its checks. Imports neither
dbt nor Dagster.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SUFFIX = "_staged"


def read_manifest(path: Path) -> dict[str, Any]:
    """Return dbt's manifest with its staged models folded."""
    return fold(json.loads(path.read_bytes()))


def fold(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest with each staged model and the model that publishes it as one node.

    The node has the published name and columns, and the SQL, parents and tests of the staged model.
    """
    nodes: Mapping[str, Mapping[str, Any]] = manifest["nodes"]
    published = {name + SUFFIX: name for name in nodes if name + SUFFIX in nodes}

    def of(name: str) -> str:
        return published.get(name, name)

    def merged(edges: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
        found: dict[str, dict[str, None]] = {}
        for name, others in edges.items():
            found.setdefault(of(name), {}).update((of(o), None) for o in others if of(o) != of(name))
        return {name: list(others) for name, others in found.items()}

    folded: dict[str, Any] = {}
    for name, node in nodes.items():
        if name in published:
            continue
        staged = nodes.get(name + SUFFIX)
        parents = [*node["depends_on"]["nodes"], *(staged["depends_on"]["nodes"] if staged else ())]
        [parents] = merged({name: parents}).values()
        folded[name] = {
            **node,
            **({"raw_code": staged["raw_code"]} if staged else {}),
            **({"attached_node": of(node["attached_node"])} if node.get("attached_node") else {}),
            "depends_on": {**node["depends_on"], "nodes": parents},
        }
    return {
        **manifest,
        "nodes": folded,
        "parent_map": merged(manifest["parent_map"]),
        "child_map": merged(manifest["child_map"]),
    }


def selection(models: Iterable[str], staged: Iterable[str], tests: Iterable[str]) -> list[str]:
    """Return dbt's arguments that select these models and tests, and the staged models of `staged`."""
    names = [*models, *(name + SUFFIX for name in staged), *tests]
    return ["--select", " ".join(sorted(names)), "--indirect-selection", "empty"]
