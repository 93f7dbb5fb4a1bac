"""The live producer: simulated shoppers who place orders at a rate, until stopped."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import psycopg2

from streaming.business_days import JAKARTA
from streaming.errors import first_line
from streaming.order_ids import OrderIds
from streaming.orders import encode
from streaming.simulator.ground_truth import GroundTruth
from streaming.simulator.population import RHYTHM
from streaming.simulator.shoppers import FRAUD_SHARE, LiveShoppers, Market, Placed, check_fraud_share
from streaming.simulator.tables import load_market
from streaming.topics import Publisher

log = logging.getLogger(__name__)

REFRESH_SECONDS = 60.0
"""How often the live producer reads users and products again."""

_LONGEST_PAUSE = 0.1
_SHORTEST_PAUSE = 0.005
# After a sleep of the machine, place the orders of these seconds at most, not those of a whole night.
_LONGEST_CATCH_UP = 5.0
_FIRST_BACK_OFF = 0.5
_LONGEST_BACK_OFF = 15.0


class Producer:
    """Simulated shoppers who order live, in Poisson arrivals, until `stop` is called."""

    def __init__(
        self,
        url: str,
        topic: Publisher,
        rate: float,
        *,
        fraud_share: float = FRAUD_SHARE,
        ground_truth: Path | None = None,
        rhythm: bool = False,
        seed: int | None = None,
    ) -> None:
        """Prepare to publish `rate` orders per second: always, or with `rhythm` as the day's average.

        `url` is the operational database. Raises `ValueError` for an impossible rate or fraud share.
        """
        if not 0 < rate <= 100_000:
            raise ValueError(f"the rate must be above 0 and at most 100,000 orders a second, not {rate}")
        check_fraud_share(fraud_share)
        self._url = url
        self._topic = topic
        self._rate = rate
        self._rhythm = rhythm
        self._random = Random(seed)  # noqa: S311
        self._shoppers = LiveShoppers(self._random, fraud_share)
        self._ground_truth = GroundTruth(ground_truth) if ground_truth else None
        self._ids = OrderIds()
        self._market: Market | None = None
        self._refresh_at = 0.0
        self._back_off = _FIRST_BACK_OFF
        self._problem = ""
        self._stopped = False

    def stop(self) -> None:
        """End `run` within a tenth of a second. Safe in any thread or signal handler."""
        # A flag that is polled: setting an Event in a handler that interrupts its wait can deadlock.
        self._stopped = True

    def run(self, max_orders: int | None = None) -> int:
        """Publish orders until stopped, or until there are `max_orders`; return their number.

        While the operational database is unreachable or has no users or products, wait and try again. Once
        some are known, keep ordering with those. Raises what the topic raises (`OSError` for a full disk).
        """
        produced = 0
        arrival = time.monotonic()
        while not self._stopped and (max_orders is None or produced < max_orders):
            now = time.monotonic()
            if now >= self._refresh_at:
                self._refresh()
            instant = datetime.now(UTC)
            if self._market is None or not self._market.open_at(instant):
                self._pause(min(_LONGEST_PAUSE, max(0.0, self._refresh_at - time.monotonic())))
                arrival = time.monotonic()
                continue
            arrival = max(arrival, now - _LONGEST_CATCH_UP)
            rate = self._rate_at(instant)
            while arrival <= now:
                # An episode of n orders takes the time of n arrivals, so the rate counts orders.
                arrival += self._random.gammavariate(self._shoppers.begin(self._market, instant), 1 / rate)
            placed = self._shoppers.due(instant, self._ids)
            if max_orders is not None:
                placed = placed[: max_orders - produced]
            publish(self._topic, placed, self._ground_truth)
            produced += len(placed)
            self._pause(min(max(arrival - time.monotonic(), _SHORTEST_PAUSE), _LONGEST_PAUSE))
        return produced

    def _rate_at(self, instant: datetime) -> float:
        return self._rate * 24 * RHYTHM[instant.astimezone(JAKARTA).hour] if self._rhythm else self._rate

    def _refresh(self) -> None:
        """Read users and products again; on failure keep the known ones and try again soon."""
        problem = detail = ""
        try:
            market = load_market(self._url)
        except psycopg2.OperationalError as error:
            problem, detail = "PostgreSQL is unreachable", f" ({first_line(error)})"
        else:
            self._market = market
            if not market.open_at(datetime.now(UTC)):
                problem = "there are no users or no products yet"
        if problem != self._problem:
            if problem:
                log.warning("%s%s: waiting for that to change", problem, detail)
            else:
                log.info("users and products are known again")
            self._problem = problem
        if not problem:
            self._back_off = _FIRST_BACK_OFF
            self._refresh_at = time.monotonic() + REFRESH_SECONDS
            return
        self._refresh_at = time.monotonic() + self._back_off
        self._back_off = min(self._back_off * 2, _LONGEST_BACK_OFF)

    def _pause(self, seconds: float) -> None:
        if not self._stopped:
            time.sleep(seconds)


def publish(topic: Publisher, placed: list[Placed], ground_truth: GroundTruth | None) -> None:
    """Write the orders to the ground truth, then publish them: no published order lacks its truth."""
    if not placed:
        return
    if ground_truth:
        ground_truth.append(placed)
    topic.publish([encode(item.order) for item in placed])
