"""dbt in the test's own process, as in a step: starting the command takes seconds each time."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ecommersss_platform.dbt.project import (
    PROJECT_DIR,
    artifacts_dir,
    environment,
    parsed_name,
    parsed_project,
)
from ecommersss_platform.dbt.runner import run_dbt
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import make_warehouse
from ecommersss_platform_tests.support.shared_directory import shared_directory


def dbt_events(
    settings: Settings, arguments: Sequence[str], parsed: bytes | None = None, **variables: str
) -> Iterator[dict[str, Any]]:
    """Run dbt on our project, and yield its events of level info and above. Raises `DbtError` if it fails.

    Artifacts go to the home's folder for them. So does the log, if the arguments have a level for it.
    `parsed`: the parsed project, if it is not that of the settings. dbt sees only `variables`, the path and
    what the settings ask for.
    """
    folder = environment(settings)["DBT_TARGET_PATH"]
    options = [
        *("--project-dir", str(PROJECT_DIR), "--profiles-dir", str(PROJECT_DIR)),
        *("--target", make_warehouse(settings).dbt_target),
        *("--log-path", folder, "--log-level", "none"),
        *(() if "--log-level-file" in arguments else ("--log-level-file", "none")),
    ]
    surroundings = {"PATH": os.environ["PATH"], **environment(settings), **variables}
    gc.disable()  # it takes a tenth of dbt's time
    try:
        yield from run_dbt([*arguments, *options], surroundings, parsed or parsed_project(settings))
    finally:
        gc.enable()


def parse_once(settings: Settings, factory: pytest.TempPathFactory) -> None:
    """Put the parsed project into the home of these settings. The workers of a session share one parse."""
    parsed = parsed_project(settings.model_copy(update={"home": shared_directory(factory) / "parsed"}))
    artifacts_dir(settings).mkdir(parents=True)
    (artifacts_dir(settings) / parsed_name(settings)).write_bytes(parsed)


def with_changed_model(parsed: bytes, model: str, text: str, instead: str) -> bytes:
    """Return the parsed project with other text in the SQL of one model."""
    from dbt.contracts.graph.manifest import Manifest

    manifest = Manifest.from_msgpack(parsed)
    node = manifest.nodes[f"model.ecommersss.{model}"]
    assert text in node.raw_code
    node.raw_code = node.raw_code.replace(text, instead)
    return manifest.to_msgpack()


def with_changed_types(parsed: bytes, model: str, **types: str) -> bytes:
    """Return the parsed project with other types of some columns in the contract of one model."""
    from dbt.contracts.graph.manifest import Manifest

    manifest = Manifest.from_msgpack(parsed)
    for column, data_type in types.items():
        manifest.nodes[f"model.ecommersss.{model}"].columns[column].data_type = data_type
    return manifest.to_msgpack()
