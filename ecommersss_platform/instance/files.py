"""Folders of pages that the platform builds, served beside the UI: dbt's documentation and its like.

The pages have the origin of the UI, whose cookie can start runs. So each response forbids whatever a page of
its folder does not need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = "/files"


@dataclass(frozen=True)
class Folder:
    """A folder of self-contained pages, and what these may do."""

    path: Path
    """It need not exist yet, and may be filled while it is served."""
    scripts: str = "'none'"
    """The sources of the policy's `script-src`: for pages with a script of ours its hash, `'sha256-...'`."""
    sandboxed: bool = False
    """Whether its pages have no origin, so that no script on them can reach the UI. Their links to the UI, or
    to each other, come without the cookie."""

    @property
    def policy(self) -> str:
        """The Content-Security-Policy of its responses: no other host, no requests, no forms, no frames."""
        return "; ".join(
            [
                "default-src 'none'",
                f"script-src {self.scripts}",
                "style-src 'unsafe-inline'",
                "img-src 'self' data:",
                "font-src data:",
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
                *(["sandbox allow-scripts"] if self.sandboxed else []),
            ]
        )


def file_address(folder: str, name: str) -> str:
    """Return the path below the UI's address of a file in a folder."""
    return f"{PREFIX}/{folder}/{name}"


def with_folders(app: ASGIApp, folders: Mapping[str, Folder]) -> ASGIApp:
    """Return the app with the files of each folder at `/files/NAME/...`, by GET and HEAD.

    What is not a file in a folder is not found: neither a listing, nor a path or link that leads outside.
    """
    from starlette.applications import Starlette
    from starlette.datastructures import MutableHeaders
    from starlette.routing import Mount
    from starlette.staticfiles import StaticFiles

    class Files(StaticFiles):
        async def check_config(self) -> None:
            """Serve a folder that does not exist yet as an empty one."""

    def mount(name: str, folder: Folder) -> Mount:
        return Mount(f"{PREFIX}/{name}", Files(directory=folder.path, check_dir=False))

    router = Starlette(routes=[mount(name, folder) for name, folder in folders.items()])

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(f"{PREFIX}/"):
            return await app(scope, receive, send)
        folder = folders.get(scope["path"].split("/")[2], Folder(Path()))

        async def send_restricted(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(
                    {
                        "content-security-policy": folder.policy,
                        "x-content-type-options": "nosniff",
                        "referrer-policy": "no-referrer",
                        "cache-control": "private, no-cache",
                    }
                )
            await send(message)

        await router(scope, receive, send_restricted)

    return serve
