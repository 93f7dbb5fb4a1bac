"""`ecommersss alerts`: what is wrong now, who is told, and what is muted."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from ecommersss_platform.cli.common import FormatOption, read_settings
from ecommersss_platform.cli.days import UntilOption
from ecommersss_platform.cli.output import Format, print_rows
from streaming.business_days import JAKARTA
from streaming.errors import PlatformError

app = typer.Typer(
    help="Alerts: problems that are open, channels that are told, and mutes.", no_args_is_help=True
)

_UNITS = {"m": "minutes", "min": "minutes", "h": "hours", "d": "days"}


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})\s*(m|min|h|d)", text.strip())
    if found is None or int(found[1]) == 0:
        raise ValueError(f"{text} is not a duration: write a number and m, h or d, such as 30m, 2h or 7d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


KindArgument = Annotated[str, typer.Argument(help="a kind of problem, such as run_failed, or `all`")]
SubjectArgument = Annotated[
    str | None, typer.Argument(help="what the problem is about, as `alerts list` shows it; default: any")
]


@app.command("run")
def run() -> None:
    """Look at the platform every few seconds, and tell what changed. `ecommersss up` runs it."""
    import threading

    from ecommersss_platform.alerts import monitor
    from ecommersss_platform.logs import configure_logging
    from ecommersss_platform.signals import on_signals

    settings = read_settings()
    configure_logging(settings.log_format)
    stop = threading.Event()
    with on_signals(stop.set):
        monitor.run(settings, stop)


@app.command("test")
def send_test(style: FormatOption = Format.TABLE) -> None:
    """Send a test message to every channel. The exit code is 1 if one did not take it."""
    from ecommersss_platform.alerts.channels import channels, try_channels

    rows = try_channels(channels(read_settings()))
    print_rows(["channel", "owner", "arrived", "why not"], rows, style)
    raise typer.Exit(0 if all(row["arrived"] == "yes" for row in rows) else 1)


@app.command("list")
def list_(
    everything: Annotated[
        bool, typer.Option("--all", help="also problems that are over, as far as alerts.jsonl goes back")
    ] = False,
    style: FormatOption = Format.TABLE,
) -> None:
    """Show the problems that are open: since when, who was told, and until when they are muted."""
    from ecommersss_platform.alerts.listing import open_problems, past_problems
    from ecommersss_platform.alerts.store import Store

    settings = read_settings()
    rows = open_problems(Store(settings).read(), datetime.now(UTC))
    if everything:
        rows += past_problems(settings.alerts_path)
    if not rows and style is Format.TABLE:
        typer.echo("No problem is open.")
        return
    if style is Format.TABLE:
        rows = [{**row, "told": ", ".join(row["told"])} for row in rows]
    names = [name for name in (rows[0] if rows else ()) if everything or name != "over"]
    print_rows(names, rows, style)


@app.command("mute")
def mute(
    kind: KindArgument,
    subject: SubjectArgument = None,
    duration: Annotated[
        timedelta | None,
        typer.Option("--for", parser=_duration, metavar="TIME", help="for how long, such as 30m, 2h or 7d"),
    ] = None,
    until: UntilOption = None,
) -> None:
    """Hold back the messages of a kind of problem, or of one subject. What is still open then is told."""
    from ecommersss_platform.alerts import state
    from ecommersss_platform.alerts.store import Store

    _check_kind(kind)
    now = datetime.now(UTC)
    if (duration is None) == (until is None):
        raise typer.BadParameter("say until when: --for TIME, or --until DAY")
    end = until or now + (duration or timedelta())
    if end <= now:
        raise typer.BadParameter(f"{end.astimezone(JAKARTA):%Y-%m-%d %H:%M} is over")
    Store(read_settings()).update(lambda before: state.muted(before, state.Mute(kind, subject, end)))
    typer.echo(f"{_what(kind, subject)} muted until {end.astimezone(JAKARTA):%Y-%m-%d %H:%M} (Asia/Jakarta)")


@app.command("unmute")
def unmute(kind: KindArgument, subject: SubjectArgument = None) -> None:
    """End a mute before its time: what it held back is told at the next look."""
    from ecommersss_platform.alerts import state
    from ecommersss_platform.alerts.store import Store

    _check_kind(kind)
    store = Store(read_settings())
    before = store.read()
    after = store.update(lambda before: state.unmuted(before, kind, subject))
    if after.mutes == before.mutes:
        others = "; ".join(f"{_what(mute.kind, mute.subject)} muted" for mute in before.mutes)
        raise PlatformError(f"there is no such mute: {others or 'nothing is muted'}")
    typer.echo(f"{_what(kind, subject)} no longer muted")


def _what(kind: str, subject: str | None) -> str:
    return "everything is" if kind == "all" else f"{kind} of {subject} is" if subject else f"{kind} is"


def _check_kind(kind: str) -> None:
    from ecommersss_platform.alerts.problem import KINDS
    from ecommersss_platform.alerts.state import EVERYTHING

    if kind not in (EVERYTHING, *KINDS):
        raise typer.BadParameter(f"there is no kind {kind}: {', '.join((EVERYTHING, *KINDS))}")
