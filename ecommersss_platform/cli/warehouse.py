"""`ecommersss materialize|query` and `ecommersss warehouse`: load, read and migrate the warehouse."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ecommersss_platform.cli.common import FormatOption, note, read_settings
from ecommersss_platform.cli.days import FromOption, LastOption, ToOption, days_to_do
from ecommersss_platform.cli.output import Format, QueryFormat, print_rows

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings

app = typer.Typer(help="The raw tables in the warehouse.", no_args_is_help=True)


def materialize(
    first: FromOption = None,
    last: ToOption = None,
    last_days: LastOption = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="build everything, even if no row has changed")
    ] = False,
) -> None:
    """Load these days into the warehouse and rebuild everything that depends on them, in one run.

    Days are business days in Asia/Jakarta: --from yesterday --to today, or --last 7. This runs the job
    `daily_pipeline`, as the Dagster UI would. The run appears in the UI too. If the days have the same rows
    as before and everything is up to date, nothing is rebuilt.
    """
    settings = read_settings()
    begin, end = days_to_do(first, last, last_days, settings)
    materialize_with_progress(settings, begin, end, rebuild=rebuild)


def query(
    sql: Annotated[str, typer.Argument(help='for example "SELECT * FROM gold.most_fraudulent_users"')],
    style: Annotated[
        QueryFormat,
        typer.Option("--format", help="json: an array, or an object if there is one row; jsonl: lines"),
    ] = QueryFormat.TABLE,
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="write to this new file; parquet needs it")
    ] = None,
) -> None:
    """Run a read-only query on the warehouse.

    In JSON and Parquet, the second of two columns `a` is `a_1`; in JSON, NaN and infinite numbers are null.
    """
    from ecommersss_platform.cli.query_output import write_result
    from ecommersss_platform.warehouse import make_warehouse

    if style is QueryFormat.PARQUET and output is None:
        raise typer.BadParameter("parquet goes to a file: add --output FILE", param_hint="--format")
    write_result(make_warehouse(read_settings()).stream(sql), style, output)


@app.command("migrate")
def migrate(
    table: Annotated[str | None, typer.Option(help="such as raw.orders; none: every raw table")] = None,
    rename: Annotated[
        list[str] | None, typer.Option(help="OLD=NEW: the contract calls the column OLD now NEW")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="a column to drop, with its values")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would change")] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Change tables to match their contracts (`contracts.py`), each table in one step or not at all.

    Loading a day adds new nullable columns by itself. This command is for columns that were renamed, removed
    or given another type. It changes a type only if every value stays the same. Let no run load the table
    meanwhile.
    """
    from ecommersss_platform.contracts import RAW_TABLES
    from ecommersss_platform.warehouse import TableNotFound, make_warehouse
    from ecommersss_platform.warehouse.names import full_name

    known = {full_name(contract): contract for contract in RAW_TABLES}
    if table is not None and table not in known:
        raise typer.BadParameter(
            f"there is no table {table}; there are {', '.join(known)}", param_hint="--table"
        )
    if table is None and (rename or drop):
        raise typer.BadParameter("--rename and --drop need --table")
    renames = dict(_renaming(pair) for pair in rename or [])
    warehouse = make_warehouse(read_settings())
    rows = []
    for name in [table] if table else known:
        try:
            changes = warehouse.migrate(known[name], renames, drop or [], dry_run=dry_run)
        except TableNotFound:
            if table:
                raise
            changes = ()  # nothing has been loaded into it yet
        rows += [{"table": name, "change": change} for change in changes]
    if style is not Format.TABLE or rows:
        print_rows(["table", "change"], rows, style)
    if style is Format.TABLE:
        done = "would change" if dry_run else "changed"
        typer.echo(f"{done} {len({row['table'] for row in rows})} of {1 if table else len(known)} tables")


def _renaming(pair: str) -> tuple[str, str]:
    old, separator, new = pair.partition("=")
    if not (old and separator and new):
        raise typer.BadParameter(f"expected OLD=NEW, got {pair}", param_hint="--rename")
    return old, new


def materialize_with_progress(settings: Settings, first: date, last: date, *, rebuild: bool = False) -> None:
    """Materialise the days `first` to `last`, both included, in one run, and show its progress.

    `rebuild`: build everything, even if no row has changed.
    Raises `PlatformError` for days without a partition and for a failed run.
    """
    from ecommersss_platform.days import Days
    from ecommersss_platform.materialize import Kind, Progress, materialize
    from ecommersss_platform.progress import progress_bars

    with progress_bars() as bar:

        def show(progress: Progress) -> None:
            if progress.kind is Kind.MATERIALIZED:
                bar("assets", progress.done, progress.total)
            elif progress.kind is Kind.WAITING:
                note(f"  {progress.message}")
            elif progress.kind is not Kind.STARTED:
                # The error of a step is in the message with which the command ends.
                message = "" if progress.kind is Kind.FAILED else progress.message
                note(f"  {progress.kind.value}: {progress.name} {message}".rstrip())

        result = materialize(settings, Days.between(first, last), rebuild=rebuild, progress=show, say=note)
    if result.unchanged:
        note(
            f"  no raw row has changed: {len(result.unchanged)} tables that are built from these days are up"
            " to date and were not built again (--rebuild builds them)"
        )
    print_rows(
        ["asset", "rows"],
        [{"asset": asset, "rows": rows} for asset, rows in result.rows.items()],
        title=f"run {result.run_id}: {result.days} in {result.seconds:.1f} s",
    )
