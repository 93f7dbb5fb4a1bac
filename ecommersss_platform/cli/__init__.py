"""The `ecommersss` command, a module for each group of commands. `app.py` puts them together."""

from __future__ import annotations

from typing import Any


def main(arguments: list[str] | None = None) -> Any:
    """Run `ecommersss` with these arguments, by default the process's own."""
    # Imported here, so that programs of this package which are not the command start without it.
    from ecommersss_platform.cli.app import main

    return main(arguments)
