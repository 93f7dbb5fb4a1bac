"""Verdicts of the stream equal those of one SQL query over the whole topic."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import duckdb
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from ecommersss_platform_tests.support.plain_velocity import StoredInMemory
from ecommersss_platform_tests.support.shop import LONG_AGO, NOON, order
from streaming.database.catalogue import Catalogue
from streaming.decisions import candidates, decide_batch
from streaming.history import MemoryHistory
from streaming.orders import Order, encode
from streaming.rules import FEATURES, RULES_PATH, RuleBook, sql
from streaming.rules.sample import sample_sql
from streaming.topics import Batch

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)

# The shipped rules, and more for the features that they do not use.
BOOK = RuleBook.parse(
    RULES_PATH.read_text()
    + """
  - {name: again_at_once, description: d, mode: active, when: seconds_since_last_order < 1}
  - {name: unhurried, description: d, mode: active, when: NOT seconds_since_last_order < 3600}
  - {name: share, description: d, mode: shadow, when: "amount / NULLIF(user_amount_24h, 0) < 0.5"}
  - {name: newcomer, description: d, mode: shadow, when: "user_age_days IN (0, 1) OR user_age_days < 0"}
  - {name: not_listed, description: d, mode: active, when: NOT is_blacklisted AND list_price IS NULL}
  - {name: pair, description: d, mode: shadow, when: user_orders_10m = 2}
  - {name: pair_of_a_day, description: d, mode: shadow, when: user_orders_24h = 2}
  - {name: abroad_again, description: d, mode: review, when: user_countries_24h = 2}
  - {name: second_look, description: d, mode: review, when: user_age_days < 1}
  - {name: switched_off, description: d, mode: 'off', when: TRUE}
sample: 0.3
"""
)
PRICED = NOON - 2 * DAY
PRICES = ([PRICED, NOON], [Decimal("1500.00"), Decimal("10000000.00")])
BLOCKED_UNTIL, ALLOWED_UNTIL = NOON + DAY, NOON + 10 * MINUTE
USERS = {1: LONG_AGO, 2: NOON - DAY, 3: NOON}

FEATURES_IN_SQL = f"""
    CREATE OR REPLACE TEMP VIEW features AS
    WITH stored AS (
        SELECT * FROM topic WHERE user_id <= 3 AND product_id = 1
        QUALIFY row_number() OVER (PARTITION BY id ORDER BY position) = 1
    ),
    looked_back AS (
        SELECT o.position,
               count(p.id) FILTER (p.created_date > o.created_date - INTERVAL 10 MINUTE) + 1 AS orders_10m,
               count(p.id) FILTER (p.created_date > o.created_date - INTERVAL 24 HOUR) + 1 AS orders_24h,
               coalesce(sum(p.amount) FILTER (p.created_date > o.created_date - INTERVAL 24 HOUR), 0)
                   + any_value(o.amount) AS amount_24h,
               (epoch_us(any_value(o.created_date)) - epoch_us(max(p.created_date))) // 1000000 AS seconds,
               count(DISTINCT p.country) FILTER (p.created_date > o.created_date - INTERVAL 24 HOUR
                                                 AND p.country <> o.country) + 1 AS countries
        FROM stored o LEFT JOIN stored p
            ON p.user_id = o.user_id AND p.position < o.position AND p.created_date <= o.created_date
        GROUP BY o.position
    )
    SELECT stored.*,
           hour(created_date AT TIME ZONE 'Asia/Jakarta') AS local_hour,
           (CASE WHEN created_date >= '{PRICES[0][1]}' THEN {PRICES[1][1]}
                 WHEN created_date >= '{PRICES[0][0]}' THEN {PRICES[1][0]} END)::DECIMAL(18, 2) AS list_price,
           floor((epoch_us(created_date) - epoch_us(CASE user_id WHEN 1 THEN '{USERS[1]}'::TIMESTAMPTZ
               WHEN 2 THEN '{USERS[2]}' ELSE '{USERS[3]}' END)) / 86400000000)::BIGINT AS user_age_days,
           orders_10m AS user_orders_10m, orders_24h AS user_orders_24h,
           amount_24h::DECIMAL(28, 2) AS user_amount_24h, seconds AS seconds_since_last_order,
           countries AS user_countries_24h,
           user_id = 2 AND created_date < '{BLOCKED_UNTIL}' AND created_date >= '{ALLOWED_UNTIL}'
               AS is_blacklisted
    FROM stored JOIN looked_back USING (position)
