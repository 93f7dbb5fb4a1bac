"""Order ids: unique, ordered by time, shared between producers."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from streaming.order_ids import OrderIds


def test_an_id_holds_time_and_sequence() -> None:
    ids = OrderIds(lambda: 1_577_836_801.5)  # 1.5 s after the epoch
    assert [ids() for _ in range(3)] == [1500 * 4096, 1500 * 4096 + 1, 1500 * 4096 + 2]


def test_ids_always_grow_even_if_the_clock_jumps_back() -> None:
    generator = random.Random(1)
    now = 1_800_000_000.0

    def clock() -> float:
        nonlocal now
        now += generator.choice([-3600.0, 0, 0, 0, 0.0004, 0.001, 1])
        return now

    ids = OrderIds(clock)
    made = [ids() for _ in range(20_000)]
    assert all(a < b for a, b in pairwise(made))


def test_ids_borrow_from_the_next_millisecond_if_the_clock_stands_still() -> None:
    ids = OrderIds(lambda: 1_800_000_000.0)
    made = [ids() for _ in range(3 * 4096)]
    assert made == list(range(made[0], made[0] + 3 * 4096))


def test_concurrent_producers_share_the_sequence() -> None:
    made: set[int] = set()
    for producer in range(3):
        ids = OrderIds(lambda: 1_800_000_000.0, producer=producer, producers=3)
        made |= {ids() for _ in range(1000)}
    assert len(made) == 3000


@pytest.mark.parametrize(("producer", "producers"), [(1, 1), (-1, 2), (0, 0), (0, 4097)])
def test_a_producer_number_out_of_range_is_refused(producer: int, producers: int) -> None:
    with pytest.raises(ValueError, match="numbers run from 0"):
        OrderIds(producer=producer, producers=producers)


def test_ids_at_the_first_and_last_millisecond() -> None:
    assert OrderIds(lambda: 0.0)() == 4096
    assert OrderIds(lambda: (OrderIds.EPOCH_MS + 2**41 - 1) / 1000)() == 2**53 - 4096
    with pytest.raises(OverflowError, match="past 2089"):
        OrderIds(lambda: (OrderIds.EPOCH_MS + 2**41) / 1000)()
