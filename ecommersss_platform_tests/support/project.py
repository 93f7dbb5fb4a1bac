"""What the tests of project files share: where the project is, its tracked files, a small Makefile reader."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


def tracked_files() -> list[Path]:
    """The project's text files: what git has, and new ones it would take. Skips the test outside git."""
    if not (PROJECT / ".git").exists():
        pytest.skip("not a git checkout, so there is no list of the project's files")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = [PROJECT / name for name in listing.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


def make_targets() -> set[str]:
    """The phony targets of the Makefile: what a person can ask for."""
    return set(re.findall(r"^\.PHONY:\s*(\S+)\s*$", (PROJECT / "Makefile").read_text(), re.MULTILINE))
