"""The rule book that decides about the next batch, and which of its rules are on probation."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from streaming.orders import Flagged
from streaming.rules.book import RuleBook
from streaming.rules.brake import (
    PROBATION_LINES,
    PROBATION_ORDERS,
    Count,
    Override,
    count,
    overridden,
    probations,
)

logger = logging.getLogger(__name__)


class BookInUse:
    """The book of a consumer: that of its file, with the overrides that the database had at the last batch.

    While a rule is on probation, batches are short: `max_lines`. Every rule with an expected share counts as
    on probation until the database says that its probation is over. A longer batch, read before that was
    known, is decided by the book before.
    """

    def __init__(self, book: RuleBook) -> None:
        self.book = book
        """The book that decided last."""
        self.overrides: tuple[Override, ...] = ()
        self.progress: dict[str, Count] = {}
        """What all consumers together have counted, by rule on probation."""
        self._file_book, self._lists_version = book, 0
        self._newest = book
        self._running = {probation.id: probation for probation in probations(book)}

    def max_lines(self, most: int) -> int:
        """Return how many lines the next batch may have, of at most `most`."""
        return min(most, PROBATION_LINES) if self._running else most

    def choose(
        self, file_book: RuleBook, lists_version: int, overrides: tuple[Override, ...], lines: int
    ) -> RuleBook:
        """Return the book for a batch of `lines` lines, with the overrides of a version of the lists."""
        if file_book is not self._file_book or lists_version != self._lists_version:
            if file_book is not self._file_book or overrides != self.overrides:
                self._log_changes(overrides)
                self._newest = overridden(file_book, overrides)
            self._file_book, self._lists_version, self.overrides = file_book, lists_version, overrides
            # All begin again: the probation of a rule whose override was lifted does.
            self._running = {probation.id: probation for probation in probations(self._newest)}
            self.progress = {}
        if not self._running or lines <= PROBATION_LINES:
            self.book = self._newest
        return self.book

    def count(self, orders: Sequence[Flagged]) -> list[Count]:
        """Return for how many of the orders that `book` decided its rules on probation held."""
        return count(orders, self._running.values()) if self.book is self._newest else []

    def learn(self, counts: Sequence[Count], totals: Sequence[Count], lists_version: int) -> None:
        """Note what a batch's counts came to in the database: nothing, if a probation is over.

        `lists_version` decided about the batch.
        """
        if not counts or lists_version != self._lists_version:
            return
        for total in totals:
            if total.too_many:
                logger.error(
                    "the brake put rule %s back from %s to shadow: it held for %d of its first %d orders, and"
                    " at most %.2f %% were expected. See `ecommersss rules overrides list`",
                    total.probation.rule,
                    total.probation.mode,
                    total.held,
                    total.orders,
                    100 * total.probation.expected_share[1],
                    extra={"rule": total.probation.rule, "held": total.held, "orders": total.orders},
                )
        self.progress = {total.probation.rule: total for total in totals}
        going_on = {total.probation.id for total in totals if total.orders < PROBATION_ORDERS}
        over = {counted.probation.id for counted in counts} - going_on
        self._running = {id: probation for id, probation in self._running.items() if id not in over}

    def _log_changes(self, overrides: tuple[Override, ...]) -> None:
        for override in overrides:
            if override not in self.overrides:
                logger.warning("%s", override, extra={"rule": override.rule})
        for override in self.overrides:
            if override not in overrides:
                logger.info(
                    "the override of rule %s was lifted", override.rule, extra={"rule": override.rule}
                )
