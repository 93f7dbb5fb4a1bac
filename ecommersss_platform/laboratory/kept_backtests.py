"""The last backtests, kept as JSON in the home, for the reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from ecommersss_platform.laboratory.backtest_object import as_object
from ecommersss_platform.laboratory.backtest_result import Backtest
from ecommersss_platform.local.whole_files import replace_file

KEPT = 20
"""The number of backtests that are kept."""
_FOLDER = "backtests"
_ENCODER = msgspec.json.Encoder(decimal_format="number")


def keep_backtest(home: Path, result: Backtest) -> Path:
    """Write a backtest into the home, remove all but the last `KEPT`, and return its file."""
    folder = home / _FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{result.made_at:%Y%m%dT%H%M%S%f}-{result.candidate.version}.json"
    replace_file(path, _ENCODER.encode(as_object(result)))
    for old in _files(home)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def last_backtests(home: Path) -> list[dict[str, Any]]:
    """Return the kept backtests, newest first, each as `backtest_object.as_object` returned it.

    In JSON's types: days and instants are ISO 8601. A file that cannot be read is left out.
    """
    found = []
    for path in _files(home):
        try:
            found.append(json.loads(path.read_text()))
        except (OSError, ValueError):  # removed meanwhile, or not of ours
            continue
    return found


def _files(home: Path) -> list[Path]:
    return sorted((home / _FOLDER).glob("[0-9]*.json"), reverse=True)
