"""The dbt project's manifest, environment and arguments.

`python -m ecommersss_platform.dbt` parses the project into the manifest that the code location loads, and
writes the lineage of columns beside it. Set-up and the image build run it, so that loading never parses.
Imports neither dbt nor dagster-dbt; the Dagster resource is in `resource.py`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

import yaml

from ecommersss_platform.dbt.lineage import LINEAGE, column_lineage
from ecommersss_platform.environment import inherited
from ecommersss_platform.local.locks import FileLock
from streaming.errors import PlatformError

if TYPE_CHECKING:
    from ecommersss_platform.days import Days
    from ecommersss_platform.settings import Settings

PROJECT_DIR = Path(__file__).resolve().parents[2] / "dbt_project"
TARGET_DIR = PROJECT_DIR / "target"
MANIFEST = TARGET_DIR / "manifest.json"
DOCS_PAGE = PROJECT_DIR.parent / "build" / "docs" / "static_index.html"
"""dbt's documentation of the models, which `make docs` builds."""

PARTIAL_PARSE = "partial_parse.msgpack"
"""The whole parsed project, as dbt saves it. Never parsed further: dbt would keep unit tests that moved."""

COMPILE = ("compile", "--no-introspect", "--no-populate-cache", "--select")
"""dbt's arguments that compile what is selected without a question to the warehouse."""
_NO_SERVICE = {"ECOMMERSSS_BIGQUERY_ENDPOINT": "http://127.0.0.1:9"}
"""dbt makes BigQuery's client before it compiles. With an endpoint of its own it looks for no credentials."""
_NOT_THE_PROJECT = {"target", "logs", "dbt_packages"}
_log = logging.getLogger("ecommersss.dbt")
_waiting = partial(_log.warning, "another process is parsing the dbt project: waiting for it")


class DbtError(PlatformError):
    """The dbt project is invalid, or dbt could not run."""


def build_arguments(days: Days | None = None, *, full_refresh: bool = False) -> list[str]:
    """Return the arguments of a `dbt build` that replaces these days in the incremental models.

    None: a build without days, which would rebuild an incremental model in full. Unit tests are excluded:
    they test the project, not the data, and run in `make test`. `full_refresh`: replace every day, not these
    only.
    """
    arguments = ["build", "--exclude-resource-type", "unit_test"]
    if days is not None:
        window = {"first_day": days.first.isoformat(), "end_day": days.end.isoformat()}
        arguments += ["--vars", json.dumps(window)]
    if full_refresh:
        arguments.append("--full-refresh")
    return arguments


def label_maturity() -> timedelta:
    """Return after how long an order that nobody disputed or judged is genuine: a variable of the project."""
    variables = yaml.safe_load((PROJECT_DIR / "dbt_project.yml").read_text())["vars"]
    return timedelta(days=variables["label_maturity_days"])


def environment(settings: Settings) -> dict[str, str]:
    """Return dbt's environment: the connection for `profiles.yml`, where to write, no telemetry.

    An unset setting is included as an empty variable, so that this process's environment cannot supply it.
    """
    return {
        **{
            f"ECOMMERSSS_{name.upper()}": _text(getattr(settings, name))
            for name in type(settings).model_fields
            if name.startswith("bigquery_")
        },
        "ECOMMERSSS_WAREHOUSE": settings.warehouse,
        "ECOMMERSSS_DUCKDB_PATH": str(settings.warehouse_path),
        "DBT_TARGET_PATH": str(artifacts_dir(settings)),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }


def _text(value: object) -> str:
    if isinstance(value, Path):
        value = value.expanduser().absolute()
    return "" if value is None else str(value)


def artifacts_dir(settings: Settings) -> Path:
    """Return the folder for the artifacts and logs of dbt runs, one subfolder each."""
    return settings.home / "dbt"


def outdated(project_dir: Path, manifest: Path, target: str, dbt_version: str) -> str | None:
    """Return why the manifest must be parsed again, as a clause; None if it is up to date.

    It is out of date if a file or folder of the project is newer (removing a file touches its folder), or if
    another dbt version or another target made it, or if the parsed project that runs load, or the lineage
    of columns, is missing.
    """
    try:
        made = manifest.stat().st_mtime_ns
        metadata = json.loads(manifest.read_bytes())["metadata"]
    except FileNotFoundError:
        return "there is none yet"
    except (ValueError, KeyError):
        return "it cannot be read"
    if metadata.get("dbt_version") != dbt_version:
        return f"it was made by dbt {metadata.get('dbt_version')} and this is {dbt_version}"
    if metadata.get("adapter_type") != target:
        return f"it was made for {metadata.get('adapter_type')} and this is {target}"
    for path in _project_paths(project_dir):
        if path.stat().st_mtime_ns > made:
            return f"{path.relative_to(project_dir)} is newer"
    if not any(manifest.parent.glob("parsed-*.msgpack")):
        return "no parsed project is beside it"
    if not manifest.with_name(LINEAGE).exists():
        return "no lineage of columns is beside it"
    return None


