"""The Terraform example for BigQuery, held to the code: its datasets, its roles, its settings.

Read as text, and where Terraform is installed planned by it, with a stand-in for the provider.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hcl2
import pytest
import requests
import yaml

from ecommersss_platform.contracts import RAW_TABLES
from ecommersss_platform.dbt.project import PROJECT_DIR
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse.bigquery.session import STAGING_LIFE
from ecommersss_platform.warehouse.names import STAGING
from ecommersss_platform_tests.platform.warehouse.test_bigquery import (
    WAREHOUSE,
    Service,
    publish,
    refuse,
    respond,
)
from ecommersss_platform_tests.support.project import PROJECT
from ecommersss_platform_tests.support.terraform_provider import running_provider

EXAMPLE = PROJECT / "deploy" / "terraform" / "bigquery"


@cache
def blocks(kind: str) -> dict[str, dict[str, Any]]:
    """The example's blocks of a kind by their labels, as in "google_service_account.platform"."""
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
    """A string, without the quotes that it is written in."""
    return value.removeprefix('"').removesuffix('"')


def published() -> set[str]:
    """The datasets that the platform publishes to: those of the raw tables, and of dbt's layers."""
    layers = yaml.safe_load((PROJECT_DIR / "dbt_project.yml").read_text())["models"]["ecommersss"]
    return {table.dataset for table in RAW_TABLES} | {
        layer["+schema"] for layer in layers.values() if isinstance(layer, dict) and "+schema" in layer
    }


def bindings() -> dict[str, tuple[str, str, str]]:
    """Who gets which role where: address, and (role, member, for each of what)."""
    return {
        address: (text(block["role"]), block["member"], block.get("for_each", "once"))
        for address, block in blocks("resource").items()
        if "role" in block
    }


# ---- datasets ----


def test_it_makes_exactly_the_datasets_that_the_platform_uses() -> None:
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


def test_published_days_are_protected_and_staged_rows_expire() -> None:
    days = blocks("resource")["google_bigquery_dataset.published"]
    assert days["delete_contents_on_destroy"] is False
    assert days["lifecycle"][0]["prevent_destroy"] is True
    assert not {name for name in days if "expiration" in name}, "published days stay"
    staging = blocks("resource")["google_bigquery_dataset.staging"]
    assert staging["default_table_expiration_ms"] == STAGING_LIFE.total_seconds() * 1000


# ---- access ----


def test_it_gives_these_roles_and_no_others() -> None:
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
            bindings()["google_bigquery_dataset_iam_member.reader"][2],
        ),
    }
    jobs = blocks("resource")["google_project_iam_member.jobs"]
    assert jobs["project"] == "${local.billing_project}"


def test_nobody_has_access_by_default_but_the_platform_and_there_is_no_key() -> None:
    for name in ("impersonators", "workload_identities", "readers"):
        assert blocks("variable")[name]["default"] == []
    assert [text(name) for name in blocks("variable")["reader_datasets"]["default"]] == ["gold"]
    [allowed] = blocks("variable")["reader_datasets"]["validation"]
    assert set(re.findall(r'"(\w+)"', allowed["condition"])) == published()
    assert not [address for address in blocks("resource") if "key" in address]


GRANTED = {
    # https://cloud.google.com/bigquery/docs/access-control, of roles/bigquery.dataEditor on a dataset
    ("GET", "datasets"): "bigquery.datasets.get",
    ("GET", "tables"): "bigquery.tables.get",
    ("POST", "tables"): "bigquery.tables.create",
    ("PUT", "tables"): "bigquery.tables.update",
    ("PATCH", "tables"): "bigquery.tables.update",
    ("DELETE", "tables"): "bigquery.tables.delete",
    # of roles/bigquery.jobUser on the project that pays; whoever made a job may look at it
    ("POST", "jobs"): "bigquery.jobs.create",
    ("GET", "jobs"): "its own job",
    ("GET", "queries"): "its own job",
}
"""Requests that the roles allow, and by which permission. Making a dataset is not among them."""


class Prepared(Service):
    """A project in which the datasets were made for us, and an account with these roles alone."""

    def answer(self, method: str, path: str, body: Any) -> requests.Response:
        kind = "tables" if "/tables" in path else path.split("/")[1]
        if (method, kind) not in GRANTED:
            return refuse(403, "accessDenied", f"Access Denied: {method} {path}")
        if (method, kind) == ("GET", "datasets"):
            project, _, dataset = path.split("/")
            named = {"projectId": project, "datasetId": dataset}
            return respond(200, {"location": WAREHOUSE.location, "datasetReference": named})
        return super().answer(method, path, body)


def test_the_roles_are_enough_to_publish_where_the_datasets_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = Prepared()
    monkeypatch.setattr(
        requests.Session, "request", lambda session, *args, **named: service.request(session, *args, **named)
    )
    published = publish()
    assert published.rows == 3
    made = {path for method, path, _ in service.asked if method == "POST" and path.endswith("/tables")}
    assert made == {"shop/datasets/staging/tables", "shop/datasets/raw/tables"}


# ---- settings ----


