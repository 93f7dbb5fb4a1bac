"""`ecommersss lists`: the users who are blocked and those who are always allowed."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ecommersss_platform.cli.common import FormatOption, open_database
from ecommersss_platform.cli.days import UntilOption
from ecommersss_platform.cli.output import Format, print_rows
from streaming.orders import MAX_REFERENCE

app = typer.Typer(
    help="The lists of users that rules look at: block, and allow, which wins.", no_args_is_help=True
)


class List(StrEnum):
    ALLOW = "allow"
    BLOCK = "block"


ListArgument = Annotated[List, typer.Argument(help="which list")]
UserArgument = Annotated[int, typer.Argument(min=1, max=MAX_REFERENCE, help="the user's id")]


@app.command("show")
def show(
    user_id: Annotated[int | None, typer.Argument(min=1, max=MAX_REFERENCE, help="only this user")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="also entries that were removed or replaced")
    ] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Show the users on each list, with the reason, the start and the expiry."""
    from streaming.database.user_lists import list_entries

    with open_database() as url:
        rows = [entry.as_row() for entry in list_entries(url, user_id, removed=everything)]
    if not rows and style is Format.TABLE:
        typer.echo("Nobody is on a list." if user_id is None else f"User {user_id} is on no list.")
        return
    if not everything:
        rows = [{name: value for name, value in row.items() if name != "removed_at"} for row in rows]
    print_rows(list(rows[0]) if rows else [], rows, style)


@app.command("add")
def add(
    name: ListArgument,
    user_id: UserArgument,
    reason: Annotated[str, typer.Option(help="why, for later readers")],
    until: UntilOption = None,
) -> None:
    """Add a user to a list, replacing any earlier entry that a person made. Takes effect at once."""
    from streaming.database.user_lists import add_entry

    with open_database() as url:
        replaced = add_entry(url, user_id, name.value, reason, until)
    end = f"until {until:%Y-%m-%d %H:%M} (Asia/Jakarta)" if until else "with no expiry"
    typer.echo(
        f"user {user_id} is on the {name} list {end}{'; the earlier entry was replaced' if replaced else ''}"
    )


@app.command("remove")
def remove(name: ListArgument, user_id: UserArgument) -> None:
    """Take a user off a list.

    The platform blocks a user again after the next day if gold.users_and_blacklist still says Blacklist. To
    overrule it, put the user on the allow list.
    """
    from streaming.database.user_lists import remove_entry

    with open_database() as url:
        removed = remove_entry(url, user_id, name.value)
    typer.echo(f"user {user_id} is off the {name} list")
    if any(entry.source == "platform" for entry in removed):
        typer.echo(
            "The platform made this entry, and will make it again while the user's status is Blacklist. To"
            f' overrule it: `ecommersss lists add allow {user_id} --reason "..."`.'
        )
