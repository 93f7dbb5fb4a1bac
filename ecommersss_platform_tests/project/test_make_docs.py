"""`make docs`: dbt's documentation of the models as one page."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ecommersss_platform.dbt.project import DOCS_PAGE, PROJECT_DIR
from ecommersss_platform_tests.support.project import PROJECT


@pytest.mark.integration
def test_docs_are_one_page_with_every_model_and_open_no_warehouse(tmp_path: Path) -> None:
    shown = subprocess.run(["make", "--dry-run", "docs"], cwd=PROJECT, capture_output=True, text=True).stdout
    assert f"file://{DOCS_PAGE}" in shown
    command = shown[shown.index("ECOMMERSSS_DUCKDB_PATH=") :].split("\nrm ")[0]
    subprocess.run(
        ["bash", "-c", command.replace(str(DOCS_PAGE.parent), str(tmp_path))], cwd=PROJECT, check=True
    )
    page = (tmp_path / DOCS_PAGE.name).read_text()
    models = {path.stem for path in (PROJECT_DIR / "models").rglob("*.sql")}
    assert set(re.findall(r'"unique_id": ?"model\.ecommersss\.(\w+)"', page)) == models
    assert re.findall(r'<(?:script|link)[^>]+(?:src|href)="https?:', page) == []
