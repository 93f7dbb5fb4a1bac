"""The decision about each line of a batch."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from ecommersss_platform_tests.support.plain_velocity import StoredInMemory, plain_velocity
from ecommersss_platform_tests.support.shop import LONG_AGO, NOON, PRICE, flagged, order
from streaming.database.catalogue import Catalogue
from streaming.decisions import Candidate, Decision, Rejected, candidates, decide_batch, features
from streaming.history import MemoryHistory
from streaming.lists import Exemption, UserLists
from streaming.orders import Flagged, Order, encode
from streaming.rules import RuleBook
from streaming.topics import Batch
from streaming.velocity import Velocity

BOOK = RuleBook.parse(
    """
rules:
  - {name: abroad, description: from abroad, mode: active, when: "country <> 'ID'"}
  - {name: many, description: many at once, mode: active, when: "quantity > 10"}
  - name: other_price
    description: not the list price
    mode: shadow
    when: amount <> quantity * list_price
  - {name: look, description: worth a look, mode: review, when: "quantity IN (9, 11)"}
""",
    "test.yml",
)


@pytest.fixture
def catalogue() -> Catalogue:
    known = Catalogue()
    known.users = {1: LONG_AGO, 2: LONG_AGO}
    known._prices = {1: ([LONG_AGO], [PRICE])}
    return known


def decided(catalogue: Catalogue, *orders: Order, stored: dict[int, Order] | None = None) -> Decision:
    """Return the decision about a batch with these orders at positions 100, 200, ..."""
    batch = [Candidate(100 * n, encode(o), o) for n, o in enumerate(orders, start=1)]
    history = MemoryHistory()
    history.load(StoredInMemory(), orders)
    return decide_batch(batch, stored or {}, catalogue, history, BOOK, NOON + timedelta(seconds=1))


def test_lines_that_decode_are_separated_from_those_that_do_not() -> None:
    decoded, invalid = candidates(Batch([0, 90, 95], [encode(order(5)), b"", b"{}"], 99))
    assert decoded == [Candidate(0, encode(order(5)), order(5))]
    assert [(r.position, r.raw, r.reason, r.missing_id) for r in invalid] == [
        (90, b"", "empty_line", None),
        (95, b"{}", "missing_field", None),
    ]


def test_active_rules_make_fraud_and_other_rules_do_not(catalogue: Catalogue) -> None:
    decision = decided(
        catalogue,
        order(1),
        order(2, quantity=11, country="SG", amount=PRICE * 11),
        order(3, amount=PRICE * 2 + Decimal("0.01")),
        order(4, quantity=9, amount=PRICE * 9),
    )
    version = BOOK.version
    assert decision.orders == [
        flagged(1, rules_version=version),
        flagged(
            2,
            quantity=11,
            country="SG",
            amount=PRICE * 11,
            fraud_reasons=["abroad", "many"],
            review_reasons=["look"],
            rules_version=version,
        ),
        flagged(3, amount=PRICE * 2 + Decimal("0.01"), shadow_reasons=["other_price"], rules_version=version),
        flagged(4, quantity=9, amount=PRICE * 9, review_reasons=["look"], rules_version=version),
    ]
    assert [o.status for o in decision.orders] == ["genuine", "fraud", "genuine", "genuine"]
    assert (decision.rejected, decision.duplicates, decision.known_ids) == ([], 0, 0)


def test_a_repeated_order_is_counted_and_another_with_its_id_is_rejected(catalogue: Catalogue) -> None:
    again, other = order(1), order(1, amount=Decimal("3000.01"))
    decision = decided(catalogue, order(1), again, other)
    assert [o.position for o in decision.orders] == [100]
    assert decision.duplicates == 1
    assert decision.rejected == [
        Rejected(300, encode(other), "duplicate_id", "order 1 is stored already, with other content")
    ]
    assert decision.known_ids == 0

    stored = decided(catalogue, again, other, order(2), stored={1: order(1)})
    assert [o.id for o in stored.orders] == [2]
    assert (stored.duplicates, [r.position for r in stored.rejected], stored.known_ids) == (1, [200], 2)


def test_another_way_to_write_the_same_order_is_a_duplicate(catalogue: Catalogue) -> None:
    jakarta = order(1, created_date=datetime.fromisoformat("2026-03-02T12:00:00+07:00"))
    assert decided(catalogue, order(1), jakarta).duplicates == 1


def test_an_unknown_user_or_product_is_rejected_with_the_id_to_wait_for(catalogue: Catalogue) -> None:
    decision = decided(catalogue, order(1, user_id=8, product_id=9), order(2, product_id=9), order(3))
    assert [(r.position, r.reason, r.missing_id) for r in decision.rejected] == [
        (100, "unknown_user", 8),
        (200, "unknown_product", 9),
    ]
    assert [o.id for o in decision.orders] == [3]


def test_a_rejected_order_does_not_take_its_id(catalogue: Catalogue) -> None:
    decision = decided(catalogue, order(1, user_id=8), order(1))
    assert [o.position for o in decision.orders] == [200]
    assert [r.reason for r in decision.rejected] == ["unknown_user"]


@pytest.mark.parametrize(
    ("placed", "local_hour", "user_age_days", "list_price"),
    [
        (NOON, 12, 400, PRICE),
        (LONG_AGO, 12, 0, PRICE),
        (LONG_AGO + timedelta(days=1, microseconds=-1), 11, 0, PRICE),
        (LONG_AGO - timedelta(microseconds=1), 11, -1, None),
        (datetime.fromisoformat("2026-03-02T16:59:59.999999+00:00"), 23, 400, PRICE),
        (datetime.fromisoformat("2026-03-02T17:00:00+00:00"), 0, 400, PRICE),
    ],
)
def test_features_at_their_edges(
    catalogue: Catalogue, placed: datetime, local_hour: int, user_age_days: int, list_price: Decimal | None
) -> None:
    row = features(order(1, created_date=placed), LONG_AGO, catalogue, Velocity(1, 1, PRICE, None, 1))
    assert (row.local_hour, row.user_age_days, row.list_price) == (local_hour, user_age_days, list_price)
    assert (row.amount, row.quantity, row.country, row.payment_method) == (2 * PRICE, 2, "ID", "OVO")


LOOKING_BACK = RuleBook.parse(
    """
