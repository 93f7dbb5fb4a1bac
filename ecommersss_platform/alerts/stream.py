"""The stream: a consumer that commits nothing or falls behind, and a producer that is silent."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ecommersss_platform.alerts.look import Look, Undecided
from ecommersss_platform.alerts.problem import Problem
from ecommersss_platform.health import CONSUMER_PATIENCE
from ecommersss_platform.topics import order_broker

STALLED = timedelta(seconds=60)
"""How long a consumer that lags may commit nothing: a restart takes seconds. A single check waits 5 s."""

RISING = timedelta(minutes=15)
FEWEST_BYTES = 1_000_000
"""The lag of about 5,000 orders. A smaller one is made up for in a second."""

SILENT = timedelta(minutes=10)
"""How long nothing may be published."""
FEWEST_ORDERS = 10
"""As many orders are usually placed in the time for which a topic without our producer was silent."""

_ORDERS = """
SELECT (SELECT count(*) FROM orders WHERE created_date >= %(begin)s AND created_date < %(end)s) AS now,
       (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY orders) AS usual
        FROM generate_series(1, 7) AS day, LATERAL (
            SELECT count(*) AS orders FROM orders
            WHERE created_date >= %(begin)s - day * interval '1 day'
                AND created_date < %(end)s - day * interval '1 day'
        ) AS counted) AS usual
"""


@dataclass(frozen=True)
class Lag:
    """The lag of the consumer at an instant, in bytes, and the position that it had committed."""

    at: datetime
    position: int
    bytes: int


def consumer_stalled(look: Look) -> list[Problem]:
    """Return a problem if a consumer that lags has committed nothing for a while."""
    seen = order_broker(look.settings).look_at_consumers(look.connection)
    if seen.problem is not None:
        since: datetime = look.memory.setdefault("since", look.now)
        if look.patient and look.now - since < STALLED:
            raise Undecided
        return [_stalled(seen.problem)]
    look.memory.pop("since", None)
    if seen.position is None or seen.lag is None or seen.lag <= 0:
        look.memory.pop("first", None)
        return []
    first: Lag = look.memory.get("first") or Lag(look.now, seen.position, seen.lag)
    if first.position != seen.position:
        first = Lag(look.now, seen.position, seen.lag)
        look.memory["first"] = first
        return []
    look.memory["first"] = first
    patience = STALLED if look.patient else timedelta(seconds=CONSUMER_PATIENCE)
    if look.now - first.at < patience:
        raise Undecided
    waited = int((look.now - first.at).total_seconds())
    return [
        _stalled(
            f"the consumer is at position {seen.position}, {seen.lag} bytes behind, and has committed nothing"
            f" for {waited} s"
        )
    ]


def _stalled(what: str) -> Problem:
    return Problem(
        "consumer_stalled",
        "consumer",
        f"{what}: orders are not flagged; start it (`ecommersss up` or `ecommersss consume`), or see"
        " logs/consumer.log",
    )


def lag_rising(look: Look) -> list[Problem]:
    """Return a problem if the consumer works and still falls behind more and more."""
    lags: deque[Lag] = look.memory.setdefault("lags", deque())
    seen = order_broker(look.settings).look_at_consumers(look.connection)
    if seen.position is None or seen.lag is None:
        return []
    lags.append(Lag(look.now, seen.position, seen.lag))
    while lags[0].at < look.now - RISING:
        lags.popleft()
    if not rises(lags):
        return []
    return [
        Problem(
            "lag_rising",
            "consumer",
            f"the consumer's lag has grown from {lags[0].bytes:,} to {lags[-1].bytes:,} bytes within"
            f" {RISING.seconds // 60} min: orders are flagged later and later; look for what slows it or the"
            " database, or use Pub/Sub with more consumers",
        )
    ]


def rises(lags: Sequence[Lag]) -> bool:
    """Return whether each lag of the last five minutes is well above each of the first five."""
    if not lags or lags[-1].at - lags[0].at < RISING * 0.9:
        return False
    early = [lag.bytes for lag in lags if lag.at <= lags[0].at + RISING / 3]
    late = [lag.bytes for lag in lags if lag.at >= lags[-1].at - RISING / 3]
    return min(late) >= max(FEWEST_BYTES, 1.5 * max(early))


def producer_silent(look: Look) -> list[Problem]:
    """Return a problem if nothing was published for a while.

    A topic that others fill is silent only if no order arrived, and at this hour of the last week some did.
    """
    ours = {row["name"] for row in look.up["processes"]} if look.up else set()
    problem = order_broker(look.settings).producer_problem(SILENT.total_seconds())
    if problem is None or (look.up is not None and "producer" not in ours):
        return []
    if look.now - look.since < SILENT:
        raise Undecided
    if look.up is None:
        span = {"begin": look.now - SILENT, "end": look.now}
        [orders] = look.rows(_ORDERS, span)
        if orders["now"] or orders["usual"] < FEWEST_ORDERS:
            return []
    return [Problem("producer_silent", "producer", f"{problem}: start what publishes orders, or see its log")]
