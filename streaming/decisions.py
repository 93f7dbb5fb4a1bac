"""What becomes of each line of a batch: an order with its verdict, a rejected line, or a duplicate. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from streaming.business_days import local_hour
from streaming.database.catalogue import Catalogue
from streaming.database.store import Rejected
from streaming.decode import InvalidOrder, decode
from streaming.history import History, Velocity
from streaming.orders import REASONS, Flagged, Order, flag
from streaming.rules import FeatureRow, RuleBook
from streaming.topics import Batch


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A line that decodes to an order."""

    position: int
    line: bytes
    order: Order


@dataclass(slots=True)
class Decision:
    """What is to be stored of a batch, each list in topic order."""

    orders: list[Flagged] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    duplicates: int = 0
    """Lines that repeat an order exactly: only counted."""
    known_ids: int = 0
    """Lines, duplicates and rejected ones, whose id an earlier batch had stored."""
    lists_version: int = 0
    """Of the lists of users that were looked at."""


def candidates(batch: Batch) -> tuple[list[Candidate], list[Rejected]]:
    """The batch's lines that decode, and those that don't."""
    decoded: list[Candidate] = []
    invalid: list[Rejected] = []
    for position, line in zip(batch.positions, batch.lines, strict=True):
        try:
            decoded.append(Candidate(position, line, decode(line)))
        except InvalidOrder as error:
            invalid.append(Rejected(position, line, error.reason, error.detail))
    return decoded, invalid


def decide(
    decoded: list[Candidate],
    stored: Mapping[int, Order],
    catalogue: Catalogue,
    history: History,
    book: RuleBook,
    flagged_at: datetime,
) -> Decision:
    """The fate of each candidate, given what is stored under their ids and what the marketplace knows.

    `history` was prepared for the candidates; it observes those that are accepted, in topic order. Without
    `stored` the answer holds as long as none of the ids is stored; the store finds out.
    """
    decision = Decision(lists_version=catalogue.lists.version)
    accepted: dict[int, Order] = {}
    users = catalogue.users
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
        fraud, shadow = book.evaluate(row)
        decision.orders.append(flag(order, fraud, shadow, book.version, flagged_at, candidate.position))
    return decision


def features(order: Order, signed_up: datetime, catalogue: Catalogue, velocity: Velocity) -> FeatureRow:
    """What rules see of an order whose user signed up at `signed_up` and whose product exists.

    `local_hour` is Asia/Jakarta's. `list_price` is the product's when the order was placed. `user_age_days`
    is in whole days, rounded down, so an order from before the sign-up has a negative one. `velocity` has
    what looks back, `catalogue` the lists of users (see `streaming.lists`).
    """
    placed = order.created_date
    # By position, in the order of the fields: names would take as long again as all the rest.
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
