"""Alembic's entry point: runs the migrations on the connection that `migrate` hands over."""

from alembic import context

from streaming.database import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"], target_metadata=None, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()
