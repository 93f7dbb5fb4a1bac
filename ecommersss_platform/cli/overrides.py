"""`ecommersss rules overrides`: the rules that the brake put back to shadow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ecommersss_platform.cli.common import ByOption, FormatOption, account, open_database, read_settings
from ecommersss_platform.cli.output import Format, print_rows

if TYPE_CHECKING:
    from streaming.rules import RuleBook

app = typer.Typer(
    help="The rules that the brake put back to shadow, because they held for far more orders than expected.",
    no_args_is_help=True,
)


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="also overrides that were lifted")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Show the overrides: what each rule held for, since when, and whether the override has an effect."""
    from streaming.database.overrides import list_overrides
    from streaming.rules import RuleBook, RuleError

    try:
        book = RuleBook.load(read_settings().rules_path)
    except RuleError:  # `ecommersss status` says so
        book = None
    with open_database() as url:
        kept = list_overrides(url, lifted=everything)
    if not kept and style is Format.TABLE:
        typer.echo("The brake holds no rule back.")
        return
    rows = []
    for it in kept:
        row = it.override.as_row() | {"effect": "lifted" if it.lifted_at else _effect(book, it.override.rule)}
        if everything:
            row |= {"lifted_at": it.lifted_at, "by": it.lifted_by, "because": it.lifted_because}
        rows.append(row)
    print_rows(list(rows[0]) if rows else [], rows, style)


def _effect(book: RuleBook | None, rule: str) -> str:
    """Return what an override in force does to a rule of the platform's book."""
    from streaming.rules.book import DECIDES

    if book is None:
        return "unknown: the rule book cannot be used"
    mode = next((it.mode for it in book.rules if it.name == rule), None)
    if mode is None:
        return "none: the rule book has no such rule"
    return "in shadow" if mode in DECIDES else f"none: the rule book has it in mode {mode}"


@app.command("lift")
def lift(
    rule: Annotated[str, typer.Argument(help="the rule's name")],
    reason: Annotated[str, typer.Option(help="why, for later readers")],
    by: ByOption = None,
) -> None:
    """Let a rule decide again as the rule book says, from the consumers' next batch on.

    Its probation begins again. If it still holds for far more orders than expected, it is put back again: so
    first correct the rule, or promote it with what it is expected to hold for now.
    """
    from streaming.database.overrides import lift_override

    with open_database() as url:
        lift_override(url, rule, by or account(), reason)
    typer.echo(f"the rule {rule} is in the mode of the rule book again; its probation begins again")
