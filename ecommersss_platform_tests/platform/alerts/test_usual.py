"""The usual range of a share: by hand, as properties, and over sixty simulated days."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import exp, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecommersss_platform.alerts.usual import (
    CLOSES,
    DAYS,
    FEWEST_HITS,
    FLOOR,
    SILENT,
    Count,
    is_always,
    is_silent,
    is_spike,
    usual,
)

WEEK = [Count(n, 100) for n in (2, 3, 3, 4, 3, 2, 90)]
"""Seven hours with 100 orders each; one of them was a spike itself."""


def test_usual_share_is_the_median_and_its_spread_the_mad() -> None:
    range_ = usual(WEEK)
    assert range_ is not None
    # The shares are 2, 2, 3, 3, 3, 4 and 90 %, and their distances from 3 % are 0, 0, 0, 1, 1, 1 and 87 %.
    assert range_.share == 0.03
    assert range_.spread == pytest.approx(1.4826 * 0.01)
    # Of 400 orders: the spread 1.48 %, a sampling error of 0.85 % and the floor 0.5 % make 1.78 %.
    assert range_.limit(400) == pytest.approx(0.03 + 5 * sqrt(0.014826**2 + 0.03 * 0.97 / 400 + FLOOR**2))
    assert round(range_.limit(400), 4) == 0.1191
    assert not is_spike(Count(47, 400), WEEK)
    assert is_spike(Count(48, 400), WEEK)


def test_spike_ends_below_where_it_began() -> None:
    assert is_spike(Count(36, 400), WEEK, told=True)
    assert not is_spike(Count(36, 400), WEEK)
    assert not is_spike(Count(32, 400), WEEK, told=True)


def test_too_little_is_known_in_a_week_and_from_a_handful_of_orders() -> None:
    assert usual(WEEK[1:]) is None
    assert usual([*WEEK[1:], Count(1, 29)]) is None, "an hour with few orders has no share"
    assert not is_spike(Count(FEWEST_HITS - 1, FEWEST_HITS - 1), [Count(0, 100)] * 7)
    assert is_spike(Count(FEWEST_HITS, FEWEST_HITS), [Count(0, 100)] * 7)


counts = st.integers(30, 100_000).flatmap(lambda n: st.builds(Count, st.integers(0, n), st.just(n)))


@settings(max_examples=40)
@given(st.lists(counts, min_size=7, max_size=DAYS), counts)
def test_limit_is_above_the_usual_share_and_falls_with_the_number_of_orders(
    past: list[Count], now: Count
) -> None:
    range_ = usual(past)
    assert range_ is not None
    assert range_.limit(now.all, CLOSES) > range_.share
    assert range_.limit(2 * now.all) <= range_.limit(now.all)
    if is_spike(now, past):
        assert is_spike(Count(now.all, now.all), past), (
            "more fraud among the same orders is no less of a spike"
        )
        assert is_spike(now, past, told=True)


@settings(max_examples=40)
@given(st.lists(counts, min_size=7, max_size=DAYS), st.randoms())
def test_order_of_the_days_does_not_matter(past: list[Count], order: random.Random) -> None:
    shuffled = list(past)
    order.shuffle(shuffled)
    assert usual(shuffled) == usual(past)


def test_three_of_seven_spikes_do_not_make_the_next_one_usual() -> None:
    assert is_spike(Count(30, 100), [Count(3, 100)] * 4 + [Count(30, 100)] * 3)


def simulated(random_: random.Random, days: int, orders: Sequence[float]) -> list[list[Count]]:
    """Return the counts of each hour of each day: `orders` a day's hours, 3 % of them fraud, more at night.

    The share of a day as a whole varies by a tenth.
    """
    found = []
    for _ in range(days):
        day = random_.lognormvariate(0, 0.1)
        hours = []
        for hour, rate in enumerate(orders):
            share = day * (0.06 if hour < 5 else 0.03)
            placed = max(0, round(random_.gauss(rate, sqrt(rate))))
            hours.append(Count(sum(random_.random() < share for _ in range(placed)), placed))
        found.append(hours)
    return found


@pytest.mark.parametrize("rate", [80.0, 400.0])
def test_sixty_days_without_an_anomaly_tell_nothing_and_a_ring_is_told_within_its_hour(rate: float) -> None:
    rhythm = [rate * (0.3 if hour < 6 else 1.2) for hour in range(24)]
    days = simulated(random.Random(20), DAYS + 60, rhythm)
    for now in range(DAYS, DAYS + 60):
        for hour in range(24):
            past = [days[now - back][hour] for back in range(1, DAYS + 1)]
            quiet = days[now][hour]
            assert not is_spike(quiet, past), (now, hour, quiet, usual(past))
            # A ring of frauds that makes every fifth order of an hour of the day.
            if hour >= 6:
                ring = Count(round(quiet.all / 4), round(quiet.all / 4))
                assert is_spike(quiet + ring, past), (now, hour, quiet + ring, usual(past))


def test_rule_is_silent_when_chance_does_not_explain_it() -> None:
    past = Count(100, 10_000)
    # 100 hits among the first 10,000 of 12,215 orders: (10,000 / 12,215) to the 100th is 2e-9.
    assert is_silent(Count(0, 2_215), past)
    assert not is_silent(Count(0, 2_210), past)
    assert not is_silent(Count(1, 2_215), past)
    assert not is_silent(Count(0, 10_000), Count(2, 500)), "two hits in the past are chance, too"
    assert not is_silent(Count(0, 2_000), Count(0, 0)), "a new rule has no past"
    assert exp(-SILENT) < 1 / 400_000_000


def test_rule_flags_always_when_it_flags_half_of_all_orders_and_far_more_than_before() -> None:
    assert is_always(Count(50, 100), Count(16, 100))
    assert not is_always(Count(49, 100), Count(0, 100)), "less than half"
    assert not is_always(Count(50, 100), Count(17, 100)), "not three times as many"
    assert not is_always(Count(99, 99), Count(0, 100)), "too few orders"
    assert is_always(Count(60, 100), Count(0, 100)), "a new rule that flags most orders"
