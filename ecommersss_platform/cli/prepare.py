"""`ecommersss prepare`: the steps before a deployment starts, each by itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from ecommersss_platform.cli.common import open_database, read_settings
from streaming.roles import Role

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings
    from streaming.simulator.history import SimulatedHistory

app = typer.Typer(
    help="Prepare a deployment, step by step. `ecommersss up` does all of this itself.", no_args_is_help=True
)


@app.command("databases")
def databases() -> None:
    """Bring both schemas up to date and write Dagster's instance file. Run this before anything else."""
    from ecommersss_platform.instance.preparation import migrate_databases

    revision = migrate_databases(read_settings())
    typer.echo(f"Both databases are ready; the operational one is at revision {revision}.")


@app.command("runs")
def runs() -> None:
    """Mark runs as failed if their processes have ended.

    Run this in the code location's container, where runs are processes, before the code location starts.
    """
    from ecommersss_platform.instance.preparation import fail_dead_runs

    failed = ", ".join(fail_dead_runs(read_settings())) or "none"
    typer.echo(f"Runs marked as failed because their processes have ended: {failed}.")


@app.command("history")
def history() -> None:
    """Simulate users, products and orders from the first daily partition until now, for a demonstration.

    Run this before a producer starts.
    """
    settings = read_settings()
    typer.echo(f"Simulated since {settings.first_partition_day()}: {simulate_past(settings)}.")


def simulate_past(settings: Settings, now: datetime | None = None) -> SimulatedHistory:
    """Simulate users, products and orders from the first daily partition until `now`. Idempotent.

    No other producer may publish to the topic meanwhile.
    """
    from ecommersss_platform.topics import orders_topic
    from streaming.simulator.history import simulate_history

    with open_database(settings, Role.SIMULATOR) as url:
        return simulate_history(
            url,
            orders_topic(settings),
            settings.first_partition_day(),
            now or datetime.now(UTC),
            ground_truth=settings.ground_truth_path,
        )
