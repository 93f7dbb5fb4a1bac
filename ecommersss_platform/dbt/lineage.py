"""Which columns of which parents each column of a model comes from, read from the model's compiled SQL.

Importing sqlglot and reading the SQL takes a second, so this is computed when the manifest is made. Imports
neither dbt nor Dagster.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ecommersss_platform.dbt.staged import SUFFIX

Lineage = Mapping[str, Mapping[str, Sequence[Sequence[str]]]]
"""By model and column: the columns that it comes from, each as the parent's unique id and a name."""

LINEAGE = "column_lineage.json"
"""The file beside the manifest that holds the lineage."""

_log = logging.getLogger("ecommersss.dbt")


def column_lineage(manifest: Mapping[str, Any]) -> Lineage:
    """Return the lineage of each model of a compiled manifest.

    A staged model is part of the model that publishes it. Of the parents, the columns are those that the YAML
    describes. A model whose SQL cannot be read has no lineage, and the log says why.
    """
    models = {name: node for name, node in manifest["nodes"].items() if node["resource_type"] == "model"}
    tables = {**manifest["sources"], **models}
    columns = {name: list(tables[name.removesuffix(SUFFIX)]["columns"]) for name in tables}
    dialect = manifest["metadata"]["adapter_type"]
    found = {name: _of_model(node, tables, columns, dialect) for name, node in models.items()}
    staged = {name: found.pop(name) for name in models if name.endswith(SUFFIX)}
    return found | {name.removesuffix(SUFFIX): lineage for name, lineage in staged.items()}


def read_lineage(manifest: Path) -> Lineage:
    """Return the lineage that was written beside a manifest; empty if there is none."""
    with suppress(FileNotFoundError):
        lineage: Lineage = json.loads(manifest.with_name(LINEAGE).read_bytes())
        return lineage
    return {}


def _of_model(
    node: Mapping[str, Any],
    tables: Mapping[str, Mapping[str, Any]],
    columns: Mapping[str, Sequence[str]],
    dialect: str,
) -> dict[str, list[tuple[str, str]]]:
    from sqlglot import exp, parse_one
    from sqlglot.errors import SqlglotError
    from sqlglot.lineage import lineage
    from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
    from sqlglot.optimizer.qualify import qualify
    from sqlglot.optimizer.scope import build_scope
    from sqlglot.schema import MappingSchema

    schema = MappingSchema(dialect=dialect)
    parents = {}
    for name in dict.fromkeys(node["depends_on"]["nodes"]):
        table = normalize_identifiers(
            exp.to_table(tables[name]["relation_name"], dialect=dialect), dialect=dialect
        )
        schema.add_table(table, dict.fromkeys(columns[name], "unknown"), dialect=dialect)
        parents[table.db, table.name] = name
    found = {}
    try:
        query = qualify(parse_one(node["compiled_code"], dialect=dialect), schema=schema, dialect=dialect)
        roots = lineage(
            None, query, schema, dialect=dialect, scope=build_scope(query), trim_selects=False, copy=False
        )
        for column, root in roots.items():
            sources = set()
            for step in root.walk():
                read = None if step.downstream else step.expression.find(exp.Table)
                if read is not None and (read.db, read.name) in parents:
                    sources.add((parents[read.db, read.name], exp.to_column(step.name).name))
            found[column] = sorted(sources)
    except SqlglotError as error:
        _log.warning("the model %s has no column lineage: %s", node["name"], error)
        return {}
    return found
