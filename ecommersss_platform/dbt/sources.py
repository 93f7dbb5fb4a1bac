"""dbt's source YAML of the raw tables, generated from their contracts.

`python -m ecommersss_platform.dbt.sources` writes it. A test fails while the file differs from the contracts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ecommersss_platform.contracts import RAW_TABLES, Column, RawTable
from ecommersss_platform.dbt.project import PROJECT_DIR

SOURCES = PROJECT_DIR / "models" / "staging" / "raw.yml"

_HEADER = (
    "# Generated from ecommersss_platform/contracts.py by `python -m ecommersss_platform.dbt.sources`.\n"
)


class _Dumper(yaml.SafeDumper):
    """Indents lists below their key, as the other YAML files of the project do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


class _OneLine(dict[str, Any]):
    """A mapping on a line of its own."""


_Dumper.add_representer(
    _OneLine, lambda dumper, value: dumper.represent_mapping("tag:yaml.org,2002:map", value, flow_style=True)
)


def sources_yaml(tables: Sequence[RawTable] = RAW_TABLES) -> str:
    """Return the text of the source YAML for these tables."""
    source = {
        "name": "raw",
        "schema": "raw",
        "description": "What was extracted from PostgreSQL, one partition per business day.",
        "tables": [
            {
                "name": table.name,
                "description": table.description,
                "columns": [_column(column) for column in table.columns],
            }
            for table in tables
        ],
    }
    text = yaml.dump({"sources": [source]}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return _HEADER + text


def _column(column: Column) -> dict[str, Any]:
    pii = {"config": {"meta": {"pii": True}}} if column.pii else {}
    return _OneLine(name=column.name, description=column.description, **pii)


def main(path: Path = SOURCES) -> None:
    """Write the source YAML."""
    path.write_text(sources_yaml(), "utf-8")


if __name__ == "__main__":
    main()
