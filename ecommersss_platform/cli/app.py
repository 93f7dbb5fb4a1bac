"""The `ecommersss` command: thin shells over the platform's functions, imported where they are used."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecommersss_platform.cli.lists import lists_app
from ecommersss_platform.cli.output import Format, StatusFormat, as_json, print_rows
from ecommersss_platform.cli.rules import rules_app
from ecommersss_platform.cli.warehouse import warehouse_app
from ecommersss_platform.logs import configure_logging

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings

app = typer.Typer(
    help="""The eCommer$$$ data platform: orders are flagged as they are placed, days become marts.

    Every command works on a platform that is up (`ecommersss up`) and on one that is not: the embedded
    database is then started for the command and stopped after it. State lives in $ECOMMERSSS_HOME
    (default .ecommersss); every setting is an environment variable ECOMMERSSS_*, see .env.example.""",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
db_app = typer.Typer(help="The operational database.", no_args_is_help=True)
rejected_app = typer.Typer(help="Lines of the topic that are no valid order.", no_args_is_help=True)
topics_app = typer.Typer(help="The two streams on disk.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
app.add_typer(db_app, name="db")
app.add_typer(rejected_app, name="rejected")
app.add_typer(rules_app, name="rules")
app.add_typer(lists_app, name="lists")
app.add_typer(warehouse_app, name="warehouse")


class Entity(StrEnum):
    USERS = "users"
    PRODUCTS = "products"


class Watched(StrEnum):
    CONSUMER = "consumer"
    PRODUCER = "producer"


class Database(StrEnum):
    ECOMMERSSS = "ecommersss"
    DAGSTER = "dagster"


StatusFormatOption = Annotated[StatusFormat, typer.Option("--format", help="for people or for programs")]


def _settings() -> Settings:
    from ecommersss_platform.settings import Settings

    return Settings()


@contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C ask for a clean end, for as long as the block runs."""
    previous = {s: signal.signal(s, lambda *_: stop()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@app.command()
def up(
    rate: Annotated[float, typer.Option(min=0, help="simulated orders per second; 0: no producer")] = 2.0,
    port: Annotated[int | None, typer.Option(help="port of the Dagster UI; 0: any free one")] = None,
    orders_per_day: Annotated[
        int, typer.Option(min=0, help="orders a day in the history of a first run")
    ] = 2000,
) -> None:
    """Start the whole platform, supervise it, and stop it on Ctrl-C.

    The first run makes the home, the database and a week of simulated history. A dead process is started
    again. A second `up` on the same home says where the first one is.
    """
    from ecommersss_platform.local import stack

    settings = _settings()
    if port is not None:
        settings = settings.model_copy(update={"ui_port": port})
    raise typer.Exit(stack.up(settings, rate=rate, orders_per_day=orders_per_day))


@app.command()
def demo(
    days: Annotated[int, typer.Option(min=1, help="days of history, up to today")] = 7,
    orders_per_day: Annotated[int, typer.Option(min=1, help="orders a day")] = 2000,
    rows: Annotated[int, typer.Option(min=1, help="rows shown of each mart")] = 5,
) -> None:
    """Show the whole flow once, without a UI, and end: history, fraud verdicts, backfill, marts."""
    from ecommersss_platform.cli.demo import run_demo

    run_demo(_settings(), days=days, orders_per_day=orders_per_day, rows=rows)


@app.command()
def status(style: StatusFormatOption = StatusFormat.TABLE) -> None:
    """Every process, positions and lag, the newest partition of each table, rejected orders."""
    from ecommersss_platform.status import gather, print_status

    report = gather(_settings())
    if style is StatusFormat.JSON:
        typer.echo(as_json(report, indent=2))
    else:
        print_status(report)


@app.command()
def health(
    process: Annotated[Watched, typer.Argument(help="which process")],
) -> None:
    """Whether a process does its work: exit code 0, or 1 with what is wrong. For containers and monitoring.

    A consumer is healthy when it has committed all of the topic, or commits more within five seconds; a
    producer, when it has published within two minutes.
    """
    from ecommersss_platform.health import check

    problem = check(process.value, _settings())
    typer.echo(problem or f"the {process.value} is healthy")
    raise typer.Exit(1 if problem else 0)


@db_app.command("init")
def db_init() -> None:
    """Bring both schemas up to date: the marketplace's and Dagster's. Safe to repeat."""
    from ecommersss_platform.cli.prepare import prepare_databases

    typer.echo(
        f"Both databases are ready; the marketplace's is at revision {prepare_databases(_settings())}."
    )


@db_app.command("url")
def db_url(
    database: Annotated[Database, typer.Option(help="which of the two databases")] = Database.ECOMMERSSS,
) -> None:
    """Print the URL of the operational database, for psql and other clients.

    The embedded database listens on it only while the platform is up; its URL stays the same.
    """
    from ecommersss_platform.instance.databases import embedded_server

    settings = _settings()
    given = settings.database_url if database is Database.ECOMMERSSS else settings.dagster_url
    if given is None:
        server = embedded_server(settings)
        given = server.url(database.value)
        if server.pid() is None:
            typer.echo("The embedded database is not running now: `ecommersss up` starts it.", err=True)
    typer.echo(given)


@app.command("import")
def import_(
    entity: Annotated[Entity, typer.Argument(help="what the file holds")],
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="a .csv or .jsonl file")],
    backdate: Annotated[
        bool,
        typer.Option(
            "--backdate", help="date the versions at each row's created_date: for loading history only"
        ),
    ] = False,
) -> None:
    """Insert or update users or products from a CSV or JSONL file, all or nothing.

    A row that equals what is stored changes nothing. Columns are those of the table in PostgreSQL, without
    updated_at.
    """
    from ecommersss_platform.instance.databases import operational_database
    from streaming.database import migrate
    from streaming.imports import import_file

    settings = _settings()
    with operational_database(settings) as url:
        migrate(url)
        # Dated before the first partition, a version would be in none.
        first_day = settings.first_partition_day()
        result = import_file(url, entity.value, file, backdate=backdate, not_before=first_day)
    typer.echo(f"{entity.value}: {result}")


