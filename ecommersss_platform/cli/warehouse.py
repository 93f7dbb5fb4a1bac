"""`ecommersss warehouse`: bring tables to their contracts."""

from __future__ import annotations

from typing import Annotated

import typer

from ecommersss_platform.cli.output import StatusFormat, print_rows

warehouse_app = typer.Typer(help="The raw tables in the warehouse.", no_args_is_help=True)


@warehouse_app.command("migrate")
def migrate(
    table: Annotated[str | None, typer.Option(help="like raw.orders; none: every raw table")] = None,
    rename: Annotated[
        list[str] | None, typer.Option(help="OLD=NEW: the column OLD is called NEW in the contract")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="a column to lose, with its values")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would change, change nothing")] = False,
    style: Annotated[
        StatusFormat, typer.Option("--format", help="for people or for programs")
    ] = StatusFormat.TABLE,
) -> None:
    """Bring a table to its contract (`contracts.py`), each table in one step or not at all.

    New nullable columns appear by themselves when a day is loaded; this is for columns that were renamed,
    removed or have another type. A type changes only if every value stays what it is. Let no run load the
    table meanwhile.
    """
    from ecommersss_platform.contracts import RAW_TABLES
    from ecommersss_platform.settings import Settings
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
    warehouse = make_warehouse(Settings())
    rows = []
    for name in [table] if table else known:
        try:
            changes = warehouse.migrate(known[name], renames, drop or [], dry_run=dry_run)
        except TableNotFound:
            if table:
                raise
            changes = ()  # nothing was loaded into it yet
        rows += [{"table": name, "change": change} for change in changes]
    if style is StatusFormat.JSON or rows:
        print_rows(["table", "change"], rows, style)
    if style is StatusFormat.TABLE:
        done = "would change" if dry_run else "changed"
        typer.echo(f"{done} {len({row['table'] for row in rows})} of {1 if table else len(known)} tables")


def _renaming(pair: str) -> tuple[str, str]:
    old, separator, new = pair.partition("=")
    if not (old and separator and new):
        raise typer.BadParameter(f"OLD=NEW is expected, got {pair}", param_hint="--rename")
    return old, new
