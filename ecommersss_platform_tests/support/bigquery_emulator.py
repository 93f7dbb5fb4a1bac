"""BigQuery without an account: the emulator `local-bigquery` on a loopback port.

It needs other versions of the platform's packages. So it has a virtual environment of its own, created once
from the package index and kept in the user's cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ecommersss_platform.local.ports import free_port

REQUIREMENTS = (
    "local-bigquery==0.3.2",
    "duckdb==1.5.5",
    "duckdb-extension-ducklake==1.5.5",
    "duckdb-extension-icu==1.5.5",
    "duckdb-extension-spatial==1.5.5",
)
# Faults of the emulator that break our tests. They are patched here, where it is started, so that the product
# need not know of them.
#
# - It refuses every MERGE into a table that requires a partition filter, because it runs the MERGE as several
#   statements without that filter. BigQuery accepts a filter in the condition of WHEN NOT MATCHED BY SOURCE,
#   so the patch looks for it there.
# - Its transactions span a project: unrelated jobs and table changes fail each other ("Failed to commit
#   DuckLake transaction"), and a table being created is shown without columns. The patch does one at a time.
# - Its MERGE begins a transaction of its own, which breaks the one of a script. The patch lets it join that.
# - It computes DIV(a + b, c) as a + (b // c).
# - The job of a CREATE TABLE AS SELECT does not name the table, where dbt looks for the number of rows.
#
# Known faults that do not affect us: `table$YYYYMMDD` is a new table, FORMAT("%'d") prints wrongly,
# INFORMATION_SCHEMA.PARTITIONS does not exist, and jobs scan 0 bytes and are always in "US".
_START = """
import threading
from local_bigquery import cli
from local_bigquery.jobs import merge
from local_bigquery.sql.rules import tables

state, check, run = threading.local(), tables._check, merge.run

def merged(cur, tree, context):
    conditions = [when.args.get("condition") for when in tree.args["whens"].expressions]
    columns = [c.name for one in conditions if one is not None for c in one.find_all(merge.exp.Column)]
    state.filtered = "partition_date" in columns
    try:
        return run(InTransaction(cur) if getattr(state, "begun", False) else cur, tree, context)
    finally:
        state.filtered = False

def checked(tree, table, is_target):
    return check(tree, table, is_target or getattr(state, "filtered", False))

merge.run, tables._check = merged, checked

from local_bigquery.sql import rules, script

interpret = script.Interpreter.sql

def interpreted(interpreter, statement):
    word = statement.text.split()[0].upper()
    interpret(interpreter, statement)
    state.begun = word == "BEGIN" or (getattr(state, "begun", False) and word not in ("COMMIT", "ROLLBACK"))

class InTransaction:
    def __init__(self, cursor):
        self.cursor = cursor

    def execute(self, sql, *bound):
        if sql == "BEGIN":
            raise merge.duckdb.TransactionException("it has begun")
        return self.cursor.execute(sql, *bound)

script.Interpreter.sql = interpreted

def parenthesised(node, context):
    if isinstance(node, merge.exp.IntDiv):
        for side in ("this", "expression"):
            node.set(side, merge.exp.paren(node.args[side], copy=False))
    return node

rules.NODE_RULES.insert(0, parenthesised)

from local_bigquery.catalog import datasets, tables as catalog
from local_bigquery.jobs import runner

one_at_a_time = threading.RLock()

def alone(function):
    def call(*args, **named):
        with one_at_a_time:
            return function(*args, **named)
    return call

execute = runner.query.execute

def executed(*args, **named):
    state.begun = False
    statistics, children, destination = execute(*args, **named)
    if statistics.statementType == "CREATE_TABLE_AS_SELECT":
        destination = statistics.ddlTargetTable
    return statistics, children, destination

runner.query.execute = executed
runner._execute = alone(runner._execute)
for module, names in ((catalog, ("create", "get", "update", "delete")), (datasets, ("create", "delete"))):
    for name in names:
        setattr(module, name, alone(getattr(module, name)))

# The rest makes it faster. Everything is kept in memory, on plain DuckDB: DuckLake keeps every version of a
# table, which no test reads, and takes many times as long. The queries are tiny: one thread is faster. Trees
# of SQL are many small objects: garbage is collected less often.
import functools, gc, sys, duckdb
from local_bigquery.engine import database

gc.set_threshold(100_000, 20, 100)
sys.modules["pandas"] = None  # it is not installed, and DuckDB searches the disk for it at every call
database.EMULATOR_SCHEMA = "DETACH emulator; ATTACH ':memory:' AS emulator;" + database.EMULATOR_SCHEMA
connect = database._connect

@functools.cache
def connect_with_one_thread():
    connection = connect()
    connection.execute("SET threads = 1")
    return connection