@app.command()
def produce(
    rate: Annotated[float, typer.Option(min=0.001, help="simulated orders per second, until stopped")] = 2.0,
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="simulate past days, from this one"),
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="to this one, included")
    ] = None,
    orders_per_day: Annotated[int, typer.Option(min=1, help="with --from and --to")] = 2000,
    file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="publish the orders of a JSONL file")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="with --file: publish its lines as they are, unchecked")
    ] = False,
) -> None:
    """Publish orders to the topic: simulated now, simulated for past days, or from a file.

    A file's lines are checked first; those that are no valid order are named and left out, and the exit
    code is 1. With --raw every line is published as it is.
    """
    if (first is None) != (last is None):
        raise typer.BadParameter("--from and --to go together")
    if file is not None and first is not None:
        raise typer.BadParameter("--file and --from/--to exclude each other")
    if raw and file is None:
        raise typer.BadParameter("--raw goes with --file")

    from ecommersss_platform.cli.progress import progress_bars
    from ecommersss_platform.instance.databases import operational_database
    from ecommersss_platform.topics import orders_topic
    from streaming.database import migrate

    settings = _settings()
    topic = orders_topic(settings)
    if file is not None:
        from streaming.replay import publish_raw, replay

        with progress_bars() as progress:
            if raw:
                typer.echo(f"published {publish_raw(topic, file, progress=progress):,} lines, unchecked")
                return
            result = replay(
                topic,
                file,
                on_refused=lambda line: typer.echo(f"{file}: left out {line}", err=True),
                progress=progress,
            )
        typer.echo(f"published {result.published:,} orders, left out {result.refused.total():,} lines")
        raise typer.Exit(1 if result.refused else 0)
    with operational_database(settings) as url:
        migrate(url)
        if first is not None and last is not None:
            from streaming.simulator.history import produce_days

            with progress_bars() as progress:
                count = produce_days(
                    url,
                    topic,
                    first.date(),
                    last.date(),
                    orders_per_day,
                    ground_truth=settings.ground_truth_path,
                    progress=progress,
                )
            typer.echo(f"published {count:,} orders")
            return
        from streaming.simulator.producer import Producer

        configure_logging(settings.log_format)
        shoppers = Producer(url, topic, rate, ground_truth=settings.ground_truth_path)
        with _stopped_by_signals(shoppers.stop):
            shoppers.run()


@app.command()
def consume(
    once: Annotated[bool, typer.Option("--once", help="stop when the topic is drained")] = False,
) -> None:
    """Flag each order of the topic as fraud or genuine, store it, and write it to the flagged stream.

    Runs until stopped. One consumer works on a topic on disk: a second one refuses to start. Those of Pub/Sub
    share the work, however many they are; with --once they stop when nothing has come for five seconds.
    """
    from ecommersss_platform.instance.databases import operational_database
    from ecommersss_platform.topics import fraud_consumer
    from streaming.consumer_loop import tune_interpreter
    from streaming.database import migrate
    from streaming.metrics import served

    settings = _settings()
    configure_logging(settings.log_format)
    tune_interpreter()
    with operational_database(settings) as url:
        migrate(url)
        consumer = fraud_consumer(settings, url)
        with served(consumer, settings.metrics_port), _stopped_by_signals(consumer.stop):
            consumer.run(once=once)
    if once:
        typer.echo(consumer.summary())


@rejected_app.command("list")
def rejected_list(
    limit: Annotated[int, typer.Option(min=1, help="how many, newest first")] = 50,
    style: StatusFormatOption = StatusFormat.TABLE,
) -> None:
    """Show rejected lines, newest first, with the reason and the raw text."""
    from ecommersss_platform.instance.databases import operational_database
    from streaming.database import migrate
    from streaming.rejected import list_rejected

    with operational_database(_settings()) as url:
        migrate(url)
        rows = [rejected.as_row() for rejected in list_rejected(url, limit)]
    if not rows and style is StatusFormat.TABLE:
        typer.echo("No rejected orders.")
        return
    print_rows(list(rows[0]) if rows else [], rows, style)