rules:
  - {name: third, description: d, mode: active, when: "user_orders_24h >= 3"}
  - {name: listed, description: d, mode: shadow, when: is_blacklisted}
"""
)


def test_only_accepted_orders_count_for_later_ones(catalogue: Catalogue) -> None:
    """Repetitions, other content under a known id and unknown products do not; users count separately."""
    catalogue.lists.add(2, "block")
    second = order(2, product_id=2)
    orders = [
        order(1),
        order(1),
        order(1, quantity=9),
        second,
        order(3, user_id=2),
        order(4),
        order(5),
    ]
    batch = [Candidate(100 * n, encode(o), o) for n, o in enumerate(orders, start=1)]
    history = MemoryHistory()
    history.load(StoredInMemory(), orders)
    decision = decide_batch(batch, {}, catalogue, history, LOOKING_BACK, NOON)
    assert [(o.id, o.fraud_reasons, o.shadow_reasons) for o in decision.orders] == [
        (1, [], []),
        (3, [], ["listed"]),
        (4, [], []),
        (5, ["third"], []),
    ]
    accepted = [orders[0], *orders[4:]]
    assert plain_velocity(accepted[:3], orders[6]).user_orders_24h == 3


def test_a_rule_does_not_hold_for_an_exempt_user(catalogue: Catalogue) -> None:
    hour = timedelta(hours=1)
    for rule in ("abroad", "other_price"):
        catalogue.lists.exempt(Exemption(rule, 1, "a reseller", "Sari", NOON))
    values: dict[str, Any] = {"country": "SG", "quantity": 11}
    decision = decided(
        catalogue,
        order(1, created_date=NOON - hour, **values),
        order(2, created_date=NOON, **values),
        order(3, created_date=NOON - hour, user_id=2, **values),
        order(4, created_date=NOON - hour, country="SG"),
    )
    assert [(o.fraud_reasons, o.shadow_reasons, o.status) for o in decision.orders] == [
        (["many"], [], "fraud"),
        (["abroad", "many"], ["other_price"], "fraud"),
        (["abroad", "many"], ["other_price"], "fraud"),
        ([], [], "genuine"),
    ]


def test_an_order_that_passes_because_its_user_is_exempt_may_be_in_the_sample(catalogue: Catalogue) -> None:
    for rule in ("abroad", "many", "look"):
        catalogue.lists.exempt(Exemption(rule, 1, "a reseller", "Sari", NOON))
    book = RuleBook.parse(f"{BOOK.text}sample: 1")
    before = NOON - timedelta(hours=1)
    orders = [order(n, user_id=n, created_date=before, country="SG", quantity=11) for n in (1, 2)]
    batch = [Candidate(o.id, encode(o), o) for o in orders]
    history = MemoryHistory()
    history.load(StoredInMemory(), orders)
    decision = decide_batch(batch, {}, catalogue, history, book, NOON)
    assert [(o.fraud_reasons, o.review_reasons) for o in decision.orders] == [
        ([], ["random_sample"]),
        (["abroad", "many"], ["look"]),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_exemptions_change_only_orders_of_their_users_and_only_their_rules(
    catalogue: Catalogue, seed: int
) -> None:
    pick = random.Random(seed)
    catalogue.users = dict.fromkeys(range(1, 9), LONG_AGO)
    times = [NOON + timedelta(hours=n) for n in range(4)]
    orders = [
        order(
            n,
            user_id=pick.randint(1, 8),
            quantity=pick.choice([1, 11]),
            country=pick.choice(["ID", "SG"]),
            amount=pick.choice([PRICE, 11 * PRICE]),
            created_date=pick.choice(times),
        )
        for n in range(1, 101)
    ]
    without = decided(catalogue, *orders).orders
    catalogue.lists = UserLists(1)
    chosen = {(pick.randint(1, 8), pick.choice(BOOK.rules).name): pick.choice(times) for _ in range(6)}
    for (user_id, rule), until in chosen.items():
        catalogue.lists.exempt(Exemption(rule, user_id, "fuzz", "Sari", until))

    def kept(flagged: Flagged, names: list[str]) -> list[str]:
        until = {name: chosen.get((flagged.user_id, name), LONG_AGO) for name in names}
        return [name for name in names if flagged.created_date >= until[name]]

    decision = decided(catalogue, *orders)
    assert decision.lists_version == 1
    for before, after in zip(without, decision.orders, strict=True):
        if not any(user_id == before.user_id for user_id, _ in chosen):
            assert after == before
        assert after.fraud_reasons == kept(before, before.fraud_reasons)
        assert after.shadow_reasons == kept(before, before.shadow_reasons)
        assert after.review_reasons == kept(before, before.review_reasons)
        assert after.status == ("fraud" if after.fraud_reasons else "genuine")
