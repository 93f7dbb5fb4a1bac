"""Topics whose orders meet at the edges of the windows, for tests of the features that look back."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from hypothesis import strategies as st

from ecommersss_platform_tests.support.plain_velocity import StoredInMemory
from ecommersss_platform_tests.support.shop import NOON, order
from streaming.history import History
from streaming.orders import MAX_AMOUNT, Order
from streaming.velocity import Velocity

MICROSECOND = timedelta(microseconds=1)
SECOND, MINUTE, HOUR, DAY = (timedelta(**{unit: 1}) for unit in ("seconds", "minutes", "hours", "days"))

# Steps that meet at the edges of the windows.
GAPS = st.sampled_from(
    [
        timedelta(0),
        MICROSECOND,
        SECOND - MICROSECOND,
        10 * MINUTE - MICROSECOND,
        10 * MINUTE,
        10 * MINUTE + MICROSECOND,
        HOUR,
        23 * HOUR,
        DAY - MICROSECOND,
        DAY,
        DAY + MICROSECOND,
        DAY + 3 * HOUR,
        40 * DAY,
        -MICROSECOND,
        -10 * MINUTE,
        -HOUR,
        -2 * HOUR,
        -DAY,
        -DAY - MICROSECOND,
        -30 * DAY,
    ]
)


@st.composite
def topics(draw: st.DrawFn) -> list[Order]:
    """Orders of few users: on time, early, late, and at the same instant."""
    instant = NOON
    orders = []
    for number in range(1, draw(st.integers(1, 40)) + 1):
        # Half of them near the clock, so that windows fill.
        instant += draw(GAPS) if draw(st.booleans()) else timedelta(0)
        orders.append(
            order(
                number,
                user_id=draw(st.integers(1, 3)),
                created_date=instant + draw(GAPS | st.just(timedelta(0))),
                amount=draw(
                    st.sampled_from([Decimal("0.00"), Decimal("0.01"), Decimal("3000.00"), MAX_AMOUNT])
                ),
                country=draw(st.sampled_from(["ID", "ID", "SG", "MY"])),
            )
        )
    return orders


def observed(history: History, stored: StoredInMemory, orders: list[Order]) -> list[Velocity]:
    """Return the features of a batch of orders, and store the batch."""
    history.load(stored, orders)
    velocities = [history.observe(order) for order in orders]
    stored.orders += orders
    history.committed(len(orders))
    return velocities
