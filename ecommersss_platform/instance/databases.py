"""Choose the PostgreSQL to use: the one that a setting names, else the embedded server.

On the embedded server each kind of process has a role of its own; the URL of a setting names its role itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import SecretStr

from ecommersss_platform.local.accounts import Say
from ecommersss_platform.local.postgres import DAGSTER, OPERATIONAL, EmbeddedPostgres, NotUp
from ecommersss_platform.settings import Settings
from streaming.roles import Role


def embedded_server(settings: Settings) -> EmbeddedPostgres:
    """Return the embedded server of this home, without starting or writing anything."""
    return EmbeddedPostgres(
        settings.postgres_dir, log=settings.logs_dir / "postgres.log", account=settings.postgres_account
    )


@contextmanager
def operational_database(
    settings: Settings, say: Say | None = None, role: Role = Role.OWNER
) -> Iterator[str]:
    """Yield the URL of the operational database, which stays up for the block.

    If nobody else uses the embedded server, it is started for the block and stopped afterwards. `say` gets
    messages about slow steps. Raises `ServerError` if the server cannot be started.
    """
    with _database(settings, settings.database_url, OPERATIONAL, role, say) as url:
        yield url


@contextmanager
def migrated_database(settings: Settings, role: Role = Role.OWNER, say: Say | None = None) -> Iterator[str]:
    """Yield the URL of the operational database, up as in `operational_database`, its schema up to date."""
    from streaming.database import migrate

    with operational_database(settings, say) as url:
        migrate(url)
        yield database_url(settings, role)


@contextmanager
def dagster_storage(settings: Settings, say: Say | None = None) -> Iterator[str]:
    """Yield the URL of the database of Dagster's storage, which stays up as in `operational_database`."""
    with _database(settings, settings.dagster_url, DAGSTER, Role.OWNER, say) as url:
        yield url


def database_url(settings: Settings, role: Role = Role.OWNER) -> str:
    """Return the URL of the operational database, without starting anything.

    Raises `NotUp` if that is the embedded server and it does not run.
    """
    return _given(settings.database_url) or _running(settings).url(OPERATIONAL, role)


def dagster_url(settings: Settings) -> str:
    """Return the URL of the database of Dagster's storage. Raises `NotUp` as `database_url` does."""
    return _given(settings.dagster_url) or _running(settings).url(DAGSTER)


def _given(url: SecretStr | None) -> str | None:
    return None if url is None else url.get_secret_value()


@contextmanager
def _database(
    settings: Settings, url: SecretStr | None, name: str, role: Role, say: Say | None
) -> Iterator[str]:
    if url is not None:
        yield url.get_secret_value()
    else:
        with embedded_server(settings).lease(say) as server:
            yield server.url(name, role)


def _running(settings: Settings) -> EmbeddedPostgres:
    server = embedded_server(settings)
    if server.pid() is None:
        server.port()  # raises if there never was a server
        raise NotUp(
            f"PostgreSQL in {server.directory} is not running: start the platform with `ecommersss up`"
        )
    return server
