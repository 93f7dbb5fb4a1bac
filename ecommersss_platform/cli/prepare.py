"""Prepare a deployment: `python -m ecommersss_platform.cli.prepare databases|runs|history`, as compose does.

`databases`: bring both schemas up to date, the marketplace's and Dagster's, and put Dagster's instance file
in place; before anything else starts. `runs`: mark runs as failed whose processes are gone; in the container
of the code location, where runs are processes, before it starts. `history`: simulate the marketplace from the
first daily partition until now, for a deployment that is a demonstration; before a producer starts.
`ecommersss up` does all of this by itself.
"""

from __future__ import annotations

import argparse
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg2
import sqlalchemy.exc

from ecommersss_platform.settings import Settings
from streaming.errors import PlatformError

if TYPE_CHECKING:
    from streaming.simulator.history import SimulatedHistory


def prepare_databases(settings: Settings) -> str:
    """Migrate the marketplace's database and Dagster's. Returns the revision of the former. Idempotent."""
    from ecommersss_platform.instance.dagster_home import announce_pool, dagster_instance
    from ecommersss_platform.instance.databases import dagster_storage, operational_database
    from ecommersss_platform.warehouse import make_warehouse
    from streaming.database import migrate

    with operational_database(settings) as url:
        revision = migrate(url)
    # Opening the instance makes the tables of a new database; upgrading changes those of an older Dagster.
    with dagster_storage(settings) as url, dagster_instance(settings, url) as instance:
        instance.upgrade()
        announce_pool(instance, make_warehouse(settings).pool)
    return revision


def fail_dead_runs(settings: Settings) -> list[str]:
    """Mark runs as failed whose processes on this machine (in this container) are gone; their ids."""
    from ecommersss_platform.instance.dagster_home import dagster_instance
    from ecommersss_platform.instance.databases import dagster_storage
    from ecommersss_platform.instance.runs import fail_orphaned_runs

    with dagster_storage(settings) as url, dagster_instance(settings, url) as instance:
        return fail_orphaned_runs(instance)


def prepare_history(settings: Settings, now: datetime | None = None) -> SimulatedHistory:
    """Simulate users, products and orders from the first daily partition until `now`. Idempotent.

    Nobody else may produce to the topic meanwhile.
    """
    from ecommersss_platform.instance.databases import operational_database
    from ecommersss_platform.topics import orders_topic
    from streaming.database import migrate
    from streaming.simulator.history import simulate_history

    with operational_database(settings) as url:
        migrate(url)
        return simulate_history(
            url,
            orders_topic(settings),
            settings.first_partition_day(),
            now or datetime.now(UTC),
            ground_truth=settings.ground_truth_path,
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ecommersss_platform.cli.prepare", description=__doc__)
    parser.add_argument("what", choices=("databases", "runs", "history"))
    what = parser.parse_args(arguments).what
    # Alembic tells at INFO what nobody asks.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    log = logging.getLogger("ecommersss.prepare")
    log.setLevel(logging.INFO)
    try:
        settings = Settings()
        if what == "databases":
            revision = prepare_databases(settings)
            log.info("Both databases are ready; the marketplace's is at revision %s.", revision)
        elif what == "history":
            log.info("Simulated since %s: %s.", settings.first_partition_day(), prepare_history(settings))
        else:
            failed = ", ".join(fail_dead_runs(settings)) or "none"
            log.info("Runs marked as failed because their processes are gone: %s.", failed)
    except PlatformError as error:
        log.error("%s", error)
        return 1
    except (psycopg2.OperationalError, sqlalchemy.exc.OperationalError) as error:
        log.error("PostgreSQL: %s", str(error).strip())
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
