"""The consumer's metrics for Prometheus, at http://127.0.0.1:PORT/metrics.

The consumer counts as it works, and a scrape reads its counters. Counters begin at zero when the process
starts, as Prometheus expects. Labels are rule names, reasons and versions: never data of an order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from streaming.counters import Distribution

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from streaming.consumer_loop import ConsumerLoop

logger = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"

ORDERS: Final = "ecommersss_orders"
FRAUD: Final = "ecommersss_fraud"
SHADOW: Final = "ecommersss_shadow"
REVIEW: Final = "ecommersss_review"
REJECTED: Final = "ecommersss_rejected"
DUPLICATES: Final = "ecommersss_duplicates"
RETRIED: Final = "ecommersss_retried"
LAG: Final = "ecommersss_lag_bytes"
POSITION: Final = "ecommersss_position_bytes"
BATCH_LINES: Final = "ecommersss_batch_lines"
LATENCY: Final = "ecommersss_read_to_flagged_seconds"
RECENT_LATENCY: Final = "ecommersss_recent_read_to_flagged_seconds"
RULE_BOOK: Final = "ecommersss_rule_book_info"
OVERRIDDEN: Final = "ecommersss_rule_overridden"
PROBATION_ORDERS: Final = "ecommersss_probation_orders"
PROBATION_HELD: Final = "ecommersss_probation_held"
DATABASE_UP: Final = "ecommersss_database_up"


class ConsumerMetrics:
    """A `prometheus_client` collector of one consumer's counters."""

    def __init__(self, consumer: ConsumerLoop) -> None:
        self._consumer = consumer

    def collect(self) -> Iterator[Metric]:
        """Yield the consumer's current metrics."""
        from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily

        from streaming.orders import REASONS

        consumer, counters = self._consumer, self._consumer.counters
        in_use, book = consumer.in_use, consumer.in_use.book
        yield _counter(
            ORDERS,
            "Orders stored, by status.",
            "status",
            [("fraud", counters.fraud), ("genuine", counters.orders - counters.fraud)],
        )
        # A rule or reason that never occurred is exported as 0: a rate over a series that appears later would
        # miss its first increase.
        for name, what, mode, counts in (
            (FRAUD, "Orders for which an active rule held, by rule.", "active", counters.fraud_by_rule),
            (SHADOW, "Orders for which a shadow rule held, by rule.", "shadow", counters.shadow_by_rule),
            (REVIEW, "Orders for which a review rule held, by rule.", "review", counters.review_by_rule),
        ):
            rules = dict.fromkeys((rule.name for rule in book.rules if rule.mode == mode), 0)
            yield _counter(name, what, "rule", (rules | dict(counts)).items())
        reasons = dict.fromkeys(REASONS, 0) | dict(counters.rejected)
        yield _counter(REJECTED, "Lines rejected, by reason.", "reason", reasons.items())
        yield _counter(DUPLICATES, "Lines that repeat a stored order exactly.", value=counters.duplicates)
        yield _counter(
            RETRIED,
            "Lines published again because their user or product had arrived.",
            value=counters.retried,
        )
        if (lag := _lag(consumer)) is not None:
            yield GaugeMetricFamily(LAG, "Bytes of the topic not yet committed.", value=lag)
            yield GaugeMetricFamily(
                POSITION, "The committed position in the topic, in bytes.", value=consumer.position
            )
        yield _histogram(
            BATCH_LINES,
            "Lines per batch, valid or not; the count is the number of batches.",
            counters.sizes,
        )
        yield _histogram(
            LATENCY,
            "Seconds per line from reading it until its order was committed and its flagged line written."
            " Time spent waiting in the topic is not included: see the lag.",
            counters.latency,
        )
        recent = GaugeMetricFamily(
            RECENT_LATENCY,
            "The same for lines of the last five minutes: the bound that a share of them does not exceed.",
            labels=["quantile"],
        )
        for share in ("0.5", "0.99"):
            if (bound := counters.recent_latency.quantile(float(share))) is not None:
                recent.add_metric([share], bound)
        yield recent
        yield InfoMetricFamily(
            RULE_BOOK.removesuffix("_info"),
            "The rule book in use; its version is stored with each order that it flags.",
            value={"version": book.version, "rules": str(len(book.rules))},
        )
        yield _gauge(
            OVERRIDDEN,
            "1 for each rule that the brake put back to shadow, until the override is lifted.",
            ((override.rule, 1) for override in in_use.overrides),
        )
        progress = in_use.progress
        for name, what, value in (
            (PROBATION_ORDERS, "Orders that all consumers decided since the rule's promotion.", "orders"),
            (PROBATION_HELD, "Orders of them for which the rule held.", "held"),
        ):
            yield _gauge(name, what, ((rule, getattr(count, value)) for rule, count in progress.items()))
        yield GaugeMetricFamily(
            DATABASE_UP, "1, or 0 while the consumer waits for PostgreSQL.", value=int(not consumer.waiting)
        )


