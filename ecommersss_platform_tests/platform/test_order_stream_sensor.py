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
    MOST_REQUESTS_PER_TICK,
    Cursor,
    Decision,
    Outcome,
    Request,
    Window,
    plan_tick,
    retry_delay,
)
from ecommersss_platform.sensors import order_stream_sensor
from ecommersss_platform.settings import Settings

FIRST_DAY = date(2025, 1, 1)
TODAY = date(2025, 1, 31)
NOW = datetime(2025, 1, 31, 5, tzinfo=UTC)  # noon in Jakarta


def day(number: int) -> date:
    return date(2025, 1, number)


def orders(*days: date) -> Callable[[int], Window]:
    """A stream with an order for each of these days, ten bytes each."""
    return lambda position: Window(position, position + 10 * len(days), Counter(days))


def never_read(position: int) -> Window:
    raise AssertionError(f"the stream was read from {position} while a request is pending")


def no_runs(key: str) -> Outcome:
    return Outcome.NONE


def tick(
    cursor: Cursor,
    read: Callable[[int], Window] = never_read,
    outcome: Callable[[str], Outcome] | Outcome = no_runs,
    now: datetime = NOW,
) -> Decision:
    asked = outcome if callable(outcome) else lambda key: outcome
    # Every cursor goes through the text that Dagster keeps.
    cursor = Cursor.parse(cursor.text())
    return plan_tick(cursor, outcome=asked, read=read, first_day=FIRST_DAY, now=now)


def test_an_empty_stream_asks_for_nothing_and_says_where_it_stands() -> None:
    decision = tick(Cursor(), orders())
    assert decision.requests == ()
    assert decision.cursor == Cursor(0, 0)
    assert decision.notes == ("no new flagged orders (position 0)",)


def test_the_days_touched_are_asked_for_as_contiguous_ranges() -> None:
    decision = tick(Cursor(100, 100), orders(day(30), TODAY, day(5), day(30)))
    assert decision.requests == (Request(day(5), day(5), 1), Request(day(30), TODAY, 1))
    assert decision.cursor == Cursor(100, 140, decision.requests)
    assert [r.key(140) for r in decision.requests] == [
        "2025-01-05..2025-01-05@140#1",
        "2025-01-30..2025-01-31@140#1",
    ]


def test_a_run_under_way_is_waited_for_and_the_stream_left_alone() -> None:
    cursor = tick(Cursor(), orders(TODAY)).cursor
    decision = tick(cursor, never_read, Outcome.ACTIVE)
    assert decision.requests == ()
    assert decision.cursor == cursor
    assert decision.notes == ("2025-01-31: the run is under way (attempt 1)",)


def test_success_moves_the_cursor_and_reads_on_in_the_same_tick() -> None:
    cursor = tick(Cursor(), orders(TODAY)).cursor
    decision = tick(cursor, orders(), Outcome.SUCCEEDED)
    assert decision.cursor == Cursor(10, 10)
    assert tick(cursor, orders(day(7)), Outcome.SUCCEEDED).cursor == Cursor(
        10, 20, (Request(day(7), day(7), 1),)
    )


def test_one_of_two_ranges_succeeding_leaves_the_other() -> None:
    cursor = tick(Cursor(), orders(day(3), day(9))).cursor
    decision = tick(
        cursor, outcome=lambda key: Outcome.SUCCEEDED if key.startswith("2025-01-03") else Outcome.ACTIVE
    )
    assert decision.cursor == Cursor(0, 20, (Request(day(9), day(9), 1),))
    assert decision.requests == ()


def test_a_failure_is_asked_for_again_with_a_new_key_after_a_pause_that_grows() -> None:
    cursor, now, waits = tick(Cursor(), orders(TODAY)).cursor, NOW, []
    keys = {"2025-01-31..2025-01-31@10#1"}
    for attempt in range(1, 8):
        failed = tick(cursor, never_read, Outcome.FAILED, now)
        assert failed.requests == ()
        assert f"attempt {attempt} failed" in failed.notes[0]
        [waiting] = failed.cursor.pending
        assert waiting.again_at is not None
        waits.append(waiting.again_at - now)
        early = tick(failed.cursor, never_read, Outcome.FAILED, waiting.again_at - timedelta(seconds=1))
        assert early.requests == ()
        assert early.cursor == failed.cursor  # the pause does not start again
        now = waiting.again_at
        again = tick(failed.cursor, never_read, Outcome.FAILED, now)
        assert again.requests == (Request(TODAY, TODAY, attempt + 1),)
        keys.add(again.requests[0].key(again.cursor.read_to))
        cursor = again.cursor
    assert waits == [timedelta(minutes=n) for n in (1, 2, 4, 8, 15, 15, 15)]
    assert len(keys) == 8
    assert cursor.position == 0  # never past days that are not materialised


def test_dagsters_own_retry_of_a_failed_run_is_waited_for() -> None:
    cursor = tick(tick(Cursor(), orders(TODAY)).cursor, outcome=Outcome.FAILED).cursor
    decision = tick(cursor, outcome=Outcome.ACTIVE, now=NOW + timedelta(hours=1))
    assert decision.requests == ()
    assert decision.cursor.pending == (Request(TODAY, TODAY, 1),)


