"""The project's directory, its tracked files and the targets of its Makefile."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


def tracked_files() -> list[Path]:
    """Return the text files that git tracks or would add. Skip the test outside a git checkout."""
    if not (PROJECT / ".git").exists():
        pytest.skip("not a git checkout")
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
    """Return the phony targets of the Makefile."""
    return set(re.findall(r"^\.PHONY:\s*(\S+)\s*$", (PROJECT / "Makefile").read_text(), re.MULTILINE))
