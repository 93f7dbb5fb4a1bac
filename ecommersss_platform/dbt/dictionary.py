"""The tables of docs/analytics.md, generated from the dbt project.

`python -m ecommersss_platform.dbt.dictionary` writes them. A test fails while the page differs from the
project.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ecommersss_platform.dbt.project import PROJECT_DIR, ensure_manifest
from ecommersss_platform.dbt.staged import SUFFIX

PAGE = PROJECT_DIR.parent / "docs" / "analytics.md"
DEFINITIONS = "macros/definitions.sql"
"""The file of the macros that say what a word of the business means."""

COMMAND, END = "python -m ecommersss_platform.dbt.dictionary", "<!-- end -->"
_GRAIN = re.compile(r"Grain: one row per (.+?)\.(?:\s|$)")


def page(text: str, manifest: Mapping[str, Any]) -> str:
    """Return the page's text with new tables between its markers."""
    for name, table in {"definitions": _definitions(manifest), "tables": _tables(manifest)}.items():
        before, _, rest = text.partition(f"<!-- {name}: ")
        after = rest.partition(END)[2]
        text = f"{before}<!-- {name}: {COMMAND} -->\n\n{table}\n\n{END}{after}"
    return text


def _definitions(manifest: Mapping[str, Any]) -> str:
    """Return each definition with its meaning, in the order of their file."""
    macros = [macro for macro in manifest["macros"].values() if macro["original_file_path"] == DEFINITIONS]
    source = (PROJECT_DIR / DEFINITIONS).read_text("utf-8")
    macros.sort(key=lambda macro: source.index(f"macro {macro['name']}("))
    return _table(
        ("definition", "meaning"), ((f"`{macro['name']}`", macro["description"].strip()) for macro in macros)
    )


def _tables(manifest: Mapping[str, Any]) -> str:
    """Return each table of silver and gold with its grain, owners and the definitions that its SQL uses."""
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    shown = [m for m in models if m["schema"] in ("silver", "gold") and not m["name"].endswith(SUFFIX)]
    shown.sort(key=lambda model: (model["schema"] != "gold", model["name"]))
    return _table(
        ("table", "one row per", "owner", "definitions"),
        (
            (
                f"`{model['schema']}.{model['name']}`",
                _grain(model),
                ", ".join(owner.removeprefix("team:") for owner in _owners(model)),
                ", ".join(f"`{name}`" for name in used_definitions(model, manifest)),
            )
            for model in shown
        ),
    )


def _owners(model: Mapping[str, Any]) -> list[str]:
    owners: list[str] = model["config"]["meta"]["dagster"]["owners"]
    return owners


def used_definitions(model: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[str]:
    """Return the names of the definitions that the model's SQL calls."""
    macros = [manifest["macros"].get(name) for name in model["depends_on"]["macros"]]
    return sorted(macro["name"] for macro in macros if macro and macro["original_file_path"] == DEFINITIONS)


def _grain(model: Mapping[str, Any]) -> str:
    found = _GRAIN.search(model["description"])
    if found is None:
        raise ValueError(f"the description of {model['name']} does not say `Grain: one row per ...`")
    return found[1]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main(path: Path = PAGE) -> None:
    """Write the page."""
    manifest = json.loads(ensure_manifest().read_bytes())
    path.write_text(page(path.read_text("utf-8"), manifest), "utf-8")


if __name__ == "__main__":
    main()
