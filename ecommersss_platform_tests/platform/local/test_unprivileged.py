"""Giving up root: who the program runs as, and what it keeps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ecommersss_platform.local import unprivileged

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        os.geteuid() != 0 or sys.platform != "linux",
        reason="only root has something to give up, and Linux to lend",
    ),
]

_UID = _GID = 65_534
_NEEDS_SETPRIV = pytest.mark.skipif(
    shutil.which("setpriv") is None, reason="takes capabilities away with setpriv"
)


def run(directory: Path, program: Path, *, without: str = "") -> subprocess.CompletedProcess[str]:
    """Have the shim run `program`, a copy of cat, on the program's own status."""
    shim = [sys.executable, "-I", "-S", unprivileged.__file__, str(_UID), str(_GID), str(directory), "--"]
    container = ["setpriv", f"--bounding-set={without}", "--"] if without else []
    return subprocess.run(
        [*container, *shim, str(program), "/proc/self/status"], capture_output=True, text=True, cwd="/"
    )


def status(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A directory that only root can enter, with a program in it that everybody could execute."""
    directory = tmp_path / "closed"
    directory.mkdir(mode=0o700)
    shutil.copy(shutil.which("cat") or "/bin/cat", directory / "program")
    (directory / "program").chmod(0o755)
    return directory


def test_what_the_account_can_reach_runs_with_nothing() -> None:
    seen = status(run(Path("/usr"), Path(shutil.which("cat") or "/bin/cat").resolve()))
    assert seen["Uid"].split() == [str(_UID)] * 4
    assert seen["Gid"].split() == [str(_GID)] * 4
    assert seen["Groups"].split() == [str(_GID)]
    assert [int(seen[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
    assert seen["NoNewPrivs"] == "1"


def test_below_a_closed_directory_it_may_read_and_search(closed: Path) -> None:
    seen = status(run(closed, closed / "program"))
    assert seen["Uid"].split() == [str(_UID)] * 4
    assert [int(seen[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")] == [
        1 << unprivileged.CAP_DAC_READ_SEARCH
    ] * 3


def test_a_program_for_its_owner_only_needs_the_stronger_right(closed: Path) -> None:
    (closed / "program").chmod(0o700)
    assert int(status(run(closed, closed / "program"))["CapEff"], 16) == 1 << unprivileged.CAP_DAC_OVERRIDE


@_NEEDS_SETPRIV
def test_where_a_container_withholds_the_weaker_right_the_stronger_one_is_used(closed: Path) -> None:
    done = run(closed, closed / "program", without="-dac_read_search")
    assert int(status(done)["CapEff"], 16) == 1 << unprivileged.CAP_DAC_OVERRIDE


@_NEEDS_SETPRIV
def test_where_neither_can_be_had_it_says_what_to_do(closed: Path) -> None:
    done = run(closed, closed / "program", without="-dac_read_search,-dac_override")
    assert done.returncode == 126
    assert f"uid {_UID} cannot reach {closed}" in done.stderr
    assert "put the project and ECOMMERSSS_HOME where every account can enter" in done.stderr
