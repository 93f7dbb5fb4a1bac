"""How the pages are served: their address beside the UI, and what a browser may do on them."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from ecommersss_platform.instance.files import file_address
from ecommersss_platform.settings import Settings

REPORTS = "reports"
"""The name of the folder beside the UI."""
TEMPLATES = Path(__file__).parent / "templates"


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
