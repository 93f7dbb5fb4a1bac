"""Positions for orders of topics that have none and are shared by consumers (Pub/Sub)."""

from alembic import op

revision = "0003"
down_revision = "0002"

UPGRADE = """
-- Far above any position on disk (bytes), so that a database can go on with Pub/Sub after a topic on disk,
-- and far below 2^53, so that positions are exact in JSON. No cache: a session that held numbers back would
-- store a user's orders out of order.
CREATE SEQUENCE order_positions AS BIGINT MINVALUE 1000000000000000 NO CYCLE CACHE 1;

-- The flagged stream is written in this order. Orders from a topic on disk cost nothing here.
CREATE INDEX orders_shared_position ON orders (position) WHERE position >= 1000000000000000;

-- A rejected message is delivered again if its acknowledgement was lost.
ALTER TABLE rejected_orders ADD COLUMN message_id TEXT;
CREATE UNIQUE INDEX rejected_orders_message ON rejected_orders (message_id) WHERE message_id IS NOT NULL;

-- A change of the lists waits for batches that are being decided, and new batches wait for its commit. So all
-- orders decided with one version have positions before those decided with the next.
CREATE OR REPLACE FUNCTION next_lists_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(6203542);
    UPDATE user_lists_version SET version = version + 1;
    RETURN NULL;
END $$;
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    raise NotImplementedError("orders may have these positions already: restore a backup instead")
