"""Why an order got its verdict: its features worked out again, as of its place in the topic."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from streaming.database import connect
from streaming.database.catalogue import Catalogue
from streaming.database.past_orders import PastOrders
from streaming.database.rows import select_flagged
from streaming.decisions import features
from streaming.errors import PlatformError
from streaming.history import MemoryHistory
from streaming.lists import UserLists, version_used
from streaming.orders import Flagged
from streaming.rules import Explanation, FeatureRow, RuleBook


@dataclass(frozen=True, slots=True)
class Explained:
    """An order as it is stored, what rules see of it, and what each rule of a book makes of that."""

    order: Flagged
    row: FeatureRow
    rules: list[Explanation]
    rules_version: str
    """Of the book that explains, which need not be the one that decided."""

    @property
    def same_book(self) -> bool:
        return self.order.rules_version == self.rules_version

    @property
    def reasons(self) -> tuple[list[str], list[str]]:
        """The active and the shadow rules that hold now."""
        held = [rule for rule in self.rules if rule.held]
        return (
            [rule.name for rule in held if rule.mode == "active"],
            [rule.name for rule in held if rule.mode == "shadow"],
        )

    @property
    def agrees(self) -> bool:
        """Whether these are the reasons that were stored."""
        return self.reasons == (self.order.fraud_reasons, self.order.shadow_reasons)


def explain(
    url: str, order_id: int, book: RuleBook, topic: str = "orders", consumer: str = "fraud"
) -> Explained:
    """What a rule book makes of a stored order, given what was known when its turn came.

    A user's sign-up and a product's prices are those that are known now; the stream knew the same unless they
    were loaded or corrected after the order. Raises `PlatformError` for an order that is not stored.
    """
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        [*found] = select_flagged(cursor, [order_id])
        if not found:
            raise PlatformError(
                f"order {order_id} is not stored: it never came, waits in the topic, or was rejected"
                " (`ecommersss rejected list`)"
            )
        order = found[0]
        catalogue, history = Catalogue(), MemoryHistory()
        catalogue.refresh(cursor, {order.user_id}, {order.product_id})
        catalogue.lists = UserLists.read(cursor, version_used(cursor, topic, consumer, order.position))
        history.load(PastOrders(cursor, before_position=order.position), [order])
        row = features(order, catalogue.users[order.user_id], catalogue, history.observe(order))
    return Explained(order, row, book.explain(row), book.version)
