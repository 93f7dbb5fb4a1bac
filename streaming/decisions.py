"""The pure decision about a batch: each line becomes a flagged order, a rejected line, or a duplicate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Protocol

import msgspec

from streaming.business_days import local_hour
from streaming.decode import InvalidOrder, decode
from streaming.history import History
from streaming.lists import UserLists
from streaming.orders import REASONS, Flagged, Order, flag
from streaming.rules import FeatureRow, RuleBook, sample
from streaming.rules.brake import Count
from streaming.topics import Batch
from streaming.velocity import Velocity


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A line that decodes to an order."""

    position: int
    line: bytes
    order: Order


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line of the topic that is no valid order. `missing_id`: the user or product that does not exist."""

    position: int
    raw: bytes
    reason: str
    detail: str
    missing_id: int | None = None

    def at(self, position: int) -> Rejected:
        """Return the same line at another position."""
        return replace(self, position=position)


@dataclass(slots=True)
class Decision:
    """What to store of a batch, each list in topic order."""

    orders: list[Flagged] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    duplicates: int = 0
    """Lines that repeat an order exactly; they are only counted."""
    known_ids: int = 0
    """Duplicate and rejected lines whose id an earlier batch stored."""
    lists_version: int = 0
    """The version of the user lists that the decision used."""
    book: RuleBook | None = None
    """The rule book that the decision used."""
    counts: list[Count] = field(default_factory=list)
    """For how many of the orders the rules on probation held."""


class Catalogue(Protocol):
    """What a decision knows of users, products and the user lists."""

    @property
    def users(self) -> Mapping[int, datetime]:
        """When each known user signed up (UTC)."""
        ...

    @property
    def lists(self) -> UserLists: ...

    def has_product(self, product_id: int) -> bool:
        """Return whether the product exists."""
        ...

    def list_price(self, product_id: int, instant: datetime) -> Decimal | None:
        """Return a known product's price in rupiah at that instant; None if it had none yet."""
        ...


def candidates(batch: Batch) -> tuple[list[Candidate], list[Rejected]]:
    """Return the batch's lines that decode, and those that don't."""
    decoded: list[Candidate] = []
    invalid: list[Rejected] = []
    for position, line in zip(batch.positions, batch.lines, strict=True):
        try:
            decoded.append(Candidate(position, line, decode(line)))
        except InvalidOrder as error:
            invalid.append(Rejected(position, line, error.reason, error.detail))
    return decoded, invalid


def decide_batch(
    decoded: list[Candidate],
    stored: Mapping[int, Order],
    catalogue: Catalogue,
    history: History,
    book: RuleBook,
    flagged_at: datetime,
) -> Decision:
    """Decide about each candidate, given the orders stored under their ids and the catalogue.

    `history` was loaded for the candidates; it observes those that are accepted, in topic order. An empty
    `stored` assumes that none of the ids is stored; the store finds out if that is wrong.
    """
    decision = Decision(lists_version=catalogue.lists.version, book=book)
    accepted: dict[int, Order] = {}
    users, lists = catalogue.users, catalogue.lists
    exempt_users = lists.exempt_users
    threshold, draw = book.sample_threshold, sample.draw
    for candidate in decoded:
        order = candidate.order
        twin = stored.get(order.id)
        if twin is not None:
            decision.known_ids += 1
        else:
            twin = accepted.get(order.id)
        if twin is not None:
            if twin == order:
                decision.duplicates += 1
            else:
                detail = f"order {order.id} is stored already, with other content"
                decision.rejected.append(Rejected(candidate.position, candidate.line, "duplicate_id", detail))
            continue
        signed_up = users.get(order.user_id)
        if signed_up is None:
            decision.rejected.append(_unknown(candidate, "user", order.user_id))
            continue
        if not catalogue.has_product(order.product_id):
            decision.rejected.append(_unknown(candidate, "product", order.product_id))
            continue
        accepted[order.id] = order
        row = features(order, signed_up, catalogue, history.observe(order))
        fraud, shadow, review = book.evaluate(row)
        if order.user_id in exempt_users:
            lists.drop_exempted(order.user_id, order.created_date, fraud, shadow, review)
        if threshold and not fraud and draw(order.id) < threshold:
            review.append(sample.REASON)
        position = candidate.position
        decision.orders.append(flag(order, fraud, shadow, book.version, flagged_at, position, review))
    return decision


def features(order: Order, signed_up: datetime, catalogue: Catalogue, velocity: Velocity) -> FeatureRow:
    """Return the row that rules see of an order whose user signed up at `signed_up` and whose product exists.

    `local_hour` is in Asia/Jakarta. `list_price` is the product's price when the order was placed.
    `user_age_days` is in whole days, rounded down, so it is negative for an order from before the sign-up.
    `velocity` holds the features that look back, `catalogue` the user lists (see `streaming.lists`).
    """
    placed = order.created_date
    # Passed by position, in the order of the fields: keywords would double the time this takes.
    return FeatureRow(
        order.id,
        order.user_id,
        order.product_id,
        order.quantity,
        order.amount,
        order.payment_method,
        order.country,
        placed,
        local_hour(placed),
        catalogue.list_price(order.product_id, placed),
        (placed - signed_up).days,
        velocity.user_orders_10m,
        velocity.user_orders_24h,
        velocity.user_amount_24h,
        velocity.seconds_since_last_order,
        velocity.user_countries_24h,
        catalogue.lists.is_blacklisted(order.user_id, placed),
    )


def _unknown(candidate: Candidate, what: str, missing_id: int) -> Rejected:
    reason = f"unknown_{what}"
    detail = f"{what} {missing_id}: {REASONS[reason]}"
    return Rejected(candidate.position, candidate.line, reason, detail, missing_id)
