"""`ecommersss rules`: check, show and try the fraud rule book, and explain a verdict."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ecommersss_platform.cli.output import StatusFormat, as_json, print_rows

if TYPE_CHECKING:
    from streaming.explain import Explained
    from streaming.rules import RuleBook

rules_app = typer.Typer(help="The fraud rule book.", no_args_is_help=True)

FormatOption = Annotated[StatusFormat, typer.Option("--format", help="for people or for programs")]
BookOption = Annotated[
    Path | None, typer.Option("--book", help="another rule book than that of the platform", dir_okay=False)
]


def _book(path: Path | None) -> RuleBook:
    from ecommersss_platform.settings import Settings
    from streaming.rules import RuleBook

    return RuleBook.load(path or Settings().rules_path)


@rules_app.command("check")
def check(
    file: Annotated[
        Path | None, typer.Argument(help="a rule book; none: the platform's", dir_okay=False)
    ] = None,
) -> None:
    """Check a rule book, and say where it is wrong. A running consumer would go on with its old one."""
    book = _book(file)
    modes: Counter[str] = Counter(rule.mode for rule in book.rules)
    counts = ", ".join(f"{modes[mode]} {mode}" for mode in ("active", "shadow", "off"))
    typer.echo(f"{book.name} is good: version {book.version}, {len(book.rules)} rules ({counts})")


@rules_app.command("list")
def list_(book: BookOption = None, style: FormatOption = StatusFormat.TABLE) -> None:
    """Show the rules in their order."""
    rules = _book(book)
    rows = [
        {"name": rule.name, "mode": rule.mode, "when": rule.when, "description": rule.description}
        for rule in rules.rules
    ]
    title = f"{rules.name}, version {rules.version}"
    print_rows(list(rows[0]), rows, style, title=title if style is StatusFormat.TABLE else None)


@rules_app.command("explain")
def explain(
    order_id: Annotated[int, typer.Argument(min=1, help="id of an order that the stream has stored")],
    book: BookOption = None,
    style: FormatOption = StatusFormat.TABLE,
) -> None:
    """Show what each rule makes of an order, with the values that it looks at.

    Values are those that were known when the order's turn came. With another book than the one that decided,
    this is what that book would have said.
    """
    from ecommersss_platform.instance.databases import operational_database
    from ecommersss_platform.settings import Settings
    from ecommersss_platform.topics import CONSUMER, TOPIC
    from streaming.database import migrate
    from streaming.explain import explain

    rules = _book(book)
    with operational_database(Settings()) as url:
        migrate(url)
        explained = explain(url, order_id, rules, TOPIC, CONSUMER)
    if style is StatusFormat.JSON:
        typer.echo(as_json(_as_object(explained), indent=2))
    else:
        _print_explained(explained)


@rules_app.command("test")
def try_examples(
    file: Annotated[Path, typer.Argument(help="a YAML file of orders and the rules that must hold for them")],
    book: BookOption = None,
) -> None:
    """Try a rule book on example orders; the exit code is 1 when one gets other reasons than it should.

    streaming/rules/examples.yml is such a file, for the shipped rule book, and says how to write one.
    """
    from streaming.rules.examples import load_examples, run_examples

    outcomes = run_examples(_book(book), load_examples(file))
    for outcome in outcomes:
        typer.echo(str(outcome))
    failed = sum(not outcome.passed for outcome in outcomes)
    typer.echo(f"{len(outcomes) - failed} passed, {failed} failed")
    raise typer.Exit(1 if failed else 0)


def _as_object(explained: Explained) -> dict[str, object]:
    order = explained.order
    return {
        "order": order.id,
        "status": order.status,
        "fraud_reasons": order.fraud_reasons,
        "shadow_reasons": order.shadow_reasons,
        "rules_version": order.rules_version,
        "explained_with": explained.rules_version,
        "agrees": explained.agrees,
        "rules": [
            {
                "name": rule.name,
                "mode": rule.mode,
                "holds": rule.result,
                "when": rule.when,
                "values": rule.values,
            }
            for rule in explained.rules
        ],
    }


def _print_explained(explained: Explained) -> None:
    order = explained.order
    typer.echo(
        f"Order {order.id} is {order.status}: {', '.join(order.fraud_reasons) or 'no active rule held'};"
        f" in shadow {', '.join(order.shadow_reasons) or 'none'}. Rule book {order.rules_version},"
        f" position {order.position}."
    )
    words = {True: "yes", False: "no", None: "NULL"}
    rows = [
        {
            "rule": rule.name,
            "mode": rule.mode,
            "holds": words[rule.result],
            "when": rule.when,
            "values": ", ".join(f"{name} = {_sql(value)}" for name, value in rule.values.items()),
        }
        for rule in explained.rules
    ]
    print_rows(list(rows[0]), rows)
    fraud, shadow = explained.reasons
    if not explained.same_book:
        typer.echo(
            f"Another rule book decided; by this one, {explained.rules_version}, the order would be"
            f" {'fraud: ' + ', '.join(fraud) if fraud else 'genuine'};"
            f" in shadow {', '.join(shadow) or 'none'}."
        )
    elif not explained.agrees:
        typer.echo(
            "These are not the reasons that were stored: the user's sign-up or the product's prices were"
            " loaded or corrected after the order."
        )


def _sql(value: object) -> str:
    """A value as it would be written in a rule."""
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value).upper()
        case Decimal():
            return f"{value:f}"
        case datetime():
            from streaming.business_days import JAKARTA

            return f"'{value.astimezone(JAKARTA).isoformat()}'"
        case str():
            return "'" + value.replace("'", "''") + "'"
        case _:
            return str(value)
