"""What an order really was: shipments and disputes with their history, and people's verdicts."""

from alembic import op

revision = "0007"
down_revision = "0006"

UPGRADE = """
CREATE TABLE shipments (
    order_id      BIGINT PRIMARY KEY REFERENCES orders (id),
    status        TEXT NOT NULL CHECK (status IN ('packed', 'shipped', 'delivered', 'cancelled', 'returned')),
    packed_at     TIMESTAMPTZ,
    shipped_at    TIMESTAMPTZ,
    delivered_at  TIMESTAMPTZ,
    cancelled_at  TIMESTAMPTZ,
    returned_at   TIMESTAMPTZ,
    refund_amount NUMERIC(18, 2) NOT NULL DEFAULT 0 CHECK (refund_amount >= 0),
    updated_at    TIMESTAMPTZ NOT NULL
);
CREATE TABLE shipments_history (
    version       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    valid_from    TIMESTAMPTZ NOT NULL,
    order_id      BIGINT NOT NULL,
    status        TEXT NOT NULL,
    packed_at     TIMESTAMPTZ,
    shipped_at    TIMESTAMPTZ,
    delivered_at  TIMESTAMPTZ,
    cancelled_at  TIMESTAMPTZ,
    returned_at   TIMESTAMPTZ,
    refund_amount NUMERIC(18, 2) NOT NULL,
    updated_at    TIMESTAMPTZ NOT NULL
);
CREATE INDEX shipments_history_valid_from ON shipments_history (valid_from);

CREATE TABLE disputes (
    id         BIGINT PRIMARY KEY CHECK (id >= 1),
    order_id   BIGINT NOT NULL REFERENCES orders (id),
    kind       TEXT NOT NULL CHECK (kind IN ('fraud', 'not_received', 'not_as_described', 'other')),
    amount     NUMERIC(18, 2) NOT NULL CHECK (amount >= 0),
    opened_at  TIMESTAMPTZ NOT NULL,
    outcome    TEXT NOT NULL DEFAULT 'open' CHECK (outcome IN ('open', 'won', 'lost')),
    decided_at TIMESTAMPTZ,
    updated_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT disputes_decided CHECK ((outcome = 'open') = (decided_at IS NULL))
);
CREATE TABLE disputes_history (
    version    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    valid_from TIMESTAMPTZ NOT NULL,
    id         BIGINT NOT NULL,
    order_id   BIGINT NOT NULL,
    kind       TEXT NOT NULL,
    amount     NUMERIC(18, 2) NOT NULL,
    opened_at  TIMESTAMPTZ NOT NULL,
    outcome    TEXT NOT NULL,
    decided_at TIMESTAMPTZ,
    updated_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX disputes_history_valid_from ON disputes_history (valid_from);

CREATE TABLE verdicts (
    id          BIGSERIAL PRIMARY KEY,
    order_id    BIGINT NOT NULL REFERENCES orders (id),
    verdict     TEXT NOT NULL CHECK (verdict IN ('fraud', 'genuine')),
    reviewer    TEXT NOT NULL,
    note        TEXT,
    decided_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- When the platform learned of it, which makes past views possible: imports bring old decisions.
    recorded_at TIMESTAMPTZ NOT NULL DEFAULT version_clock()
);
CREATE INDEX verdicts_order ON verdicts (order_id);
CREATE INDEX verdicts_recorded_at ON verdicts (recorded_at);

CREATE FUNCTION keep_shipment_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO shipments_history (valid_from, order_id, status, packed_at, shipped_at, delivered_at,
                                   cancelled_at, returned_at, refund_amount, updated_at)
    VALUES (NEW.updated_at, NEW.order_id, NEW.status, NEW.packed_at, NEW.shipped_at, NEW.delivered_at,
            NEW.cancelled_at, NEW.returned_at, NEW.refund_amount, NEW.updated_at);
    RETURN NULL;
END $$;

CREATE FUNCTION keep_dispute_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO disputes_history (valid_from, id, order_id, kind, amount, opened_at, outcome, decided_at,
                                  updated_at)
    VALUES (NEW.updated_at, NEW.id, NEW.order_id, NEW.kind, NEW.amount, NEW.opened_at, NEW.outcome,
            NEW.decided_at, NEW.updated_at);
    RETURN NULL;
END $$;

CREATE TRIGGER stamp_version BEFORE INSERT OR UPDATE ON shipments
    FOR EACH ROW EXECUTE FUNCTION stamp_version();
CREATE TRIGGER keep_version AFTER INSERT OR UPDATE ON shipments
    FOR EACH ROW EXECUTE FUNCTION keep_shipment_version();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON shipments_history
    FOR EACH ROW EXECUTE FUNCTION refuse_history_change();
CREATE TRIGGER stamp_version BEFORE INSERT OR UPDATE ON disputes
    FOR EACH ROW EXECUTE FUNCTION stamp_version();
CREATE TRIGGER keep_version AFTER INSERT OR UPDATE ON disputes
    FOR EACH ROW EXECUTE FUNCTION keep_dispute_version();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON disputes_history
    FOR EACH ROW EXECUTE FUNCTION refuse_history_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON verdicts
    FOR EACH ROW EXECUTE FUNCTION refuse_history_change();
"""

DOWNGRADE = """
DROP TABLE shipments, shipments_history, disputes, disputes_history, verdicts;
DROP FUNCTION keep_shipment_version(), keep_dispute_version();
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
