"""Figures as words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from ecommersss_platform.reports import words


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "Rp 0"),
        (999, "Rp 999"),
        (Decimal("999.49"), "Rp 999"),
        (Decimal("999.50"), "Rp 1.00 k"),
        (1_234, "Rp 1.23 k"),
        (12_345, "Rp 12.3 k"),
        (999_499, "Rp 999 k"),
        (999_500, "Rp 1.00 m"),
        (1_240_000_000, "Rp 1.24 bn"),
        (99_940_000, "Rp 99.9 m"),
        (99_960_000, "Rp 100 m"),
        (Decimal("9999999999999999.99"), "Rp 10,000 tn"),
        (None, words.NONE),
    ],
)
def test_rupiah_has_three_digits_and_a_unit(amount: Decimal | None, text: str) -> None:
    assert words.rupiah(amount) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.00523, "0.52 %"), (0.0999, "9.99 %"), (0.123, "12.3 %"), (0.9999, "100 %"), (1, "100 %")],
)
def test_percent(share: float, text: str) -> None:
    assert words.percent(share) == text


def test_literals_are_those_of_the_rule_language() -> None:
    noon = datetime(2026, 11, 25, 5, tzinfo=UTC)
    values = (None, True, Decimal("1E+2"), 7, "it's", noon)
    assert [words.literal(it) for it in values] == [
        *("NULL", "TRUE", "100", "7", "'it''s'", "'2026-11-25T12:00:00+07:00'")
    ]


def test_days_and_moments_are_those_of_jakarta() -> None:
    assert words.long_day(date(2026, 11, 5)) == "Thursday, 5 November 2026"
    assert words.moment(datetime(2026, 11, 25, 20, 2, tzinfo=UTC)) == "26 Nov 2026, 03:02"


def test_plural() -> None:
    assert words.plural(1, "order") == "1 order"
    assert words.plural(12_000, "order was", "orders were") == "12,000 orders were"


@pytest.mark.parametrize(
    ("low", "high", "write", "text"),
    [
        (0, 0.0216, words.percent, "up to 2.16 %"),
        (0.479, 0.555, words.percent, "47.9 to 55.5 %"),
        (1.2e9, 1.8e9, words.rupiah, "Rp 1.20 to 1.80 bn"),
        (9e8, 1.8e9, words.rupiah, "Rp 900 m to 1.80 bn"),
        (100, 900, words.rupiah, "Rp 100 to 900"),
        (1_866, 2_134, words.count, "1,866 to 2,134"),
    ],
)
def test_ranges_say_their_unit_once(
    low: float, high: float, write: Callable[[float], str], text: str
) -> None:
    assert words.between(low, high, write) == text
