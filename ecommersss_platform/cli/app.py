"""The `ecommersss` command: its table of contents.

Commands are thin shells. They import what they call inside their functions, so `--help` stays fast.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import typer

from ecommersss_platform.cli import (
    database,
    lists,
    orders,
    platform,
    prepare,
    rejected,
    rules,
    topics,
    warehouse,
)
from streaming.libpq import drop_libpq_variables

app = typer.Typer(
    help="""The eCommer$$$ data platform: orders are flagged as they are placed, days become marts.

    A command also works while the platform is down: it then starts the embedded database for itself and stops
    it afterwards. State lives in $ECOMMERSSS_HOME (default .ecommersss). Every setting is an environment
    variable ECOMMERSSS_*; .env.example lists them.""",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
app.command()(platform.up)
app.command()(platform.demo)
app.command()(platform.status)
app.command()(platform.health)
app.command("import")(database.import_)
app.command()(orders.produce)
app.command()(orders.consume)
app.command()(warehouse.materialize)
app.command()(warehouse.query)
app.add_typer(topics.app, name="topics")
app.add_typer(database.app, name="db")
app.add_typer(rejected.app, name="rejected")
app.add_typer(rules.app, name="rules")
app.add_typer(lists.app, name="lists")
app.add_typer(warehouse.app, name="warehouse")
app.add_typer(prepare.app, name="prepare")


def main(arguments: list[str] | None = None) -> Any:
    """Run a command. A known problem is one clear message on standard error, and exit code 1."""
    drop_libpq_variables()
    try:
        app(args=arguments, prog_name="ecommersss")
    except Exception as error:
        from ecommersss_platform.cli.errors import known_problem
        from ecommersss_platform.cli.output import visible
        from ecommersss_platform.logs import structured

        problem = known_problem(error)
        if problem is None:
            raise
        if structured():
            logging.getLogger("ecommersss").critical(problem)
        else:
            typer.echo(f"ecommersss: {visible(problem)}", err=True)
        sys.exit(1)
