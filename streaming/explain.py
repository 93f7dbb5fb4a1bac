"""Explain an order's verdict: the rules of the book that decided, on what was known then."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from streaming.database import connect
from streaming.database.catalogue import Catalogue
from streaming.database.past_orders import PastOrders
from streaming.database.rows import lists_version_of, select_flagged
from streaming.database.rule_books import kept_book
from streaming.database.user_lists import read_lists
from streaming.decisions import features
from streaming.errors import PlatformError
from streaming.history import MemoryHistory
from streaming.lists import Exemption
from streaming.orders import Flagged
from streaming.rules import Explanation, FeatureRow, Reasons, RuleBook, sample
from streaming.rules.book import MODES


class BookNotKept(PlatformError):
    """The text of the rule book that decided about an order is not kept."""


@dataclass(frozen=True, slots=True)
class Explained:
    """A stored order, the features that rules see, and the outcome of each rule of a book.

    `exemptions`: those that counted for the order, by rule. A rule with one does not decide, although its
    condition may hold.
    """

    order: Flagged
    row: FeatureRow
    rules: list[Explanation]
    exemptions: dict[str, Exemption]
    rules_version: str
    """The version of the book that explains, which may not be the one that decided."""
    in_sample: bool
    """Whether the book's random sample has the order, if it passes."""

    @property
    def same_book(self) -> bool:
        """Whether the book that explains is the one that decided."""
        return self.order.rules_version == self.rules_version

    @property
    def reasons(self) -> Reasons:
        """The active, the shadow and the review rules that hold and from which the user is not exempt.

        The review rules are followed by the random sample.
        """
        rules = [rule for rule in self.rules if rule.held and rule.name not in self.exemptions]
        held = {mode: [rule.name for rule in rules if rule.mode == mode] for mode in MODES}
        if self.in_sample and not held["active"]:
            held["review"].append(sample.REASON)
        return held["active"], held["shadow"], held["review"]

    @property
    def agrees(self) -> bool:
        """Whether these are the stored reasons."""
        order = self.order
        return self.reasons == (order.fraud_reasons, order.shadow_reasons, order.review_reasons)


def explain(url: str, order_id: int, book: RuleBook | None = None) -> Explained:
    """Evaluate a rule book on a stored order, by default the one that decided about it.

    The rules see what the consumer knew when it decided: the version of the user lists and exemptions that
    the order carries, the orders at earlier positions, and the sign-up and prices recorded by then
    (`Catalogue.at`).

    Raises `PlatformError` if the order is not stored, and `BookNotKept` without a `book` if the one that
    decided is not kept.
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
        book = book or kept_book(cursor, order.rules_version)
        if book is None:
            raise BookNotKept(
                f"rule book {order.rules_version}, which decided about order {order_id}, is not kept: it last"
                " decided before the platform kept rule books. Name its file with --book."
            )
        catalogue = Catalogue.at(cursor, order.flagged_at, order.user_id, order.product_id)
        catalogue.lists = read_lists(cursor, lists_version_of(cursor, order_id))
        history = MemoryHistory()
        history.load(PastOrders(cursor, before_position=order.position), [order])
        row = features(order, catalogue.users[order.user_id], catalogue, history.observe(order))
        exemptions = catalogue.lists.exemptions(order.user_id, order.created_date)
    in_sample = sample.draw(order.id) < book.sample_threshold
    return Explained(order, row, book.explain(row), exemptions, book.version, in_sample)
