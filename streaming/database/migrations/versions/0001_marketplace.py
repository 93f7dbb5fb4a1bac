"""Users and products with their history, orders, rejected orders, and topic positions."""

from alembic import op

revision = "0001"
down_revision = None

UPGRADE = """
CREATE TABLE users (
    id              INTEGER PRIMARY KEY CHECK (id >= 1),
    username        TEXT NOT NULL,
    email           TEXT NOT NULL,
    first_name      TEXT NOT NULL,
    last_name       TEXT NOT NULL,
    default_payment TEXT,
    created_date    TIMESTAMPTZ NOT NULL,
    updated_at      TIMESTAMPTZ NOT NULL
);

CREATE TABLE products (
    id           INTEGER PRIMARY KEY CHECK (id >= 1),
    product_name TEXT NOT NULL,
    category     TEXT NOT NULL,
    price        NUMERIC(18, 2) NOT NULL CHECK (price >= 0),
    created_date TIMESTAMPTZ NOT NULL,
    updated_at   TIMESTAMPTZ NOT NULL
);

CREATE TABLE users_history (
    version         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    valid_from      TIMESTAMPTZ NOT NULL,
    id              INTEGER NOT NULL,
    username        TEXT NOT NULL,
    email           TEXT NOT NULL,
    first_name      TEXT NOT NULL,
    last_name       TEXT NOT NULL,
    default_payment TEXT,
    created_date    TIMESTAMPTZ NOT NULL,
    updated_at      TIMESTAMPTZ NOT NULL
);
CREATE INDEX users_history_valid_from ON users_history (valid_from);

CREATE TABLE products_history (
    version      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    valid_from   TIMESTAMPTZ NOT NULL,
    id           INTEGER NOT NULL,
    product_name TEXT NOT NULL,
    category     TEXT NOT NULL,
    price        NUMERIC(18, 2) NOT NULL,
    created_date TIMESTAMPTZ NOT NULL,
    updated_at   TIMESTAMPTZ NOT NULL
);
CREATE INDEX products_history_valid_from ON products_history (valid_from);
-- Finds the price of a product when it was ordered.
CREATE INDEX products_history_product ON products_history (id, valid_from);

-- The time of new versions. Loading or simulating the past sets it, for one transaction.
CREATE FUNCTION version_clock() RETURNS TIMESTAMPTZ LANGUAGE sql STABLE AS
$$ SELECT coalesce(nullif(current_setting('ecommersss.clock', true), '')::timestamptz, now()) $$;

-- An update that changes nothing makes no version and leaves the row alone.
CREATE FUNCTION stamp_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        NEW.updated_at := OLD.updated_at;
        IF NEW IS NOT DISTINCT FROM OLD THEN
            RETURN NULL;
        END IF;
    END IF;
    NEW.updated_at := version_clock();
    RETURN NEW;
END $$;

CREATE FUNCTION keep_user_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO users_history (valid_from, id, username, email, first_name, last_name, default_payment,
                               created_date, updated_at)
    VALUES (NEW.updated_at, NEW.id, NEW.username, NEW.email, NEW.first_name, NEW.last_name,
            NEW.default_payment, NEW.created_date, NEW.updated_at);
    RETURN NULL;
END $$;

CREATE FUNCTION keep_product_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO products_history (valid_from, id, product_name, category, price, created_date, updated_at)
    VALUES (NEW.updated_at, NEW.id, NEW.product_name, NEW.category, NEW.price, NEW.created_date,
            NEW.updated_at);
    RETURN NULL;
END $$;

CREATE FUNCTION refuse_history_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: a past day must stay the same day', TG_TABLE_NAME;
END $$;

CREATE TRIGGER stamp_version BEFORE INSERT OR UPDATE ON users
    FOR EACH ROW EXECUTE FUNCTION stamp_version();
CREATE TRIGGER keep_version AFTER INSERT OR UPDATE ON users
    FOR EACH ROW EXECUTE FUNCTION keep_user_version();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON users_history
    FOR EACH ROW EXECUTE FUNCTION refuse_history_change();
CREATE TRIGGER stamp_version BEFORE INSERT OR UPDATE ON products
    FOR EACH ROW EXECUTE FUNCTION stamp_version();
CREATE TRIGGER keep_version AFTER INSERT OR UPDATE ON products
    FOR EACH ROW EXECUTE FUNCTION keep_product_version();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON products_history
    FOR EACH ROW EXECUTE FUNCTION refuse_history_change();

CREATE TABLE orders (
    id             BIGINT PRIMARY KEY,
    user_id        INTEGER NOT NULL REFERENCES users (id),
    product_id     INTEGER NOT NULL REFERENCES products (id),
    quantity       BIGINT NOT NULL,
    amount         NUMERIC(18, 2) NOT NULL,
    payment_method TEXT NOT NULL,
    country        TEXT NOT NULL,
    is_fraud       BOOLEAN NOT NULL,
    fraud_reasons  TEXT[] NOT NULL,
    shadow_reasons TEXT[] NOT NULL,
    rules_version  TEXT NOT NULL,
    created_date   TIMESTAMPTZ NOT NULL,
    flagged_at     TIMESTAMPTZ NOT NULL,
    position       BIGINT NOT NULL
);
-- Finds the orders of a day's partition.
CREATE INDEX orders_created_date ON orders (created_date);

CREATE TABLE rejected_orders (
    position    BIGINT PRIMARY KEY,
    raw         BYTEA NOT NULL,
    reason      TEXT NOT NULL,
    detail      TEXT NOT NULL,
    rejected_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    retried_at  TIMESTAMPTZ,
    -- The user or product that did not exist, if that is the reason.
    missing_id  BIGINT
);
CREATE INDEX rejected_orders_waiting ON rejected_orders (reason, missing_id)
    WHERE retried_at IS NULL AND missing_id IS NOT NULL;

CREATE TABLE topic_positions (
    topic    TEXT NOT NULL,
    consumer TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (topic, consumer)
);

-- The flagged lines of the last committed batch: where they begin and which orders they are, so that a killed
-- consumer can complete the stream. Dropped by migration 0004.
CREATE TABLE flagged_emissions (
    stream         TEXT NOT NULL,
    consumer       TEXT NOT NULL,
    start_position BIGINT NOT NULL,
    order_ids      BIGINT[] NOT NULL,
    PRIMARY KEY (stream, consumer)
);

-- The simulated hours that were applied, each once, in the transaction of its rows.
CREATE TABLE marketplace_hours (
    hour       TIMESTAMPTZ PRIMARY KEY,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    raise NotImplementedError("nothing precedes the first migration: drop the database instead")
