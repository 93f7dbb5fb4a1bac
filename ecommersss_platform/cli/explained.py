"""An explained order on the terminal: each rule's outcome, as `rules explain` and `review show` print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ecommersss_platform.cli.common import read_settings
from ecommersss_platform.cli.output import print_rows
from ecommersss_platform.reports import words
from ecommersss_platform.terminal import visible
from streaming.business_days import local_time

if TYPE_CHECKING:
    from streaming.explain import Explained
    from streaming.lists import Exemption
    from streaming.rules import RuleBook

_WITH_THE_CURRENT_ONE = (
    "The rule book that decided is not kept: it last decided before the platform kept rule books."
    " With the current one"
)


def explained_order(url: str, order_id: int, book: RuleBook | None = None) -> Explained:
    """Evaluate a rule book on a stored order, by default the one that decided.

    If that one is not kept, the platform's stands in: it may be the same, and if not, its outcome is still of
    interest. Raises `PlatformError` if the order is not stored.
    """
    from streaming.explain import BookNotKept, explain
    from streaming.rules import RuleBook

    try:
        return explain(url, order_id, book)
    except BookNotKept:
        return explain(url, order_id, RuleBook.load(read_settings().rules_path))


def as_object(explained: Explained) -> dict[str, object]:
    """Return the outcome of every rule as plain values, for JSON."""
    order = explained.order
    return {
        "order": order.id,
        "status": order.status,
        "fraud_reasons": order.fraud_reasons,
        "shadow_reasons": order.shadow_reasons,
        "review_reasons": order.review_reasons,
        "rules_version": order.rules_version,
        "explained_with": explained.rules_version,
        "agrees": explained.agrees,
        "rules": [
            {
                "name": rule.name,
                "mode": rule.mode,
                "holds": rule.result,
                "exempted": _exempted(explained.exemptions.get(rule.name)),
                "when": rule.when,
                "values": rule.values,
            }
            for rule in explained.rules
        ],
    }


def _exempted(exemption: Exemption | None) -> dict[str, str] | None:
    if exemption is None:
        return None
    until = local_time(exemption.expires_at)
    return {"until": until, "author": exemption.author, "reason": exemption.reason}


def print_explained(explained: Explained, *, given: bool = False) -> None:
    """Print the outcome of every rule. `given`: a person chose the rule book."""
    order = explained.order
    typer.echo(
        f"Order {order.id} is {order.status}: {', '.join(order.fraud_reasons) or 'no active rule held'};"
        f"{_others(order.shadow_reasons, order.review_reasons)}. Rule book {order.rules_version},"
        f" position {order.position}."
    )
    answers = {True: "yes", False: "no", None: "NULL"}
    exempt = explained.exemptions
    rows = [
        {
            "rule": rule.name,
            "mode": rule.mode,
            "holds": answers[rule.result] + (", but exempted" if rule.held and rule.name in exempt else ""),
            "when": rule.when,
            "values": ", ".join(f"{name} = {words.literal(value)}" for name, value in rule.values.items()),
        }
        for rule in explained.rules
    ]
    print_rows(list(rows[0]), rows)
    for entry in (exempt[rule.name] for rule in explained.rules if rule.name in exempt):
        who = f"User {order.user_id} was exempt from {entry.rule} until {local_time(entry.expires_at)}"
        typer.echo(visible(f"{who}, by {entry.author}: {entry.reason}"))
    fraud, shadow, review = explained.reasons
    if not explained.same_book:
        with_which = "Another rule book decided. With this one" if given else _WITH_THE_CURRENT_ONE
        typer.echo(
            f"{with_which}, {explained.rules_version}, the order would be"
            f" {'fraud: ' + ', '.join(fraud) if fraud else 'genuine'};{_others(shadow, review)}."
        )
    elif not explained.agrees:
        typer.echo(
            "The stored reasons differ. Either the user's sign-up or the product's price was changed in the"
            " seconds in which the order was decided, or stored rows were changed by hand."
        )


def _others(shadow: list[str], review: list[str]) -> str:
    return "".join(
        f" {kind}: {', '.join(names) or 'none'}{end}"
        for kind, names, end in (("shadow rules", shadow, ";"), ("for review", review, ""))
    )
