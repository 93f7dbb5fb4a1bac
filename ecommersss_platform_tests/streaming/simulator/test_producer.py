"""The live producer: rate, refreshed users and prices, PostgreSQL outages, stopping."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ecommersss_platform_tests.support.shop import PRICE, add_products, add_users, execute, open_shop
from streaming.decode import decode
from streaming.orders import Order
from streaming.simulator import producer as producer_module
from streaming.simulator.ground_truth import GroundTruth
from streaming.simulator.producer import Producer
from streaming.topics.jsonl import JsonlTopic

pytestmark = pytest.mark.integration


@pytest.fixture
def topic(tmp_path: Path) -> JsonlTopic:
    return JsonlTopic(tmp_path / "orders")


def orders_in(topic: JsonlTopic) -> list[Order]:
    with topic.reader(topic.start()) as reader:
        return [decode(line) for line in reader.read(1_000_000, timeout=0).lines]


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.02)


class Running:
    """A producer in a thread, stopped at the end of the block."""

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self.produced = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.produced = self.producer.run()

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> float:
        began = time.monotonic()
        self.producer.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()
        return time.monotonic() - began


def test_producer_publishes_at_its_rate_with_truth(database: str, topic: JsonlTopic, tmp_path: Path) -> None:
    open_shop(database)
    truth = tmp_path / "truth.jsonl"
    live = Producer(database, topic, 200, ground_truth=truth, fraud_share=0.2, seed=4)
    began = time.monotonic()
    with Running(live) as running:
        time.sleep(3)
        assert running.stop() < 1
        took = time.monotonic() - began
    orders = orders_in(topic)
    assert running.produced == len(orders)
    # About 2 % of the orders are due later in their episode; the rest of the margin is chance.
    assert 0.6 * 200 * took < len(orders) < 1.3 * 200 * took
    ids = [order.id for order in orders]
    assert ids == sorted(set(ids))
    found = GroundTruth(truth).read()
    assert list(found) == ids
    assert len(set(found.values())) > 2
    for order in orders:
        assert order.amount == PRICE * order.quantity
        assert 1 <= order.user_id <= 10


def test_rate_is_steady_unless_it_follows_the_rhythm_of_the_day(topic: JsonlTopic) -> None:
    night, noon = datetime(2026, 3, 1, 19, 30, tzinfo=UTC), datetime(2026, 3, 2, 5, 0, tzinfo=UTC)
    assert [Producer("unused", topic, 2)._rate_at(at) for at in (night, noon)] == [2, 2]
    hours = [night + timedelta(hours=n) for n in range(24)]
    rates = [Producer("unused", topic, 2, rhythm=True)._rate_at(at) for at in hours]
    assert min(rates) < 0.5 < 2 < max(rates)
    assert sum(rates) / 24 == pytest.approx(2)


def test_producer_ends_after_the_requested_number_of_orders(database: str, topic: JsonlTopic) -> None:
    open_shop(database)
    assert Producer(database, topic, 5_000).run(max_orders=137) == 137
    assert len(orders_in(topic)) == 137


def test_producer_waits_for_the_first_users_and_products(database: str, topic: JsonlTopic, caplog) -> None:
    caplog.set_level(logging.WARNING)
    with Running(Producer(database, topic, 100)):
        until(lambda: "no users or no products yet" in caplog.text)
        assert topic.end() == 0
        add_users(database, [3])
        add_products(database, [4])
        until(lambda: topic.end() > 0)
    assert caplog.text.count("no users or no products yet") == 1, "said once, however long the wait"
    assert {(order.user_id, order.product_id) for order in orders_in(topic)} == {(3, 4)}


def test_producer_picks_up_new_users_and_prices(database: str, topic: JsonlTopic, monkeypatch) -> None:
    monkeypatch.setattr(producer_module, "REFRESH_SECONDS", 0.2)
    open_shop(database, users=1, products=1)
    with Running(Producer(database, topic, 200)):
        until(lambda: topic.end() > 0)
        add_users(database, [2])
        execute(database, "UPDATE products SET price = 7000")
        until(lambda: any(o.user_id == 2 and o.amount == 7000 * o.quantity for o in orders_in(topic)))


def test_producer_keeps_producing_while_postgres_is_down(
    postgres, database: str, topic: JsonlTopic, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(producer_module, "REFRESH_SECONDS", 0.2)
    caplog.set_level(logging.WARNING)
    open_shop(database, users=1)
    with Running(Producer(database, topic, 100)):
        until(lambda: topic.end() > 0)
        postgres.down()
        until(lambda: "PostgreSQL is unreachable" in caplog.text)
        end = topic.end()
        until(lambda: topic.end() > end)
        postgres.up()
        add_users(database, [2])
        until(lambda: any(order.user_id == 2 for order in orders_in(topic)))
    assert "password" not in caplog.text


def test_producer_waits_for_a_server_that_is_down_at_the_start(
    postgres, database: str, topic: JsonlTopic, caplog
) -> None:
    caplog.set_level(logging.WARNING)
    open_shop(database)
    postgres.down()
    with Running(Producer(database, topic, 100)) as running:
        until(lambda: "PostgreSQL is unreachable" in caplog.text)
        postgres.up()
        until(lambda: topic.end() > 0)
        assert running.stop() < 1


def test_full_disk_ends_the_producer_with_the_error(database: str, tmp_path: Path) -> None:
    class FullTopic(JsonlTopic):
        def publish(self, lines):
            raise OSError(28, "No space left on device")

    open_shop(database)
    with pytest.raises(OSError, match="No space left"):
        Producer(database, FullTopic(tmp_path / "topic"), 500).run(max_orders=1)


@pytest.mark.parametrize(("rate", "share"), [(0, 0.1), (-1, 0.1), (float("nan"), 0.1), (1, 1.5), (1, -0.1)])
def test_impossible_rates_and_shares_are_refused(rate: float, share: float, topic: JsonlTopic) -> None:
    with pytest.raises(ValueError, match=r"must be (above|from) 0"):
        Producer("unused", topic, rate, fraud_share=share)
