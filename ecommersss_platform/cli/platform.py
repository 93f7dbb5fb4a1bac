"""`ecommersss up|stop|demo|status|health|env`: the platform as a whole."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ecommersss_platform.cli.common import (
    MAX_ORDERS_PER_DAY,
    MAX_RATE,
    FormatOption,
    RhythmOption,
    read_settings,
)
from ecommersss_platform.cli.output import Format, as_json
from ecommersss_platform.terminal import visible


class Watched(StrEnum):
    CONSUMER = "consumer"
    PRODUCER = "producer"
    PLATFORM = "platform"
    MONITOR = "monitor"


def up(
    rate: Annotated[
        float,
        typer.Option(min=0, max=MAX_RATE, help="simulated orders per second (0: no producer)"),
    ] = 2.0,
    rhythm: RhythmOption = False,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="port of the Dagster UI (0: any free port)")
    ] = None,
    orders_per_day: Annotated[
        int,
        typer.Option(
            min=0, max=MAX_ORDERS_PER_DAY, help="orders per day in the simulated history of a first run"
        ),
    ] = 2000,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="a UI that only shows: no runs, no switches")
    ] = False,
) -> None:
    """Start the whole platform, supervise it, and stop it on Ctrl-C.

    The first run creates the home, the databases and a week of simulated history. A process that dies is
    restarted. A second `up` on the same home says where the first one is running.
    """
    from ecommersss_platform.local import stack

    settings = read_settings()
    if port is not None:
        settings = settings.model_copy(update={"ui_port": port})
    if read_only:
        settings = settings.model_copy(update={"ui_read_only": True})
    raise typer.Exit(stack.up(settings, rate=rate, rhythm=rhythm, orders_per_day=orders_per_day))


def stop() -> None:
    """Stop the platform that `ecommersss up` runs on this home, from any shell, and wait until it is down."""
    from ecommersss_platform.local import stack

    typer.echo(stack.stop(read_settings()))


def demo(
    days: Annotated[int, typer.Option(min=1, max=3650, help="days of simulated history, up to today")] = 7,
    orders_per_day: Annotated[int, typer.Option(min=1, max=MAX_ORDERS_PER_DAY, help="orders per day")] = 2000,
    rows: Annotated[int, typer.Option(min=1, max=10_000, help="rows to show of each mart")] = 5,
) -> None:
    """Run the whole flow once, without a UI: simulated history, fraud verdicts, backfill, marts."""
    from ecommersss_platform.cli.demo import run_demo

    run_demo(read_settings(), days=days, orders_per_day=orders_per_day, rows=rows)


def status(style: FormatOption = Format.TABLE) -> None:
    """Show every process, positions and lag, the newest partition of each table, and rejected orders.

    Problems come first: parts that do not answer, processes that end again and again, a rule book that cannot
    be used. Then come the open problems that alerts tell. Failed runs and alerts are those of the last day.
    """
    from ecommersss_platform.cli.status import print_status
    from ecommersss_platform.status import gather, leave_hanging_parts

    report = gather(read_settings())
    if style is not Format.TABLE:
        typer.echo(as_json(report, indent=2 if style is Format.JSON else None))
    else:
        print_status(report)
    leave_hanging_parts()


def env() -> None:
    """Print what a shell needs for Dagster's own commands and any directory: eval "$(ecommersss env)".

    Secrets are not in it: URLs stay in the environment or in `.env`.
    """
    import shlex

    from ecommersss_platform.instance.dagster_home import ensure_dagster_home

    settings = read_settings()
    ensure_dagster_home(settings)
    for name, path in {"ECOMMERSSS_HOME": settings.home, "DAGSTER_HOME": settings.dagster_home}.items():
        typer.echo(f"export {name}={shlex.quote(str(path))}")


def health(process: Annotated[Watched, typer.Argument(help="the process to check, or all of it")]) -> None:
    """Check that a process, or the whole platform, does its work, for containers and monitoring.

    The exit code is 0, or 1 with a sentence that says what is wrong. A consumer is healthy if it has
    committed the whole topic or commits more of it within five seconds, and if its rule book can be used. A
    producer is healthy if it has published within two minutes, and the monitor of the alerts if it has looked
    within two minutes. The platform is healthy if nothing is wrong that `ecommersss alerts` would tell: each
    problem is a line, also while PostgreSQL or the daemon is down.
    """
    from ecommersss_platform.cli.health import check, look_at_platform

    settings = read_settings()
    if process is Watched.PLATFORM:
        found = look_at_platform(settings)
        for problem in found.problems:
            typer.echo(visible(f"{problem.kind} ({problem.subject}): {problem.summary}"))
        if not found.problems:
            typer.echo("the platform is healthy")
        if found.unknown:
            typer.echo(f"cannot be seen now: {', '.join(sorted(found.unknown))}")
        raise typer.Exit(1 if found.problems else 0)
    problem_of_process = check(process.value, settings)
    typer.echo(problem_of_process or f"the {process.value} is healthy")
    raise typer.Exit(1 if problem_of_process else 0)
