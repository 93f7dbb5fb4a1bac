"""What rules look back on: an index of users' orders by time, and the user lists with their history."""

from alembic import op

revision = "0002"
down_revision = "0001"

UPGRADE = """
-- Finds a user's orders of a period, and the last one before an instant.
CREATE INDEX orders_user ON orders (user_id, created_date);

-- Users whose orders are suspect (block) or never are (allow, which wins). An entry is never changed or
-- deleted, only removed by setting removed_at, so what was known when an order was decided stays on record.
CREATE TABLE user_lists (
    entry           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id         INTEGER NOT NULL REFERENCES users (id),
    list            TEXT NOT NULL CHECK (list IN ('allow', 'block')),
    reason          TEXT NOT NULL CHECK (reason <> ''),
    source          TEXT NOT NULL CHECK (source IN ('person', 'platform')),
    added_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at      TIMESTAMPTZ,
    removed_at      TIMESTAMPTZ,
    -- The entry is in the versions [added_version, removed_version) of the lists.
    added_version   BIGINT NOT NULL,
    removed_version BIGINT
);
CREATE UNIQUE INDEX user_lists_current ON user_lists (user_id, list, source) WHERE removed_at IS NULL;

-- A change takes its version under this row's lock, so versions become visible in order.
CREATE TABLE user_lists_version (
    only_row BOOLEAN PRIMARY KEY DEFAULT true CHECK (only_row),
    version  BIGINT NOT NULL
);
INSERT INTO user_lists_version (version) VALUES (0);

-- From this position on, a consumer decided with this version of the lists.
CREATE TABLE user_lists_used (
    topic    TEXT NOT NULL,
    consumer TEXT NOT NULL,
    position BIGINT NOT NULL,
    version  BIGINT NOT NULL,
    PRIMARY KEY (topic, consumer, position)
);

CREATE FUNCTION next_lists_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE user_lists_version SET version = version + 1;
    RETURN NULL;
END $$;

CREATE FUNCTION stamp_list_entry() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now_version BIGINT := (SELECT version FROM user_lists_version);
    unchanged   user_lists;
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.added_version := now_version;
        NEW.removed_at := NULL;
        NEW.removed_version := NULL;
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        unchanged := NEW;
        unchanged.removed_at := NULL;
        IF OLD.removed_at IS NULL AND unchanged IS NOT DISTINCT FROM OLD THEN
            IF NEW.removed_at IS NOT NULL THEN
                NEW.removed_version := now_version;
            END IF;
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'entries of user_lists are never changed: set removed_at, and add another one'
        USING HINT = 'ecommersss lists add and ecommersss lists remove do it';
END $$;

CREATE TRIGGER next_version BEFORE INSERT OR UPDATE ON user_lists
    FOR EACH STATEMENT EXECUTE FUNCTION next_lists_version();
CREATE TRIGGER stamp_entry BEFORE INSERT OR UPDATE OR DELETE ON user_lists
    FOR EACH ROW EXECUTE FUNCTION stamp_list_entry();
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    raise NotImplementedError("user_lists would lose what people wrote into it: restore a backup instead")
