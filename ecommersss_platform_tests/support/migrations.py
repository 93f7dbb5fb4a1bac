"""Going back to an earlier schema of the operational database."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import NullPool, create_engine

from streaming.database import MIGRATIONS


def downgrade(database: str, revision: str) -> None:
    """Undo the migrations after `revision`."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with create_engine(database, poolclass=NullPool).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
