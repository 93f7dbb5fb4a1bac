"""`ecommersss demo`: the whole flow once, without a UI."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import typer

from ecommersss_platform.cli.output import print_rows
from ecommersss_platform.cli.progress import progress_bars
from streaming.business_days import business_day
from streaming.errors import PlatformError

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings

MARTS = (
    "users_and_blacklist",
    "most_fraudulent_users",
    "payment_fraud_critical_time",
    "product_and_users",
    "product_and_payment_methods",
)


@contextmanager
def _step(number: int, what: str) -> Iterator[None]:
    typer.secho(f"\n{number}. {what}", bold=True)
    began = time.monotonic()
    yield
    typer.echo(f"   took {time.monotonic() - began:.1f} s")


def run_demo(settings: Settings, *, days: int, orders_per_day: int, rows: int) -> None:
    """History, verdicts, backfill of all its days in one run, and each mart's first rows.

    Safe to repeat: what is there already is left as it is. Raises `PlatformError` when the platform is up,
    because its own producer and consumer do the same work then.
    """
    from ecommersss_platform.instance.databases import dagster_storage, operational_database
    from ecommersss_platform.instance.home import record_first_day
    from ecommersss_platform.local.stack import prepare, running
    from ecommersss_platform.topics import flagged_stream, fraud_consumer, orders_topic
    from ecommersss_platform.warehouse import make_warehouse
    from streaming.simulator.history import simulate_history

    if running(settings) is not None:
        raise PlatformError(
            f"the platform in {settings.home} is up and does all of this already: look at its UI, or give the"
            " demo a home of its own, for example ECOMMERSSS_HOME=.ecommersss-demo"
        )
    now = datetime.now(UTC)
    today = business_day(now)
    wanted = today - timedelta(days=days - 1)
    first = max(wanted, record_first_day(settings, wanted))
    typer.echo(f"The platform's home is {settings.home}.")
    with operational_database(settings, typer.echo) as url, dagster_storage(settings):
        with _step(1, "Prepare: database schema, Dagster home, dbt manifest"):
            prepare(settings)
        with _step(2, f"Simulate the marketplace from {first} until now"), progress_bars() as progress:
            history = simulate_history(
                url,
                orders_topic(settings),
                first,
                now,
                orders_per_day,
                progress,
                ground_truth=settings.ground_truth_path,
            )
            typer.echo(
                f"   {history.users:,} users, {history.products:,} products, {history.repriced:,}"
                f" price changes, {history.orders:,} orders published to the topic"
            )
        with _step(3, "Flag every order as fraud or genuine, and store it"):
            consumer = fraud_consumer(settings, url)
            consumer.run(once=True)
            typer.echo(f"   {consumer.summary()}")
            typer.echo(f"   the flagged stream is {flagged_stream(settings).end():,} bytes long")
        with _step(4, f"Backfill {first} to {today} in one run: raw, bronze, silver, gold"):
            materialize_with_progress(settings, first, today)
        warehouse = make_warehouse(settings)
        typer.secho("\n5. The marts", bold=True)
        for mart in MARTS:
            head = warehouse.query(
                f"SELECT * FROM gold.{mart} ORDER BY fraud_orders DESC, total_orders DESC LIMIT {rows}"  # noqa: S608
            )
            total = warehouse.query(f"SELECT count(*) AS n FROM gold.{mart}").to_pylist()[0]["n"]  # noqa: S608
            print_rows(head.column_names, head.to_pylist(), title=f"gold.{mart}: {total:,} rows")
    typer.echo(
        "\nThe same platform with the Dagster UI: `ecommersss up`. Its tables: `ecommersss query"
        ' "SELECT * FROM gold.most_fraudulent_users"`.'
    )


def materialize_with_progress(settings: Settings, first: date, last: date) -> None:
    """Materialise the days `first` to `last`, both included, in one run, telling how it goes.

    Raises `PlatformError` for days without a partition and for a run that failed.
    """
    from ecommersss_platform.materialize import Kind, Progress, materialize
    from ecommersss_platform.partitions import Days

    if first > last:
        raise PlatformError(f"the first day, {first}, is after the last, {last}: swap them")
    with progress_bars() as bar:

        def tell(progress: Progress) -> None:
            if progress.kind is Kind.MATERIALIZED:
                bar("assets", progress.done, progress.total)
            elif progress.kind is not Kind.STARTED:
                typer.echo(f"  {progress.kind.value}: {progress.name} {progress.message}".rstrip(), err=True)

        result = materialize(settings, Days.between(first, last), progress=tell)
    print_rows(
        ["asset", "rows"],
        [{"asset": asset, "rows": rows} for asset, rows in result.rows.items()],
        title=f"run {result.run_id}: {result.days} in {result.seconds:.1f} s",
    )
    for check in result.failed_checks:
        typer.echo(f"check failed: {check.asset}: {check.check}: {check.message}", err=True)