def test_a_run_that_got_lost_is_asked_for_under_the_same_key() -> None:
    first = tick(Cursor(), orders(TODAY))
    again = tick(first.cursor, outcome=Outcome.NONE)
    assert again.requests == first.requests
    assert again.cursor == first.cursor


def test_orders_on_many_single_days_are_asked_for_a_few_at_a_time_and_all_of_them() -> None:
    days = [day(n) for n in range(1, 31, 2)]
    decision = tick(Cursor(), orders(*days))
    assert [r.first for r in decision.requests] == days[:MOST_REQUESTS_PER_TICK]
    runs = {r.key(150): Outcome.ACTIVE for r in decision.requests}
    asked = list(decision.requests)
    for request in asked:  # grows while runs end, one after the other
        runs[request.key(150)] = Outcome.SUCCEEDED
        decision = tick(decision.cursor, orders(), lambda key, runs=runs: runs.get(key, Outcome.NONE))
        runs |= {r.key(150): Outcome.ACTIVE for r in decision.requests}
        asked += decision.requests
        assert list(runs.values()).count(Outcome.ACTIVE) <= MOST_REQUESTS_PER_TICK
    assert [r.first for r in asked] == days
    assert decision.cursor == Cursor(150, 150)


def test_days_before_the_first_partition_are_reported() -> None:
    decision = tick(Cursor(), orders(date(2024, 12, 30), date(2024, 12, 31), FIRST_DAY))
    assert decision.requests == (Request(FIRST_DAY, FIRST_DAY, 1),)
    assert "2 orders are from days before the first partition 2025-01-01" in decision.notes[0]
    alone = tick(Cursor(), orders(date(2024, 12, 31)))
    assert alone.requests == ()
    assert alone.cursor == Cursor(10, 10)
    assert "(2024-12-31 to 2024-12-31)" in alone.notes[0]


def test_days_that_have_not_begun_in_jakarta_are_reported() -> None:
    decision = tick(Cursor(), orders(TODAY, date(2025, 2, 1)))
    assert decision.requests == (Request(TODAY, TODAY, 1),)
    assert "1 orders are from days after today, 2025-01-31" in decision.notes[0]
    # 17:00 UTC is midnight in Jakarta, so the first of February has begun.
    later = tick(Cursor(), orders(date(2025, 2, 1)), now=datetime(2025, 1, 31, 17, tzinfo=UTC))
    assert later.requests == (Request(date(2025, 2, 1), date(2025, 2, 1), 1),)
    before = tick(Cursor(), orders(date(2025, 2, 1)), now=datetime(2025, 1, 31, 16, 59, 59, tzinfo=UTC))
    assert before.requests == ()


def test_a_replaced_stream_is_read_from_its_start_and_it_says_so() -> None:
    decision = tick(
        Cursor(900, 900), lambda position: Window(0, 10, Counter([TODAY]), note=f"{position} is past the end")
    )
    assert decision.cursor == Cursor(0, 10, (Request(TODAY, TODAY, 1),))
    assert decision.notes == ("900 is past the end",)


def test_lines_that_are_no_flagged_orders_do_not_stop_it() -> None:
    decision = tick(Cursor(), lambda position: Window(0, 30, Counter([TODAY]), unreadable=2))
    assert decision.requests == (Request(TODAY, TODAY, 1),)
    assert decision.notes[0].startswith("2 lines of the flagged stream in [0, 30) are not flagged orders")


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
    """Whatever runs do: a day is behind the cursor only once a run that was asked for after it succeeded."""
    lines = data.draw(st.lists(st.integers(1, 31).map(day), max_size=30))
    most = data.draw(st.integers(1, 10))
    fails = iter(data.draw(st.lists(st.booleans(), max_size=40)))
    runs: dict[str, Outcome] = {}
    covered: list[tuple[int, Request]] = []  # stream position known when asked, request

    def read(position: int) -> Window:
        batch = lines[position : position + most]
        return Window(position, position + len(batch), Counter(batch))

    cursor, now = Cursor(), NOW
    for _ in range(400):
        decision = plan_tick(
            cursor, outcome=lambda key: runs.get(key, Outcome.NONE), read=read, first_day=FIRST_DAY, now=now
        )
        for request in decision.requests:
            key = request.key(decision.cursor.read_to)
            assert key not in runs, "the same key twice for a run that exists"
            runs[key] = Outcome.FAILED if next(fails, False) else Outcome.SUCCEEDED
            if runs[key] is Outcome.SUCCEEDED:
                covered.append((decision.cursor.read_to, request))
        cursor = Cursor.parse(decision.cursor.text())
        now += timedelta(minutes=5)
        for index, at in enumerate(lines[: cursor.position]):
            assert any(r.first <= at <= r.last and position > index for position, r in covered)
        if not cursor.pending and cursor.position == len(lines):
            break
    assert cursor == Cursor(len(lines), len(lines))


def test_the_time_between_two_looks_is_a_setting(tmp_path: Path) -> None:
    job = define_asset_job("days", selection="*")
    settings = Settings(home=tmp_path, stream_interval_seconds=3600)
    assert order_stream_sensor(job, settings, FIRST_DAY).minimum_interval_seconds == 3600
