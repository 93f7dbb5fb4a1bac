"""The last line that a consumer read, by which it recognises its topic."""

from alembic import op

revision = "0005"
down_revision = "0004"

UPGRADE = """
-- The line that ends at line_end, as a topic on disk had it when the position was stored. If position and
-- line_end differ, somebody moved the position by hand.
ALTER TABLE topic_positions
    ADD COLUMN line_position BIGINT, ADD COLUMN line_end BIGINT, ADD COLUMN line_checksum BIGINT;
"""

DOWNGRADE = """
ALTER TABLE topic_positions DROP COLUMN line_position, DROP COLUMN line_end, DROP COLUMN line_checksum;
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
