"""Every `ecommersss` command as a person runs it: a process of its own, in another folder."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path

import duckdb
import psycopg2
import pytest

from ecommersss_platform.instance.databases import embedded_server
from ecommersss_platform.settings import Settings
from streaming.business_days import business_day
from streaming.orders import decode_flagged

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TODAY = business_day(datetime.now(UTC))
USERS = """id,username,email,first_name,last_name,default_payment,created_date
1,budi,budi@example.com,Budi,Santoso,OVO,2024-01-01T08:00:00+07:00
2,siti,siti@example.com,Siti,Rahma,,2024-01-02
"""
PRODUCTS = [
    {
        "id": 1,
        "product_name": "Kipas angin",
        "category": "Rumah",
        "price": "250000.00",
        "created_date": "2024-01-01T08:00:00+07:00",
    }
]


class Home:
    """A platform's home, and the command run on it from another folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = path.parent
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ECOMMERSSS_")},
            "ECOMMERSSS_HOME": str(path),
        }
        self.settings = Settings(home=path)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ecommersss_platform.cli", *arguments],
            env=self.environment,
            cwd=self.files,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=400)
        assert process.returncode == exit_code, f"{arguments}: {output}\n{errors}"
        assert "Traceback" not in errors
        return subprocess.CompletedProcess(arguments, exit_code, output, errors)

    def json(self, *arguments: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.run(*arguments, "--format", "json").stdout.splitlines()]

    def order(self, number: int, **changes: object) -> str:
        order = {
            "id": number,
            "user_id": 1,
            "product_id": 1,
            "quantity": 1,
            "amount": 250000,
            "payment_method": "OVO",
            "country": "ID",
            "created_date": f"{TODAY}T00:00:01+07:00",
        }
        return json.dumps({**order, **changes})

    def file(self, name: str, *lines: str) -> str:
        (self.files / name).write_text("".join(f"{line}\n" for line in lines))
        return name


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with two users and a product, imported by the command, and its server up from then on."""
    home = Home(tmp_path_factory.mktemp("platform") / "home")
    (home.files / "users.csv").write_text(USERS)
    home.file("products.jsonl", *(json.dumps(product) for product in PRODUCTS))
    assert "2" in home.run("import", "users", "users.csv").stdout
    assert "1" in home.run("import", "products", "products.jsonl").stdout
    server = embedded_server(home.settings)
    # A command on a platform that is not up leaves no server behind, and says so of the URL.
    assert server.pid() is None
    assert "not running" in home.run("db", "url").stderr
    with server.lease():
        yield home


@pytest.fixture
def database(home: Home) -> Iterator[psycopg2.extensions.connection]:
    connection = psycopg2.connect(embedded_server(home.settings).url())
    connection.autocommit = True
    yield connection
    connection.close()


def one(connection: psycopg2.extensions.connection, sql: str) -> object:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone()
    assert row is not None
    return row[0]


def test_db_init_is_repeatable_and_db_url_is_the_running_databases(home: Home) -> None:
    revision = home.run("db", "init").stdout
    assert re.search(r"revision \d{4}", revision)
    assert home.run("db", "init").stdout == revision
    running = home.run("db", "url")
    assert running.stderr == ""
    connection = psycopg2.connect(running.stdout.strip())
    assert one(connection, "SELECT current_database()") == "ecommersss"
    connection.close()
    assert home.run("db", "url", "--database", "dagster").stdout.strip().endswith("/dagster")


def test_import_is_an_upsert_that_keeps_versions(
    home: Home, database: psycopg2.extensions.connection
) -> None:
    home.run("import", "users", "users.csv")
    assert one(database, "SELECT count(*) FROM users_history WHERE id = 2") == 1
    (home.files / "moved.csv").write_text(USERS.replace("siti@example.com", "siti@example.org"))
    home.run("import", "users", "moved.csv")
    assert one(database, "SELECT count(*) FROM users_history WHERE id = 2") == 2
    assert one(database, "SELECT email FROM users WHERE id = 2") == "siti@example.org"


def test_import_names_the_bad_line_and_changes_nothing(
    home: Home, database: psycopg2.extensions.connection
) -> None:
    (home.files / "bad.csv").write_text(USERS.replace("1,budi", "7,budi").replace("2,siti", "two,siti"))
    answer = home.run("import", "users", "bad.csv", exit_code=1)
    assert "bad.csv" in answer.stderr
    assert "3" in answer.stderr  # the line: the header is the first
    assert one(database, "SELECT count(*) FROM users WHERE id = 7") == 0


def test_orders_go_from_a_file_to_verdicts_and_to_the_flagged_stream(
    home: Home, database: psycopg2.extensions.connection
) -> None:
    good = home.file("good.jsonl", home.order(101), home.order(102, country="SG"))
    assert "published 2 orders, left out 0 lines" in home.run("produce", "--file", good).stdout
    drained = home.run("consume", "--once").stdout
    assert "2 orders, 1 of them fraud" in drained
    assert one(database, "SELECT fraud_reasons FROM orders WHERE id = 102") == ["foreign_country"]
    lines = [
        decode_flagged(line)
        for segment in sorted(home.settings.flagged_topic_dir.glob("*.jsonl"))
        for line in segment.read_bytes().splitlines()
    ]
    assert {line.id: line.status for line in lines if line.id in (101, 102)} == {101: "genuine", 102: "fraud"}


def test_a_file_with_bad_lines_is_published_without_them_unless_raw(home: Home) -> None:
    mixed = home.file("mixed.jsonl", home.order(111), "{nonsense", home.order(112, quantity=0))
    checked = home.run("produce", "--file", mixed, exit_code=1)
    assert "published 1 orders, left out 2 lines" in checked.stdout
    assert "line 2" in checked.stderr
    assert "line 3" in checked.stderr
    assert "invalid_quantity" in checked.stderr
    assert "published 3 lines, unchecked" in home.run("produce", "--raw", "--file", mixed).stdout
    home.run("consume", "--once")
    rejected = home.json("rejected", "list")
    assert {"malformed_json", "invalid_quantity"} <= {str(row["reason"]) for row in rejected}
    assert "malformed_json" in home.run("rejected", "list").stdout


def test_rejected_orders_are_retried_when_their_user_is_there(
    home: Home, database: psycopg2.extensions.connection
) -> None:
    unknown = home.file("unknown.jsonl", home.order(121, user_id=99))
    home.run("produce", "--file", unknown)
    assert "unknown_user 1" in home.run("consume", "--once").stdout
    (home.files / "late.csv").write_text(USERS.splitlines()[0] + "\n99,l,l@example.com,L,L,,2024-01-01\n")
    home.run("import", "users", "late.csv")
    home.run("consume", "--once")
    assert one(database, "SELECT count(*) FROM orders WHERE id = 121") == 1


def test_rejected_retry_publishes_lines_again(home: Home) -> None:
    [position] = [
        row["position"]
        for row in home.json("rejected", "list")
        if row["reason"] == "malformed_json" and row["retried_at"] is None
    ][:1]
    assert home.json("rejected", "retry", str(position)) == [{"retried": 1}]
    wrong = home.run("rejected", "retry", "999999999", exit_code=1)
    assert "999999999" in wrong.stderr


def test_produce_simulates_past_days_the_same_way_twice(
    home: Home, database: psycopg2.extensions.connection
) -> None:
    yesterday = str(TODAY - timedelta(days=1))
    days = ("produce", "--from", yesterday, "--to", yesterday, "--orders-per-day", "50")
    first = home.run(*days).stdout
    assert "published" in first
    home.run("consume", "--once")
    orders = one(database, "SELECT count(*) FROM orders")
    assert home.run(*days).stdout == first
    assert "duplicates" in home.run("consume", "--once").stdout
    assert one(database, "SELECT count(*) FROM orders") == orders


def test_produce_live_until_it_is_told_to_stop(home: Home, database: psycopg2.extensions.connection) -> None:
    before = one(database, "SELECT count(*) FROM orders")
    producer = home.start("produce", "--rate", "200")
    consumer = home.start("consume")
    try:
        deadline = time.monotonic() + 120
        while one(database, "SELECT count(*) FROM orders") == before:
            assert time.monotonic() < deadline, "no order was produced and stored"
            assert (producer.poll(), consumer.poll()) == (None, None)
            time.sleep(0.1)
    finally:
        producer.send_signal(signal.SIGTERM)
        producer.communicate(timeout=60)
        consumer.send_signal(signal.SIGTERM)
        consumer.communicate(timeout=60)
    assert (producer.returncode, consumer.returncode) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("produce", "--from", "2026-01-01"), "go together"),
        (("produce", "--raw"), "--raw goes with --file"),
        (("produce", "--file", "absent.jsonl"), "does not exist"),
        (("query", "SELECT 1", "--format", "xml"), "xml"),
        (("materialize", "--from", "yesterday", "--to", "2026-01-01"), "yesterday"),
    ],
)
def test_wrong_usage_is_said(home: Home, arguments: tuple[str, ...], expected: str) -> None:
    # The box that usage errors are drawn in breaks lines.
    said = " ".join(home.run(*arguments, exit_code=2).stderr.replace("│", " ").split())
    assert expected in said


def test_wrong_settings_are_said_with_their_names(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.environment["ECOMMERSSS_TOPIC"] = "kafka"
    answer = home.run("status", exit_code=1)
    assert "ECOMMERSSS_TOPIC" in answer.stderr
    assert "kafka" in answer.stderr


def test_status_and_query_of_a_home_where_nothing_is(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert "ecommersss up" in home.run("status", exit_code=1).stderr
    assert home.run("query", "SELECT 1", exit_code=1).stderr.startswith("ecommersss: ")


def test_materialize_status_and_query(home: Home) -> None:
    # The home's first day is a week ago; a late and a future range are refused before anything runs.
    future = str(TODAY + timedelta(days=2))
    assert future in home.run("materialize", "--from", future, "--to", future, exit_code=1).stderr
    swapped = home.run(
        "materialize", "--from", str(TODAY), "--to", str(TODAY - timedelta(days=1)), exit_code=1
    )
    assert "swap them" in swapped.stderr
    done = home.run("materialize", "--from", str(TODAY - timedelta(days=1)), "--to", str(TODAY))
    assert "gold/most_fraudulent_users" in done.stdout

    report = json.loads(home.run("status", "--format", "json").stdout)
    assert report["up"] is False
    assert report["processes"] == []
    assert {row["table"]: row["newest"] for row in report["partitions"]}["raw.orders"] == str(TODAY)
    assert report["topic"]["consumers"][0]["lag"] == report["topic"]["end"] - int(
        report["topic"]["consumers"][0]["position"]
    )
    assert report["rejected"]["lines"] >= 3
    assert "fraud" in home.run("status").stdout

    sql = "SELECT order_id, is_fraud, amount FROM silver.fact_orders WHERE order_id IN (101, 102) ORDER BY 1"
    assert home.json("query", sql) == [
        {"order_id": 101, "is_fraud": False, "amount": 250000.0},
        {"order_id": 102, "is_fraud": True, "amount": 250000.0},
    ]
    rows = list(csv.DictReader(io.StringIO(home.run("query", sql, "--format", "csv").stdout)))
    assert rows[1] == {"order_id": "102", "is_fraud": "True", "amount": "250000.00"}
    assert "250000.00" in home.run("query", sql).stdout
    refused = home.run("query", "DELETE FROM raw.orders", exit_code=1)
    assert refused.stderr.startswith("ecommersss: ")
    assert len(home.json("query", sql)) == 2


def test_the_demo_shows_every_mart_and_the_same_days_twice_are_the_same_tables(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    shown = home.run("demo", "--days", "2", "--orders-per-day", "1500", "--rows", "2").stdout
    for mart in ("users_and_blacklist", "most_fraudulent_users", "payment_fraud_critical_time"):
        assert f"gold.{mart}" in shown
    for mart in ("product_and_users", "product_and_payment_methods"):
        assert f"gold.{mart}" in shown

    def tables() -> dict[str, list[tuple[object, ...]]]:
        with duckdb.connect(str(home.settings.warehouse_path), read_only=True) as warehouse:
            names = warehouse.execute(
                "SELECT table_schema || '.' || table_name FROM information_schema.tables"
                " WHERE table_schema IN ('raw', 'silver', 'gold') ORDER BY 1"
            ).fetchall()
            return {
                name: warehouse.execute(f"SELECT * FROM {name} ORDER BY ALL").fetchall() for (name,) in names
            }

    before = tables()
    assert len(before) == 14
    assert all(before.values())
    home.run("materialize", "--from", str(TODAY - timedelta(days=1)), "--to", str(TODAY))
    after = tables()
    # The load log alone has more: each of the two days once more, with the rows that it had.
    old, new = before.pop("raw.load_log"), after.pop("raw.load_log")
    assert after == before
    assert len(new) == len(old) + 3 * 2
    day_table_rows_checksum = itemgetter(0, 1, 3, 4)
    assert set(map(day_table_rows_checksum, new)) == set(map(day_table_rows_checksum, old))


def test_help_says_what_each_command_does() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "ecommersss_platform.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for command in ("up", "demo", "status", "db", "import", "produce", "consume", "rejected", "query"):
        assert re.search(rf"^\s+{command}\s+\w+", help_text, re.MULTILINE), command
