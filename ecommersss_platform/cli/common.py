"""What the command groups share: settings, the operational database, option types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ecommersss_platform.cli.output import Format

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings

FormatOption = Annotated[
    Format, typer.Option("--format", help="table for people, json or jsonl for programs")
]
DAY_FORMATS = ["%Y-%m-%d"]


def read_settings() -> Settings:
    """Read the settings from the environment. Raises pydantic's `ValidationError` for wrong ones."""
    from ecommersss_platform.settings import Settings

    return Settings()


@contextmanager
def open_database(settings: Settings | None = None) -> Iterator[str]:
    """Yield the URL of the operational database, its schema up to date.

    `settings` defaults to those of the environment. An embedded server that is not running is started for the
    block and stopped after it.
    """
    from ecommersss_platform.instance.databases import migrated_database

    with migrated_database(settings or read_settings()) as url:
        yield url
