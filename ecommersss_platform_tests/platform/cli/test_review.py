"""`ecommersss review`, from a review rule in the stream to the verdict of a person."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ecommersss_platform.cli import app as cli
from ecommersss_platform_tests.support.shop import NOON, execute, open_shop, order, query, write
from streaming.business_days import business_day
from streaming.consumer import Consumer
from streaming.database import connect
from streaming.database.reviews import (
    Queue,
    QueueOfDay,
    decide,
    past_of,
    queue_size,
    queues_of_days,
    waiting,
)
from streaming.database.user_lists import list_entries
from streaming.errors import PlatformError
from streaming.orders import decode_flagged, encode
from streaming.rules import RuleBook
from streaming.topics.jsonl import JsonlTopic

pytestmark = pytest.mark.integration

DAY = timedelta(days=1)
BOOK = RuleBook.parse(
    """
sample: 0.0
rules:
  - {name: abroad, description: d, mode: active, when: country <> 'ID'}
  - {name: many, description: d, mode: review, when: quantity >= 9}
  - {name: dear, description: d, mode: review, when: amount >= 1000000}
"""
)
Consume = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def url(database: str) -> str:
    open_shop(database)
    return database


@pytest.fixture
def run(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("ECOMMERSSS_DATABASE_URL", url)
    monkeypatch.setenv("ECOMMERSSS_HOME", str(tmp_path / "home"))
    return lambda *arguments: CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def consume(url: str, tmp_path: Path) -> Consume:
    """Publish orders, have them stored, and return the reasons for review in the flagged lines."""
    topic, flagged = JsonlTopic(tmp_path / "orders"), JsonlTopic(tmp_path / "flagged")

    def consume(*orders: Any, book: RuleBook = BOOK) -> dict[int, list[str]]:
        topic.publish([encode(o) for o in orders])
        Consumer(url, topic, flagged, book).run(once=True)
        [segment] = flagged.segments()
        lines = [decode_flagged(line) for line in flagged.path(segment).read_bytes().splitlines()]
        return {line.id: line.review_reasons for line in lines}

    return consume  # type: ignore[return-value]


def test_orders_wait_by_day_and_amount_until_somebody_decides(url: str, consume: Consume) -> None:
    lines = consume(
        order(1, quantity=9, created_date=NOON),
        order(2, quantity=9, amount=Decimal(2_000_000), created_date=NOON),
        order(3, quantity=9, country="SG", created_date=NOON - DAY),
        order(4, created_date=NOON - DAY),
        order(5, quantity=9, amount=Decimal(10), created_date=NOON - DAY),
    )
    assert lines == {1: ["many"], 2: ["many", "dear"], 3: ["many"], 4: [], 5: ["many"]}
    assert query(url, "SELECT id, is_fraud, review_reasons FROM orders ORDER BY id") == [
        (1, False, ["many"]),
        (2, False, ["many", "dear"]),
        (3, True, ["many"]),
        (4, False, []),
        (5, False, ["many"]),
    ]
    assert [(it.order, it.day.isoformat(), it.reasons) for it in waiting(url, 10)] == [
        (5, "2026-03-01", ["many"]),
        (2, "2026-03-02", ["many", "dear"]),
        (1, "2026-03-02", ["many"]),
    ]
    assert [it.order for it in waiting(url, 2)] == [5, 2]
    with closing(connect(url)) as connection:
        assert queue_size(connection) == Queue(3, Decimal("2003010.00"), NOON - DAY)

    decide(url, 5, "genuine", "ani", "a friend of the house")
    execute(url, "INSERT INTO verdicts (order_id, verdict, reviewer) VALUES (2, 'fraud', 'imported')")
    assert [it.order for it in waiting(url, 10)] == [1], "any verdict takes an order out"
    decide(url, 1, "fraud", "ani", "x")
    with closing(connect(url)) as connection:
        assert queue_size(connection) == Queue(0, Decimal(0), None)


def test_the_queue_of_a_past_day_stays_the_same(url: str, consume: Consume) -> None:
    """The second verdict about an order is not a new decision, and verdicts of later days change nothing."""
    consume(
        order(1, quantity=9, created_date=NOON - DAY),
        order(2, quantity=9, amount=Decimal(2_000_000), created_date=NOON - DAY),
        order(3, quantity=9, created_date=NOON),
        order(4, quantity=9, country="SG", created_date=NOON),
        order(5, created_date=NOON),
    )
    for clock, id in ((NOON - DAY, 1), (NOON, 1), (NOON, 2), (NOON + DAY, 3)):
        decided = "INSERT INTO verdicts (order_id, verdict, reviewer) VALUES %s"
        write(url, decided, [(id, "fraud", "ani")], clock=clock)
    first, day, last = (business_day(NOON + n * DAY) for n in (-1, 0, 1))

    with closing(connect(url)) as connection:
        found = queues_of_days(connection, [first, day, last, last + DAY])
    small, large = Decimal("3000.00"), Decimal("2000000.00")
    assert found == [
        QueueOfDay(first, "dear", 1, large, NOON - DAY, 1, 0),
        QueueOfDay(first, "many", 1, large, NOON - DAY, 2, 1),
        QueueOfDay(first, None, 1, large, NOON - DAY, 2, 1),
        QueueOfDay(day, "many", 1, small, NOON, 1, 1),
        QueueOfDay(day, None, 1, small, NOON, 1, 1),
        QueueOfDay(day, "dear", 0, Decimal(0), None, 0, 1),
        QueueOfDay(last, "many", 0, Decimal(0), None, 0, 1),
        QueueOfDay(last, None, 0, Decimal(0), None, 0, 1),
    ]


def test_a_decision_can_block_the_user_and_is_undone_by_a_newer_one(url: str, consume: Consume) -> None:
    consume(order(1, user_id=3, quantity=9))
    assert decide(url, 1, "fraud", "ani", " stolen card ", block=True) == 3
    [entry] = list_entries(url, 3)
    assert (entry.list, entry.source, entry.reason) == ("block", "person", "order 1: stolen card")
    decide(url, 1, "genuine", "budi", "the bank says it was theirs")
    _, verdicts = past_of(url, 3, 1)
    assert [(it.verdict, it.reviewer, it.note) for it in verdicts] == [
        ("genuine", "budi", "the bank says it was theirs"),
        ("fraud", "ani", "stolen card"),
    ]


def test_a_refused_decision_leaves_nothing(url: str, consume: Consume) -> None:
    consume(order(1, quantity=9))
    with pytest.raises(PlatformError, match="needs a note"):
        decide(url, 1, "fraud", "ani", "  ", block=True)
    with pytest.raises(PlatformError, match="order 99 is not stored"):
        decide(url, 99, "fraud", "ani", "x", block=True)
    assert list_entries(url, 1) == []
    assert query(url, "SELECT count(*) FROM verdicts") == [(0,)]


def test_show_has_all_that_a_person_needs(url: str, consume: Consume, run: Callable[..., Result]) -> None:
    consume(*(order(n, created_date=NOON - n * DAY, country="SG" if n == 3 else "ID") for n in range(2, 15)))
    consume(order(1, quantity=9), order(99, user_id=2))
    execute(
        url,
        "INSERT INTO disputes (id, order_id, kind, amount, opened_at, outcome,"
        " decided_at) VALUES (1, 2, 'fraud', 5, now(), 'lost', now())",
    )
    assert run("review", "decide", "3", "fraud", "--note", "card of another", "--block").exit_code == 0
    exempt = ("rules", "exempt", "wallet_limit", "--user", "1", "--until", "2099-01-31", "--reason", "known")
    assert run(*exempt).exit_code == 0
    shown = run("review", "show", "1", "--format", "json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.output)
    assert (found["order"], found["review_reasons"], found["agrees"]) == (1, ["many"], True)
    latest = found["latest_orders"]
    assert [it["order"] for it in latest] == list(range(2, 12)), "ten, the newest first"
    assert (latest[0]["disputes"], latest[1]["verdict"], latest[1]["reasons"]) == (
        "fraud lost",
        "fraud",
        ["abroad"],
    )
    assert [(it["list"], it["reason"]) for it in found["lists"]] == [("block", "order 3: card of another")]
    assert [(it["rule"], it["reason"]) for it in found["exemptions"]] == [("wallet_limit", "known")]
    assert [(it["order"], it["note"]) for it in found["verdicts"]] == [(3, "card of another")]
    table = run("review", "show", "1").output
    for text in ("Order 1 is genuine", "for review: many", "fraud lost", "order 3: card of another"):
        assert text in table
    other = run("review", "show", "99").output
    assert "verdicts about user 2: none" in other


def test_commands_say_what_they_did(consume: Consume, run: Callable[..., Result]) -> None:
    assert run("review", "list").output == "No order waits for review.\n"
    assert run("review", "list", "--format", "json").output == "[]\n"
    consume(order(1, quantity=9, amount=Decimal(2_000_000)))
    assert "many, dear" in run("review", "list").output
    assert json.loads(run("review", "list", "--format", "json").output)[0]["reasons"] == ["many", "dear"]
    decided = run("review", "decide", "1", "fraud", "--note", "x", "--by", "ani", "--block")
    assert decided.output == "order 1 is fraud; user 1 is on the block list\n"
    assert run("review", "list").output == "No order waits for review.\n"
    assert run("review", "decide", "1", "maybe", "--note", "x").exit_code == 2


def test_sampled_orders_wait_too(url: str, consume: Consume) -> None:
    consume(
        *(order(n, country="SG" if n % 2 else "ID") for n in range(1, 41)),
        book=RuleBook.parse(BOOK.text.replace("sample: 0.0", "sample: 0.5")),
    )
    found = waiting(url, 100)
    assert 3 < len(found) < 17
    assert all(it.order % 2 == 0 and it.reasons == ["random_sample"] for it in found)
