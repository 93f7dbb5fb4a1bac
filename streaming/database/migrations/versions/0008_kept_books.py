"""What explains an old verdict: the rule books that decided, and each order's version of the user lists."""

from alembic import op

revision = "0008"
down_revision = "0007"

UPGRADE = """
-- A book is written in the transaction of the first batch that it decides.
CREATE TABLE rule_books (
    version        TEXT PRIMARY KEY,
    text           TEXT NOT NULL,
    first_position BIGINT NOT NULL,
    first_used_at  TIMESTAMPTZ NOT NULL
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON rule_books
    FOR EACH ROW EXECUTE FUNCTION refuse_history_change();

-- Without the default, a consumer of an earlier version fails instead of storing a wrong version.
ALTER TABLE orders ADD COLUMN lists_version BIGINT NOT NULL DEFAULT 0;
ALTER TABLE orders ALTER COLUMN lists_version DROP DEFAULT;
UPDATE orders SET lists_version = used.versions[width_bucket(position, used.positions)]
FROM (SELECT array_agg(position ORDER BY position) AS positions,
             array_agg(version ORDER BY position) AS versions
      FROM user_lists_used WHERE (topic, consumer) = ('orders', 'fraud')) AS used
WHERE position >= used.positions[1] AND used.versions[width_bucket(position, used.positions)] <> 0;
DROP TABLE user_lists_used;

-- When a version was really written, whatever version_clock said. NULL: before this migration.
ALTER TABLE users_history ADD COLUMN recorded_at TIMESTAMPTZ;
ALTER TABLE users_history ALTER COLUMN recorded_at SET DEFAULT clock_timestamp();
ALTER TABLE products_history ADD COLUMN recorded_at TIMESTAMPTZ;
ALTER TABLE products_history ALTER COLUMN recorded_at SET DEFAULT clock_timestamp();
CREATE INDEX users_history_user ON users_history (id);
"""

DOWNGRADE = """
DROP INDEX users_history_user;
ALTER TABLE users_history DROP COLUMN recorded_at;
ALTER TABLE products_history DROP COLUMN recorded_at;

CREATE TABLE user_lists_used (
    topic    TEXT NOT NULL,
    consumer TEXT NOT NULL,
    position BIGINT NOT NULL,
    version  BIGINT NOT NULL,
    PRIMARY KEY (topic, consumer, position)
);
INSERT INTO user_lists_used
SELECT 'orders', 'fraud', position, lists_version
FROM (SELECT position, lists_version, lag(lists_version, 1, 0::bigint) OVER (ORDER BY position) AS before
      FROM orders) AS decided
WHERE lists_version <> before
ON CONFLICT DO NOTHING;
ALTER TABLE orders DROP COLUMN lists_version;
DROP TABLE rule_books;
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