@rejected_app.command("retry")
def rejected_retry(
    positions: Annotated[
        list[int] | None, typer.Argument(help="positions to publish again; none: all not retried yet")
    ] = None,
    style: StatusFormatOption = StatusFormat.TABLE,
) -> None:
    """Publish rejected lines again, at new positions: the consumer takes them as new lines.

    Lines whose user or product was unknown are retried by the consumer itself when these arrive.
    """
    from ecommersss_platform.instance.databases import operational_database
    from ecommersss_platform.topics import orders_topic
    from streaming.database import migrate
    from streaming.rejected import retry_rejected

    settings = _settings()
    with operational_database(settings) as url:
        migrate(url)
        count = retry_rejected(url, orders_topic(settings), positions or None)
    if style is StatusFormat.JSON:
        typer.echo(as_json({"retried": count}))
    else:
        typer.echo(f"published {count:,} rejected lines again")


@rejected_app.command("export")
def rejected_export(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="the JSONL file to write")],
    style: StatusFormatOption = StatusFormat.TABLE,
) -> None:
    """Write every rejected line to a file, whole: text where it is text, and base64 of its bytes.

    One JSON object a line, oldest first, with position, reason, detail, missing_id, rejected_at, retried_at,
    text and raw_base64.
    """
    from ecommersss_platform.instance.databases import operational_database
    from streaming.database import migrate
    from streaming.rejected import export_rejected

    with operational_database(_settings()) as url:
        migrate(url)
        count = export_rejected(url, file)
    if style is StatusFormat.JSON:
        typer.echo(as_json({"exported": count, "file": str(file)}))
    else:
        typer.echo(f"wrote {count:,} rejected lines to {file}")


@topics_app.command("trim")
def topics_trim(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be removed, remove nothing")
    ] = False,
    style: StatusFormatOption = StatusFormat.TABLE,
) -> None:
    """Remove segments that are older than the settings say and that every reader is past.

    The job topic_retention does the same every day. Shows each segment, and why it stays if it does.
    """
    from ecommersss_platform.instance.dagster_home import dagster_instance
    from ecommersss_platform.instance.databases import dagster_storage, operational_database
    from ecommersss_platform.topic_retention import plan, remove, sensor_position
    from streaming.database import migrate

    settings = _settings()
    with operational_database(settings) as url, dagster_storage(settings) as dagster_url:
        migrate(url)
        with dagster_instance(settings, dagster_url) as instance:
            position = sensor_position(instance)
        plans = plan(settings, url, position)
        rows = [row for planned in plans for row in planned.as_rows()]
        if not dry_run:
            remove(plans)
    print_rows(list(rows[0]) if rows else [], rows, style)
    if style is StatusFormat.TABLE:
        count = sum(row["removable"] for row in rows)
        typer.echo(f"{'would remove' if dry_run else 'removed'} {count} of {len(rows)} segments")


@app.command()
def materialize(
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="first business day")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="last one, included")],
) -> None:
    """Load these days into the warehouse and rebuild what depends on them, raw to marts, in one run.

    The same job as `marketplace_days` in the Dagster UI, where the run shows up too.
    """
    from ecommersss_platform.cli.demo import materialize_with_progress

    materialize_with_progress(_settings(), first.date(), last.date())


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help='for example "SELECT * FROM gold.most_fraudulent_users"')],
    style: Annotated[
        Format, typer.Option("--format", help="table, json (one object a line) or csv")
    ] = Format.TABLE,
) -> None:
    """Run a query on the warehouse, read only."""
    from ecommersss_platform.warehouse import make_warehouse

    table = make_warehouse(_settings()).query(sql)
    print_rows(table.column_names, table.to_pylist(), style)


def _known_problem(error: BaseException) -> str | None:
    """What to tell a person about an error that is no bug of the platform, or None for one that may be."""
    import psycopg2
    import sqlalchemy.exc
    from pydantic import ValidationError

    if isinstance(error, sqlalchemy.exc.OperationalError) and error.orig is not None:
        error = error.orig
    if isinstance(error, ValidationError):
        lines = [
            f"ECOMMERSSS_{'.'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
            f" (is {problem['input']!r})"
            for problem in error.errors()
        ]
        return "wrong settings\n  " + "\n  ".join(lines)
    if isinstance(error, psycopg2.OperationalError):
        return f"PostgreSQL: {str(error).strip()}"
    from streaming.errors import PlatformError

    if isinstance(error, PlatformError):
        return str(error)
    return None


def main(arguments: list[str] | None = None) -> Any:
    """Run the command; an expected problem is one clear sentence on stderr and exit code 1."""
    try:
        app(args=arguments, prog_name="ecommersss")
    except Exception as error:
        problem = _known_problem(error)
        if problem is None:
            raise
        from ecommersss_platform.logs import structured

        if structured():
            logging.getLogger("ecommersss").critical(problem)
        else:
            typer.echo(f"ecommersss: {problem}", err=True)
        sys.exit(1)
