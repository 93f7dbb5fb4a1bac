"""The simulated population: deterministic hours, ids that never collide, addresses that reach nobody."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from streaming.business_days import JAKARTA
from streaming.orders import MAX_REFERENCE
from streaming.simulator.population import (
    FIRST_SIMULATED_ID,
    HOUR,
    RHYTHM,
    EmailFormat,
    Price,
    email_format,
    hours_between,
    initial_products,
    initial_users,
    new_products,
    new_users,
    people,
    reprices,
    with_email,
)

NOON = datetime(2025, 6, 2, 12, tzinfo=JAKARTA)
MONTH = [datetime(2025, 6, 1, tzinfo=JAKARTA) + HOUR * n for n in range(30 * 24)]

SHAPES = {
    EmailFormat.FIRST_DOT_LAST: r"[a-z]+\.[a-z]+",
    EmailFormat.INITIAL_LAST: r"[a-z][a-z]+",
    EmailFormat.FIRST_NUMBER: r"[a-z]+[1-9][0-9]",
}
RESERVED = re.compile(r"(?:.+\.)?(?:example|example\.(?:com|net|org))")


def test_hour_is_the_same_in_every_process_and_after_any_other_call() -> None:
    script = (
        "import sys, json; from datetime import datetime; from streaming.simulator.population import *\n"
        "hours = [datetime.fromisoformat(h) for h in sys.argv[1:]]\n"
        "print(json.dumps({h.isoformat(): [str(new_users(h)), str(new_products(h))] for h in hours}))"
    )
    hours = [NOON.isoformat(), (NOON + HOUR).isoformat(), (NOON + 7 * HOUR).isoformat()]

    def population(seed: str, order: list[str]) -> dict[str, list[str]]:
        done = subprocess.run(
            [sys.executable, "-c", script, *order],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    first, second = population("1", hours), population("2", hours[::-1])
    assert first == second
    assert len({str(value) for value in first.values()}) == 3


def test_hour_may_be_given_in_any_time_zone() -> None:
    assert new_users(NOON.astimezone(UTC)) == new_users(NOON)
    assert email_format(NOON.astimezone(UTC)) == email_format(NOON)


def test_hours_share_no_id_with_each_other_or_the_initial_population() -> None:
    users = [user.id for hour in MONTH for user in new_users(hour)]
    products = [product.id for hour in MONTH for product in new_products(hour)]
    initial = [user.id for user in initial_users(date(2025, 6, 1))]
    assert len(set(users + initial)) == len(users) + len(initial)
    assert len(set(products)) == len(products)
    assert initial == list(range(FIRST_SIMULATED_ID, FIRST_SIMULATED_ID + 400))
    assert min(users) > max(initial)


@pytest.mark.parametrize(
    "hour", [datetime(2000, 1, 1, 12, tzinfo=UTC), datetime(2129, 12, 31, 12, tzinfo=UTC)]
)
def test_ids_fit_the_database_for_more_than_a_century(hour: datetime) -> None:
    for person in [found for n in range(24) for found in people(hour + HOUR * n)]:
        assert FIRST_SIMULATED_ID <= person.id <= MAX_REFERENCE


@pytest.mark.parametrize(
    ("hour", "message"),
    [
        (datetime(1999, 12, 31, 23, tzinfo=UTC), "not 1999-12-31T23:00:00"),
        (datetime(2200, 1, 1, tzinfo=UTC), "not 2200-01-01T00:00:00"),
        (datetime(2025, 6, 2, 12, 30, tzinfo=UTC), "not the start of an hour: 2025-06-02T12:30:00"),
        (datetime(2025, 6, 2, 12), "needs a time zone: 2025-06-02T12:00:00"),  # noqa: DTZ001
    ],
)
def test_invalid_hours_are_refused(hour: datetime, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        new_users(hour)


def test_people_sign_up_within_their_hour_and_mostly_in_the_evening() -> None:
    by_local_hour = dict.fromkeys(range(24), 0)
    for hour in MONTH:
        found = people(hour)
        assert [p.created_date for p in found] == sorted(p.created_date for p in found)
        assert all(hour <= p.created_date < hour + HOUR for p in found)
        by_local_hour[hour.hour] += len(found)
    assert 85 * 30 < sum(by_local_hour.values()) < 107 * 30  # 96 a day on average
    assert max(by_local_hour, key=by_local_hour.__getitem__) in (19, 20, 21)
    assert sum(by_local_hour[hour] for hour in range(5)) < by_local_hour[20]


def test_rhythm_adds_up_to_a_whole_day() -> None:
    assert sum(RHYTHM) == pytest.approx(1)
    assert len(RHYTHM) == 24


def test_each_hour_has_one_of_three_equally_frequent_email_formats() -> None:
    counts = dict.fromkeys(EmailFormat, 0)
    for hour in MONTH:
        counts[email_format(hour)] += 1
        for user in new_users(hour):
            local, domain = user.email.split("@")
            assert re.fullmatch(SHAPES[email_format(hour)], local)
            assert RESERVED.fullmatch(domain)
    assert min(counts.values()) > 180


def test_addresses_are_made_from_names_that_are_not_ascii() -> None:
    person = people(NOON)[0]._replace(first_name="Zoë Ánna", last_name="Tri-Utami")
    local = {style: with_email(person, style).email.split("@")[0] for style in EmailFormat}
    assert local[EmailFormat.FIRST_DOT_LAST] == "zoeanna.triutami"
    assert local[EmailFormat.INITIAL_LAST] == "ztriutami"
    assert re.fullmatch(r"zoeanna\d\d", local[EmailFormat.FIRST_NUMBER])


def test_user_names_are_unique() -> None:
    users = initial_users(date(2025, 6, 1)) + [user for hour in MONTH for user in new_users(hour)]
    assert len({user.username for user in users}) == len(users)


def test_prices_are_round_rupiah_in_range() -> None:
    products = initial_products(date(2025, 6, 1)) + [p for hour in MONTH for p in new_products(hour)]
    assert len(products) > 200
    for product in products:
        assert Decimal(10_000) <= product.price <= Decimal(20_000_000)
        assert product.price % 500 == 0
    assert len({product.category for product in products}) == 12


def test_initial_population_is_older_than_the_first_day() -> None:
    opening = datetime(2025, 6, 1, tzinfo=JAKARTA)
    for row in [*initial_users(date(2025, 6, 1)), *initial_products(date(2025, 6, 1))]:
        assert opening - timedelta(days=365) <= row.created_date < opening


def test_new_price_depends_only_on_hour_and_product() -> None:
    listed = [Price(product.id, product.price) for product in initial_products(date(2025, 6, 1))]
    changes = {hour: reprices(hour, listed) for hour in MONTH[:72]}
    changed = [(hour, price) for hour, prices in changes.items() for price in prices]
    assert 15 < len(changed) < 60  # 120 products, 0.4 % of them an hour
    before = dict(listed)
    for hour, price in changed:
        assert reprices(hour, [Price(price.product_id, before[price.product_id])]) == [price]
        assert price.price != before[price.product_id]
        assert Decimal("0.84") < price.price / before[price.product_id] < Decimal("1.19")
    assert {hour: reprices(hour, listed[::-1]) for hour in changes} == changes


def test_imported_products_keep_their_price() -> None:
    imported = [Price(id_, Decimal(50_000)) for id_ in range(1, 2_000)]
    assert [reprices(hour, imported) for hour in MONTH[:24]] == [[]] * 24


def test_prices_stay_in_range_after_many_changes() -> None:
    price = Price(FIRST_SIMULATED_ID, Decimal(19_900_000))
    seen = []
    for n in range(10_000):
        for changed in reprices(NOON + HOUR * n, [price]):
            price = changed
            seen.append(changed.price)
    assert len(seen) > 20
    assert min(seen) >= Decimal(10_000)
    assert max(seen) <= Decimal(20_000_000)


def test_hours_between_are_half_open_and_whole() -> None:
    assert hours_between(NOON, NOON + timedelta(hours=2, minutes=59)) == [NOON, NOON + HOUR]
    assert hours_between(NOON, NOON) == []
    with pytest.raises(ValueError, match="not the start of an hour"):
        hours_between(NOON + timedelta(seconds=1), NOON + HOUR)
