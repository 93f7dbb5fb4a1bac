"""Which PostgreSQL to use: the one that a setting names, else the embedded one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ecommersss_platform.local.postgres import DAGSTER, OPERATIONAL, EmbeddedPostgres, NotUp, Say
from ecommersss_platform.settings import Settings


def embedded_server(settings: Settings) -> EmbeddedPostgres:
    """The embedded server of this home. Nothing is started or written."""
    return EmbeddedPostgres(
        settings.postgres_dir, log=settings.logs_dir / "postgres.log", account=settings.postgres_account
    )


@contextmanager
def operational_database(settings: Settings, say: Say | None = None) -> Iterator[str]:
    """The URL of the database with users, products and orders, which is up for as long as the block lasts.

    An embedded server that nobody else uses is started for the block and stopped after it; `say` hears what
    takes long. Raises `ServerError` when it cannot be started.
    """
    with _database(settings, settings.database_url, OPERATIONAL, say) as url:
        yield url


@contextmanager
def dagster_storage(settings: Settings, say: Say | None = None) -> Iterator[str]:
    """The URL of the database for Dagster's own storage, up as in `operational_database`."""
    with _database(settings, settings.dagster_url, DAGSTER, say) as url:
        yield url


def database_url(settings: Settings) -> str:
    """The URL of the database with users, products and orders, without starting anything.

    Raises `NotUp` when it would be the embedded server's and that one does not run.
    """
    return settings.database_url or _running(settings).url(OPERATIONAL)


def dagster_url(settings: Settings) -> str:
    """The URL of the database for Dagster's own storage, as `database_url`."""
    return settings.dagster_url or _running(settings).url(DAGSTER)


@contextmanager
def _database(settings: Settings, url: str | None, name: str, say: Say | None) -> Iterator[str]:
    if url is not None:
        yield url
    else:
        with embedded_server(settings).lease(say) as server:
            yield server.url(name)


def _running(settings: Settings) -> EmbeddedPostgres:
    server = embedded_server(settings)
    if server.pid() is None:
        server.port()  # says it when there never was one
        raise NotUp(
            f"PostgreSQL in {server.directory} is not running: start the platform with `ecommersss up`"
        )
    return server
