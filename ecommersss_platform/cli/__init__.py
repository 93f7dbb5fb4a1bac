"""The `ecommersss` command, one module per group of commands. `app.py` is its table of contents."""

from __future__ import annotations

from typing import Any


def main(arguments: list[str] | None = None) -> Any:
    """Run `ecommersss` with these arguments (default: the process's own)."""
    # Imported here, so importing another module of this package does not load every command.
    from ecommersss_platform.cli.app import main

    return main(arguments)