def test_its_output_is_settings_that_there_are() -> None:
    named = set(re.findall(r"\b(ECOMMERSSS_\w+) =", blocks("output")["env"]["value"]))
    settings = {f"ECOMMERSSS_{field.upper()}" for field in Settings.model_fields}
    assert named < settings
    assert {name for name in settings if "BIGQUERY" in name} - named == {
        "ECOMMERSSS_BIGQUERY_KEY_FILE",  # it makes none
        "ECOMMERSSS_BIGQUERY_ENDPOINT",  # of emulators
    }
    assert (
        text(blocks("variable")["location"]["default"]) == Settings.model_fields["bigquery_location"].default
    )


def test_every_variable_is_described_and_used() -> None:
    files = "".join(path.read_text() for path in sorted(EXAMPLE.glob("*.tf")) if path.name != "variables.tf")
    for name, variable in blocks("variable").items():
        assert variable["description"], name
        assert f"var.{name}" in files, name
    assert set(re.findall(r"var\.(\w+)", files)) <= blocks("variable").keys()


# ---- by Terraform itself ----

VARIABLES = {
    "project": "shop",
    "billing_project": "purse",
    "maximum_bytes_billed": 10_000_000_000,
    "impersonators": ["user:ana@example.com"],
    "workload_identities": ["serviceAccount:shop.svc.id.goog[ecommersss/platform]"],
    "readers": ["group:bi@example.com"],
    "reader_datasets": ["gold", "silver"],
}
ACCOUNT = "ecommersss@shop.iam.gserviceaccount.com"

Terraform = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terraform]:
    """Runs Terraform in a copy of the example, with a stand-in for the provider."""
    program = shutil.which("terraform")
    if program is None:
        pytest.skip("no terraform on this machine")
    folder = tmp_path_factory.mktemp("terraform")
    for path in EXAMPLE.glob("*.tf"):
        shutil.copy(path, folder)
    (folder / "given.tfvars.json").write_text(json.dumps(VARIABLES))
    with running_provider() as variables:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")} | variables

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [program, *arguments],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )

        made = run("init", "-backend=false", "-no-color")
        assert made.returncode == 0, made.stderr
        yield run


@pytest.fixture(scope="module")
def planned(terraform: Terraform) -> dict[str, Any]:
    made = terraform(
        "plan", "-no-color", "-input=false", "-refresh=false", "-var-file=given.tfvars.json", "-out=plan"
    )
    assert made.returncode == 0, made.stderr
    values: dict[str, Any] = json.loads(terraform("show", "-json", "plan").stdout)["planned_values"]
    return values


def test_terraform_finds_it_valid_and_in_form(terraform: Terraform) -> None:
    valid = terraform("validate", "-no-color")
    assert (valid.returncode, valid.stdout.strip()) == (0, "Success! The configuration is valid."), (
        valid.stderr
    )
    form = terraform("fmt", "-check", "-diff", ".")
    assert (form.returncode, form.stdout) == (0, "")


def test_the_plan_has_the_datasets_and_who_may_do_what(planned: dict[str, Any]) -> None:
    resources = [(r["type"], r["values"]) for r in planned["root_module"]["resources"]]
    datasets = {v["dataset_id"]: v for kind, v in resources if kind == "google_bigquery_dataset"}
    assert datasets.keys() == published() | {STAGING}
    assert {(v["project"], v["location"]) for v in datasets.values()} == {("shop", "asia-southeast2")}
    granted = {
        (v.get("dataset_id") or v.get("project") or "the account", v["role"], v["member"])
        for kind, v in resources
        if kind.endswith("_iam_member")
    }
    assert granted == {
        *((name, "roles/bigquery.dataEditor", f"serviceAccount:{ACCOUNT}") for name in datasets),
        ("purse", "roles/bigquery.jobUser", f"serviceAccount:{ACCOUNT}"),
        ("gold", "roles/bigquery.dataViewer", "group:bi@example.com"),
        ("silver", "roles/bigquery.dataViewer", "group:bi@example.com"),
        ("the account", "roles/iam.serviceAccountTokenCreator", "user:ana@example.com"),
        (
            "the account",
            "roles/iam.workloadIdentityUser",
            "serviceAccount:shop.svc.id.goog[ecommersss/platform]",
        ),
    }


def test_the_planned_output_is_an_env_file(
    planned: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("ECOMMERSSS_")]:
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text(planned["outputs"]["env"]["value"])
    settings = Settings(_env_file=tmp_path / ".env")  # type: ignore[call-arg]
    assert (settings.warehouse, settings.bigquery_project, settings.bigquery_billing_project) == (
        "bigquery",
        "shop",
        "purse",
    )
    assert settings.bigquery_impersonate == ACCOUNT
    assert settings.bigquery_maximum_bytes_billed == 10_000_000_000
    assert settings.bigquery_key_file is None


@pytest.mark.parametrize(
    ("variable", "refusal"),
    [
        ("maximum_bytes_billed=5", "a smaller\nbound refuses every one"),
        ('reader_datasets=["staging"]', "The datasets with tables or views to read"),
    ],
)
def test_terraform_refuses_what_cannot_work(terraform: Terraform, variable: str, refusal: str) -> None:
    made = terraform("plan", "-no-color", "-input=false", "-var=project=shop", f"-var={variable}")
    assert made.returncode == 1
    assert refusal in made.stderr
