"""`ecommersss review`: the orders that passed and wait for a person."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecommersss_platform.cli.common import ByOption, FormatOption, account, open_database
from ecommersss_platform.cli.explained import as_object, explained_order, print_explained
from ecommersss_platform.cli.output import Format, as_json, print_rows
from streaming.orders import MAX_ID

if TYPE_CHECKING:
    from streaming.explain import Explained

app = typer.Typer(
    help="The orders that passed and wait for a person: by review rules and by the random sample.",
    no_args_is_help=True,
)

OrderArgument = Annotated[int, typer.Argument(metavar="ORDER", min=1, max=MAX_ID, help="a stored order's id")]


class Verdict(StrEnum):
    FRAUD = "fraud"
    GENUINE = "genuine"


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="number of orders")] = 50,
    style: FormatOption = Format.TABLE,
) -> None:
    """Show the orders that wait: the oldest day first, and of a day the largest amount first."""
    from streaming.database.reviews import waiting

    with open_database() as url:
        rows = [asdict(order) for order in waiting(url, limit)]
    if style is Format.TABLE:
        if not rows:
            typer.echo("No order waits for review.")
            return
        rows = [row | {"reasons": ", ".join(row["reasons"])} for row in rows]
    print_rows(list(rows[0]) if rows else [], rows, style)


@app.command("show")
def show(order_id: OrderArgument, style: FormatOption = Format.TABLE) -> None:
    """Show what a person needs to decide about an order.

    The rules with the order's values, the user's latest orders and what became of them, the entries of the
    user on the lists, exemptions, and earlier verdicts about the user's orders.
    """
    from streaming.database.exemptions import list_exemptions
    from streaming.database.reviews import past_of
    from streaming.database.user_lists import list_entries

    with open_database() as url:
        explained = explained_order(url, order_id)
        user = explained.order.user_id
        orders, verdicts = past_of(url, user, order_id)
        entries = [entry.as_row() for entry in list_entries(url, user, removed=True)]
        exemptions = [kept.as_row() for kept in list_exemptions(url, user, removed=True)]
    known = {
        "latest_orders": [asdict(it) for it in orders],
        "lists": entries,
        "exemptions": exemptions,
        "verdicts": [asdict(it) for it in verdicts],
    }
    if style is Format.TABLE:
        _print_case(explained, known)
        return
    found = as_object(explained) | {"user_id": user} | known
    typer.echo(as_json(found, indent=2 if style is Format.JSON else None))


@app.command("decide")
def decide(
    order_id: OrderArgument,
    verdict: Annotated[Verdict, typer.Argument(help="what the order really is")],
    note: Annotated[str, typer.Option(help="why, for later readers")],
    block: Annotated[bool, typer.Option("--block", help="also put the user on the block list")] = False,
    by: ByOption = None,
) -> None:
    """Record a verdict about an order, which takes it out of the queue. A newer verdict undoes it.

    Any stored order can get a verdict, whether or not it waits. Labels and marts follow within minutes.
    """
    from streaming.database.reviews import decide

    with open_database() as url:
        user = decide(url, order_id, verdict.value, by or account(), note, block=block)
    blocked = f"; user {user} is on the block list" if block else ""
    typer.echo(f"order {order_id} is {verdict}{blocked}")


def _print_case(explained: Explained, known: dict[str, list[dict[str, Any]]]) -> None:
    print_explained(explained)
    order = explained.order
    facts = {name: getattr(order, name) for name in ("user_id", "product_id", "quantity", "amount")}
    facts |= {"payment_method": order.payment_method, "country": order.country, "placed": order.created_date}
    print_rows(list(facts), [facts], title="the order")
    user = f"user {order.user_id}"
    for name, title in (
        ("latest_orders", f"the latest other orders of {user}"),
        ("lists", f"{user} on the lists"),
        ("exemptions", f"exemptions of {user}"),
        ("verdicts", f"verdicts about {user}"),
    ):
        if rows := known[name]:
            shown = [{k: ", ".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
            print_rows(list(shown[0]), shown, title=title)
        else:
            typer.echo(f"{title}: none")