def _project_paths(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in _NOT_THE_PROJECT or path.name.startswith("."):
            continue
        yield path
        if path.is_dir():
            yield from _project_paths(path)


def parsed_name(settings: Settings, project_dir: Path = PROJECT_DIR) -> str:
    """Return the file name of the parsed project, which is another one whenever dbt would parse differently.

    It depends on the project's files, dbt's versions, the target, and what dbt calls the warehouse's
    database: the name of the DuckDB file or the BigQuery project. It does not depend on the days of a run.
    """
    from ecommersss_platform.warehouse import make_warehouse

    packages = ("dbt-core", "dbt-common", "dbt-adapters", f"dbt-{settings.warehouse}")
    parts = [f"{name} {version(name)}" for name in packages]
    parts += [
        make_warehouse(settings).dbt_target,
        settings.warehouse_path.name,
        str(settings.bigquery_project),
    ]
    key = hashlib.sha256(json.dumps(parts).encode())
    for path in _project_paths(project_dir):
        if path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            key.update(f"{path.relative_to(project_dir)} {content}\n".encode())
    return f"parsed-{key.hexdigest()[:16]}.msgpack"


def parsed_project(settings: Settings, project_dir: Path = PROJECT_DIR) -> bytes:
    """Return the parsed project for these settings, as dbt saves it; parse first if there is none.

    `make setup` leaves one in the project's `target`. For other settings, or if files have changed since, one
    is kept in the home. Safe in many processes at once. Raises `DbtError` with dbt's own message if the
    project is invalid.
    """
    name = parsed_name(settings, project_dir)
    own = artifacts_dir(settings) / name
    places = (project_dir / "target" / name, own)
    if (parsed := _first(places)) is not None:
        return parsed
    own.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(own.with_name(".parse.lock")).held(_waiting):
        if not own.exists():
            _log.info("parsing the dbt project for %s", settings.home)
            _parse(settings, project_dir, own.parent, manifest=False)
        return own.read_bytes()


def _first(paths: Iterable[Path]) -> bytes | None:
    """Return the content of the first file that exists."""
    for path in paths:
        with suppress(FileNotFoundError):
            return path.read_bytes()
    return None


def executable() -> Path:
    """Return the dbt of this Python environment, activated or not. Raises `DbtError`."""
    own = Path(sysconfig.get_path("scripts")) / "dbt"
    if own.exists():
        return own
    if found := which("dbt"):
        return Path(found)
    raise DbtError(f"dbt is not installed in {sys.prefix}: run `make setup`")


def ensure_manifest(settings: Settings | None = None, project_dir: Path = PROJECT_DIR) -> Path:
    """Parse the dbt project into `target/manifest.json` if that is out of date, and return its path.

    Touches no warehouse and no network. Safe in many processes at once: one parses and the others wait;
    readers see the old manifest or the new one, never half of one. Raises `DbtError` with dbt's own message
    if the project is invalid.
    """
    if settings is None:
        from ecommersss_platform.settings import Settings

        settings = Settings()
    target_dir = project_dir / "target"
    manifest = target_dir / "manifest.json"
    asked = (project_dir, manifest, settings.warehouse, version("dbt-core"))
    if outdated(*asked) is None:
        return manifest
    try:
        if not target_dir.exists():
            target_dir.mkdir(exist_ok=True)
            target_dir.chmod(0o755)  # accounts that share the checkout share the manifest
        with FileLock(target_dir / ".prepare.lock").held(_waiting):
            reason = outdated(*asked)
            if reason is not None:
                _log.info("parsing the dbt project (its manifest: %s)", reason)
                _parse(settings, project_dir, target_dir)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise DbtError(
            f"{manifest} is out of date ({outdated(*asked)}), and this account may not write "
            f"{error.filename}: run `make setup` as the owner of the checkout"
        ) from error
    return manifest


def _parse(settings: Settings, project_dir: Path, into: Path, *, manifest: bool = True) -> None:
    """Parse the project, and put the result into a folder, with or without what Dagster and people read."""
    from ecommersss_platform.warehouse import make_warehouse

    # A file that changes while dbt reads must count as newer than the manifest.
    began = time.time_ns()
    name = parsed_name(settings, project_dir)
    with tempfile.TemporaryDirectory(prefix=".parse-", dir=into) as folder:
        command = [
            *(
                str(executable()),
                "--no-use-colors",
                *((*COMPILE, "resource_type:model") if manifest else ("parse",)),
            ),
            *("--project-dir", str(project_dir), "--profiles-dir", str(project_dir)),
            *("--target", make_warehouse(settings).dbt_target, "--target-path", folder, "--log-path", folder),
        ]
        done = subprocess.run(
            command,
            cwd=project_dir,
            env=inherited(os.environ) | environment(settings) | _NO_SERVICE | {"DBT_TARGET_PATH": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise DbtError(f"dbt could not parse {project_dir}:\n{done.stdout.strip()}")
        for path in into.glob("parsed-*.msgpack"):
            path.unlink(missing_ok=True)
        made, parsed = Path(folder, PARTIAL_PARSE), Path(folder, name)
        shutil.copyfile(made, parsed)
        kept: list[Path] = []
        if manifest:
            written, lineage = Path(folder, "manifest.json"), Path(folder, LINEAGE)
            lineage.write_text(json.dumps(column_lineage(json.loads(written.read_bytes()))), "utf-8")
            kept = [made, lineage, written]  # the manifest last: whoever sees it finds the others
        for path in (parsed, *kept) if manifest else ():
            os.utime(path, ns=(began, began))
            path.chmod(0o644)
        if parsed_name(settings, project_dir) == name:
            parsed.replace(into / name)
        for path in kept:
            path.replace(into / path.name)


def main() -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    try:
        ensure_manifest()
    except PlatformError as error:
        _log.error("%s", error)
        return 1
    return 0
