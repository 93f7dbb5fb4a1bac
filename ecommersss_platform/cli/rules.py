"""`ecommersss rules`: check, show and test the fraud rule book, and explain a verdict."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ecommersss_platform.cli import backtest, books, exemptions, overrides, parity, promotion
from ecommersss_platform.cli.common import FormatOption, open_database, read_settings
from ecommersss_platform.cli.explained import as_object, explained_order, print_explained
from ecommersss_platform.cli.output import Format, as_json, print_rows
from streaming.orders import MAX_ID

if TYPE_CHECKING:
    from streaming.database.overrides import EffectiveBook
    from streaming.rules import RuleBook

app = typer.Typer(help="The fraud rule book.", no_args_is_help=True)
app.add_typer(books.app, name="books")
app.add_typer(exemptions.app, name="exemptions")
app.add_typer(overrides.app, name="overrides")
app.command("exempt")(exemptions.exempt)
app.command("backtest")(backtest.backtest)
app.command("promote")(promotion.promote)
app.command("parity")(parity.parity)

BookOption = Annotated[
    Path | None, typer.Option("--book", help="a rule book instead of the platform's", dir_okay=False)
]


def _book(path: Path | None) -> RuleBook:
    from streaming.rules import RuleBook

    return RuleBook.load(path or read_settings().rules_path)


@app.command("check")
def check(
    file: Annotated[
        Path | None, typer.Argument(help="a rule book (default: the platform's)", dir_okay=False)
    ] = None,
) -> None:
    """Check a rule book, and say where it is wrong. A running consumer ignores a wrong book.

    Warns of conditions that can never hold, or that hold for every order, and of text in double quotes.
    """
    from streaming.rules.book import MODES
    from streaming.rules.lint import warnings

    book = _book(file)
    for rule in book.rules:
        for warning in warnings(rule):
            typer.echo(f"warning: {book.name}:{rule.line}: rule {rule.name}: {warning}", err=True)
    modes: Counter[str] = Counter(rule.mode for rule in book.rules)
    counts = ", ".join(f"{modes[mode]} {mode}" for mode in MODES)
    typer.echo(f"{book.name} is good: version {book.version}, {len(book.rules)} rules ({counts})")


@app.command("list")
def list_(book: BookOption = None, style: FormatOption = Format.TABLE) -> None:
    """Show the rules in order, with the modes that decide, and how far probations are.

    A rule that the brake put back to shadow has another `mode_in_file`. With --book, nothing but that book is
    looked at.
    """
    from streaming.rules.brake import PROBATION_ORDERS

    rules = _book(book)
    effective = None if book else _effective(rules)
    progress = effective.progress if effective else {}
    rows: list[dict[str, object]] = []
    for rule, decides in zip(rules.rules, effective.book.rules if effective else rules.rules, strict=True):
        row: dict[str, object] = {"name": rule.name, "mode": decides.mode}
        if effective:
            count = progress.get(rule.name)
            row |= {
                "mode_in_file": rule.mode,
                "probation_orders": min(count.orders, PROBATION_ORDERS) if count else None,
                "probation_held": count.held if count else None,
            }
        rows.append(row | {"when": rule.when, "description": rule.description})
    columns = list(rows[0])
    if style is Format.TABLE:
        if all(row["mode"] == row.get("mode_in_file", row["mode"]) for row in rows):
            columns = [name for name in columns if name != "mode_in_file"]
        if not progress:
            columns = [name for name in columns if not name.startswith("probation")]
    version = (effective.book if effective else rules).version
    title = f"{rules.name}, version {version}"
    print_rows(columns, rows, style, title=title if style is Format.TABLE else None)


def _effective(book: RuleBook) -> EffectiveBook | None:
    """Return what consumers make of the platform's book; None if there is no platform yet."""
    from streaming.database.overrides import effective_book

    settings = read_settings()
    if not settings.has_database:
        return None
    with open_database(settings) as url:
        return effective_book(url, book)


@app.command("explain")
def explain(
    order_id: Annotated[int, typer.Argument(min=1, max=MAX_ID, help="the id of a stored order")],
    book: BookOption = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Show each rule's result for an order, with the values that the rule uses.

    The rules are those of the book that decided, and the values are those known when the consumer reached the
    order. A rule from which the user was exempt may hold, and decides nothing all the same. With --book, the
    output shows what another book would have decided.
    """
    given = _book(book) if book else None
    with open_database() as url:
        explained = explained_order(url, order_id, given)
    if style is not Format.TABLE:
        typer.echo(as_json(as_object(explained), indent=2 if style is Format.JSON else None))
    else:
        print_explained(explained, given=given is not None)


@app.command("test")
def try_examples(
    file: Annotated[Path, typer.Argument(help="a YAML file of orders with the rules that must hold")],
    book: BookOption = None,
) -> None:
    """Run a rule book on example orders. The exit code is 1 if an order gets other reasons than expected.

    streaming/rules/examples.yml is such a file for the shipped rule book, and explains the format.
    """
    from streaming.rules.examples import load_examples, run_examples

    outcomes = run_examples(_book(book), load_examples(file))
    for outcome in outcomes:
        typer.echo(str(outcome))
    failed = sum(not outcome.passed for outcome in outcomes)
    typer.echo(f"{len(outcomes) - failed} passed, {failed} failed")
    raise typer.Exit(1 if failed else 0)
