"""The Terraform example for BigQuery, parsed as HCL: its datasets, roles and settings match the code."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from typing import Any

import pytest
import requests
import yaml

from ecommersss_platform.contracts import RAW_TABLES
from ecommersss_platform.dbt.project import PROJECT_DIR
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse.bigquery.schema import STAGING_LIFE
from ecommersss_platform.warehouse.names import STAGING
from ecommersss_platform_tests.support.bigquery_service import (
    WAREHOUSE,
    Service,
    publish,
    recording_service,
    refuse,
    respond,
)
from ecommersss_platform_tests.support.project import PROJECT

EXAMPLE = PROJECT / "deploy" / "terraform" / "bigquery"


@cache
def blocks(kind: str) -> dict[str, dict[str, Any]]:
    """Return the example's blocks of one kind by label, such as "google_service_account.platform"."""
    import hcl2

    found = {}
    for path in sorted(EXAMPLE.glob("*.tf")):
        for block in hcl2.loads(path.read_text()).get(kind, []):
            labels = []
            while not block.get("__is_block__"):
                [(label, block)] = ((k, v) for k, v in block.items() if not k.startswith("__"))
                labels.append(text(label))
            found[".".join(labels)] = block
    return found


def text(value: str) -> str:
    """Strip the quotes that the parser leaves around a string."""
    return value.removeprefix('"').removesuffix('"')


def published() -> set[str]:
    """Return the datasets that the platform publishes to: those of the raw tables and of dbt's layers."""
    layers = yaml.safe_load((PROJECT_DIR / "dbt_project.yml").read_text())["models"]["ecommersss"]
    return {table.dataset for table in RAW_TABLES} | {
        layer["+schema"] for layer in layers.values() if isinstance(layer, dict) and "+schema" in layer
    }


def bindings() -> dict[str, tuple[str, str, str]]:
    """Return the IAM bindings by address, each as (role, member, what it is repeated for)."""
    return {
        address: (text(block["role"]), block["member"], block.get("for_each", "once"))
        for address, block in blocks("resource").items()
        if "role" in block
    }


# ---- datasets ----


def test_terraform_creates_exactly_the_datasets_that_the_platform_uses() -> None:
    assert published() == {"raw", "bronze", "silver", "gold"}
    [variables] = blocks("locals").values()
    assert variables["published"].keys() == published()
    datasets = {a: b for a, b in blocks("resource").items() if a.startswith("google_bigquery_dataset.")}
    assert datasets.keys() == {"google_bigquery_dataset.published", "google_bigquery_dataset.staging"}
    assert datasets["google_bigquery_dataset.published"]["for_each"] == "${local.published}"
    assert datasets["google_bigquery_dataset.published"]["dataset_id"] == "${each.key}"
    assert text(datasets["google_bigquery_dataset.staging"]["dataset_id"]) == STAGING
    for dataset in datasets.values():
        assert dataset["project"] == "${var.project}"
        assert dataset["location"] == "${var.location}"
        assert "labels" in dataset
        assert "description" in dataset


def test_terraform_protects_published_days_and_expires_staged_rows() -> None:
    days = blocks("resource")["google_bigquery_dataset.published"]
    assert days["delete_contents_on_destroy"] is False
    assert days["lifecycle"][0]["prevent_destroy"] is True
    expirations = {name: days[name] for name in days if "expiration" in name}
    assert expirations == {"default_table_expiration_ms": None, "default_partition_expiration_ms": None}
    staging = blocks("resource")["google_bigquery_dataset.staging"]
    assert staging["default_table_expiration_ms"] == STAGING_LIFE.total_seconds() * 1000


def test_terraform_enables_what_the_first_apply_needs_before_it_is_used() -> None:
    resources = blocks("resource")
    billing = resources["google_project_service.billing"]
    assert (billing["project"], text(billing["service"])) == (
        "${local.billing_project}",
        "bigquery.googleapis.com",
    )
    assert billing["count"] == "${local.billing_project == var.project ? 0 : 1}"
    assert resources["google_project_iam_member.jobs"]["depends_on"] == [
        "${google_project_service.needed}",
        "${google_project_service.billing}",
    ]
    for address, block in resources.items():
        # Everything else waits for these, or refers to a resource that does.
        waits = "google_project_service.needed" in str(block.get("depends_on", ""))
        refers = re.search(r"local\.(datasets|account)|google_service_account\.platform", str(block))
        assert waits or refers or address.startswith("google_project_service."), address
    document = (PROJECT / "docs" / "bigquery.md").read_text()
    needed = "gcloud services enable cloudresourcemanager.googleapis.com serviceusage.googleapis.com"
    assert needed in document, "Terraform cannot enable these two: it uses them to enable others"


# ---- access ----


