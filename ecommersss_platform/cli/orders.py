"""`ecommersss produce` and `ecommersss consume`: both ends of the orders topic."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ecommersss_platform.cli.common import (
    MAX_ORDERS_PER_DAY,
    MAX_RATE,
    RhythmOption,
    open_database,
    read_settings,
)
from ecommersss_platform.cli.days import FromOption, LastOption, ToOption, asked_days
from ecommersss_platform.logs import configure_logging
from ecommersss_platform.signals import on_signals
from ecommersss_platform.terminal import visible
from streaming.roles import Role

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings


def produce(
    rate: Annotated[
        float,
        typer.Option(min=0.001, max=MAX_RATE, help="simulated orders per second, until stopped"),
    ] = 2.0,
    rhythm: RhythmOption = False,
    first: FromOption = None,
    last: ToOption = None,
    last_days: LastOption = None,
    orders_per_day: Annotated[
        int,
        typer.Option(min=1, max=MAX_ORDERS_PER_DAY, help="of the simulated days"),
    ] = 2000,
    file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            allow_dash=True,
            help="publish the orders of a JSONL file, a pipe or - (standard input); gzip is unpacked",
        ),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="with --file: publish every line, unchecked")] = False,
) -> None:
    """Publish orders to the topic: simulated live, simulated for past days, or read from a file.

    --from and --to, or --last, simulate the orders of past business days in Asia/Jakarta.
    The lines of a file are checked first. Invalid ones are named and left out, and the exit code is then 1.
    With --raw every line is published unchanged (of gzip: every unpacked line).
    """
    days = asked_days(first, last, last_days)
    if file is not None and days is not None:
        raise typer.BadParameter("--file publishes a file, and --from, --to and --last simulate: choose one")
    if raw and file is None:
        raise typer.BadParameter("--raw goes with --file")

    settings = read_settings()
    if file is not None and raw:
        _publish_raw(settings, file)
    elif file is not None:
        _publish_valid(settings, file)
    elif days is not None:
        _simulate_days(settings, *days, orders_per_day)
    else:
        _simulate_live(settings, rate, rhythm)


def _publish_raw(settings: Settings, file: Path) -> None:
    """Publish every line of the file, unchecked."""
    from ecommersss_platform.progress import progress_bars
    from ecommersss_platform.topics import orders_topic
    from streaming.replay import publish_raw

    with progress_bars() as progress:
        count = publish_raw(orders_topic(settings), file, progress=progress)
    typer.echo(f"published {count:,} lines, unchecked")


def _publish_valid(settings: Settings, file: Path) -> None:
    """Publish the valid orders of the file; exit with code 1 if a line was left out."""
    from ecommersss_platform.progress import progress_bars
    from ecommersss_platform.topics import orders_topic
    from streaming.replay import RefusedLine, replay

    def name(line: RefusedLine) -> None:
        typer.echo(visible(f"{file}: left out {line}"), err=True)

    with progress_bars() as progress:
        result = replay(orders_topic(settings), file, on_refused=name, progress=progress)
    typer.echo(f"published {result.published:,} orders, left out {result.refused.total():,} lines")
    raise typer.Exit(1 if result.refused else 0)


def _simulate_days(settings: Settings, first: date, last: date, orders_per_day: int) -> None:
    """Publish simulated orders of past days, both included."""
    from ecommersss_platform.progress import progress_bars
    from ecommersss_platform.topics import orders_topic
    from streaming.simulator.history import produce_days

    with open_database(settings, Role.SIMULATOR) as url, progress_bars() as progress:
        count = produce_days(
            url,
            orders_topic(settings),
            first,
            last,
            orders_per_day,
            ground_truth=settings.ground_truth_path,
            progress=progress,
        )
    typer.echo(f"published {count:,} orders")


def _simulate_live(settings: Settings, rate: float, rhythm: bool) -> None:
    """Publish simulated orders until a signal stops it."""
    from ecommersss_platform.topics import orders_topic
    from streaming.simulator.producer import Producer

    with open_database(settings, Role.SIMULATOR) as url:
        configure_logging(settings.log_format)
        truth = settings.ground_truth_path
        producer = Producer(url, orders_topic(settings), rate, rhythm=rhythm, ground_truth=truth)
        with on_signals(producer.stop):
            producer.run()


def consume(
    once: Annotated[bool, typer.Option("--once", help="stop when the topic is drained")] = False,
) -> None:
    """Flag each order of the topic as fraud or genuine, store it, and write it to the flagged stream.

    Runs until stopped. A topic on disk has one consumer: a second one refuses to start. On Pub/Sub, any
    number of consumers share the work; with --once they stop after five seconds without a message.
    """
    from ecommersss_platform.topics import fraud_consumer
    from streaming.consumer_loop import tune_interpreter
    from streaming.metrics import served
    from streaming.watchdog import Watchdog

    settings = read_settings()
    configure_logging(settings.log_format)
    tune_interpreter()
    with open_database(settings, Role.CONSUMER) as url:
        consumer = fraud_consumer(settings, url)
        with served(consumer, settings.metrics_port), on_signals(consumer.stop):
            consumer.run(once, Watchdog())
    if once:
        typer.echo(consumer.summary())
