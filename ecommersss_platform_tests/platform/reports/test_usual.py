"""What is usual: the robust range of past values."""

from __future__ import annotations

import pytest

from ecommersss_platform.reports.usual import (
    FEWEST_DAYS,
    Standing,
    usual_amount,
    usual_count,
    usual_range,
    usual_share,
)


def test_usual_range_is_three_robust_deviations_around_the_median() -> None:
    usual = usual_range([10, 11, 12, 13, 14])
    assert usual is not None
    assert (usual.median, usual.values) == (12, 5)
    assert usual.low == pytest.approx(12 - 3 * 1.4826)
    assert usual.high == pytest.approx(12 + 3 * 1.4826)


def test_usual_range_is_not_moved_by_one_wild_day() -> None:
    calm = usual_range([10, 11, 12, 13, 14, 12, 11])
    wild = usual_range([10, 11, 12, 13, 14, 12, 10_000])
    assert calm is not None
    assert wild is not None
    assert wild.high < calm.high + 3


def test_usual_range_needs_enough_days() -> None:
    assert usual_range([5.0] * (FEWEST_DAYS - 1)) is None
    assert usual_count([]) is usual_amount([]) is usual_share([], 100) is None
    assert usual_share([0.1] * 10, 0) is None


def test_constant_days_leave_room_for_chance() -> None:
    count, share, amount = usual_count([100.0] * 9), usual_share([0.01] * 9, 10_000), usual_amount([50.0] * 9)
    assert count is not None
    assert (count.low, count.high) == (70, 130)
    assert share is not None
    assert share.high == pytest.approx(0.01 + 3 * 0.000995, rel=1e-3)
    assert amount is not None
    assert (amount.low, amount.high) == (45, 55)


def test_a_rule_that_never_fired_may_fire_once_by_chance() -> None:
    usual = usual_share([0.0] * 20, 1_000)
    assert usual is not None
    assert usual.standing(1 / 1_000) is Standing.USUAL
    assert usual.standing(9 / 1_000) is Standing.HIGH


def test_usual_range_is_never_below_zero() -> None:
    usual = usual_count([1, 0, 2, 1, 0, 1])
    assert usual is not None
    assert usual.low == 0
    assert usual.standing(0) is Standing.USUAL
    assert usual_range([0.0] * 6) == usual_range([0.0] * 6, 0.0)
