"""The random sample of orders that pass: which orders a share picks, in Python and in SQL.

People review the sample beside what review rules queue. It says how much fraud passes unnoticed, so it must
not depend on anything that fraud depends on. It depends on the order's id alone, through a hash.

The hash is integer arithmetic that never exceeds 63 bits, so the stream and both warehouses compute the same.
It maps the id to the prime field of 2^31 - 1 elements and takes the fifth power. 5 divides no order of the
field's group, so that is a permutation: each share of the field is picked by as many residues.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

REASON: Final = "random_sample"
"""The review reason of an order in the sample. No rule may have this name."""

_PRIME: Final = 2**31 - 1
# Arbitrary. The first distinguishes ids that differ by a multiple of the prime, the second moves the small
# ids of examples and tests to where their powers exceed the prime.
_FACTOR: Final = 1_220_703_125
_OFFSET: Final = 1_111_111_111


def threshold(share: Decimal) -> int:
    """Return the bound for `draw` that picks this share (0 to 1) of all orders."""
    return round(share * _PRIME)


def draw(order_id: int) -> int:
    """Return a number in [0, 2^31 - 1) that depends on the id alone; `threshold` is the bound of a sample."""
    x = (order_id % _PRIME + order_id // _PRIME * _FACTOR + _OFFSET) % _PRIME
    square = x * x % _PRIME
    return square * square % _PRIME * x % _PRIME


def sample_sql(order_id: str, share: Decimal, dialect: str) -> str:
    """Return the condition on a column of ids, in the SQL of "duckdb" or "bigquery", that an order is in."""
    high = f"div({order_id}, {_PRIME})" if dialect == "bigquery" else f"({order_id} // {_PRIME})"
    x = f"mod(mod({order_id}, {_PRIME}) + {high} * {_FACTOR} + {_OFFSET}, {_PRIME})"
    square = f"mod({x} * {x}, {_PRIME})"
    return f"mod(mod({square} * {square}, {_PRIME}) * {x}, {_PRIME}) < {threshold(share)}"
