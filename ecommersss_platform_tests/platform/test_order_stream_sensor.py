"""What `order_stream_sensor` decides: cursor, run outcomes and new lines in; requests and cursor out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from dagster import define_asset_job
from hypothesis import given
from hypothesis import strategies as st

from ecommersss_platform.order_stream import (
    FIRST_RETRY,
    LONGEST_RETRY,
    MOST_REQUESTS,
    MOST_USERS,
    Cursor,
    Decision,
    NewOrders,
    Outcome,
    Request,
    Seen,
    Window,
    plan_tick,
    retry_delay,
)
from ecommersss_platform.sensors import order_stream_sensor
from ecommersss_platform.settings import Settings

FIRST_DAY = date(2025, 1, 1)
TODAY = date(2025, 1, 31)
NOW = datetime(2025, 1, 31, 5, tzinfo=UTC)  # noon in Jakarta
LONG_AGO = NOW - timedelta(minutes=10)
SECOND = timedelta(seconds=1)
INTERVAL = timedelta(minutes=5)
BEGUN = Cursor(100, 100)
"""The cursor of a sensor that has read the stream before."""


def day(number: int) -> date:
    return date(2025, 1, number)


def orders(*days: date, written: datetime = LONG_AGO) -> Callable[[int], Window]:
    """A stream with an order for each of these days, ten bytes each, all written at one time."""
    return lambda position: Window(
        position,
        position + 10 * len(days),
        {day: NewOrders(position, count, written, written) for day, count in Counter(days).items()},
    )


def asked(first: date, last: date, *, at: int, begin: int = 0, attempt: int = 1) -> Request:
    """The request for a run of these days after the stream was read to `at`."""
    return Request(first, last, attempt, begin=begin, read_to=at)


def no_runs(key: str) -> Outcome:
    return Outcome.NONE


def tick(
    cursor: Cursor,
    read: Callable[[int], Window] | None = None,
    outcome: Callable[[str], Outcome] | Outcome = no_runs,
    now: datetime = NOW,
) -> Decision:
    state = outcome if callable(outcome) else lambda key: outcome
    # Every cursor goes through the text that Dagster keeps.
    cursor = Cursor.parse(cursor.text())
    return plan_tick(
        cursor, outcome=state, read=read or orders(), first_day=FIRST_DAY, now=now, today_interval=INTERVAL
    )


def test_an_empty_stream_asks_for_nothing_and_says_where_it_stands() -> None:
    decision = tick(Cursor())
    assert decision.requests == ()
    assert decision.cursor == Cursor(0, 0)
    assert decision.notes == ("no new flagged orders (position 0)",)


def test_the_days_touched_are_asked_for_as_contiguous_ranges() -> None:
    decision = tick(Cursor(100, 100), orders(day(30), TODAY, day(5), day(30)))
    assert decision.requests == (
        asked(day(5), day(5), at=140, begin=100),
        asked(day(30), TODAY, at=140, begin=100),
    )
    assert decision.cursor == Cursor(100, 140, decision.requests, today_asked_at=NOW)
    assert [r.key for r in decision.requests] == [
        "2025-01-05..2025-01-05@140#1",
        "2025-01-30..2025-01-31@140#1",
    ]


# ---- closed days: once their late orders have settled


def test_a_closed_day_is_asked_for_a_minute_after_its_last_late_order() -> None:
    waiting = tick(BEGUN, orders(day(5), day(5), written=NOW - timedelta(seconds=10)))
    assert waiting.requests == ()
    assert waiting.cursor.position == 100
    assert waiting.notes == (
        "2 late orders of 1 closed days (2025-01-05 to 2025-01-05) wait for more of them, until"
        " 2025-01-31 12:00:50 at least",
    )
    more = tick(waiting.cursor, orders(day(5), written=NOW + 30 * SECOND), now=NOW + 40 * SECOND)
    assert more.requests == ()
    early = tick(more.cursor, now=NOW + 89 * SECOND)
    assert early.requests == ()
    settled = tick(early.cursor, now=NOW + 90 * SECOND)
    assert settled.requests == (asked(day(5), day(5), at=130, begin=100),)
    assert settled.cursor == Cursor(100, 130, settled.requests)
    assert tick(settled.cursor, outcome=Outcome.SUCCEEDED).cursor == Cursor(130, 130)


def test_a_steady_trickle_of_late_orders_waits_five_minutes() -> None:
    cursor, moment = BEGUN, NOW
    while not (decision := tick(cursor, orders(day(5), written=moment), now=moment)).requests:
        cursor, moment = decision.cursor, moment + timedelta(seconds=20)
    assert moment - NOW == timedelta(minutes=5)
    assert decision.requests == (asked(day(5), day(5), at=260, begin=100),)
    # What comes while the run is under way waits for the run, and then for as long again.
    cursor = tick(
        decision.cursor, orders(day(5), written=moment + SECOND), Outcome.ACTIVE, moment + SECOND
    ).cursor
    after = moment + timedelta(seconds=40)
    assert tick(cursor, outcome=Outcome.SUCCEEDED, now=after).requests == ()
    after = moment + timedelta(seconds=61)
    assert tick(cursor, outcome=Outcome.ACTIVE, now=after).requests == ()
    assert tick(cursor, outcome=Outcome.SUCCEEDED, now=after).requests == (
        asked(day(5), day(5), at=270, begin=260),
    )


def test_a_late_order_reaches_its_mart_in_two_minutes() -> None:
    """The worst case of ticks every half minute; the run then has half a minute."""
    for offset in range(30):
        placed, cursor = NOW + offset * SECOND, BEGUN
        for number in range(1, 9):
            now = NOW + number * timedelta(seconds=30)
            decision = tick(cursor, orders(day(5), written=placed) if cursor == BEGUN else orders(), now=now)
            if decision.requests:
                break
            cursor = decision.cursor
        assert now - placed <= timedelta(seconds=90)


def test_a_consumer_whose_clock_is_ahead_delays_nothing() -> None:
    cursor = tick(BEGUN, orders(day(5), written=NOW + timedelta(hours=3))).cursor
    assert tick(cursor, now=NOW + timedelta(minutes=1)).requests == (
        asked(day(5), day(5), at=110, begin=100),
    )


def test_history_of_a_new_platform_is_one_run_at_once() -> None:
    decision = tick(Cursor(), orders(day(29), day(30), TODAY, written=NOW - SECOND))
    assert decision.requests == (asked(day(29), TODAY, at=30),)


# ---- today: at once, then every five minutes


def test_today_is_asked_for_at_once_and_then_when_the_interval_has_passed() -> None:
    first = tick(BEGUN, orders(TODAY, written=NOW))
    assert first.requests == (asked(TODAY, TODAY, at=110, begin=100),)
    second = tick(first.cursor, orders(TODAY, TODAY, written=NOW), Outcome.SUCCEEDED, NOW + 30 * SECOND)
    assert second.requests == ()
    assert second.cursor.position == 110
    assert second.notes == (
        "2025-01-31: 2 new orders of today wait until 2025-01-31 12:05:00"
        " (ECOMMERSSS_TODAY_INTERVAL_SECONDS after the last request)",
    )
    early = tick(second.cursor, orders(TODAY), now=NOW + INTERVAL - SECOND)
    assert early.requests == ()
    due = tick(early.cursor, now=NOW + INTERVAL)
    assert due.requests == (asked(TODAY, TODAY, at=140, begin=110),)
    # Nothing new: no run, however much time passes.
    done = tick(due.cursor, outcome=Outcome.SUCCEEDED, now=NOW + 3 * INTERVAL)
    assert done.requests == ()
    assert done.notes == ("no new flagged orders (position 140)",)


def test_a_day_of_orders_every_ten_seconds_is_a_run_every_five_minutes() -> None:
    cursor, requests = Cursor(), 0
    for number in range(2 * 60):  # an hour of ticks, every half minute
        now = NOW + number * timedelta(seconds=30)
        decision = tick(cursor, orders(*[TODAY] * 3, written=now), Outcome.SUCCEEDED, now)
        cursor, requests = decision.cursor, requests + len(decision.requests)
    assert requests == 12


def test_late_orders_do_not_wait_for_today_nor_today_for_them() -> None:
    cursor = tick(Cursor(), orders(TODAY)).cursor
    late = tick(cursor, orders(TODAY, day(30)), Outcome.SUCCEEDED, NOW + timedelta(minutes=2))
    assert late.requests == (asked(day(30), day(30), at=30, begin=10),)
    assert set(late.cursor.waiting) == {TODAY}


def test_yesterdays_last_orders_are_late_orders_after_midnight() -> None:
    midnight = datetime(2025, 1, 31, 17, tzinfo=UTC)
    cursor = tick(Cursor(), orders(TODAY), now=midnight - timedelta(minutes=2)).cursor
    cursor = tick(
        cursor, orders(TODAY, written=midnight - SECOND), Outcome.SUCCEEDED, midnight - SECOND
    ).cursor
    assert tick(cursor, now=midnight + 58 * SECOND).requests == ()
    assert tick(cursor, now=midnight + 59 * SECOND).requests == (asked(TODAY, TODAY, at=20, begin=10),)


# ---- runs


def test_a_run_under_way_is_waited_for_and_its_new_orders_with_it() -> None:
    cursor = tick(Cursor(), orders(TODAY)).cursor
    decision = tick(cursor, orders(TODAY), Outcome.ACTIVE, NOW + INTERVAL)
    assert decision.requests == ()
    assert decision.cursor.pending == cursor.pending
    assert (decision.cursor.position, decision.cursor.read_to) == (0, 20)
    assert decision.notes == ("2025-01-31: the run is under way (attempt 1)",)
    after = tick(decision.cursor, outcome=Outcome.SUCCEEDED, now=NOW + INTERVAL)
    assert after.requests == (asked(TODAY, TODAY, at=20, begin=10),)


def test_success_moves_the_cursor_and_reads_on_in_the_same_tick() -> None:
    cursor = tick(Cursor(), orders(TODAY)).cursor
    decision = tick(cursor, orders(), Outcome.SUCCEEDED)
    assert decision.cursor == Cursor(10, 10, today_asked_at=NOW)
    next_one = tick(cursor, orders(day(7)), Outcome.SUCCEEDED).cursor
    assert next_one == Cursor(10, 20, (asked(day(7), day(7), at=20, begin=10),), today_asked_at=NOW)


def test_one_of_two_ranges_succeeding_leaves_the_other() -> None:
    cursor = tick(Cursor(), orders(day(3), day(9))).cursor
    decision = tick(
        cursor, outcome=lambda key: Outcome.SUCCEEDED if key.startswith("2025-01-03") else Outcome.ACTIVE
    )
    assert decision.cursor == Cursor(0, 20, (asked(day(9), day(9), at=20),))
    assert decision.requests == ()


def test_a_failure_is_asked_for_again_with_a_new_key_after_a_pause_that_grows() -> None:
    cursor, now, waits = tick(Cursor(), orders(TODAY)).cursor, NOW, []
    keys = {"2025-01-31..2025-01-31@10#1"}
    for attempt in range(1, 8):
        failed = tick(cursor, None, Outcome.FAILED, now)
        assert failed.requests == ()
        assert f"attempt {attempt} failed" in failed.notes[0]
        [waiting] = failed.cursor.pending
        assert waiting.again_at is not None
        waits.append(waiting.again_at - now)
        early = tick(failed.cursor, None, Outcome.FAILED, waiting.again_at - SECOND)
        assert early.requests == ()
        assert early.cursor == failed.cursor  # the pause does not start again
        now = waiting.again_at
        again = tick(failed.cursor, None, Outcome.FAILED, now)
        assert again.requests == (asked(TODAY, TODAY, at=10, attempt=attempt + 1),)
        keys.add(again.requests[0].key)
        cursor = again.cursor
    assert waits == [timedelta(minutes=n) for n in (1, 2, 4, 8, 15, 15, 15)]
    assert len(keys) == 8
    assert cursor.position == 0  # never past days that are not materialised


def test_the_next_attempt_covers_the_orders_that_came_meanwhile_and_other_days_do_not_wait() -> None:
    cursor = tick(Cursor(), orders(day(3), day(4))).cursor
    failed = tick(cursor, orders(day(3), day(20)), Outcome.FAILED)
    assert failed.requests == (asked(day(20), day(20), at=40, begin=20),)
    assert set(failed.cursor.waiting) == {day(3)}
    again = tick(
        failed.cursor,
        outcome=lambda key: Outcome.FAILED if key.startswith("2025-01-03") else Outcome.SUCCEEDED,
        now=NOW + timedelta(hours=1),
    )
    assert again.requests == (asked(day(3), day(4), at=40, attempt=2),)
    assert again.cursor.waiting == {}
    assert tick(again.cursor, outcome=Outcome.SUCCEEDED).cursor == Cursor(40, 40)


def test_dagsters_own_retry_of_a_failed_run_is_waited_for() -> None:
    cursor = tick(tick(Cursor(), orders(TODAY)).cursor, outcome=Outcome.FAILED).cursor
    decision = tick(cursor, outcome=Outcome.ACTIVE, now=NOW + timedelta(hours=1))
    assert decision.requests == ()
    assert decision.cursor.pending == (asked(TODAY, TODAY, at=10),)


def test_a_run_that_got_lost_is_asked_for_under_the_same_key() -> None:
    first = tick(Cursor(), orders(day(5)))
    again = tick(first.cursor, orders(day(5)))
    assert again.requests == first.requests
    # If that run exists after all, it may have begun before the new order came.
    assert again.cursor == Cursor(0, 20, first.requests, {day(5): NewOrders(10, 1, LONG_AGO, LONG_AGO)})


def test_orders_on_many_single_days_are_asked_for_a_few_at_a_time_and_all_of_them() -> None:
    days = [day(n) for n in range(1, 31, 2)]
    decision = tick(Cursor(), orders(*days))
    assert [r.first for r in decision.requests] == days[:MOST_REQUESTS]
    assert decision.notes == ("7 more days are asked for when runs that are under way have ended",)
    runs = {r.key: Outcome.ACTIVE for r in decision.requests}
    requests = list(decision.requests)
    for request in requests:  # grows while runs end, one after the other
        runs[request.key] = Outcome.SUCCEEDED
        decision = tick(decision.cursor, orders(), lambda key, runs=runs: runs.get(key, Outcome.NONE))
        runs |= {r.key: Outcome.ACTIVE for r in decision.requests}
        requests += decision.requests
        assert list(runs.values()).count(Outcome.ACTIVE) <= MOST_REQUESTS
    assert [r.first for r in requests] == days
    assert decision.cursor == Cursor(150, 150)


def test_failures_beyond_the_limit_wait_their_turn_and_count_as_one_attempt() -> None:
    days = [day(n) for n in range(1, 31, 2)]
    pending = tuple(Request(d, d, 1, NOW, begin=0, read_to=150) for d in days)
    decision = tick(Cursor(0, 150, pending), outcome=Outcome.FAILED)
    assert [r.attempt for r in decision.requests] == [2] * MOST_REQUESTS
    assert [r.attempt for r in decision.cursor.pending] == [2] * MOST_REQUESTS + [1] * 7
    assert [r.first for r in decision.cursor.pending] == days


# ---- why


def users(*ids: int) -> frozenset[int]:
    return frozenset(ids)


def test_a_request_says_whose_late_orders_and_how_many_of_today_have_come() -> None:
    def came(position: int) -> Window:
        new = {
            day(5): NewOrders(10, 4, LONG_AGO, LONG_AGO, users(7, 8)),
            day(20): NewOrders(10, 30, LONG_AGO, LONG_AGO, users(*range(MOST_USERS + 1))),
            day(30): NewOrders(10, 1, LONG_AGO, LONG_AGO, users(3)),
            TODAY: NewOrders(10, 2, LONG_AGO, LONG_AGO, users(1)),
        }
        return Window(position, 40, new)

    decision = tick(Cursor(10, 10), came)
    assert [decision.reasons[request.key] for request in decision.requests] == [
        "late orders of 2 users",
        "late orders of more than 10 users",
        "late orders of 1 user and 2 new orders of today",
    ]
    first = tick(Cursor(), came)
    assert set(first.reasons.values()) == {"the flagged stream is read for the first time"}
    failed = tick(decision.cursor, outcome=Outcome.FAILED)
    later = tick(failed.cursor, outcome=Outcome.FAILED, now=NOW + timedelta(hours=1))
    assert set(later.reasons.values()) == {"attempt 2, because the one before failed"}


def test_what_was_seen_adds_up_until_it_is_observed() -> None:
    def read(position: int) -> Window:
        return Window(position, position + 10, seen=Seen(2, 1, NOW))

    cursor = tick(tick(Cursor(observed_at=NOW), read).cursor, read).cursor
    assert (cursor.seen, cursor.observed_at) == (Seen(4, 2, NOW), NOW)
    assert Cursor.parse(cursor.text()) == cursor


# ---- what cannot be materialised


def test_days_before_the_first_partition_are_reported() -> None:
    decision = tick(Cursor(), orders(date(2024, 12, 30), date(2024, 12, 31), FIRST_DAY))
    assert decision.requests == (asked(FIRST_DAY, FIRST_DAY, at=30),)
    assert "2 orders are from days before the first partition 2025-01-01" in decision.notes[0]
    alone = tick(Cursor(), orders(date(2024, 12, 31)))
    assert alone.requests == ()
    assert alone.cursor == Cursor(10, 10)
    assert "(2024-12-31 to 2024-12-31)" in alone.notes[0]


def test_days_that_have_not_begun_in_jakarta_are_reported() -> None:
    decision = tick(Cursor(), orders(TODAY, date(2025, 2, 1)))
    assert decision.requests == (asked(TODAY, TODAY, at=20),)
    assert "1 orders are from days after today, 2025-01-31" in decision.notes[0]
    # 17:00 UTC is midnight in Jakarta, so the first of February has begun.
    first = date(2025, 2, 1)
    later = tick(Cursor(), orders(first), now=datetime(2025, 1, 31, 17, tzinfo=UTC))
    assert later.requests == (asked(first, first, at=10),)
    before = tick(Cursor(), orders(first), now=datetime(2025, 1, 31, 16, 59, 59, tzinfo=UTC))
    assert before.requests == ()


def test_a_replaced_stream_is_read_from_its_start_and_it_says_so() -> None:
    new = {TODAY: NewOrders(0, 1, LONG_AGO, LONG_AGO)}
    decision = tick(Cursor(900, 900), lambda position: Window(0, 10, new, note=f"{position} is past the end"))
    assert decision.cursor == Cursor(0, 10, (asked(TODAY, TODAY, at=10),), today_asked_at=NOW)
    assert decision.notes == ("900 is past the end",)


def test_lines_that_are_no_flagged_orders_do_not_stop_it() -> None:
    new = {TODAY: NewOrders(0, 1, LONG_AGO, LONG_AGO)}
    decision = tick(Cursor(), lambda position: Window(0, 30, new, unreadable=2))
    assert decision.requests == (asked(TODAY, TODAY, at=30),)
    assert decision.notes[0].startswith("2 lines of the flagged stream in [0, 30) are not flagged orders")


# ---- cursors


def test_a_cursor_of_an_earlier_version_is_taken_over() -> None:
    text = (
        '{"position":100,"read_to":140,"pending":[{"first":"2025-01-05","last":"2025-01-05","attempt":1},'
        '{"first":"2025-01-30","last":"2025-01-31"}]}'
    )
    decision = plan_tick(
        Cursor.parse(text),
        outcome=lambda key: Outcome.SUCCEEDED if key == "2025-01-05..2025-01-05@140#1" else Outcome.NONE,
        read=orders(),
        first_day=FIRST_DAY,
        now=NOW,
        today_interval=INTERVAL,
    )
    assert decision.requests == (asked(day(30), TODAY, at=140, begin=100),)
    assert decision.cursor == Cursor(100, 140, decision.requests, today_asked_at=NOW)


@pytest.mark.parametrize("text", ["{", "[]", '{"position": "x"}', "null"])
def test_a_cursor_of_somebody_else_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(ValueError, match="Reset it in the UI"):
        Cursor.parse(text)


def test_a_new_sensor_begins_at_the_start() -> None:
    assert Cursor.parse(None) == Cursor.parse("") == Cursor(0, 0, ())


def test_the_pause_is_bounded() -> None:
    assert retry_delay(1) == FIRST_RETRY
    assert retry_delay(10**6) == LONGEST_RETRY


@given(st.data())
def test_every_day_of_the_stream_ends_in_a_run_that_succeeded_after_it_was_read(data: st.DataObject) -> None:
    """Whatever runs do: a line is behind the cursor only once a run that was asked for after it succeeded."""
    lines = data.draw(st.lists(st.integers(1, 31).map(day), max_size=30))
    most = data.draw(st.integers(1, 10))
    states = iter(data.draw(st.lists(st.sampled_from(Outcome), max_size=80)))
    pauses = iter(data.draw(st.lists(st.integers(1, 600), max_size=80)))
    runs: dict[str, Outcome] = {}
    covered: dict[str, tuple[int, Request]] = {}  # stream position known when first asked, request
    cursor, now = Cursor(), NOW

    def read(position: int) -> Window:
        batch = lines[position : position + most]
        new: dict[date, NewOrders] = {}
        for number, at in enumerate(batch, position):
            one = NewOrders(number, 1, now, now)
            new[at] = new[at] + one if at in new else one
        return Window(position, position + len(batch), new)

    for _ in range(400):
        for key, state in runs.items():
            if state in (Outcome.ACTIVE, Outcome.NONE):  # it runs, or it was lost
                runs[key] = next(states, Outcome.SUCCEEDED)
        decision = plan_tick(
            cursor,
            outcome=lambda key: runs.get(key, Outcome.NONE),
            read=read,
            first_day=FIRST_DAY,
            now=now,
            today_interval=INTERVAL,
        )
        for request in decision.requests:
            assert runs.get(request.key, Outcome.NONE) is Outcome.NONE, "the key of a run that exists"
            runs[request.key] = Outcome.ACTIVE
            covered.setdefault(request.key, (decision.cursor.read_to, request))
        active = [r for k, (_, r) in covered.items() if runs[k] is Outcome.ACTIVE]
        asked_days = [d for request in active for d in request.days]
        assert len(asked_days) == len(set(asked_days)), "two runs for a day"
        cursor = Cursor.parse(decision.cursor.text())
        now += timedelta(seconds=next(pauses, 300))
        for index, at in enumerate(lines[: cursor.position]):
            assert any(
                request.first <= at <= request.last and position > index and runs[key] is Outcome.SUCCEEDED
                for key, (position, request) in covered.items()
            )
        if cursor.position == len(lines):
            break
    assert cursor.position == cursor.read_to == len(lines)
    assert (cursor.pending, cursor.waiting) == ((), {})


def test_the_time_between_two_looks_is_a_setting(tmp_path: Path) -> None:
    job = define_asset_job("days", selection="*")
    settings = Settings(home=tmp_path, stream_interval_seconds=3600)
    assert order_stream_sensor(job, settings, FIRST_DAY).minimum_interval_seconds == 3600
