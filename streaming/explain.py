"""Explain an order's verdict by computing its features again, as of its position in the topic."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from streaming.database import connect
from streaming.database.catalogue import Catalogue
from streaming.database.past_orders import PastOrders
from streaming.database.rows import select_flagged
from streaming.database.user_lists import read_lists, version_used
from streaming.decisions import features
from streaming.errors import PlatformError
from streaming.history import MemoryHistory
from streaming.orders import Flagged
from streaming.rules import Explanation, FeatureRow, RuleBook


@dataclass(frozen=True, slots=True)
class Explained:
    """A stored order, the features that rules see, and the outcome of each rule of a book."""

    order: Flagged
    row: FeatureRow
    rules: list[Explanation]
    rules_version: str
    """The version of the book that explains, which may not be the one that decided."""

    @property
    def same_book(self) -> bool:
        """Whether the book that explains is the one that decided."""
        return self.order.rules_version == self.rules_version

    @property
    def reasons(self) -> tuple[list[str], list[str]]:
        """The active and the shadow rules that hold."""
        held = [rule for rule in self.rules if rule.held]
        return (
            [rule.name for rule in held if rule.mode == "active"],
            [rule.name for rule in held if rule.mode == "shadow"],
        )

    @property
    def agrees(self) -> bool:
        """Whether these are the stored reasons."""
        return self.reasons == (self.order.fraud_reasons, self.order.shadow_reasons)


def explain(
    url: str, order_id: int, book: RuleBook, topic: str = "orders", consumer: str = "fraud"
) -> Explained:
    """Evaluate a rule book on a stored order, with what was known when the order was decided.

    The user's sign-up and the product's prices are the current ones; the stream knew the same ones unless
    they were loaded or corrected after the order. Raises `PlatformError` if the order is not stored.
    """
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        [*found] = select_flagged(cursor, [order_id])
        if not found:
            raise PlatformError(
                f"order {order_id} is not stored: it never arrived, waits in the topic, or was rejected"
                " (`ecommersss rejected list`)"
            )
        order = found[0]
        catalogue, history = Catalogue(), MemoryHistory()
        catalogue.refresh(cursor, {order.user_id}, {order.product_id})
        catalogue.lists = read_lists(cursor, version_used(cursor, topic, consumer, order.position))
        history.load(PastOrders(cursor, before_position=order.position), [order])
        row = features(order, catalogue.users[order.user_id], catalogue, history.observe(order))
    return Explained(order, row, book.explain(row), book.version)