"""
CONNECTION = duckdb.connect()
CONNECTION.execute("SET TimeZone = 'UTC'; SET threads = 1")

Verdicts = list[tuple[int, int, list[str], list[str], list[str]]]


def in_sql(topic: list[Order]) -> Verdicts:
    """Return the position, id and reasons of each stored order, computed in SQL."""
    columns = {name: [getattr(o, name) for o in topic] for name in Order.__struct_fields__}
    table = pa.table(columns | {"position": list(range(len(topic)))})
    table = table.set_column(
        table.schema.get_field_index("amount"), "amount", table["amount"].cast(pa.decimal128(18, 2))
    )
    CONNECTION.register("topic", table)
    CONNECTION.execute(FEATURES_IN_SQL)
    assert set(FEATURES) <= {row[0] for row in CONNECTION.execute("DESCRIBE features").fetchall()}
    running = [rule for rule in BOOK.rules if rule.mode != "off"]
    conditions = ", ".join(sql(rule, "duckdb") for rule in running)
    picked = sample_sql("id", BOOK.sample, "duckdb")
    rows = CONNECTION.execute(
        f"SELECT position, id, {picked}, {conditions} FROM features ORDER BY position"
    ).fetchall()
    found: Verdicts = []
    for position, id, in_sample, *results in rows:
        held = [rule for rule, holds in zip(running, results, strict=True) if holds]
        fraud, shadow, review = (
            [rule.name for rule in held if rule.mode == mode] for mode in ("active", "shadow", "review")
        )
        if in_sample and not fraud:
            review.append("random_sample")
        found.append((position, id, fraud, shadow, review))
    return found


def in_stream(topic: list[Order], sizes: list[int]) -> Verdicts:
    """Return the same, decided in batches by the stream."""
    catalogue = Catalogue()
    catalogue.users = USERS
    catalogue._prices = {1: PRICES}
    catalogue.lists.add(2, "block", BLOCKED_UNTIL)
    catalogue.lists.add(2, "allow", ALLOWED_UNTIL)
    stored, history = StoredInMemory(), MemoryHistory()
    history.reset(stored)
    found: Verdicts = []
    at = 0
    while at < len(topic):
        size = sizes[at % len(sizes)]
        lines = [encode(o) for o in topic[at : at + size]]
        decoded, _ = candidates(Batch(list(range(at, at + len(lines))), lines, at + len(lines)))
        at += size
        history.load(stored, [c.order for c in decoded])
        known = {o.id: o for o in stored.orders}
        decision = decide_batch(decoded, known, catalogue, history, BOOK, NOON)
        positions = {o.position for o in decision.orders}
        stored.orders += [c.order for c in decoded if c.position in positions]
        history.committed(len(decision.orders))
        found += [
            (o.position, o.id, o.fraud_reasons, o.shadow_reasons, o.review_reasons) for o in decision.orders
        ]
    return found


ORDERS = st.builds(
    order,
    st.integers(1, 25),
    user_id=st.sampled_from([1, 1, 2, 2, 3, 4]),
    product_id=st.sampled_from([1, 1, 1, 1, 2]),
    quantity=st.sampled_from([1, 2, 100, 101, 301]),
    amount=st.sampled_from(
        [Decimal(n) for n in ("0.00", "1500.00", "50000000.01", "100000000.00", "300000000.00")]
    ),
    payment_method=st.sampled_from(["OVO", "Bank Transfer"]),
    country=st.sampled_from(["ID", "ID", "ID", "SG", "MY"]),
    created_date=st.builds(
        lambda days, minutes, microseconds: (
            NOON + days * DAY + minutes * MINUTE + timedelta(microseconds=microseconds)
        ),
        st.sampled_from([0, 0, 0, 1, -1, -3, 30]),
        st.sampled_from([0, 0, 1, 5, 10, 20, -10, 12 * 60]),
        st.sampled_from([0, 0, -1, 1, 999_999]),
    ),
)


@given(st.lists(ORDERS, min_size=1, max_size=40), st.lists(st.integers(1, 10), min_size=1, max_size=5))
@settings(max_examples=80)
def test_verdicts_of_the_stream_equal_those_of_sql(topic: list[Order], sizes: list[int]) -> None:
    """Compare the stored orders and every reason.

    The topics have late orders, ties, window edges, NULLs, duplicates, known ids with other content, and
    unknown users and products.
    """
    assert in_stream(topic, sizes) == in_sql(topic)
