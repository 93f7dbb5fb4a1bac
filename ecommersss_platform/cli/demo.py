"""`ecommersss demo`: the whole flow once, without a UI."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import typer

from ecommersss_platform.cli.output import print_rows
from ecommersss_platform.cli.warehouse import materialize_with_progress
from ecommersss_platform.progress import progress_bars
from streaming.business_days import business_day
from streaming.errors import PlatformError
from streaming.roles import Role

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings

MARTS = {
    "users_and_blacklist": "fraud_orders DESC, total_orders DESC, user_id",
    "most_fraudulent_users": "fraud_rank",
    "payment_fraud_critical_time": "fraud_orders DESC, total_orders DESC, payment_method",
    "product_and_users": "fraud_orders DESC, total_orders DESC, product_id, user_id",
    "product_and_payment_methods": "product_id, method_rank",
    "customer_lifetime_value": "revenue DESC, user_id, window_days",
    "fulfilment": "total_orders DESC, product_id, fraud_status",
    "cohorts_by_signup_month": "signup_month, fraud_status, months_since_signup",
    "product_freshness": "category, weeks_since_launch",
    "daily_fraud_summary": "business_day",
}
"""The marts that are shown, each with the order of its rows."""

RULES = """
    SELECT
        rule_name,
        mode,
        sum(flagged_orders) AS flagged,
        sum(labelled_fraud) AS fraud,
        sum(labelled_genuine) AS genuine,
        sum(CASE WHEN is_mature THEN flagged_orders END) AS mature,
        round(
            100.0 * sum(CASE WHEN is_mature THEN labelled_fraud END)
            / sum(CASE WHEN is_mature THEN flagged_orders END), 1
        ) AS precision_percent,
        round(
            100.0 * sum(CASE WHEN is_mature THEN labelled_fraud END)
            / nullif(sum(CASE WHEN is_mature THEN labelled_fraud + missed_fraud END), 0), 1
        ) AS recall_percent,
        sum(fraud_caught_amount) AS caught,
        sum(genuine_flagged_amount) AS genuine_flagged,
        sum(fraud_missed_amount) AS missed
    FROM gold.rule_performance
    GROUP BY rule_name, mode
    ORDER BY mode, rule_name
"""
"""What each rule was worth: orders, precision and recall over mature days, and rupiah."""


@contextmanager
def _step(number: int, title: str) -> Iterator[None]:
    typer.secho(f"\n{number}. {title}", bold=True)
    began = time.monotonic()
    yield
    typer.echo(f"   took {time.monotonic() - began:.1f} s")


def run_demo(settings: Settings, *, days: int, orders_per_day: int, rows: int) -> None:
    """Simulate history, flag its orders, backfill its days in one run, and print each mart's first rows.

    Safe to repeat: existing rows are kept. Raises `PlatformError` if the platform is up, because its own
    producer and consumer then do the same work.
    """
    from ecommersss_platform.instance.databases import dagster_storage, database_url, operational_database
    from ecommersss_platform.instance.home import record_first_day
    from ecommersss_platform.local.stack import prepare_home, running
    from ecommersss_platform.topics import flagged_stream, fraud_consumer, orders_topic
    from ecommersss_platform.warehouse import make_warehouse
    from streaming.simulator.history import simulate_aftermath, simulate_history

    if running(settings) is not None:
        raise PlatformError(
            f"the platform in {settings.home} is up and already does all of this: look at its UI, or give the"
            " demo its own home, for example ECOMMERSSS_HOME=.ecommersss-demo"
        )
    now = datetime.now(UTC)
    today = business_day(now)
    wanted = today - timedelta(days=days - 1)
    first = max(wanted, record_first_day(settings, wanted))
    typer.echo(f"The platform's home is {settings.home}.")
    with operational_database(settings, typer.echo), dagster_storage(settings):
        with _step(1, "Prepare the database schema, the Dagster home and the dbt manifest"):
            prepare_home(settings)
        with _step(2, f"Simulate users, products and orders from {first} until now"):
            with progress_bars() as progress:
                history = simulate_history(
                    database_url(settings, Role.SIMULATOR),
                    orders_topic(settings),
                    first,
                    now,
                    orders_per_day,
                    progress,
                    ground_truth=settings.ground_truth_path,
                )
            typer.echo(f"   {history} published to the topic")
        with _step(3, "Flag every order as fraud or genuine, and store it"):
            consumer = fraud_consumer(settings, database_url(settings, Role.CONSUMER))
            consumer.run(once=True)
            typer.echo(f"   {consumer.summary()}")
            typer.echo(f"   the flagged stream is {flagged_stream(settings).end():,} bytes long")
        with _step(4, "Simulate what became of the orders: shipments, disputes, verdicts of reviewers"):
            url = database_url(settings, Role.SIMULATOR)
            typer.echo(f"   {simulate_aftermath(url, settings.ground_truth_path, now)}")
        with _step(5, f"Backfill {first} to {today} in one run: raw, bronze, silver, gold"):
            materialize_with_progress(settings, first, today)
        warehouse = make_warehouse(settings)
        typer.secho("\n6. The marts", bold=True)
        for mart, order in MARTS.items():
            head = warehouse.query(f"SELECT * FROM gold.{mart} ORDER BY {order} LIMIT {rows}")  # noqa: S608
            total = warehouse.query(f"SELECT count(*) AS n FROM gold.{mart}").to_pylist()[0]["n"]  # noqa: S608
            print_rows(head.column_names, head.to_pylist(), title=f"gold.{mart}: {total:,} rows")
        rules = warehouse.query(RULES)
        title = "The rules, from gold.rule_performance; precision and recall over days that are 60 days old"
        print_rows(rules.column_names, rules.to_pylist(), title=title)
    typer.echo(
        "\nStart this platform with the Dagster UI: `ecommersss up`. Query its tables: `ecommersss query"
        ' "SELECT * FROM gold.most_fraudulent_users"`.'
    )
