"""The consumer's metrics: what a scrape returns, how they are served, and their summary."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ecommersss_platform.local.ports import free_port
from ecommersss_platform_tests.support.shop import NOON
from streaming.counters import Counters, Distribution, RecentDistribution
from streaming.decisions import Decision
from streaming.metrics import HOST, figures, registry, served
from streaming.orders import REASONS
from streaming.rules import RuleBook
from streaming.rules.brake import Count, Override, probations
from streaming.rules.in_use import BookInUse

BOOK = RuleBook.parse(
    """
rules:
  - {name: big, description: d, mode: active, when: quantity > 100}
  - {name: abroad, description: d, mode: active, when: country <> 'ID'}
  - {name: maybe, description: d, mode: shadow, when: quantity > 10}
  - {name: look, description: d, mode: review, when: quantity > 20}
  - {name: never, description: d, mode: "off", when: quantity > 1}
""",
    "rules.yml",
)


def consumer(**changes: Any) -> Any:
    fields = {
        "in_use": BookInUse(BOOK),
        "counters": Counters(),
        "position": 700,
        "lag": lambda: 300,
        "waiting": False,
    }
    return SimpleNamespace(**(fields | changes))


def busy() -> Any:
    counters = Counters(
        orders=10,
        fraud=3,
        fraud_by_rule=Counter(big=2, renamed=1),
        shadow_by_rule=Counter(maybe=4),
        review_by_rule=Counter(look=2, random_sample=1),
        rejected=Counter(malformed_json=5),
        duplicates=2,
        retried=1,
    )
    counters.record(Decision(), 7, 0.004)
    counters.record(Decision(), 10, 0.03)
    return consumer(counters=counters)


def scrape(watched: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = generate_latest(registry(watched)).decode()
    return {
        (sample.name.removeprefix("ecommersss_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_are_exported() -> None:
    shown = scrape(busy())
    assert shown["orders_total", (("status", "fraud"),)] == 3
    assert shown["orders_total", (("status", "genuine"),)] == 7
    assert shown["fraud_total", (("rule", "big"),)] == 2
    assert shown["fraud_total", (("rule", "abroad"),)] == 0
    assert shown["fraud_total", (("rule", "renamed"),)] == 1, "a rule of an earlier book keeps its count"
    assert shown["shadow_total", (("rule", "maybe"),)] == 4
    assert shown["review_total", (("rule", "look"),)] == 2
    assert shown["review_total", (("rule", "random_sample"),)] == 1
    assert shown["rejected_total", (("reason", "malformed_json"),)] == 5
    assert shown["duplicates_total", ()] == 2
    assert shown["retried_total", ()] == 1
    assert shown["lag_bytes", ()] == 300
    assert shown["position_bytes", ()] == 700
    assert shown["database_up", ()] == 1
    assert shown["rule_book_info", (("rules", "5"), ("version", BOOK.version))] == 1
    assert shown["batch_lines_count", ()] == 2
    assert shown["batch_lines_sum", ()] == 17
    assert shown["batch_lines_bucket", (("le", "5.0"),)] == 0
    assert shown["batch_lines_bucket", (("le", "10.0"),)] == 2
    # Latency counts lines: seven took 4 ms and ten took 30 ms.
    assert shown["read_to_flagged_seconds_bucket", (("le", "0.002"),)] == 0
    assert shown["read_to_flagged_seconds_bucket", (("le", "0.005"),)] == 7
    assert shown["read_to_flagged_seconds_bucket", (("le", "0.05"),)] == 17
    assert shown["read_to_flagged_seconds_bucket", (("le", "+Inf"),)] == 17
    assert shown["recent_read_to_flagged_seconds", (("quantile", "0.5"),)] == 0.05
    assert shown["read_to_flagged_seconds_sum", ()] == pytest.approx(7 * 0.004 + 10 * 0.03)


def test_the_brake_is_exported_by_rule() -> None:
    book = RuleBook.parse(BOOK.text.replace("{name: big,", "{name: big, expected_share: [0, 0.1],"))
    in_use = BookInUse(book)
    in_use.choose(book, 7, (Override("abroad", "active", (0, 0.1), 100, 50, NOON),), 10)
    counts = [Count(probation, 10, 1) for probation in probations(book)]
    in_use.learn(counts, [Count(probation, 300, 20) for probation in probations(book)], lists_version=7)
    shown = scrape(consumer(in_use=in_use))
    assert shown["rule_overridden", (("rule", "abroad"),)] == 1
    assert shown["probation_orders", (("rule", "big"),)] == 300
    assert shown["probation_held", (("rule", "big"),)] == 20
    assert shown["rule_book_info", (("rules", "5"), ("version", in_use.book.version))] == 1
    assert in_use.book.version != book.version
    assert not [name for name, _ in scrape(consumer()) if name.startswith(("rule_overridden", "probation"))]


def test_unused_rules_and_reasons_are_zero_and_off_rules_absent() -> None:
    shown = scrape(consumer())
    assert {labels[0][1] for name, labels in shown if name == "rejected_total"} == set(REASONS)
    assert {labels[0][1] for name, labels in shown if name == "fraud_total"} == {"big", "abroad"}
    assert {labels[0][1] for name, labels in shown if name == "shadow_total"} == {"maybe"}
    assert (
        sum(value for (name, _), value in shown.items() if name.endswith("_total") and "cpu" not in name) == 0
    )


def test_only_platform_and_process_metrics_are_exported() -> None:
    text = generate_latest(registry(busy())).decode()
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert {name for name in families if not name.startswith(("ecommersss_", "process_"))} == set()
    assert "process_resident_memory_bytes" in families


def test_lag_is_absent_without_positions_or_a_readable_topic() -> None:
    watched = consumer(waiting=True)
    del watched.lag
    shown = scrape(watched)
    assert shown["database_up", ()] == 0
    assert ("lag_bytes", ()) not in shown
    assert ("position_bytes", ()) not in shown

    def unreadable() -> int:
        raise OSError(5, "Input/output error")

    shown = scrape(consumer(lag=unreadable))
    assert ("lag_bytes", ()) not in shown
    assert shown["duplicates_total", ()] == 0, "the other metrics are still exported"


def test_metrics_are_served_on_loopback_within_the_block() -> None:
    port = free_port(0)
    with served(busy(), port) as given:
        assert given == port
        with urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as response:
            assert b'ecommersss_orders_total{status="fraud"} 3.0' in response.read()
        listening = [t.name for t in threading.enumerate() if "serve_forever" in t.name]
        assert len(listening) == 1
        with socket.socket() as other, pytest.raises(OSError, match="refused"):
            other.connect(("127.0.0.2", port))
    with pytest.raises(URLError, match="refused"):
        urlopen(f"http://{HOST}:{port}/metrics", timeout=5)
    assert [t.name for t in threading.enumerate() if "serve_forever" in t.name] == []


@pytest.mark.parametrize("port", [None, 0])
def test_nothing_is_served_without_a_port(port: int | None) -> None:
    before = threading.active_count()
    with served(busy(), port) as given:
        assert given is None
        assert threading.active_count() == before


def test_a_port_in_use_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with served(busy(), port) as given:
            assert given is None
    assert f"no metrics: cannot listen on port {port} of 127.0.0.1: Address already in use" in caplog.text


def test_figures_summarise_a_scrape() -> None:
    summary = figures(generate_latest(registry(busy())).decode())
    assert summary.pop("memory_mb") > 5
    assert summary == {
        "orders": 10,
        "fraud": 3,
        "rejected": 5,
        "duplicates": 2,
        "lag_bytes": 300,
        "batches": 2,
        "mean_batch": 8.5,
        "p50_ms": 50.0,
        "p99_ms": 50.0,
        "rules_version": BOOK.version,
        "database_up": True,
    }


def test_figures_of_an_idle_consumer() -> None:
    summary = figures(generate_latest(registry(consumer())).decode())
    assert (summary["orders"], summary["batches"], summary["mean_batch"], summary["p50_ms"]) == (
        0,
        0,
        None,
        None,
    )
    assert set(figures("").values()) == {None}


def test_recent_latency_forgets_the_backlog_of_the_start() -> None:
    now = 0.0
    recent = RecentDistribution([0.01, 0.5, 1], minutes=5, clock=lambda: now)
    assert recent.quantile(0.5) is None
    recent.add(0.4, 5_000)
    recent.add(3.0, 1)
    assert (recent.quantile(0.5), recent.quantile(0.99), recent.quantile(1.0)) == (0.5, 0.5, float("inf"))
    for seconds in range(30, 299, 30):
        now = float(seconds)
        recent.add(0.004)
    assert recent.quantile(0.5) == 0.5, "the backlog is five minutes old at most"
    now = 300.0
    recent.add(0.004)
    assert recent.quantile(0.99) == 0.01
    now = 299.0 + 300
    assert recent.quantile(0.99) == 0.01
    now = 600.0
    assert recent.quantile(0.99) is None, "nothing arrived for five minutes"


@given(
    st.lists(st.floats(0.1, 100), min_size=1, max_size=6, unique=True).map(sorted),
    st.lists(st.tuples(st.floats(0, 200), st.integers(1, 5)), max_size=20),
)
def test_a_distribution_counts_values_up_to_each_bound(
    bounds: list[float], values: list[tuple[float, int]]
) -> None:
    distribution = Distribution(bounds)
    for value, times in values:
        distribution.add(value, times)
    buckets, total = distribution.cumulative()
    for bound, count in buckets:
        assert count == sum(times for value, times in values if value <= bound)
    assert [bound for bound, _ in buckets] == [*bounds, float("inf")]
    assert distribution.count == sum(times for _, times in values)
    assert total == pytest.approx(sum(value * times for value, times in values))


def test_bounds_must_ascend() -> None:
    with pytest.raises(ValueError, match=r"bounds are \[2, 1\]"):
        Distribution([2, 1])
