"""`ecommersss topics`: the two streams on disk."""

from __future__ import annotations

from typing import Annotated

import typer

from ecommersss_platform.cli.common import FormatOption, open_database, read_settings
from ecommersss_platform.cli.output import Format, print_rows

app = typer.Typer(help="The two streams on disk.", no_args_is_help=True)


@app.command("trim")
def trim(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be removed")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Remove segments that are older than the settings allow and that every reader has passed.

    The job topic_retention does the same every day. Lists each segment, and why it stays if it does.
    """
    from ecommersss_platform.instance.dagster_home import dagster_instance
    from ecommersss_platform.instance.databases import dagster_storage
    from ecommersss_platform.topic_retention import plan, remove, sensor_position

    settings = read_settings()
    with open_database(settings) as url, dagster_storage(settings) as dagster_url:
        with dagster_instance(settings, dagster_url) as instance:
            position = sensor_position(instance)
        plans = plan(settings, url, position)
        rows = [row for planned in plans for row in planned.as_rows()]
        if not dry_run:
            remove(plans)
    print_rows(list(rows[0]) if rows else [], rows, style)
    if style is Format.TABLE:
        count = sum(row["removable"] for row in rows)
        typer.echo(f"{'would remove' if dry_run else 'removed'} {count} of {len(rows)} segments")
