"""The brake in PostgreSQL: what rules on probation have held for, and the rules that were put back to shadow.

A batch adds its counts in its own transaction, and pulls a rule in it, so both happen once, whatever is
killed. An override holds for every consumer until a person lifts it. Like a change of the user lists it makes
a new version of them, which consumers ask for with each batch anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from streaming.database import connect
from streaming.errors import PlatformError
from streaming.rules import RuleBook
from streaming.rules.brake import (
    PROBATION_ORDERS,
    Count,
    Override,
    Probation,
    overridden,
    probations,
)

# Always in the same order: two batches must not deadlock.
_COUNT = f"""
    INSERT INTO rule_probations AS known
        (probation, rule, mode, expected_low, expected_high, orders, held) VALUES %s
    ON CONFLICT (probation) DO UPDATE
        SET orders = known.orders + excluded.orders, held = known.held + excluded.held
        WHERE known.orders < {PROBATION_ORDERS} AND known.pulled_at IS NULL
    RETURNING probation, orders, held
"""  # noqa: S608
_END = "UPDATE rule_probations SET pulled_at = now() WHERE probation = %s"
_PULL = """
    INSERT INTO rule_overrides (rule, mode, expected_low, expected_high, orders, held, rules_version)
    VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (rule) WHERE lifted_at IS NULL DO NOTHING
"""
_FIELDS = "rule, mode, expected_low, expected_high, orders, held, pulled_at"
_IN_FORCE = f"""
    SELECT {_FIELDS} FROM rule_overrides
    WHERE coalesce(added_version <= %(version)s, true)
        AND (removed_version IS NULL OR removed_version > %(version)s)
    ORDER BY override
"""  # noqa: S608
_LIST = f"""
    SELECT {_FIELDS}, lifted_at, lifted_by, lifted_because FROM rule_overrides
    WHERE %s OR lifted_at IS NULL ORDER BY override
"""  # noqa: S608
_PROGRESS = "SELECT probation, orders, held FROM rule_probations WHERE probation = ANY(%s)"
_BEGIN_AGAIN = """
    UPDATE rule_probations SET orders = 0, held = 0, began_at = now(), pulled_at = NULL
    WHERE rule = %s AND pulled_at IS NOT NULL
"""
_LIFT = """
    UPDATE rule_overrides SET lifted_at = now(), lifted_by = %s, lifted_because = %s
    WHERE rule = %s AND lifted_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class KeptOverride:
    """An override as it is kept. `lifted_at`, by whom and why are None while it is in force."""

    override: Override
    lifted_at: datetime | None
    lifted_by: str | None
    lifted_because: str | None


@dataclass(frozen=True, slots=True)
class EffectiveBook:
    """The book that decides while a file is in use: the file's, with the overrides in force."""

    book: RuleBook
    progress: dict[str, Count]
    """What was counted, by rule on probation that has decided about an order; also of those that are over."""


def count_orders(cursor: Cursor, counts: Sequence[Count], rules_version: str) -> list[Count]:
    """Add a batch's counts to those of its probations, and pull the rules that held too often.

    Returns the totals of the probations that were not over. `rules_version` decided about the batch.
    """
    known = {count.probation.id: count.probation for count in counts}
    rows = [
        (p.id, p.rule, p.mode, *p.expected_share, count.orders, count.held)
        for count in sorted(counts, key=lambda count: count.probation.id)
        for p in (count.probation,)
    ]
    totals = [
        Count(known[id], orders, held)
        for id, orders, held in execute_values(cursor, _COUNT, rows, fetch=True)
    ]
    for total in totals:
        if total.too_many:
            probation = total.probation
            cursor.execute(_END, (probation.id,))
            share = probation.expected_share
            figures = (probation.rule, probation.mode, *share, total.orders, total.held, rules_version)
            cursor.execute(_PULL, figures)
    return totals


def read_overrides(cursor: Cursor, version: int | None = None) -> tuple[Override, ...]:
    """Return the overrides that are in force, or were at a version of the user lists, oldest first."""
    cursor.execute(_IN_FORCE, {"version": version})
    return tuple(_override(*row) for row in cursor)


def read_progress(cursor: Cursor, of: Iterable[Probation]) -> dict[str, Count]:
    """Return what was counted so far, by the rule of each of these probations that has begun."""
    known = {probation.id: probation for probation in of}
    cursor.execute(_PROGRESS, (list(known),))
    return {known[id].rule: Count(known[id], orders, held) for id, orders, held in cursor}


def effective_book(url: str, book: RuleBook) -> EffectiveBook:
    """Return what consumers make of the book in a file."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        effective = overridden(book, read_overrides(cursor))
        return EffectiveBook(effective, read_progress(cursor, probations(effective)))


def list_overrides(url: str, *, lifted: bool = False) -> list[KeptOverride]:
    """Return the overrides in force, oldest first; with `lifted` also those that were lifted."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(_LIST, (lifted,))
        return [KeptOverride(_override(*row[:7]), *row[7:]) for row in cursor]


def lift_override(url: str, rule: str, by: str, because: str) -> None:
    """Lift the override of a rule, whose probation then begins again.

    Raises `PlatformError` if there is none, or without a reason or a name.
    """
    if not because.strip():
        raise PlatformError("lifting an override needs a reason, for whoever asks later why the rule decides")
    if not by.strip():
        raise PlatformError("lifting an override needs a name, of somebody whom one can ask later")
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        # The probation is changed first, as in a batch that pulls a rule: these must not deadlock. It is only
        # changed once the override is seen: a batch may be pulling the rule just now.
        lifted = any(override.rule == rule for override in read_overrides(cursor))
        if lifted:
            cursor.execute(_BEGIN_AGAIN, (rule,))
            cursor.execute(_LIFT, (by.strip(), because.strip(), rule))
            lifted = cursor.rowcount > 0
        if not lifted:
            raise PlatformError(
                f"no override of a rule {rule!r} is in force: see `ecommersss rules overrides list`"
            )


def _override(
    rule: str, mode: str, low: float, high: float, orders: int, held: int, pulled_at: datetime
) -> Override:
    return Override(rule, mode, (low, high), orders, held, pulled_at)  # type: ignore[arg-type]