def test_terraform_grants_these_roles_and_no_others() -> None:
    assert bindings() == {
        "google_bigquery_dataset_iam_member.editor": (
            "roles/bigquery.dataEditor",
            "${local.account}",
            "${local.datasets}",
        ),
        "google_project_iam_member.jobs": ("roles/bigquery.jobUser", "${local.account}", "once"),
        "google_service_account_iam_member.impersonator": (
            "roles/iam.serviceAccountTokenCreator",
            "${each.key}",
            "${var.impersonators}",
        ),
        "google_service_account_iam_member.workload": (
            "roles/iam.workloadIdentityUser",
            "${each.key}",
            "${var.workload_identities}",
        ),
        "google_bigquery_dataset_iam_member.reader": (
            "roles/bigquery.dataViewer",
            "${each.value.member}",
            "${{for pair in setproduct(var.reader_datasets, var.readers) : "
            '"${pair[0]} ${pair[1]}" => {dataset = pair[0], member = pair[1]}}}',
        ),
    }
    [variables] = blocks("locals").values()
    assert text(variables["account"]) == "serviceAccount:${google_service_account.platform.email}"
    resources = blocks("resource")
    assert resources["google_project_iam_member.jobs"]["project"] == "${local.billing_project}"
    editor = resources["google_bigquery_dataset_iam_member.editor"]
    assert editor["dataset_id"] == "${each.value}"
    reader = resources["google_bigquery_dataset_iam_member.reader"]
    assert reader["dataset_id"] == "${local.datasets[each.value.dataset]}"


def test_terraform_grants_access_to_the_platform_only_by_default_and_creates_no_key() -> None:
    for name in ("impersonators", "workload_identities", "readers"):
        assert blocks("variable")[name]["default"] == []
    assert [text(name) for name in blocks("variable")["reader_datasets"]["default"]] == ["gold"]
    [allowed] = blocks("variable")["reader_datasets"]["validation"]
    assert set(re.findall(r'"(\w+)"', allowed["condition"])) == published()
    assert not [address for address in blocks("resource") if "key" in address]


GRANTED = {
    # https://cloud.google.com/bigquery/docs/access-control, roles/bigquery.dataEditor on a dataset
    ("GET", "datasets"): "bigquery.datasets.get",
    ("GET", "tables"): "bigquery.tables.get",
    ("POST", "tables"): "bigquery.tables.create",
    ("PUT", "tables"): "bigquery.tables.update",
    ("PATCH", "tables"): "bigquery.tables.update",
    ("DELETE", "tables"): "bigquery.tables.delete",
    # roles/bigquery.jobUser on the billing project; whoever created a job may read it
    ("POST", "jobs"): "bigquery.jobs.create",
    ("GET", "jobs"): "its own job",
    ("GET", "queries"): "its own job",
}
"""The requests that the roles allow, with the permission for each. Creating a dataset is not allowed."""


class ProjectFromTerraform(Service):
    """A project whose datasets exist already, seen by an account with these roles only."""

    def answer(self, method: str, path: str, body: Any) -> requests.Response:
        kind = "tables" if "/tables" in path else path.split("/")[1]
        if (method, kind) not in GRANTED:
            return refuse(403, "accessDenied", f"Access Denied: {method} {path}")
        if (method, kind) == ("GET", "datasets"):
            project, _, dataset = path.split("/")
            named = {"projectId": project, "datasetId": dataset}
            return respond(200, {"location": WAREHOUSE.config.location, "datasetReference": named})
        return super().answer(method, path, body)


def test_the_granted_roles_suffice_to_publish_into_existing_datasets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = recording_service(monkeypatch, ProjectFromTerraform())
    published = publish()
    assert published.rows == 3
    made = {path for method, path, _ in service.asked if method == "POST" and path.endswith("/tables")}
    assert made == {"shop/datasets/staging/tables", "shop/datasets/raw/tables"}


# ---- settings ----


def test_terraform_outputs_name_existing_settings() -> None:
    named = set(re.findall(r"\b(ECOMMERSSS_\w+) =", blocks("output")["env"]["value"]))
    settings = {f"ECOMMERSSS_{field.upper()}" for field in Settings.model_fields}
    assert named < settings
    assert {name for name in settings if "BIGQUERY" in name} - named == {
        "ECOMMERSSS_BIGQUERY_KEY_FILE",  # the example creates no key
        "ECOMMERSSS_BIGQUERY_ENDPOINT",  # for emulators
    }
    assert (
        text(blocks("variable")["location"]["default"]) == Settings.model_fields["bigquery_location"].default
    )


def test_every_terraform_variable_is_described_and_used() -> None:
    files = "".join(path.read_text() for path in sorted(EXAMPLE.glob("*.tf")) if path.name != "variables.tf")
    for name, variable in blocks("variable").items():
        assert variable["description"], name
        assert f"var.{name}" in files, name
    assert set(re.findall(r"var\.(\w+)", files)) <= blocks("variable").keys()


def test_terraform_settings_are_null_unless_asked_for() -> None:
    """A null value is left out of the settings: no second project, no bound on bytes."""
    variables = blocks("variable")
    assert variables["billing_project"]["default"] is None
    assert variables["maximum_bytes_billed"]["default"] is None
    assert variables["daily_bytes"]["default"] is None
    assert "if value != null" in blocks("output")["env"]["value"]
    [bound] = variables["maximum_bytes_billed"]["validation"]
    assert ">= 10485760" in bound["condition"], "BigQuery bills 10 MB at least"


def test_terraform_files_are_formatted() -> None:
    program = shutil.which("terraform")
    if program is None:
        pytest.skip("terraform is not installed")
    done = subprocess.run([program, "fmt", "-check", "-diff", EXAMPLE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
