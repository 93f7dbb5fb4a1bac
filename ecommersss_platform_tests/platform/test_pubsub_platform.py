"""The platform with its topic on Pub/Sub: its commands, health, metrics and retention, on the emulator."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from ecommersss_platform.cli.health import check
from ecommersss_platform.cli.status import print_status
from ecommersss_platform.days import Days
from ecommersss_platform.dbt.project import ensure_manifest
from ecommersss_platform.laboratory.parity import compare_verdicts
from ecommersss_platform.local.first_run import first_run_history
from ecommersss_platform.settings import Settings
from ecommersss_platform.status import gather
from ecommersss_platform.topic_retention import plan
from ecommersss_platform.topics import flagged_stream, fraud_consumer
from ecommersss_platform.warehouse import make_warehouse
from ecommersss_platform_tests.support import pubsub_emulator as emulator
from ecommersss_platform_tests.support.consumers import running
from ecommersss_platform_tests.support.home import Home
from ecommersss_platform_tests.support.parity_days import (
    AFTER,
    BEFORE,
    DAYS,
    LINES,
    USERS,
    build_features,
    order_lines,
)
from ecommersss_platform_tests.support.raw_days import raw_rows, read
from ecommersss_platform_tests.support.shop import (
    LONG_AGO,
    add_users,
    open_shop,
    order,
    query,
    read_all,
    stored_orders,
)
from streaming.business_days import business_day
from streaming.database.exemptions import add_exemption
from streaming.database.user_lists import add_entry, remove_entry
from streaming.lists import Exemption
from streaming.metrics import registry
from streaming.orders import decode_flagged, encode
from streaming.rules import RuleFile
from streaming.shared_consumer import SharedConsumer
from streaming.topics import SHARED_POSITIONS
from streaming.topics.pubsub import PubSubTopic

pytestmark = [pytest.mark.integration, pytest.mark.pubsub, pytest.mark.slow]


class Platform(Home):
    """A home whose topic is on the emulator, and the commands run there."""

    def __init__(self, home: Path, url: str, topic: PubSubTopic) -> None:
        variables = {
            "database_url": url,
            "topic": "pubsub",
            "pubsub_project": topic.project,
            "pubsub_topic": topic.topic,
            "pubsub_subscription": topic.subscription,
        }
        super().__init__(home, **{f"ECOMMERSSS_{name.upper()}": value for name, value in variables.items()})
        self.settings = Settings(home=home, **variables, _env_file=None)  # type: ignore[arg-type]
        self.topic = topic
        self.url = url

    @contextmanager
    def consuming(self) -> Iterator[None]:
        process = self.start("consume")
        try:
            yield
        finally:
            process.terminate()
            process.communicate(timeout=10)
        assert process.returncode == 0


@pytest.fixture
def platform(pubsub: str, database: str, tmp_path: Path) -> Iterator[Platform]:
    open_shop(database)
    (tmp_path / "home").mkdir()
    with emulator.emulated(pubsub) as topic:
        yield Platform(tmp_path / "home", database, topic)


def eventually(platform: Platform, statement: str, expected: int | bool) -> None:
    deadline = time.monotonic() + 60
    while query(platform.url, statement) != [(expected,)]:
        assert time.monotonic() < deadline, (statement, query(platform.url, statement))
        time.sleep(0.1)


def test_commands_publish_consume_and_retry(platform: Platform, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [encode(order(n, user_id=n % 10 + 1)) for n in range(1, 31)] + [b"", b"no order"]
    (platform.files / "lines.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    produced = platform.call("produce", "--file", "lines.jsonl", "--raw").stdout
    assert produced == "published 32 lines, unchecked\n"
    assert check("consumer", platform.settings) is not None
    with platform.consuming():
        eventually(platform, "SELECT count(*) FROM orders", 30)
        eventually(platform, "SELECT count(*) FROM rejected_orders", 2)
        assert check("consumer", platform.settings) is None
        deadline = time.monotonic() + 20
        while gather(platform.settings)["topic"]["not_in_flagged_stream"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        report = json.loads(platform.call("status", "--format", "json").stdout)
        topic = report["topic"]
        assert topic["kind"] == "pubsub"
        assert topic["subscription"] == platform.topic.subscription_path
        assert topic["emulator"] == platform.topic.emulator
        assert topic["unacknowledged"] is None
        assert len(topic["consumers"]) == 1
        assert topic["consumers"][0]["quiet_seconds"] < 10
        newest = max(o.position for o in stored_orders(platform.url))
        assert topic["last_position"] == newest >= SHARED_POSITIONS.start
        assert report["rejected"]["lines"] == 2
        print_status(gather(platform.settings))
        printed = capsys.readouterr().out
        assert platform.topic.subscription_path in printed
        assert "1 consumers connected" in printed
        assert "num_undelivered_messages" in printed
        assert platform.call("rejected", "retry").stdout == "published 2 rejected lines again\n"
        eventually(platform, "SELECT count(*) FROM rejected_orders", 4)
    assert [decode_flagged(line).id for line in read_all(flagged_stream(platform.settings)).values()] == [
        o.id for o in sorted(stored_orders(platform.url), key=lambda o: o.position)
    ]


def test_produce_simulates_a_past_day_and_is_healthy(platform: Platform) -> None:
    truth = platform.settings.ground_truth_path
    assert check("producer", platform.settings) == f"there is no {truth}: nothing was published yet"
    first = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 3 * 86_400))
    produced = platform.call("produce", "--from", first, "--to", first, "--orders-per-day", "50").stdout
    assert produced.startswith("published ")
    assert check("producer", platform.settings) is None
    published = len(truth.read_bytes().splitlines())
    assert platform.call("consume", "--once").stdout.startswith(f"{published} orders, ")


def test_first_run_publishes_its_past_days_once(platform: Platform) -> None:
    said: list[str] = []
    yesterday = business_day(datetime.now(UTC)) - timedelta(days=1)
    settings = platform.settings.model_copy(update={"first_day": yesterday})
    first_run_history(settings, platform.url, 40, said.append)
    [(stored, rejected)] = query(
        platform.url, "SELECT count(*), (SELECT count(*) FROM rejected_orders) FROM orders"
    )
    assert stored > 20
    assert rejected == 0
    first_run_history(settings, platform.url, 40, said.append)
    assert len(said) == 3


def test_only_the_flagged_stream_has_segments_to_remove_and_a_known_lag(platform: Platform) -> None:
    from prometheus_client import generate_latest

    consumer = fraud_consumer(platform.settings, platform.url)
    platform.topic.publish([encode(order(1)), encode(order(1))])
    consumer.run(once=True)
    metrics = generate_latest(registry(consumer)).decode()
    assert 'ecommersss_orders_total{status="genuine"} 1.0' in metrics
    assert "ecommersss_duplicates_total 1.0" in metrics
    assert "ecommersss_read_to_flagged_seconds_count 2.0" in metrics
    assert "ecommersss_lag_bytes" not in metrics
    [planned] = plan(platform.settings, platform.url, sensor_position=0)
    assert planned.name == "flagged_orders"
    assert [judgement.removable for judgement in planned.judgements] == [False]


@pytest.mark.long
def test_the_warehouse_decides_as_three_consumers_did(platform: Platform) -> None:
    """The lists, the exemptions and the rule book change while messages are in flight."""
    url, rules, settings = platform.url, platform.files / "rules.yml", platform.settings
    add_users(url, range(11, USERS + 1))
    rules.write_text(BEFORE.text)

    def block() -> None:
        for user in range(1, 9):
            add_entry(url, user, "block", "stolen card")

    def exempt() -> None:
        until = datetime.now(UTC) + timedelta(days=1)
        for rule, user in (("foreign_country", 3), ("blacklisted_user", 4), ("wallet_limit", 5)):
            add_exemption(url, Exemption(rule, user, "agreed", "Sari", until))
        remove_entry(url, 6, "block")

    def edit() -> None:
        (platform.files / "edited.yml").write_text(AFTER.text)
        (platform.files / "edited.yml").replace(rules)

    three = [SharedConsumer(url, platform.topic, None, RuleFile(rules), max_lines=20) for _ in range(3)]
    with running(*three):
        for part, change in enumerate((block, exempt, edit)):
            platform.topic.publish(order_lines(part, 1 + 500 * part))
            eventually(platform, f"SELECT count(*) > {part * LINES + LINES // 3} FROM orders", True)
            change()
        platform.topic.publish(order_lines(3, 1501))
        eventually(platform, "SELECT count(*) FROM orders", 4 * LINES)
    assert all(consumer.counters.orders > 100 for consumer in three), "the work was not shared"

    ensure_manifest()
    build_features(
        settings, raw_rows(url, Days.between(business_day(LONG_AGO), business_day(datetime.now(UTC))))
    )
    found = compare_verdicts(make_warehouse(settings), DAYS)
    assert found.examples == []
    assert (found.compared, found.orders, found.holds) == (4 * LINES, 4 * LINES, True)
    decided_with = read(
        settings.warehouse_path,
        "SELECT rules_version, lists_version > 0, count(*) > 20,"
        " count_if('blacklisted_user' IN shadow_reasons) > 5 FROM silver.fact_orders GROUP BY 1, 2",
    )
    assert set(decided_with) == {
        (BEFORE.version, False, True, False),
        (BEFORE.version, True, True, True),
        (AFTER.version, True, True, True),
    }

    with duckdb.connect(str(settings.warehouse_path)) as connection:
        connection.execute("UPDATE silver.fact_orders SET is_fraud = NOT is_fraud WHERE order_id = 1600")
    assert [one.order_id for one in compare_verdicts(make_warehouse(settings), DAYS).examples] == [1600]
