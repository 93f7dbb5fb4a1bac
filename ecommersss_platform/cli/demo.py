"""`ecommersss demo`: the whole flow once, without a UI."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import typer

from ecommersss_platform.cli.output import print_rows
from ecommersss_platform.cli.warehouse import materialize_with_progress
from ecommersss_platform.dbt.project import label_maturity
from ecommersss_platform.progress import progress_bars
from streaming.business_days import business_day
from streaming.errors import PlatformError
from streaming.roles import Role

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings

MARTS = {
    "users_and_blacklist": (
        "user_id, username, status, total_orders, fraud_orders, fraud_loss",
        "fraud_orders DESC, fraud_loss DESC, user_id",
    ),
    "most_fraudulent_users": (
        "fraud_rank, user_id, username, fraud_orders, fraud_percentage, fraud_loss",
        "fraud_rank",
    ),
    "payment_fraud_critical_time": (
        "payment_method, total_orders, fraud_orders, fraud_percentage, fraud_amount",
        "fraud_orders DESC, total_orders DESC, payment_method",
    ),
    "product_and_users": (
        "user_id, username, product_name, total_orders, fraud_orders",
        "fraud_orders DESC, total_orders DESC, product_id, user_id",
    ),
    "product_and_payment_methods": (
        "product_name, payment_method, method_rank, total_orders, genuine_amount",
        "product_id, method_rank",
    ),
    "customer_lifetime_value": (
        "user_id, username, sales, active_days, revenue, rfm_segment",
        "window_days, revenue DESC, user_id",
    ),
    "fulfilment": (
        "product_name, total_orders, delivery_hours_p50, return_percentage, refund_amount",
        "total_orders DESC, product_id, fraud_status",
    ),
    "cohorts_by_signup_month": (
        "signup_month, fraud_status, months_since_signup, cohort_users, retention_percentage",
        "cohort_users DESC, signup_month, fraud_status, months_since_signup",
    ),
    "product_freshness": (
        "category, weeks_since_launch, products, total_orders, fraud_percentage, revenue",
        "category, weeks_since_launch",
    ),
    "daily_fraud_summary": (
        "business_day, total_orders, fraud_percentage, labelled_fraud, dispute_loss",
        "business_day",
    ),
    "rule_performance": (
        "business_day, rule_name, mode, flagged_orders, precision, recall",
        "business_day, mode, rule_name, rules_version",
    ),
}
"""The marts that are shown, each with some of its columns and the order of its rows."""


@contextmanager
def _step(number: int, title: str) -> Iterator[None]:
    typer.secho(f"\n{number}. {title}", bold=True)
    began = time.monotonic()
    yield
    typer.echo(f"   took {time.monotonic() - began:.1f} s")


def print_rules(rules: Sequence[Mapping[str, Any]]) -> None:
    """Print what each rule was worth, from rows of gold.rule_totals: percentages, and millions of rupiah."""
    from ecommersss_platform.reports.rules import sample_of

    age = label_maturity().days
    shown = [
        {
            "rule": rule["rule_name"],
            "mode": rule["mode"],
            "flagged": rule["flagged_orders"],
            "precision %": _percentages(rule, "precision"),
            "recall %": _percentages(rule, "recall"),
            "caught": _millions(rule["fraud_caught_amount"]),
            "wrongly": _millions(rule["genuine_flagged_amount"]),
            "missed": _millions(rule["fraud_missed_amount"]),
        }
        for rule in rules
    ]
    print_rows(list(shown[0]) if shown else ["rule"], shown, title="The rules: gold.rule_totals")
    typer.echo(
        f"Flagged are orders of all days. All else is of days that are {age} days old: precision and recall\n"
        "with 95 % intervals; fraud that was caught, genuine orders that were wrongly flagged, and fraud\n"
        "that was missed, in millions of rupiah."
    )
    if sample := sample_of(rules):
        typer.echo(
            f"Of {sample['passed_orders']:,} orders of such days that passed, about"
            f" {sample['passed_fraud']:,} ({sample['passed_fraud_low']:,}-{sample['passed_fraud_high']:,})"
            f" were fraud. People decided about a random sample of {sample['sampled_orders']:,}."
        )
    if all(rule["precision"] is None for rule in rules):
        typer.echo(f"No day is {age} days old yet: `ecommersss demo --days {2 * age}` has some.")


def _percentages(rule: Mapping[str, Any], name: str) -> str | None:
    """Return a share and its interval as percentages: `76 (71-80)`; None if the share is unknown."""
    if rule[name] is None:
        return None
    share, low, high = (round(100 * rule[column]) for column in (name, f"{name}_low", f"{name}_high"))
    return f"{share} ({low}-{high})"


def _millions(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else (amount / 1_000_000).quantize(Decimal(1))


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
        for mart, (columns, order) in MARTS.items():
            head = warehouse.query(f"SELECT {columns} FROM gold.{mart} ORDER BY {order} LIMIT {rows}")  # noqa: S608
            total = warehouse.query(f"SELECT count(*) AS n FROM gold.{mart}").to_pylist()[0]["n"]  # noqa: S608
            print_rows(head.column_names, head.to_pylist(), title=f"gold.{mart}: {total:,} rows")
        rules = warehouse.query("SELECT * FROM gold.rule_totals ORDER BY mode, rule_name").to_pylist()
        print_rules(rules)
    typer.echo(
        "\nStart this platform with the Dagster UI: `ecommersss up`. Query its tables:\n"
        '`ecommersss query "SELECT * FROM gold.most_fraudulent_users"`.'
    )
