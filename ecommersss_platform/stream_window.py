"""The reader of the flagged stream for `order_stream_sensor`: to which days do its new orders belong?"""

from __future__ import annotations

from datetime import date, datetime

from msgspec.structs import replace

from ecommersss_platform.order_stream import MOST_USERS, NewOrders, Seen, Window
from streaming.business_days import business_day
from streaming.orders import decode_flagged
from streaming.topics.jsonl import JsonlTopic
from streaming.topics.jsonl_reader import TopicTruncated

LINES_PER_READ = 1000


def read_window(topic: JsonlTopic, position: int, max_bytes: int) -> Window:
    """Read the flagged stream from `position`: whole lines, until `max_bytes` are reached.

    A position past the end means that the stream was replaced; it is then read from its start. Lines that
    retention removed are skipped: their days were closed long ago.
    """
    note = ""
    if position > topic.end():
        note = (
            f"the cursor {position} is past the end {topic.end()} of the flagged stream, which must have been"
            " replaced: reading it from its start"
        )
        position = topic.start()
    try:
        return _read(topic, position, max_bytes, note)
    except TopicTruncated as error:
        return _read(topic, topic.start(), max_bytes, f"reading the flagged stream from its start: {error}")


def _read(topic: JsonlTopic, position: int, max_bytes: int, note: str) -> Window:
    orders: dict[date, NewOrders] = {}
    users: dict[date, set[int]] = {}
    unreadable = read = fraud = 0
    newest: datetime | None = None
    begin = position
    reader = topic.reader(position)
    try:
        while read < max_bytes:
            batch = reader.read(LINES_PER_READ, timeout=0)
            position = batch.next_position
            if not batch.lines:
                break
            read += sum(map(len, batch.lines))
            for line in batch.lines:
                try:
                    order = decode_flagged(line)
                except ValueError:
                    unreadable += 1
                    continue
                day = business_day(order.created_date)
                fraud += order.status == "fraud"
                newest = max(newest or order.created_date, order.created_date)
                new = NewOrders(begin, 1, order.flagged_at, order.flagged_at)
                orders[day] = orders[day] + new if day in orders else new
                if len(who := users.setdefault(day, set())) <= MOST_USERS:
                    who.add(order.user_id)
    finally:
        reader.close()
    orders = {day: replace(new, users=frozenset(users[day])) for day, new in orders.items()}
    seen = Seen(sum(new.count for new in orders.values()), fraud, newest)
    return Window(begin, position, orders, unreadable, note, seen)
