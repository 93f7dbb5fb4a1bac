"""Rule exemptions: users for whom a rule does not hold until a time."""

from alembic import op

revision = "0011"
down_revision = "0010"

UPGRADE = """
-- The rule does not hold for the user's orders that are placed before expires_at. An entry is never changed
-- or deleted, only removed. Exemptions share the versions of user_lists, so an order's lists_version tells
-- which of them were known when it was decided.
CREATE TABLE rule_exemptions (
    exemption       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rule            TEXT NOT NULL CHECK (rule <> ''),
    user_id         INTEGER NOT NULL REFERENCES users (id),
    reason          TEXT NOT NULL CHECK (reason <> ''),
    author          TEXT NOT NULL CHECK (author <> ''),
    added_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at      TIMESTAMPTZ NOT NULL,
    removed_at      TIMESTAMPTZ,
    added_version   BIGINT NOT NULL,
    removed_version BIGINT
);
CREATE UNIQUE INDEX rule_exemptions_current ON rule_exemptions (user_id, rule) WHERE removed_at IS NULL;

-- For each table whose entries are in versions of the lists. The argument of the trigger is the hint.
CREATE OR REPLACE FUNCTION stamp_list_entry() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now_version BIGINT := (SELECT version FROM user_lists_version);
    unchanged   RECORD;
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
    RAISE EXCEPTION 'entries of % are never changed: set removed_at, and add another one', TG_TABLE_NAME
        USING HINT = coalesce(TG_ARGV[0], 'ecommersss lists add and ecommersss lists remove do it');
END $$;

CREATE TRIGGER next_version BEFORE INSERT OR UPDATE ON rule_exemptions
    FOR EACH STATEMENT EXECUTE FUNCTION next_lists_version();
CREATE TRIGGER stamp_entry BEFORE INSERT OR UPDATE OR DELETE ON rule_exemptions
    FOR EACH ROW EXECUTE FUNCTION
    stamp_list_entry('ecommersss rules exempt and ecommersss rules exemptions remove do it');

-- An entry changes once, when it is removed. Its events never do.
CREATE VIEW rule_exemption_events AS
SELECT 2 * exemption AS event_id, exemption, 'added' AS event, added_version AS lists_version,
       added_at AS event_at, rule, user_id, reason, author, expires_at
FROM rule_exemptions
UNION ALL
SELECT 2 * exemption + 1, exemption, 'removed', removed_version, removed_at, rule, user_id, reason, author,
       expires_at
FROM rule_exemptions WHERE removed_at IS NOT NULL;
"""

# The function stays as it is: it does the same for user_lists as before.
DOWNGRADE = """
DROP VIEW rule_exemption_events;
DROP TABLE rule_exemptions;
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
