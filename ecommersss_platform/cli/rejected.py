"""`ecommersss rejected`: the lines of the topic that are not valid orders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecommersss_platform.cli.common import MAX_POSITION, FormatOption, open_database, read_settings
from ecommersss_platform.cli.output import Format, as_json, print_rows

app = typer.Typer(help="Lines of the topic that are not valid orders.", no_args_is_help=True)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="number of lines, newest first")] = 50,
    style: FormatOption = Format.TABLE,
) -> None:
    """Show rejected lines, newest first, with the reason and the raw text."""
    from streaming.rejected import list_rejected

    with open_database() as url:
        rows = [rejected.as_row() for rejected in list_rejected(url, limit)]
    if not rows and style is Format.TABLE:
        typer.echo("No rejected orders.")
        return
    print_rows(list(rows[0]) if rows else [], rows, style)


@app.command("retry")
def retry(
    positions: Annotated[
        list[int] | None,
        typer.Argument(min=0, max=MAX_POSITION, help="positions to publish again; none: all not yet retried"),
    ] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Publish rejected lines again, at new positions, so the consumer reads them as new lines.

    The consumer itself retries lines with an unknown user or product when that user or product arrives.
    """
    from ecommersss_platform.topics import orders_topic
    from streaming.rejected import retry_rejected

    settings = read_settings()
    with open_database(settings) as url:
        count = retry_rejected(url, orders_topic(settings), positions or None)
    if style is not Format.TABLE:
        typer.echo(as_json({"retried": count}))
    else:
        typer.echo(f"published {count:,} rejected lines again")


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="the JSONL file to write")],
    style: FormatOption = Format.TABLE,
) -> None:
    """Write every rejected line to a file in full: as text if it is text, and as base64 of its bytes.

    One JSON object a line, oldest first, with position, reason, detail, missing_id, rejected_at, retried_at,
    text and raw_base64.
    """
    from streaming.rejected import export_rejected

    with open_database() as url:
        count = export_rejected(url, file)
    if style is not Format.TABLE:
        typer.echo(as_json({"exported": count, "file": str(file)}))
    else:
        typer.echo(f"wrote {count:,} rejected lines to {file}")
