"""A directory for what all processes of a parallel test run share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_directory(factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the whole test run. Each worker's own is below it."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
