"""What the warehouse's service billed on each day, for the budget of a day."""

from alembic import op

revision = "0006"
down_revision = "0005"

UPGRADE = """
CREATE TABLE warehouse_usage (
    day DATE PRIMARY KEY,
    bytes_billed BIGINT NOT NULL
);
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute("DROP TABLE warehouse_usage")
