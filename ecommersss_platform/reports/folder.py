"""The files of the reports: a page for each day and an index, written whole or not at all."""

from __future__ import annotations

import html
import json
import re
from datetime import date
from pathlib import Path
from typing import Any

from ecommersss_platform.local.locks import FileLock
from ecommersss_platform.local.whole_files import replace_file
from ecommersss_platform.reports.page import index_page
from ecommersss_platform.reports.serving import pages

INDEX = "index.html"
_ENTRY = re.compile(r'<meta name="entry" content="([^"]*)">')
_HEAD = 4_000
"""Characters at the beginning of a page among which its entry stands."""


def write_page(folder: Path, name: str, text: str) -> Path:
    """Write a page so that a reader sees the old one or the new one, and nobody else may read it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(folder / name, text.encode())
    return folder / name


def write_index(folder: Path) -> Path:
    """Write the index of the pages that are there. Of several writers at once the last one lists them all."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(folder / ".lock").held():
        entries = [entry for path in reversed(pages(folder).values()) if (entry := _entry(path))]
        return write_page(folder, INDEX, index_page(entries))


def remove_old_pages(folder: Path, before: date) -> int:
    """Remove the pages of days before this one, and return how many."""
    old = [path for day, path in pages(folder).items() if day < before]
    for path in old:
        path.unlink(missing_ok=True)
    if old:
        write_index(folder)
    return len(old)


def _entry(path: Path) -> dict[str, Any] | None:
    """Return what a page says of itself for the index; None for one that is gone or not of this version."""
    try:
        with path.open(encoding="utf-8") as file:
            found = _ENTRY.search(file.read(_HEAD))
        entry = json.loads(html.unescape(found[1])) if found else None
    except (FileNotFoundError, ValueError):
        return None
    return entry if isinstance(entry, dict) else None
