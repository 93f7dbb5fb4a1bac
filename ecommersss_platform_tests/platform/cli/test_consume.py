"""The consumer as a process: metrics, logs and health, none of which shows personal data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from ecommersss_platform.cli.status import print_status
from ecommersss_platform.local.ports import free_port
from ecommersss_platform.settings import Settings
from ecommersss_platform.status import consumer_figures, gather
from ecommersss_platform.topics import orders_topic
from ecommersss_platform_tests.support.shop import open_shop, order, query, write
from streaming.orders import encode

pytestmark = pytest.mark.integration

SECRETS = ["siti.rahayu@example.com", "Siti", "Rahayu", "4111 1111 1111 1111", "+62 812", "SitiPay"]


def lines() -> list[bytes]:
    """Return valid and broken lines with personal data in every place that can hold text."""
    mail, first, last, card, phone, method = (secret.encode() for secret in SECRETS)
    good = encode(order(1, payment_method="SitiPay Rahayu"))
    return [
        good,
        encode(order(2, quantity=301, payment_method="4111 1111 1111 1111")),
        good,
        encode(order(1, payment_method="SitiPay")),
        encode(order(3, user_id=99, payment_method="SitiPay")),
        good[:-1] + b',"email":"' + mail + b'","name":"' + first + b" " + last + b'"}',
        b'{"id": 9, "user_id": "' + first + b'", "email": "' + mail + b'", "phone": "' + phone + b'"}',
        encode(order(4))[:-1] + b',"country":"' + last + b'"}',
        encode(order(5)).replace(b'"ID"', b'"' + last + b'"'),
        encode(order(6)).replace(b'"OVO"', b'"' + card * 10 + b'"'),
        encode(order(7)).replace(b"3000.00", b'"' + phone + b" " + mail + b'"'),
        mail + b" " + first + b" \xff " + method,
        b"",
    ]


class Consume:
    """A process of `ecommersss consume`."""

    def __init__(self, url: str, home: Path, *arguments: str, **settings: str) -> None:
        environment = {name: value for name, value in os.environ.items() if "ECOMMERSSS_" not in name}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ecommersss_platform.cli", "consume", *arguments],
            env={
                **environment,
                "ECOMMERSSS_HOME": str(home),
                "ECOMMERSSS_DATABASE_URL": url,
                **{f"ECOMMERSSS_{name.upper()}": value for name, value in settings.items()},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=home,
        )

    def stop(self) -> tuple[str, str]:
        """End the process by SIGTERM, and return its output and errors."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=30)


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.05)


@pytest.fixture
def settings(database: str, tmp_path: Path) -> Settings:
    open_shop(database)
    write(
        database,
        "INSERT INTO users (id, username, email, first_name, last_name, created_date) VALUES %s",
        [(50, "SitiPay", SECRETS[0], "Siti", "Rahayu", "2025-01-01")],
    )
    return Settings(home=tmp_path, database_url=database, metrics_port=free_port(0))


def test_metrics_logs_and_health_of_a_running_consumer(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    port = settings.metrics_port
    assert settings.database_url
    assert port
    consume = Consume(
        settings.database_url.get_secret_value(), settings.home, log_format="json", metrics_port=str(port)
    )
    try:
        end = orders_topic(settings).publish(lines())

        def drained() -> bool:
            figures = consumer_figures(f"http://127.0.0.1:{port}/metrics")
            return figures is not None and figures["lag_bytes"] == 0 and bool(figures["batches"])

        eventually(drained)
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
            scraped = response.read().decode()
        report = gather(settings)
        print_status(report)
        shown = capsys.readouterr().out
        _, errors = consume.stop()
    finally:
        consume.process.kill()
    assert consume.process.returncode == 0, errors

    [(stored, rejected)] = query(
        settings.database_url.get_secret_value(),
        "SELECT count(*), (SELECT count(*) FROM rejected_orders) FROM orders",
    )
    assert 'ecommersss_orders_total{status="fraud"} 1.0' in scraped
    assert 'ecommersss_fraud_total{rule="extreme_order"} 1.0' in scraped
    assert 'ecommersss_rejected_total{reason="unknown_user"} 1.0' in scraped
    assert "ecommersss_duplicates_total 2.0" in scraped
    assert f"ecommersss_position_bytes {float(end)}" in scraped
    figures = report["consumer"]
    assert (figures["orders"], figures["rejected"], figures["duplicates"]) == (stored, rejected, 2)
    assert stored + rejected + 2 == len(lines())
    assert report["metrics"] == f"http://127.0.0.1:{port}/metrics"
    assert f"fraud consumer since its start; latency of 5 minutes (http://127.0.0.1:{port}/metrics)" in shown

    records = [json.loads(line) for line in errors.splitlines()]
    begun = next(record for record in records if "consuming topic" in record["message"])
    assert (begun["level"], begun["position"], begun["logger"]) == ("info", 0, "streaming.consumer")
    assert len(begun["rules_version"]) >= 6
    assert any("consumer stopped" in record["message"] and record["position"] == end for record in records)
    for secret in SECRETS:
        assert secret not in scraped
        assert secret not in errors
        assert secret not in shown
    with pytest.raises(URLError):
        urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2)


def test_without_settings_no_metrics_are_served_and_logs_are_text(settings: Settings) -> None:
    assert settings.database_url
    orders_topic(settings).publish(lines())
    consume = Consume(settings.database_url.get_secret_value(), settings.home, "--once")
    out, errors = consume.process.communicate(timeout=60)
    assert consume.process.returncode == 0, errors
    assert "0 bytes behind" in out
    assert "INFO    streaming.consumer: consuming topic" in errors
    assert "metrics" not in errors
    for secret in SECRETS:
        assert secret not in out + errors


def test_known_problem_is_json_among_json_logs(settings: Settings) -> None:
    consume = Consume(
        "postgresql://nobody:" + "x" * 8 + "@127.0.0.1:1/none", settings.home, "--once", log_format="json"
    )
    out, errors = consume.process.communicate(timeout=60)
    assert consume.process.returncode == 1, errors
    records = [json.loads(line) for line in errors.splitlines()]
    assert records[-1]["level"] == "critical"
    assert records[-1]["message"].startswith("PostgreSQL: connection to server at ")
    assert out == ""


def test_health_exit_codes_and_sentences(settings: Settings) -> None:
    assert settings.database_url

    def health(process: str, url: str) -> tuple[int, str]:
        environment = {name: value for name, value in os.environ.items() if "ECOMMERSSS_" not in name}
        done = subprocess.run(
            [sys.executable, "-m", "ecommersss_platform.cli", "health", process],
            env={**environment, "ECOMMERSSS_HOME": str(settings.home), "ECOMMERSSS_DATABASE_URL": url},
            capture_output=True,
            text=True,
            cwd=settings.home,
        )
        return done.returncode, done.stdout

    assert health("consumer", settings.database_url.get_secret_value()) == (0, "the consumer is healthy\n")
    code, printed = health("consumer", "postgresql://nobody@127.0.0.1:1/none")
    assert code == 1
    assert printed.startswith("PostgreSQL is unreachable: ")
    code, printed = health("producer", settings.database_url.get_secret_value())
    assert code == 1
    assert printed.endswith("has no segment: nothing was published yet\n")
    orders_topic(settings).publish([b"{}"])
    assert health("producer", settings.database_url.get_secret_value()) == (0, "the producer is healthy\n")
