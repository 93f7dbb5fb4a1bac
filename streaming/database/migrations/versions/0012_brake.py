"""The brake: what promoted rules have held for so far, and the rules that were put back to shadow."""

from alembic import op

revision = "0012"
down_revision = "0011"

UPGRADE = """
-- One row for each promotion that has decided about an order.
CREATE TABLE rule_probations (
    probation     TEXT PRIMARY KEY,
    rule          TEXT NOT NULL,
    mode          TEXT NOT NULL,
    expected_low  DOUBLE PRECISION NOT NULL,
    expected_high DOUBLE PRECISION NOT NULL,
    orders        BIGINT NOT NULL,
    held          BIGINT NOT NULL,
    began_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    pulled_at     TIMESTAMPTZ
);

-- A rule that decides nothing until a person lifts the override: what had been counted, and of which book.
CREATE TABLE rule_overrides (
    override        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rule            TEXT NOT NULL,
    mode            TEXT NOT NULL,
    expected_low    DOUBLE PRECISION NOT NULL,
    expected_high   DOUBLE PRECISION NOT NULL,
    orders          BIGINT NOT NULL,
    held            BIGINT NOT NULL,
    rules_version   TEXT NOT NULL,
    pulled_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    lifted_at       TIMESTAMPTZ,
    lifted_by       TEXT CHECK (lifted_by <> ''),
    lifted_because  TEXT CHECK (lifted_because <> ''),
    -- The override is in the versions [added_version, removed_version) of the user lists.
    added_version   BIGINT NOT NULL,
    removed_version BIGINT,
    CHECK ((lifted_at IS NULL) = (lifted_by IS NULL) AND (lifted_at IS NULL) = (lifted_because IS NULL))
);
CREATE UNIQUE INDEX rule_overrides_current ON rule_overrides (rule) WHERE lifted_at IS NULL;

-- Not under the exclusive lock of the lists, for which a batch that pulls a rule would wait forever: it holds
-- the shared one. So a batch at a greater position may have an earlier version; the lists of both are equal.
CREATE FUNCTION next_overrides_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE user_lists_version SET version = version + 1;
    RETURN NULL;
END $$;

CREATE FUNCTION stamp_override() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now_version BIGINT := (SELECT version FROM user_lists_version);
    unchanged   rule_overrides;
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.added_version := now_version;
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        unchanged := NEW;
        unchanged.lifted_at := NULL;
        unchanged.lifted_by := NULL;
        unchanged.lifted_because := NULL;
        IF NEW.lifted_at IS NOT NULL AND unchanged IS NOT DISTINCT FROM OLD THEN
            NEW.removed_version := now_version;
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'an override is never changed but once, when it is lifted'
        USING HINT = 'ecommersss rules overrides lift does it';
END $$;

CREATE TRIGGER next_version BEFORE INSERT OR UPDATE ON rule_overrides
    FOR EACH STATEMENT EXECUTE FUNCTION next_overrides_version();
CREATE TRIGGER stamp_override BEFORE INSERT OR UPDATE OR DELETE ON rule_overrides
    FOR EACH ROW EXECUTE FUNCTION stamp_override();
"""

DOWNGRADE = """
DROP TABLE rule_overrides, rule_probations;
DROP FUNCTION next_overrides_version, stamp_override;
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
