"""dbt's models and tests as specs of Dagster's assets and checks, from the manifest.

Made here rather than by dagster-dbt, which imports dbt and more: that takes longer than all the rest of the
code location.
"""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckSpec,
    AssetKey,
    AssetSpec,
    MetadataValue,
    PartitionsDefinition,
    TableColumn,
    TableColumnDep,
    TableColumnLineage,
    TableSchema,
)

from ecommersss_platform.code_links import code_references
from ecommersss_platform.dbt.lineage import Lineage
from ecommersss_platform.dbt.project import PROJECT_DIR
from ecommersss_platform.dbt.staged import SUFFIX

UNIQUE_ID = "dagster_dbt/unique_id"
MATERIALIZATION = "dagster-dbt/materialization_type"
INCREMENTAL = "incremental"
DOCS = "dbt_docs"
"""The metadata that says where a model's page of dbt's documentation is."""


def asset_key(node: Mapping[str, Any]) -> AssetKey:
    """Return the key of a model or source: [dataset, table]."""
    return AssetKey([node["schema"], node["name"]])


def model_specs(
    manifest: Mapping[str, Any],
    partitions_def: PartitionsDefinition,
    lineage: Lineage | None = None,
    docs: str | None = None,
) -> list[AssetSpec]:
    """Return the spec of each model. The incremental ones have the partitions, the others none.

    `lineage`: where the columns of each model come from, if it is known.
    `docs`: the address of dbt's documentation; each spec names its model's page of it. None: there is none.
    """
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    return [_model_spec(node, manifest, partitions_def, lineage or {}, docs) for node in models]


def test_specs(manifest: Mapping[str, Any]) -> list[AssetCheckSpec]:
    """Return the spec of each test, on the model it belongs to. Tests of severity error block."""
    tests = [node for node in manifest["nodes"].values() if node["resource_type"] == "test"]
    return [
        AssetCheckSpec(
            name=node["name"],
            asset=_key(node["attached_node"], manifest),
            description=node["description"] or None,
            additional_deps=[_key(name, manifest) for name in _parents(node, but=node["attached_node"])],
            blocking=node["config"]["severity"].lower() == "error",
            metadata={UNIQUE_ID: node["unique_id"]},
        )
        for node in tests
    ]


def table_schema(columns: Mapping[str, Mapping[str, Any]]) -> TableSchema:
    """Return the schema of dbt's columns: each with a `description` and, if it is known, a `data_type`."""
    return TableSchema(
        [
            TableColumn(name, column.get("data_type") or "?", column.get("description"))
            for name, column in columns.items()
        ]
    )


def _model_spec(
    node: Mapping[str, Any],
    manifest: Mapping[str, Any],
    partitions_def: PartitionsDefinition,
    lineage: Lineage,
    docs: str | None,
) -> AssetSpec:
    materialized, dagster = node["config"]["materialized"], node["config"]["meta"]["dagster"]
    warehouse = manifest["metadata"]["adapter_type"]
    sql = textwrap.indent(node["raw_code"], "    ")
    return AssetSpec(
        asset_key(node),
        deps=[_key(name, manifest) for name in _parents(node)],
        description=f"{node['description']}\n\n#### Raw SQL:\n```sql\n{sql}\n```",
        group_name=dagster["group"],
        owners=dagster["owners"],
        kinds={"dbt", warehouse},
        code_version=hashlib.sha1(node["raw_code"].encode(), usedforsecurity=False).hexdigest(),
        partitions_def=partitions_def if materialized == INCREMENTAL else None,
        skippable=True,
        metadata={
            UNIQUE_ID: node["unique_id"],
            MATERIALIZATION: materialized,
            "dagster/column_schema": MetadataValue.table_schema(table_schema(node["columns"])),
            **_column_lineage(lineage.get(node["unique_id"]), manifest),
            "dagster/table_name": f"{node['database']}.{node['schema']}.{node['alias']}",
            "dagster/storage_kind": warehouse,
            **code_references(*_files(node)),
            **({DOCS: MetadataValue.url(f"{docs}#!/model/{node['unique_id']}")} if docs else {}),
        },
    )


def _files(node: Mapping[str, Any]) -> list[Path]:
    """Return the files of a model: its SQL, after that of the staged model that it publishes."""
    file = PROJECT_DIR / node["original_file_path"]
    return [file.with_stem(file.stem + SUFFIX), file]


def _column_lineage(
    columns: Mapping[str, Sequence[Sequence[str]]] | None, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the metadata of where a model's columns come from; none if that is not known."""
    if not columns:
        return {}
    deps = {
        column: [TableColumnDep(_key(parent, manifest), name) for parent, name in sources]
        for column, sources in columns.items()
    }
    return {"dagster/column_lineage": MetadataValue.column_lineage(TableColumnLineage(deps))}


def _parents(node: Mapping[str, Any], but: str | None = None) -> list[str]:
    """Return the models and sources that a node reads, each once."""
    return [name for name in dict.fromkeys(node["depends_on"]["nodes"]) if name != but]


def _key(name: str, manifest: Mapping[str, Any]) -> AssetKey:
    return asset_key(manifest["nodes"].get(name) or manifest["sources"][name])
