"""What has to be done before a deployment's processes start, by `up` and by `ecommersss prepare`."""

from __future__ import annotations

from ecommersss_platform.instance.dagster_home import announce_pool, dagster_instance
from ecommersss_platform.instance.databases import dagster_storage, operational_database
from ecommersss_platform.instance.runs import fail_orphaned_runs
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import make_warehouse
from streaming.database import migrate


def migrate_databases(settings: Settings) -> str:
    """Migrate both databases, and return the operational one's revision. Idempotent."""
    with operational_database(settings) as url:
        revision = migrate(url)
    # Opening the instance creates the tables in a new database; upgrading changes those of an older Dagster.
    with dagster_storage(settings) as url, dagster_instance(settings, url) as instance:
        instance.upgrade()
        announce_pool(instance, make_warehouse(settings).pool)
    return revision


def fail_dead_runs(settings: Settings) -> list[str]:
    """Mark runs as failed if their processes on this machine (or container) have ended; return their ids."""
    with dagster_storage(settings) as url, dagster_instance(settings, url) as instance:
        return fail_orphaned_runs(instance)