def _counter(
    name: str, what: str, label: str = "", by: Iterable[tuple[str, int]] = (), value: int | None = None
) -> Metric:
    from prometheus_client.metrics_core import CounterMetricFamily

    if value is not None:
        return CounterMetricFamily(name, what, value=value)
    family = CounterMetricFamily(name, what, labels=[label])
    for key, count in by:
        family.add_metric([key], count)
    return family


def _gauge(name: str, what: str, by_rule: Iterable[tuple[str, int]]) -> Metric:
    from prometheus_client.metrics_core import GaugeMetricFamily

    family = GaugeMetricFamily(name, what, labels=["rule"])
    for rule, value in by_rule:
        family.add_metric([rule], value)
    return family


def _histogram(name: str, what: str, distribution: Distribution) -> Metric:
    from prometheus_client.metrics_core import HistogramMetricFamily
    from prometheus_client.utils import floatToGoString

    buckets, total = distribution.cumulative()
    return HistogramMetricFamily(
        name, what, buckets=[(floatToGoString(bound), count) for bound, count in buckets], sum_value=total
    )


def _lag(consumer: Any) -> int | None:
    """Return how many bytes the consumer is behind, or None without positions or a readable topic."""
    if hasattr(consumer, "lag"):
        with suppress(OSError):
            return int(consumer.lag())
    return None


def registry(consumer: ConsumerLoop) -> CollectorRegistry:
    """Return a registry of the consumer's metrics, and of its process's memory, CPU time and open files."""
    from prometheus_client import CollectorRegistry, ProcessCollector

    own = CollectorRegistry()
    own.register(ConsumerMetrics(consumer))
    ProcessCollector(registry=own)
    return own


@contextmanager
def served(consumer: ConsumerLoop, port: int | None) -> Iterator[int | None]:
    """Serve the consumer's metrics on a loopback port within the block, and yield the port.

    Without a port (None or 0) nothing is served. A port in use is only logged: flagging orders matters more
    than metrics, and Prometheus itself reports a target that does not answer.
    """
    if not port:
        yield None
        return
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, addr=HOST, registry=registry(consumer))
    except OSError as error:
        logger.error("no metrics: cannot listen on port %d of %s: %s", port, HOST, error.strerror or error)
        yield None
        return
    logger.info("metrics at http://%s:%d/metrics", HOST, port)
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def figures(text: str) -> dict[str, Any]:
    """Summarise the text of a scrape for people. A value that it does not have is None.

    Keys: orders, fraud, rejected, duplicates, lag_bytes, batches, mean_batch, p50_ms and p99_ms (upper
    bounds of the time from reading a line to flagging it, in the last five minutes), rules_version,
    database_up, memory_mb.
    """
    from prometheus_client.parser import text_string_to_metric_families

    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(name: str, **labels: str) -> int | None:
        found = [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]
        return int(sum(found)) if found else None

    def milliseconds(share: str) -> float | None:
        found = [s.value for s in samples if s.name == RECENT_LATENCY and s.labels["quantile"] == share]
        return 1000 * found[0] if found and found[0] < float("inf") else None

    batches = total(f"{BATCH_LINES}_count")
    memory = total("process_resident_memory_bytes")
    up = total(DATABASE_UP)
    return {
        "orders": total(f"{ORDERS}_total"),
        "fraud": total(f"{ORDERS}_total", status="fraud"),
        "rejected": total(f"{REJECTED}_total"),
        "duplicates": total(f"{DUPLICATES}_total"),
        "lag_bytes": total(LAG),
        "batches": batches,
        "mean_batch": round((total(f"{BATCH_LINES}_sum") or 0) / batches, 1) if batches else None,
        "p50_ms": milliseconds("0.5"),
        "p99_ms": milliseconds("0.99"),
        "rules_version": next((s.labels["version"] for s in samples if s.name == RULE_BOOK), None),
        "database_up": None if up is None else bool(up),
        "memory_mb": None if memory is None else round(memory / 1e6),
    }
