"""`ecommersss lists`: who is blocked and who is always allowed."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer

from ecommersss_platform.cli.output import StatusFormat, print_rows

lists_app = typer.Typer(
    help="The lists of users that rules look at: block, and allow, which wins.", no_args_is_help=True
)


class List(StrEnum):
    ALLOW = "allow"
    BLOCK = "block"


FormatOption = Annotated[StatusFormat, typer.Option("--format", help="for people or for programs")]
ListArgument = Annotated[List, typer.Argument(help="which list")]
UserArgument = Annotated[int, typer.Argument(min=1, help="the user's id")]


@lists_app.command("show")
def show(
    user_id: Annotated[int | None, typer.Argument(min=1, help="one user only")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="also entries that were removed or replaced")
    ] = False,
    style: FormatOption = StatusFormat.TABLE,
) -> None:
    """Show who is on which list, why, since when and until when."""
    from ecommersss_platform.instance.databases import operational_database
    from ecommersss_platform.settings import Settings
    from streaming.database import migrate
    from streaming.lists import entries

    with operational_database(Settings()) as url:
        migrate(url)
        rows = [entry.as_row() for entry in entries(url, user_id, removed=everything)]
    if not rows and style is StatusFormat.TABLE:
        typer.echo("Nobody is on a list." if user_id is None else f"User {user_id} is on no list.")
        return
    if not everything:
        rows = [{name: value for name, value in row.items() if name != "removed_at"} for row in rows]
    print_rows(list(rows[0]) if rows else [], rows, style)


@lists_app.command("add")
def add(
    name: ListArgument,
    user_id: UserArgument,
    reason: Annotated[str, typer.Option(help="why, for whoever asks")],
    until: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"],
            help="when the entry expires, Asia/Jakarta; a day: at its beginning. Left out: never",
        ),
    ] = None,
) -> None:
    """Put a user on a list, in place of an entry that people made before. Takes effect at once."""
    from ecommersss_platform.instance.databases import operational_database
    from ecommersss_platform.settings import Settings
    from streaming.business_days import JAKARTA
    from streaming.database import migrate
    from streaming.lists import add_entry

    expires_at = until.replace(tzinfo=JAKARTA) if until else None
    with operational_database(Settings()) as url:
        migrate(url)
        replaced = add_entry(url, user_id, name.value, reason, expires_at)
    end = f"until {expires_at:%Y-%m-%d %H:%M} (Asia/Jakarta)" if expires_at else "for good"
    typer.echo(
        f"user {user_id} is on the {name} list {end}{'; the entry before was replaced' if replaced else ''}"
    )


@lists_app.command("remove")
def remove(name: ListArgument, user_id: UserArgument) -> None:
    """Take a user off a list.

    The platform blocks a user again after the next day as long as gold.users_and_blacklist says Blacklist:
    put them on the allow list to overrule it.
    """
    from ecommersss_platform.instance.databases import operational_database
    from ecommersss_platform.settings import Settings
    from streaming.database import migrate
    from streaming.lists import remove_entry

    with operational_database(Settings()) as url:
        migrate(url)
        removed = remove_entry(url, user_id, name.value)
    typer.echo(f"user {user_id} is off the {name} list")
    if any(entry.source == "platform" for entry in removed):
        typer.echo(
            "The platform had put them there, and will again while their status is Blacklist:"
            f' `ecommersss lists add allow {user_id} --reason "..."` overrules it.'
        )
