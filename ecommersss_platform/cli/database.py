"""`ecommersss db` and `ecommersss import`: the operational database."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ecommersss_platform.cli.common import open_database, read_settings

app = typer.Typer(help="The operational database.", no_args_is_help=True)


class Database(StrEnum):
    ECOMMERSSS = "ecommersss"
    DAGSTER = "dagster"


class Entity(StrEnum):
    USERS = "users"
    PRODUCTS = "products"
    SHIPMENTS = "shipments"
    DISPUTES = "disputes"
    VERDICTS = "verdicts"


@app.command("init")
def init() -> None:
    """Bring the schemas of both databases up to date: the operational one and Dagster's. Safe to repeat."""
    from ecommersss_platform.cli.prepare import databases

    databases()


@app.command("url")
def url(
    database: Annotated[Database, typer.Option(help="which of the two databases")] = Database.ECOMMERSSS,
    tcp: Annotated[
        bool, typer.Option("--tcp", help="of the embedded server: for clients that know no Unix sockets")
    ] = False,
) -> None:
    """Print the URL of a database, for psql and other clients.

    The embedded server accepts connections only while the platform is up. Its URL stays the same.
    """
    from ecommersss_platform.instance.databases import embedded_server

    settings = read_settings()
    given = settings.database_url if database is Database.ECOMMERSSS else settings.dagster_url
    if given is not None:
        typer.echo(given.get_secret_value())
        return
    server = embedded_server(settings)
    typer.echo(server.client_url(database.value, tcp=tcp))
    if server.pid() is None:
        typer.echo("The embedded database is not running: start it with `ecommersss up`.", err=True)


@app.command("roles")
def roles() -> None:
    """Print the SQL that creates the roles with the least rights on a server of your own.

    Run it as an administrator in the operational database, once its schema is there. The embedded server has
    these roles already.
    """
    from psycopg2.extensions import parse_dsn

    from streaming.roles import Role, role_statements

    given = read_settings().database_url
    owner = parse_dsn(given.get_secret_value()).get("user") if given else None
    typer.echo(role_statements(owner or Role.OWNER), nl=False)


def import_(
    entity: Annotated[Entity, typer.Argument(help="what the file holds")],
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            allow_dash=True,
            help="a .csv or .jsonl file, perhaps .gz; a pipe; or - (standard input)",
        ),
    ],
    backdate: Annotated[
        bool,
        typer.Option("--backdate", help="date first versions when they came true: loads or repairs the past"),
    ] = False,
) -> None:
    """Insert or update rows from a CSV or JSONL file, all or nothing.

    A row that equals the stored one changes nothing. The columns are those of the PostgreSQL table, without
    those that it fills itself (updated_at, recorded_at, the id of a verdict).
    """
    from streaming.imports import import_file

    settings = read_settings()
    with open_database(settings) as url:
        # No partition would hold a version dated before the first day.
        first_day = settings.first_partition_day()
        result = import_file(url, entity.value, file, backdate=backdate, not_before=first_day)
    typer.echo(f"{entity.value}: {result}")
    # Shipments, disputes and verdicts are dated when the platform learns of them, as a rule days later.
    if result.dated_late and entity in (Entity.USERS, Entity.PRODUCTS):
        typer.echo(
            f"{result.dated_late:,} of the new {entity.value} were created before today, but their history"
            " begins now: past days do not have them. Import again with `--backdate` to repair that.",
            err=True,
        )
