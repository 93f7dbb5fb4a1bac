"""The flagged stream is completed by position, so its table of last batches is dropped."""

from alembic import op

revision = "0004"
down_revision = "0003"

UPGRADE = """
DROP TABLE flagged_emissions;

-- Finds the last orders by position. Orders are stored in that order, so an index of block ranges is exact
-- enough, a thousandth of the size of a B-tree, and free to maintain.
CREATE INDEX orders_position ON orders USING brin (position) WITH (autosummarize = on);
"""

DOWNGRADE = """
DROP INDEX orders_position;

CREATE TABLE flagged_emissions (
    stream         TEXT NOT NULL,
    consumer       TEXT NOT NULL,
    start_position BIGINT NOT NULL,
    order_ids      BIGINT[] NOT NULL,
    PRIMARY KEY (stream, consumer)
);
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
