"""The marketplace by the hour: simulated users, products, prices, and what becomes of simulated orders.

All users of an hour have the same of three e-mail formats. The job branches on it: only the output of that
format is emitted, and a run shows the steps of the other two as skipped.
"""

# Annotations must be real here: Dagster inspects those of `context`.
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path

from dagster import (
    HourlyPartitionsDefinition,
    JobDefinition,
    OpDefinition,
    OpExecutionContext,
    Out,
    Output,
    job,
    op,
)

from ecommersss_platform.jobs import EXECUTOR, RETRY
from ecommersss_platform.postgres.resource import PostgresResource
from streaming.business_days import JAKARTA
from streaming.roles import Role
from streaming.simulator.ground_truth import GroundTruth
from streaming.simulator.population import (
    HOUR,
    EmailFormat,
    Person,
    User,
    email_format,
    hour_of,
    new_products,
    people,
    with_email,
)
from streaming.simulator.tables import apply_aftermath, apply_hour

MARKETPLACE_HOURLY = "marketplace_hourly"


def hourly_partitions(first_day: date) -> HourlyPartitionsDefinition:
    """Return the hours from the first business day on. An hour has a partition once it has ended."""
    return HourlyPartitionsDefinition(start_date=f"{first_day}-00:00", timezone=str(JAKARTA))


def marketplace_job(first_day: date, ground_truth: Path) -> JobDefinition:
    """Return the hourly job, from this business day on. It needs the resource `postgres`.

    `ground_truth`: the file that tells which orders were simulated and how.
    """

    @op(retry_policy=RETRY)
    def settle_orders(context: OpExecutionContext, postgres: PostgresResource) -> None:
        """Store what became of simulated orders by the end of the hour, including hours that were missed."""
        until = _hour(context) + HOUR
        truth = GroundTruth(ground_truth).read()
        with (
            postgres.connect("ecommersss marketplace", Role.SIMULATOR) as connection,
            connection,
            connection.cursor() as cursor,
        ):
            stored = apply_aftermath(cursor, truth, until)
        context.log.info(f"{stored} added")
        context.add_output_metadata(stored._asdict())

    @job(
        name=MARKETPLACE_HOURLY,
        partitions_def=hourly_partitions(first_day),
        executor_def=EXECUTOR,
        description="New users (in one of three e-mail formats), new products and new prices of an hour, and"
        " what becomes of simulated orders: shipments, disputes, verdicts."
        " An hour is applied once; repeating it changes nothing.",
    )
    def marketplace_hourly() -> None:
        signed_up = choose_email_format()
        users = [step(getattr(signed_up, style.value)) for style, step in EMAIL_STEPS.items()]
        store_hour(users, list_products())
        settle_orders()

    return marketplace_hourly


@op(
    out={
        style.value: Out(
            list, is_required=False, description=f"The people of the hour, for addresses as {style.value}."
        )
        for style in EmailFormat
    }
)
def choose_email_format(context: OpExecutionContext) -> Iterator[Output[list[Person]]]:
    """Send the people who sign up in the hour down the branch of its e-mail format."""
    hour = _hour(context)
    style = email_format(hour)
    found = people(hour)
    context.log.info(f"{len(found)} people sign up, with addresses as {style.value}")
    yield Output(found, style.value, metadata={"people": len(found), "email_format": style.value})


def _email_step(style: EmailFormat) -> OpDefinition:
    @op(name=f"{style.value}_users", description=f"The people as users, with addresses as {style.value}.")
    def make_users(signed_up: list) -> list:
        return [with_email(person, style) for person in signed_up]

    return make_users


EMAIL_STEPS: dict[EmailFormat, OpDefinition] = {style: _email_step(style) for style in EmailFormat}
"""The three branches: one step for each format."""


@op
def list_products(context: OpExecutionContext) -> list:
    """Return the products that are listed in the hour."""
    return new_products(_hour(context))


@op(retry_policy=RETRY)
def store_hour(
    context: OpExecutionContext, users: list[list], products: list, postgres: PostgresResource
) -> None:
    """Store the hour and change prices, in one transaction, unless the hour was applied before.

    `users` holds the one branch that was taken.
    """
    hour = _hour(context)
    new_users: list[User] = [user for branch in users for user in branch]
    with (
        postgres.connect("ecommersss marketplace", Role.SIMULATOR) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        applied = apply_hour(cursor, hour, new_users, products)
    if applied is None:
        context.log.info(f"the hour from {hour:%Y-%m-%d %H:%M} was applied before: nothing changed")
        context.add_output_metadata({"applied": False, "users": 0, "products": 0, "repriced": 0})
        return
    context.log.info(
        f"{applied.users} users and {applied.products} products added, {applied.repriced} prices changed"
    )
    context.add_output_metadata(
        {
            "applied": True,
            "users": applied.users,
            "products": applied.products,
            "repriced": applied.repriced,
        }
    )


def _hour(context: OpExecutionContext) -> datetime:
    return hour_of(context.partition_time_window.start)
