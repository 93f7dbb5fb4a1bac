"""What the command groups share: settings, the operational database, option types."""

from __future__ import annotations

import logging
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ecommersss_platform.cli.output import Format
from ecommersss_platform.environment import MARK, unknown_settings
from ecommersss_platform.logs import JsonFormatter
from streaming.roles import Role

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings

FormatOption = Annotated[
    Format, typer.Option("--format", help="table for people, json or jsonl for programs")
]
RhythmOption = Annotated[
    bool, typer.Option("--rhythm", help="many orders by day and few at night; the rate is the average")
]
ByOption = Annotated[
    str | None, typer.Option("--by", help="who decides this (default: the account that runs the command)")
]
MAX_POSITION = 2**63 - 1
MAX_RATE = 10_000
"""Most simulated orders per second: far more than one process can publish."""
MAX_ORDERS_PER_DAY = 10_000_000


def read_settings() -> Settings:
    """Read the settings from the environment and `.env`, and warn of names that no setting has.

    A home that other accounts can enter is closed to them. Raises pydantic's `ValidationError` for wrong
    values.
    """
    from dotenv import dotenv_values

    from ecommersss_platform.instance.home import keep_private
    from ecommersss_platform.settings import Settings

    settings = Settings()
    warning = unknown_settings([*os.environ, *dotenv_values(".env")], type(settings).model_fields)
    if warning and settings.log_format == "json":
        record = logging.makeLogRecord({"name": "ecommersss", "levelname": "WARNING", "msg": warning})
        warning = JsonFormatter().format(record)
    if warning and MARK not in os.environ:  # `up` has said it already
        typer.echo(warning, err=True)
    keep_private(settings)
    return settings


@contextmanager
def open_database(settings: Settings | None = None, role: Role = Role.OWNER) -> Iterator[str]:
    """Yield the URL of the operational database for a role, its schema up to date.

    `settings` defaults to those of the environment. An embedded server that is not running is started for the
    block and stopped after it.
    """
    from ecommersss_platform.instance.databases import migrated_database

    with migrated_database(settings or read_settings(), role, note) as url:
        yield url


def account() -> str:
    """Return the name of the account that runs the command; its number if it has no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def note(text: str) -> None:
    """Print what a command waits for or does besides its work, on standard error."""
    typer.echo(text, err=True)
