"""Rule books and changes of the user lists in the order of writing, for copies by day."""

from alembic import op

revision = "0009"
down_revision = "0008"

UPGRADE = """
-- A later book has a higher number. Numbers of books that were kept already are skipped.
ALTER TABLE rule_books ADD COLUMN number BIGINT GENERATED ALWAYS AS IDENTITY;

-- An entry changes once, when it is removed. Its events never do.
CREATE VIEW user_list_events AS
SELECT 2 * entry AS event_id, entry, 'added' AS event, added_version AS lists_version, added_at AS event_at,
       user_id, list, source, reason, expires_at
FROM user_lists
UNION ALL
SELECT 2 * entry + 1, entry, 'removed', removed_version, removed_at, user_id, list, source, reason, expires_at
FROM user_lists WHERE removed_at IS NOT NULL;
"""

DOWNGRADE = """
DROP VIEW user_list_events;
ALTER TABLE rule_books DROP COLUMN number;
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
