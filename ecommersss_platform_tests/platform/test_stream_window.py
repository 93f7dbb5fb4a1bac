"""How the sensor reads the flagged stream: bounded, complete lines only, through rotation and replacement."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from ecommersss_platform.order_stream import MOST_USERS, NewOrders, Seen, Window
from ecommersss_platform.stream_window import LINES_PER_READ, read_window
from streaming.orders import Order, encode_flagged, flag
from streaming.topics.jsonl import JsonlTopic

EVERYTHING = 1 << 30


def line(placed: datetime, number: int = 1) -> bytes:
    order = Order(number, 1, 1, 1, Decimal("1000.00"), "OVO", "ID", placed)
    return encode_flagged(flag(order, [], [], "v1", placed, number, []))


def noon(day: int) -> datetime:
    return datetime(2025, 1, day, 5, tzinfo=UTC)


def counts(orders: Mapping[date, NewOrders]) -> dict[date, int]:
    return {day: new.count for day, new in orders.items()}


@pytest.fixture
def topic(tmp_path: Path) -> JsonlTopic:
    return JsonlTopic(tmp_path / "flagged_orders")


def test_an_empty_stream(topic: JsonlTopic) -> None:
    assert read_window(topic, 0, EVERYTHING) == Window(0, 0)


def test_orders_are_counted_by_jakartas_day(topic: JsonlTopic) -> None:
    end = topic.publish(
        [
            line(datetime(2025, 1, 30, 16, 59, 59, 999_999, tzinfo=UTC)),
            line(datetime(2025, 1, 30, 17, tzinfo=UTC)),
            line(noon(31)),
        ]
    )
    window = read_window(topic, 0, EVERYTHING)
    assert (window.begin, window.end) == (0, end)
    assert counts(window.orders) == {date(2025, 1, 30): 1, date(2025, 1, 31): 2}
    assert read_window(topic, end, EVERYTHING) == Window(end, end)


def test_the_share_of_fraud_and_the_newest_order_are_those_of_all_days(topic: JsonlTopic) -> None:
    placed = [noon(5), noon(31), noon(7)]
    topic.publish(
        [
            encode_flagged(
                flag(
                    Order(n, 1, 1, 1, Decimal(1), "OVO", "ID", at),
                    ["a_rule"] * (n == 1),
                    [],
                    "v1",
                    noon(31),
                    n,
                    [],
                )
            )
            for n, at in enumerate(placed)
        ][1:]
    )
    assert read_window(topic, 0, EVERYTHING).seen == Seen(2, 1, noon(31))


def test_only_a_few_users_of_a_day_are_told_apart(topic: JsonlTopic) -> None:
    order = Order(1, 1, 1, 1, Decimal(1), "OVO", "ID", noon(5))
    for user in range(1, 3 * MOST_USERS):
        event = flag(replace(order, id=user, user_id=user), [], [], "v1", noon(5), user, [])
        topic.publish([encode_flagged(event)])
    [new] = read_window(topic, 0, EVERYTHING).orders.values()
    assert new.users == frozenset(range(1, MOST_USERS + 2))
    assert (new + new).users == new.users


def test_new_orders_of_a_day_tell_when_they_were_written_and_where_they_begin(topic: JsonlTopic) -> None:
    before = topic.publish([line(noon(1))])
    written = [noon(31) + timedelta(minutes=n) for n in (3, 1, 2)]
    topic.publish(
        [
            encode_flagged(
                flag(Order(n, 1, 1, 1, Decimal(1), "OVO", "ID", noon(5)), [], [], "v1", moment, n, [])
            )
            for n, moment in enumerate(written, 1)
        ]
    )
    window = read_window(topic, before, EVERYTHING)
    assert window.orders == {date(2025, 1, 5): NewOrders(before, 3, written[1], written[0], frozenset([1]))}


def test_a_tick_reads_no_more_than_its_bytes_and_the_next_goes_on_there(topic: JsonlTopic) -> None:
    lines = [line(noon(1 + number % 3), number + 1) for number in range(3 * LINES_PER_READ)]
    end = topic.publish(lines)
    position, ticks, orders = 0, 0, 0
    while position < end:
        window = read_window(topic, position, max_bytes=1)
        assert window.begin == position
        assert sum(counts(window.orders).values()) == LINES_PER_READ
        position, ticks, orders = window.end, ticks + 1, orders + sum(counts(window.orders).values())
    assert ticks == 3
    assert orders == len(lines)


def test_a_line_that_is_still_being_written_waits_for_the_next_tick(topic: JsonlTopic) -> None:
    end = topic.publish([line(noon(1))])
    whole = line(noon(2), 2) + b"\n"
    path = topic.path(0)
    with path.open("ab") as file:
        file.write(whole[:-20])
    window = read_window(topic, 0, EVERYTHING)
    assert (window.end, counts(window.orders)) == (end, {date(2025, 1, 1): 1})
    with path.open("ab") as file:
        file.write(whole[-20:])
    assert counts(read_window(topic, end, EVERYTHING).orders) == {date(2025, 1, 2): 1}


def test_other_lines_are_counted_and_passed_over(topic: JsonlTopic) -> None:
    end = topic.publish([b"", b"{}", b"\xff", line(noon(1))])
    window = read_window(topic, 0, EVERYTHING)
    assert (window.end, counts(window.orders), window.unreadable) == (end, {date(2025, 1, 1): 1}, 3)


def test_segments_that_retention_removed_are_passed_over(tmp_path: Path) -> None:
    topic = JsonlTopic(tmp_path / "flagged_orders", segment_bytes=1)  # a segment for each line
    for day in (1, 2, 3):
        topic.publish([line(noon(day), day)])
    first, second, _ = topic.segments()
    topic.path(first).unlink()
    window = read_window(topic, 0, EVERYTHING)
    assert counts(window.orders) == {date(2025, 1, 2): 1, date(2025, 1, 3): 1}
    assert window.end == topic.end()
    assert second == topic.start()


def test_a_replaced_shorter_stream_is_read_from_its_start(topic: JsonlTopic) -> None:
    position = topic.publish([line(noon(1)), line(noon(2), 2)])
    topic.path(0).write_bytes(line(noon(3)) + b"\n")
    window = read_window(topic, position, EVERYTHING)
    assert (window.begin, window.end) == (0, topic.end())
    assert counts(window.orders) == {date(2025, 1, 3): 1}
    assert f"the cursor {position} is past the end {topic.end()} of the flagged stream" in window.note


def test_a_replaced_longer_stream_is_read_from_its_start(topic: JsonlTopic) -> None:
    position = topic.publish([line(noon(1))])
    topic.path(0).write_bytes((line(noon(3), 2**50) + b"\n") * 2)
    window = read_window(topic, position, EVERYTHING)
    assert window.begin == 0
    assert counts(window.orders) == {date(2025, 1, 3): 2}
    assert window.note.startswith("reading the flagged stream from its start: ")
