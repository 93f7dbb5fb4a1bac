"""What becomes of simulated orders: how they are shipped, which are disputed, and what reviewers decide.

Pure functions of an order and of the fraud pattern that made it: the same order always has the same
aftermath. All of it is invented, and its shares are not those of any real shop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import NamedTuple

LONGEST = timedelta(days=80)
"""Nothing becomes of an order that is older. The latest dispute is decided after 75 days."""
LONGEST_GENUINE = timedelta(days=31)
"""The same for a genuine order without an open dispute."""
REVIEWER = "simulated reviewer"

CANCELLED_SHARE = 0.03
RETURNED_SHARE = 0.04
FRAUD_DISPUTED = 0.8
"""The share of fraudulent orders that their payers dispute."""
FRAUD_LOST = 0.9
GENUINE_DISPUTED = {"fraud": 0.002, "not_received": 0.002, "not_as_described": 0.002}
"""The share of genuine orders that are disputed, by kind. `fraud` is friendly fraud: the payer did order."""
GENUINE_LOST = 0.4
FRAUD_REVIEWED, GENUINE_REVIEWED = 0.15, 0.01
"""The shares of fraudulent and genuine orders that a reviewer decides about."""
REVIEW_RIGHT = 0.97

STAGES = ("packed", "shipped", "delivered", "returned", "cancelled")
"""The statuses of a shipment. A later one is never followed by an earlier one."""


class PastOrder(NamedTuple):
    """A stored order; `amount` in rupiah, `created_date` aware."""

    id: int
    amount: Decimal
    created_date: datetime


class Shipment(NamedTuple):
    """A version of a row of the table `shipments`."""

    order_id: int
    status: str
    packed_at: datetime | None = None
    shipped_at: datetime | None = None
    delivered_at: datetime | None = None
    cancelled_at: datetime | None = None
    returned_at: datetime | None = None
    refund_amount: Decimal = Decimal(0)

    @property
    def at(self) -> datetime:
        """When the shipment reached its status."""
        reached = getattr(self, f"{self.status}_at")
        assert isinstance(reached, datetime)
        return reached


class Dispute(NamedTuple):
    """A version of a row of the table `disputes`. An order has one simulated dispute at most, with its id."""

    id: int
    order_id: int
    kind: str
    amount: Decimal
    opened_at: datetime
    outcome: str = "open"
    decided_at: datetime | None = None

    @property
    def at(self) -> datetime:
        """When the dispute was opened or decided."""
        return self.decided_at or self.opened_at


class Verdict(NamedTuple):
    """A row of the table `verdicts`."""

    order_id: int
    verdict: str
    reviewer: str
    decided_at: datetime

    @property
    def at(self) -> datetime:
        """When the reviewer decided."""
        return self.decided_at


class Aftermath(NamedTuple):
    """All versions that the rows of an order ever have, each list from the earliest to the latest."""

    shipments: Sequence[Shipment]
    disputes: Sequence[Dispute]
    verdicts: Sequence[Verdict]


def aftermath(order: PastOrder, pattern: str | None) -> Aftermath:
    """Return what becomes of an order. `pattern`: the fraud pattern that made it, None if it is genuine."""
    # A string seed goes through SHA-512, so that neighbouring ids have unrelated draws.
    random = Random(f"aftermath:{order.id}")  # noqa: S311
    shipments = list(_shipments(random, order, pattern is not None))
    cancelled = shipments[-1].status == "cancelled"
    disputes = [] if cancelled else list(_disputes(random, order, pattern is not None))
    return Aftermath(shipments, disputes, list(_verdicts(random, order, pattern is not None)))


def _shipments(random: Random, order: PastOrder, fraudulent: bool) -> Iterator[Shipment]:
    """Yield the stages, two hours apart at least. Fraudsters neither cancel nor return."""
    cancelled = not fraudulent and random.random() < CANCELLED_SHARE
    packed = _later(random, order.created_date, 1, 24)
    if cancelled and random.random() < 0.7:
        at = _later(random, order.created_date, 0.2, 12)
        yield Shipment(order.id, "cancelled", cancelled_at=at, refund_amount=order.amount)
        return
    version = Shipment(order.id, "packed", packed)
    yield version
    if cancelled:
        at = _later(random, packed, 2, 12)
        yield version._replace(status="cancelled", cancelled_at=at, refund_amount=order.amount)
        return
    version = version._replace(status="shipped", shipped_at=_later(random, packed, 2, 36))
    yield version
    version = version._replace(status="delivered", delivered_at=_later(random, version.at, 12, 120))
    yield version
    if not fraudulent and random.random() < RETURNED_SHARE:
        whole = random.random() < 0.8
        refund = order.amount if whole else (order.amount / 2).quantize(Decimal("0.01"))
        at = _later(random, version.at, 48, 14 * 24)
        yield version._replace(status="returned", returned_at=at, refund_amount=refund)


def _disputes(random: Random, order: PastOrder, fraudulent: bool) -> Iterator[Dispute]:
    draw, kind = random.random(), "fraud"
    if fraudulent:
        if draw >= FRAUD_DISPUTED:
            return
        opened = _later(random, order.created_date, 5 * 24, 45 * 24)
    else:
        for kind, share in GENUINE_DISPUTED.items():  # noqa: B007 - the kind that the draw fell on
            draw -= share
            if draw < 0:
                break
        else:
            return
        opened = _later(random, order.created_date, 5 * 24, 30 * 24)
    dispute = Dispute(order.id, order.id, kind, order.amount, opened)
    yield dispute
    lost = random.random() < (FRAUD_LOST if fraudulent else GENUINE_LOST)
    decided = _later(random, opened, 10 * 24, 30 * 24)
    yield dispute._replace(outcome="lost" if lost else "won", decided_at=decided)


def _verdicts(random: Random, order: PastOrder, fraudulent: bool) -> Iterator[Verdict]:
    if random.random() < (FRAUD_REVIEWED if fraudulent else GENUINE_REVIEWED):
        says_fraud = fraudulent if random.random() < REVIEW_RIGHT else not fraudulent
        at = _later(random, order.created_date, 12, 96)
        yield Verdict(order.id, "fraud" if says_fraud else "genuine", REVIEWER, at)


def _later(random: Random, after: datetime, least_hours: float, most_hours: float) -> datetime:
    """Return an instant after another one, by at least and at most these hours."""
    ms = random.randrange(round(least_hours * 3_600_000), round(most_hours * 3_600_000))
    return after + timedelta(milliseconds=ms)
