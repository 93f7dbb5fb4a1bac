"""The style of the models' SQL: sqlfluff, with the rules of `.sqlfluff`.

`make test` reads the models as DuckDB's SQL, the long tests as BigQuery's too: most rules are about the text,
which both share.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ecommersss_platform.dbt.project import PROJECT_DIR, environment
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.loopback import loopback_only
from ecommersss_platform_tests.support.project import PROJECT

MODELS = sorted(str(path.relative_to(PROJECT)) for path in (PROJECT_DIR / "models").rglob("*.sql"))

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def empty_bigquery() -> Iterator[str]:
    """Return the address of a service without datasets. dbt asks it for tables before it compiles."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def lint(settings: Settings) -> list[str]:
    """Return what sqlfluff finds in the models: file, line, rule and advice."""
    variables = environment(settings)
    report = settings.home / "sqlfluff.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sqlfluff", "lint", "--dialect", settings.warehouse),
            "--disable-progress-bar",
            *("--format", "json", "--write-output", str(report), *MODELS),
        ],
        cwd=PROJECT,
        env=os.environ | variables | loopback_only(settings.home / "outside"),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert report.exists(), done.stdout + done.stderr
    files = json.loads(report.read_text())
    assert {file["filepath"] for file in files} == set(MODELS)
    assert not (settings.home / "outside").exists()
    return [
        f"{file['filepath']}:{found['start_line_no']}: {found['code']} {found['description']}"
        for file in files
        for found in file["violations"]
    ]


def test_sql_for_duckdb_is_clean(tmp_path: Path) -> None:
    assert lint(Settings(home=tmp_path, _env_file=None)) == []


@pytest.mark.long
def test_sql_for_bigquery_is_clean(tmp_path: Path, empty_bigquery: str) -> None:
    settings = Settings(
        home=tmp_path,
        warehouse="bigquery",
        bigquery_project="shop",
        bigquery_endpoint=empty_bigquery,
        _env_file=None,
    )
    assert lint(settings) == []
