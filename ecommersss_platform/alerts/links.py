"""Links from an alert to a page of the UI."""

from __future__ import annotations

from urllib.parse import urlsplit

from ecommersss_platform.settings import Settings


def ui_link(settings: Settings, path: str) -> str | None:
    """Return the address of a page of the UI, without its secret; None if nobody says where the UI is.

    It is the setting `ui_url`, else what the `ecommersss up` of this home reports. `path`: "runs/<id>".
    """
    from ecommersss_platform.local.stack import running

    base = settings.ui_url
    if base is None and (up := running(settings)) and up["ui"]:
        address = urlsplit(up["ui"])
        base = f"{address.scheme}://{address.netloc}"
    return None if base is None else f"{base.rstrip('/')}/{path}"
