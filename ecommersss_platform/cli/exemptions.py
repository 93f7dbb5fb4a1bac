"""`ecommersss rules exempt` and `ecommersss rules exemptions`: users for whom a rule does not hold."""

from __future__ import annotations

from typing import Annotated

import typer

from ecommersss_platform.cli.common import ByOption, FormatOption, account, open_database, read_settings
from ecommersss_platform.cli.days import ExpiryOption
from ecommersss_platform.cli.output import Format, print_rows
from streaming.orders import MAX_REFERENCE

app = typer.Typer(help="The users for whom a rule does not hold until a time.", no_args_is_help=True)

RuleArgument = Annotated[str, typer.Argument(help="the rule's name")]
UserOption = Annotated[int, typer.Option("--user", min=1, max=MAX_REFERENCE, help="the user's id")]


def exempt(
    rule: RuleArgument,
    user_id: UserOption,
    until: ExpiryOption,
    reason: Annotated[str, typer.Option(help="why, for later readers")],
    by: ByOption = None,
) -> None:
    """Exempt a user from a rule: it does not hold for the user's orders placed before a time.

    Replaces any earlier exemption of the user from this rule. Takes effect with the consumer's next batch.
    """
    from streaming.database.exemptions import add_exemption
    from streaming.lists import Exemption
    from streaming.rules import RuleBook

    RuleBook.load(read_settings().rules_path).rule(rule)
    with open_database() as url:
        replaced = add_exemption(url, Exemption(rule, user_id, reason, by or account(), until))
    earlier = "; the earlier exemption was replaced" if replaced else ""
    typer.echo(
        f"user {user_id} is exempt from the rule {rule} until {until:%Y-%m-%d %H:%M} (Asia/Jakarta){earlier}"
    )


@app.command("list")
def list_(
    user_id: Annotated[
        int | None, typer.Option("--user", min=1, max=MAX_REFERENCE, help="only this user")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="also exemptions that were removed or replaced")
    ] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Show the exemptions, with the reason, the author and the expiry."""
    from streaming.database.exemptions import list_exemptions

    with open_database() as url:
        rows = [kept.as_row() for kept in list_exemptions(url, user_id, removed=everything)]
    if not rows and style is Format.TABLE:
        nobody = "Nobody is exempt from a rule."
        typer.echo(nobody if user_id is None else f"User {user_id} is exempt from no rule.")
        return
    if not everything:
        rows = [{name: value for name, value in row.items() if name != "removed_at"} for row in rows]
    print_rows(list(rows[0]) if rows else [], rows, style)


@app.command("remove")
def remove(rule: RuleArgument, user_id: UserOption) -> None:
    """End a user's exemption: the rule holds again for orders that are decided from now on."""
    from streaming.database.exemptions import remove_exemption

    with open_database() as url:
        remove_exemption(url, rule, user_id)
    typer.echo(f"user {user_id} is no longer exempt from the rule {rule}")
