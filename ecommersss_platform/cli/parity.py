"""`ecommersss rules parity`: do the stream and the warehouse decide alike?"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING

import typer

from ecommersss_platform.cli.common import FormatOption, read_settings
from ecommersss_platform.cli.days import FromOption, LastOption, ToOption, days_to_do
from ecommersss_platform.cli.output import Format, as_json, print_rows

if TYPE_CHECKING:
    from ecommersss_platform.laboratory.parity import Parity


def parity(
    first: FromOption = None,
    last: ToOption = None,
    last_days: LastOption = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Compare the reasons that the stream stored with orders with those that the warehouse computes.

    Each order is computed with the rule book, lists, exemptions and features that it was decided with. The
    exit code is 1 if an order differs, or has no features in the warehouse yet.
    """
    from ecommersss_platform.days import Days
    from ecommersss_platform.laboratory.parity import compare_verdicts
    from ecommersss_platform.warehouse import make_warehouse

    settings = read_settings()
    days = Days.between(*days_to_do(first, last, last_days, settings))
    found = compare_verdicts(make_warehouse(settings), days)
    if style is Format.TABLE:
        _print(found)
    else:
        typer.echo(as_json(_as_object(found), indent=2 if style is Format.JSON else None))
    raise typer.Exit(0 if found.holds else 1)


def _print(found: Parity) -> None:
    from ecommersss_platform.laboratory.parity import Difference

    if found.examples:
        columns = [field.name for field in fields(Difference)]
        print_rows(columns, [asdict(one) for one in found.examples], Format.TABLE)
    typer.echo(found.summary)


def _as_object(found: Parity) -> dict[str, object]:
    return {
        "first_day": found.days.first,
        "last_day": found.days.last,
        "orders": found.orders,
        **found.counts,
        "unusable_books": dict(found.unusable),
        "days_that_differ": {str(day): orders for day, orders in sorted(found.differing.items())},
        "first_differences": [asdict(one) for one in found.examples],
    }