def attach(connection, project):
    connection.execute(f"ATTACH IF NOT EXISTS ':memory:' AS {database.quote(project)}")
    database._attached.add(project)

database._connect, database._attach = connect_with_one_thread, attach
database.projects = lambda: sorted(database._attached)

# Jobs stay objects. The emulator stores each three times, as JSON in a table.
from local_bigquery.jobs import store

jobs = {}

def save(job):
    jobs[job.jobReference.projectId, job.jobReference.jobId] = job
    return job

store.save, store.load = save, lambda *ids: jobs.get(ids)

# One table and its columns are looked up by name. The emulator has DuckDB list all tables and columns each
# time, and looks up a table before it reads the columns, which shows as well whether the table exists.
from local_bigquery.catalog import tabledata

fetch, list_all = database.fetch, database.objects
OF_A_TABLE = "duckdb_columns() WHERE database_name = ? AND schema_name = ? AND table_name = ?"

def fetched(sql, params=None):
    if OF_A_TABLE not in sql:
        return fetch(sql, params)
    columns = 'SELECT name AS column_name, NOT "notnull" AS is_nullable FROM pragma_table_info(?)'
    sql = sql.replace(OF_A_TABLE, f"({columns}) WHERE true")
    try:
        return fetch(sql, [database.quote(*params[:3]), *params[3:]])
    except (duckdb.CatalogException, duckdb.BinderException):
        return []

def listed(project, dataset, table=None):
    if table is None:
        return list_all(project, dataset)
    is_view = "SELECT 1 FROM duckdb_views() WHERE database_name = ? AND schema_name = ? AND view_name = ?"
    if fetch(is_view, [project, dataset, table]):
        return [(table, "VIEW", 0)]
    try:
        [(rows,)] = fetch(f"SELECT count(*) FROM {database.quote(project, dataset, table)}")
    except (duckdb.CatalogException, duckdb.BinderException):
        return []
    return [(table, "TABLE", rows)]

database.fetch, database.objects = fetched, listed
tabledata.load = lambda *table: None
cli.main()
"""
PYTHON_VARIABLE = "ECOMMERSSS_TEST_PYTHON313"


def find_python() -> Path | None:
    """Find a Python 3.13: named by the variable, else on the path, else pyenv's."""
    candidates = [os.environ.get(PYTHON_VARIABLE), shutil.which("python3.13")]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
        candidates += map(str, sorted(Path(root, "versions").glob("3.13.*/bin/python3.13"), reverse=True))
    return next((Path(c) for c in candidates if c and _is_python_313(c)), None)


def _is_python_313(path: str) -> bool:
    # A shim on the path may stand for a version that is not selected here.
    command = [path, "-c", "import sys; sys.exit(sys.version_info[:2] != (3, 13))"]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    except OSError:
        return False


def environment() -> Path:
    """Return the emulator's virtual environment, created if it is missing. Skip the test if that fails."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecommersss-tests"
    place = cache / f"local-bigquery-{hashlib.sha256(' '.join(REQUIREMENTS).encode()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            python = find_python()
            if python is None:
                pytest.skip(
                    "no BigQuery emulator: it needs Python 3.13 (on PATH, in pyenv, or named by "
                    f"{PYTHON_VARIABLE})"
                )
            _install(python, place)
    return place


def _install(python: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    own = str(place / "bin" / "python")
    pip = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [str(python), "-m", "venv", str(place)],
        [*pip, *REQUIREMENTS],
        # The packages contain the extensions; DuckDB checks their signatures and copies them to its home.
        [own, "-c", _INSTALL_EXTENSIONS],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=_variables(place))
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            pytest.skip(f"no BigQuery emulator: it could not be installed: {last}")
    (place / "complete").touch()


_INSTALL_EXTENSIONS = """
import duckdb, pathlib, sysconfig
packages = pathlib.Path(sysconfig.get_path("purelib"))
for path in packages.glob("duckdb_extension_*/extensions/*/*.duckdb_extension"):
    duckdb.execute(f"INSTALL '{path}'")
"""


def _variables(place: Path) -> dict[str, str]:
    """Return our environment with the emulator's own home, where DuckDB keeps its extensions."""
    return os.environ | {"HOME": str(place)}


@contextmanager
def running_emulator(directory: Path) -> Iterator[str]:
    """Run the emulator, with its data and log in the directory, and yield its address."""
    place = environment()
    port = free_port(0)
    log = directory / "local-bigquery.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *(str(place / "bin" / "python"), "-c", _START),
                *("--host", "127.0.0.1", "--port", str(port)),
                *("--grpc-port", str(free_port(0)), "--data-dir", str(directory / "data")),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=_variables(place),
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the BigQuery emulator did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/bigquery/v2/projects", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        pytest.fail(f"the BigQuery emulator does not work: {error.read().decode()}")
    except OSError:
        return False
