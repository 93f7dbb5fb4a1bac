"""The conventions of the dbt project, which dbt-bouncer checks in the manifest, and its exposures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ecommersss_platform.assets.fraud import fraud_assets
from ecommersss_platform.assets.reports import report_assets
from ecommersss_platform.dbt.project import PROJECT_DIR, ensure_manifest
from ecommersss_platform.dbt.specs import asset_key
from ecommersss_platform.partitions import daily_partitions
from ecommersss_platform.settings import Settings

CONFIG = PROJECT_DIR / "dbt-bouncer.yml"
BOUNCER = [sys.executable, "-c", "from dbt_bouncer.main import app; app()", "run", "--show-all-failures"]


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return json.loads(ensure_manifest().read_text())


def broken(manifest: dict[str, Any], folder: Path) -> dict[str, str]:
    """Return the message of each check that fails for this manifest, by check and model."""
    (folder / "target").mkdir()
    (folder / "target" / "manifest.json").write_text(json.dumps(manifest))
    shutil.copy(CONFIG, folder)
    found = folder / "found.json"
    done = subprocess.run(
        [*BOUNCER, "--output-file", str(found), "--output-only-failures"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert found.exists(), done.stdout + done.stderr
    failures = json.loads(found.read_text())
    assert done.returncode == (1 if failures else 0), done.stdout + done.stderr
    return {failure["check_run_id"]: failure["failure_message"] for failure in failures}


@pytest.mark.integration
def test_the_project_keeps_its_conventions(manifest: dict[str, Any], tmp_path: Path) -> None:
    assert broken(manifest, tmp_path) == {}


@pytest.mark.integration
def test_a_model_that_breaks_conventions_is_named(manifest: dict[str, Any], tmp_path: Path) -> None:
    """A mart that reads a bronze view, without contract, tests, a described column, and an owner."""
    name = "model.ecommersss.product_and_users"
    mart = manifest["nodes"][name]
    meta, contract = {"grain": ["user_id"]}, {"enforced": False}
    changed = mart | {
        "access": "protected",
        "contract": contract,
        "meta": meta,
        "config": mart["config"] | {"access": "protected", "contract": contract, "meta": meta},
        "columns": mart["columns"] | {"category": {"name": "category", "description": ""}},
        "depends_on": {"nodes": ["model.ecommersss.stg_orders"], "macros": []},
    }
    nodes = {
        key: node
        for key, node in manifest["nodes"].items()
        if not (node["resource_type"] == "test" and node.get("attached_node") == name)
    }
    found = broken(manifest | {"nodes": nodes | {name: changed}}, tmp_path)
    assert {check.split(":")[0] for check in found if check.endswith(":product_and_users")} == {
        "check_lineage_permitted_upstream_models",
        "check_model_access",
        "check_model_column_description_populated",
        "check_model_columns_have_types",
        "check_model_has_contracts_enforced",
        "check_model_has_meta_keys",
        "check_model_has_unique_test",
    }


def test_dagster_shows_the_groups_as_owners(manifest: dict[str, Any]) -> None:
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    assert {node["group"] for node in models} == {group["name"] for group in manifest["groups"].values()}
    for node in models:
        assert node["config"]["meta"]["dagster"]["owners"] == [f"team:{node['group']}"], node["name"]


@pytest.mark.parametrize("name", ["block_list", "fraud_report"])
def test_what_is_made_of_the_marts_is_an_exposure_of_them(
    manifest: dict[str, Any], name: str, tmp_path: Path
) -> None:
    days = daily_partitions(date(2025, 1, 1))
    made = {
        "block_list": fraud_assets(None),
        "fraud_report": report_assets(days, None, Settings(home=tmp_path)),
    }
    [asset] = made[name]
    exposure = manifest["exposures"][f"exposure.ecommersss.{name}"]
    marts = {asset_key(node) for node in manifest["nodes"].values() if node.get("access") == "public"}
    upstream = {asset_key(manifest["nodes"][name]) for name in exposure["depends_on"]["nodes"]}
    assert upstream == {dep.asset_key for spec in asset.specs for dep in spec.deps} & marts
    assert asset.key.to_user_string() in exposure["description"]
    assert [f"team:{exposure['owner']['name']}"] == list(asset.owners_by_key[asset.key])
