"""Which pages there are, their addresses beside the UI, and what a browser may run on them."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from ecommersss_platform.instance.files import file_address
from ecommersss_platform.settings import Settings

REPORTS = "reports"
"""The name of the folder beside the UI."""
_PAGE = re.compile(r"\d{4}-\d{2}-\d{2}\.html")
TEMPLATES = Path(__file__).parent / "templates"


def page_name(day: date) -> str:
    return f"{day}.html"


def pages(folder: Path) -> dict[date, Path]:
    """Return the page of each day that has one, oldest first."""
    if not folder.is_dir():
        return {}
    found = sorted(path for path in folder.iterdir() if _PAGE.fullmatch(path.name))
    return {date.fromisoformat(path.stem): path for path in found}


def content_hash(name: str) -> str:
    """Return the source that a Content-Security-Policy gives for a template's text as a page has it."""
    digest = hashlib.sha256((TEMPLATES / name).read_bytes()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def script_source() -> str:
    """Return the source of the only script of the pages."""
    return content_hash("script.js")


def report_address(settings: Settings, page: Path) -> str:
    """Return the address of a page: with the secret of the UI if that answers, else that of its file."""
    from ecommersss_platform.local.stack import running

    ui = (running(settings) or {}).get("ui")
    if not ui:
        return page.as_uri()
    scheme, host, _, query, _ = urlsplit(ui)
    return urlunsplit((scheme, host, file_address(REPORTS, page.name), query, ""))
