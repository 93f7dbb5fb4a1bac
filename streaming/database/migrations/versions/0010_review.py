"""The review rules that held for an order, and the queue of the orders that wait for a person."""

from alembic import op

revision = "0010"
down_revision = "0009"

# With the default, a consumer of an earlier version goes on: its books have no review rules.
UPGRADE = """
ALTER TABLE orders ADD COLUMN review_reasons TEXT[] NOT NULL DEFAULT '{}';

-- Orders that passed and that a person should look at. Which of them still wait, verdicts say.
CREATE INDEX orders_to_review ON orders (created_date) WHERE review_reasons <> '{}' AND NOT is_fraud;
"""

DOWNGRADE = """
DROP INDEX orders_to_review;
ALTER TABLE orders DROP COLUMN review_reasons;
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
