"""`ecommersss report`: the fraud reports, a page for each business day."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from ecommersss_platform.cli.common import FormatOption, note, open_database, read_settings
from ecommersss_platform.cli.days import DayArgument, FromOption, LastOption, ToOption, days_to_do
from ecommersss_platform.cli.output import Format, print_rows
from streaming.errors import PlatformError

app = typer.Typer(help="The fraud reports: a page for each business day.", no_args_is_help=True)


@app.command("open")
def open_(
    day: DayArgument = None,
    show: Annotated[
        bool, typer.Option("--browser/--no-browser", help="whether to open the browser, or only print")
    ] = True,
) -> None:
    """Open the report of a day, the newest one by default, in the browser, and print its address.

    While the platform is up this is an address beside the UI, with the secret that it asks for; else a file.
    """
    import webbrowser

    from ecommersss_platform.reports.serving import pages, report_address

    settings = read_settings()
    found = pages(settings.reports_dir)
    wanted = day or max(found, default=None)
    if wanted is None or wanted not in found:
        what = f"no report of {day}" if day else "no report yet"
        raise PlatformError(
            f"there is {what}: materialise the day, or run `ecommersss report build --from DAY --to DAY`"
        )
    address = report_address(settings, found[wanted])
    typer.echo(address)
    if show and not webbrowser.open(address):
        note("no browser could be started: open the address yourself")


@app.command("build")
def build(
    first: FromOption = None,
    last: ToOption = None,
    last_days: LastOption = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Build the reports of these days from what is in the warehouse now, without a run in Dagster."""
    from ecommersss_platform.days import Days
    from ecommersss_platform.postgres.resource import PostgresResource
    from ecommersss_platform.reports.build import build_reports
    from ecommersss_platform.warehouse import make_warehouse
    from streaming.roles import Role

    settings = read_settings()
    begin, end = days_to_do(first, last, last_days, settings)
    with open_database(settings, Role.READER) as url:
        rows = [
            {"day": it.figures.day, "orders": it.figures.orders, "bytes": it.bytes, "page": str(it.path)}
            for it in build_reports(
                make_warehouse(settings),
                PostgresResource(url=url),
                Days.between(begin, end),
                settings,
                datetime.now(UTC),
            )
        ]
    print_rows(["day", "orders", "bytes", "page"], rows, style)
