"""`ecommersss prepare`: the steps before a deployment starts, each by itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from ecommersss_platform.cli.common import open_database, read_settings

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings
    from streaming.simulator.history import SimulatedHistory

app = typer.Typer(
    help="Prepare a deployment, step by step. `ecommersss up` does all of this itself.", no_args_is_help=True
)


@app.command("databases")
def databases() -> None:
    """Bring both schemas up to date and write Dagster's instance file. Run this before anything else."""
    revision = migrate_databases(read_settings())
    typer.echo(f"Both databases are ready; the operational one is at revision {revision}.")


@app.command("runs")
def runs() -> None:
    """Mark runs as failed if their processes have ended.

    Run this in the code location's container, where runs are processes, before the code location starts.
    """
    failed = ", ".join(fail_dead_runs(read_settings())) or "none"
    typer.echo(f"Runs marked as failed because their processes have ended: {failed}.")


@app.command("history")
def history() -> None:
    """Simulate users, products and orders from the first daily partition until now, for a demonstration.

    Run this before a producer starts.
    """
    settings = read_settings()
    typer.echo(f"Simulated since {settings.first_partition_day()}: {simulate_past(settings)}.")


def migrate_databases(settings: Settings) -> str:
    """Migrate both databases, and return the operational one's revision. Idempotent."""
    from ecommersss_platform.instance.dagster_home import announce_pool, dagster_instance
    from ecommersss_platform.instance.databases import dagster_storage, operational_database
    from ecommersss_platform.warehouse import make_warehouse
    from streaming.database import migrate

    with operational_database(settings) as url:
        revision = migrate(url)
    # Opening the instance creates the tables in a new database; upgrading changes those of an older Dagster.
    with dagster_storage(settings) as url, dagster_instance(settings, url) as instance:
        instance.upgrade()
        announce_pool(instance, make_warehouse(settings).pool)
    return revision


def fail_dead_runs(settings: Settings) -> list[str]:
    """Mark runs as failed if their processes on this machine (or container) have ended; return their ids."""
    from ecommersss_platform.instance.dagster_home import dagster_instance
    from ecommersss_platform.instance.databases import dagster_storage
    from ecommersss_platform.instance.runs import fail_orphaned_runs

    with dagster_storage(settings) as url, dagster_instance(settings, url) as instance:
        return fail_orphaned_runs(instance)


def simulate_past(settings: Settings, now: datetime | None = None) -> SimulatedHistory:
    """Simulate users, products and orders from the first daily partition until `now`. Idempotent.

    No other producer may publish to the topic meanwhile.
    """
    from ecommersss_platform.topics import orders_topic
    from streaming.simulator.history import simulate_history

    with open_database(settings) as url:
        return simulate_history(
            url,
            orders_topic(settings),
            settings.first_partition_day(),
            now or datetime.now(UTC),
            ground_truth=settings.ground_truth_path,
        )
