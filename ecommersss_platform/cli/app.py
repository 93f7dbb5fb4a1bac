"""The `ecommersss` command: its table of contents.

Commands are thin shells. They import what they call inside their functions, so `--help` stays fast.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Annotated, Any

import typer

from ecommersss_platform.cli import (
    alerts,
    database,
    export,
    lists,
    orders,
    platform,
    prepare,
    rejected,
    report,
    review,
    rules,
    topics,
    warehouse,
)
from ecommersss_platform.cli.usage import PlainGroup
from ecommersss_platform.environment import drop_foreign_variables
from streaming.errors import first_line
from streaming.libpq import drop_libpq_variables

app = typer.Typer(
    cls=PlainGroup,
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
app.command()(platform.stop)
app.command()(platform.demo)
app.command()(platform.status)
app.command()(platform.health)
app.command()(platform.env)
app.command("import")(database.import_)
app.command()(orders.produce)
app.command()(orders.consume)
app.command()(warehouse.materialize)
app.command()(warehouse.query)
app.add_typer(alerts.app, name="alerts")
app.add_typer(topics.app, name="topics")
app.add_typer(database.app, name="db")
app.add_typer(rejected.app, name="rejected")
app.add_typer(rules.app, name="rules")
app.add_typer(lists.app, name="lists")
app.add_typer(review.app, name="review")
app.add_typer(warehouse.app, name="warehouse")
app.add_typer(report.app, name="report")
app.add_typer(export.app, name="export")
app.add_typer(prepare.app, name="prepare")


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
) -> None:
    """Declare the options that stand before the command; `main` looks at them."""


def main(arguments: list[str] | None = None) -> Any:
    """Run a command. A problem is one clear message on standard error, and exit code 1."""
    drop_libpq_variables()
    drop_foreign_variables()
    for stream in (sys.stdout, sys.stderr):
        # UTF-8 whatever the locale says: a name in the data must not end a command half-way.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    before = os.umask(0o077)  # what a command makes is for its owner only
    debug = (sys.argv[1:] if arguments is None else arguments)[:1] == ["--debug"]
    try:
        app(args=arguments, prog_name="ecommersss")
    except Exception as error:
        from ecommersss_platform.cli.errors import known_problem
        from ecommersss_platform.logs import logs_uncaught, structured
        from ecommersss_platform.terminal import visible

        problem = known_problem(error)
        if debug or (problem is None and logs_uncaught()):
            raise
        if problem is None:
            problem = (
                f"a bug: {type(error).__name__}: {first_line(error)}\n"
                "  `ecommersss --debug COMMAND` shows where; please report it with that output"
            )
        if structured():
            logging.getLogger("ecommersss").critical(problem)
        else:
            typer.echo(f"ecommersss: {visible(problem)}", err=True)
        sys.exit(1)
    finally:
        os.umask(before)
