"""Check a command line against the parser of `ecommersss`, without running it."""

from __future__ import annotations

from typing import Any

from typer import BadParameter, Exit
from typer.core import TyperGroup
from typer.main import get_command

from ecommersss_platform.cli.app import app

# The base of NoSuchOption, MissingParameter and the rest, in the copy of click that Typer ships.
UsageError: Any = BadParameter.__base__


def check_command(arguments: list[str]) -> None:
    """Parse `arguments` as `ecommersss` would, down to the sub-command and its values.

    Raise AssertionError with the parser's message if they are not valid. A missing file is accepted, because
    examples name the reader's files.
    """
    command: Any = get_command(app)
    context: Any = None
    remaining = list(arguments)
    try:
        while True:
            context = command.make_context(command.name or "ecommersss", list(remaining), parent=context)
            if not isinstance(command, TyperGroup):
                return
            remaining = [*context._protected_args, *context.args]
            _, command, remaining = command.resolve_command(context, remaining)
    except Exit:  # --help
        return
    except UsageError as error:
        if isinstance(error, BadParameter) and "does not exist" in error.message:
            return
        raise AssertionError(f"ecommersss {' '.join(arguments)}: {error.format_message()}") from error
