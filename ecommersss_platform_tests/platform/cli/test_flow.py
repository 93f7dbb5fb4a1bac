"""The `ecommersss` commands on a home of their own, from another folder.

Commands that run until stopped, and the first of some kinds, run as processes; the others in this process.
"""

from __future__ import annotations

import csv
import hmac
import io
import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from operator import itemgetter

import duckdb
import psycopg2
import pytest

from ecommersss_platform.cli.demo import MARTS
from ecommersss_platform.contracts import RAW_TABLES
from ecommersss_platform.instance.databases import embedded_server
from ecommersss_platform_tests.support.home import Home
from streaming.business_days import business_day
from streaming.orders import decode_flagged

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TODAY = business_day(datetime.now(UTC))
USERS = """id,username,email,first_name,last_name,default_payment,created_date
1,budi,budi@example.com,Budi,Santoso,OVO,2024-01-01T08:00:00+07:00
2,siti,siti@example.com,Siti,Rahma,,2024-01-02
"""
PRODUCT = {
    "id": 1,
    "product_name": "Kipas angin",
    "category": "Rumah",
    "price": "250000.00",
    "created_date": "2024-01-01T08:00:00+07:00",
}


PLANTED = """id,username,email,first_name,last_name,default_payment,created_date
50,Qzx.Handle@kantor.example,qzx.address@surat.example,Qzxgiven,Qzxfamily,OVO,2024-01-01T08:00:00+07:00
"""
"""A user whose names, address and username are found nowhere else."""


def order_line(number: int, **changes: object) -> str:
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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with two imported users and a product, whose embedded server runs from then on."""
    home = Home(tmp_path_factory.mktemp("platform") / "home")
    (home.files / "users.csv").write_text(USERS)
    home.file("products.jsonl", json.dumps(PRODUCT))
    assert "2 inserted" in home.run("import", "users", "users.csv")
    assert "1 inserted" in home.call("import", "products", "products.jsonl").stdout
    server = embedded_server(home.settings)
    # A command on a platform that is down leaves no server running, and `db url` says so.
    assert server.pid() is None
    assert "not running" in home.call("db", "url").stderr
    with server.lease():
        yield home


@pytest.fixture
def database(home: Home) -> Iterator[psycopg2.extensions.connection]:
    with closing(psycopg2.connect(embedded_server(home.settings).url())) as connection:
        connection.autocommit = True
        yield connection


def one(connection: psycopg2.extensions.connection, sql: str) -> object:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone()
    assert row is not None
    return row[0]


def test_db_init_is_repeatable_and_db_url_connects(home: Home) -> None:
    revision = home.call("db", "init").stdout
    assert re.search(r"revision \d{4}", revision)
    assert home.call("db", "init").stdout == revision
    url = home.call("db", "url")
    assert url.stderr == ""
    with closing(psycopg2.connect(url.stdout.strip())) as connection:
        assert one(connection, "SELECT current_database()") == "ecommersss"
    assert "@/dagster?host=/" in home.call("db", "url", "--database", "dagster").stdout
    assert "@127.0.0.1:" in home.call("db", "url", "--tcp").stdout
    assert "GRANT SELECT ON ALL TABLES" in home.call("db", "roles").stdout


def test_import_updates_rows_and_keeps_versions(home: Home, database: psycopg2.extensions.connection) -> None:
    home.call("import", "users", "users.csv")
    assert one(database, "SELECT count(*) FROM users_history WHERE id = 2") == 1
    (home.files / "moved.csv").write_text(USERS.replace("siti@example.com", "siti@example.org"))
    home.call("import", "users", "moved.csv")
    assert one(database, "SELECT count(*) FROM users_history WHERE id = 2") == 2
    assert one(database, "SELECT email FROM users WHERE id = 2") == "siti@example.org"


def test_import_names_the_bad_line_and_changes_nothing(
    home: Home, database: psycopg2.extensions.connection
) -> None:
    (home.files / "bad.csv").write_text(USERS.replace("1,budi", "7,budi").replace("2,siti", "two,siti"))
    answer = home.call("import", "users", "bad.csv", exit_code=1)
    assert "bad.csv" in answer.stderr
    assert "line 3" in answer.stderr  # the header is line 1
    assert one(database, "SELECT count(*) FROM users WHERE id = 7") == 0


def test_produce_and_consume_take_a_file_to_verdicts_and_the_flagged_stream(
    home: Home, database: psycopg2.extensions.connection
) -> None:
    good = home.file("good.jsonl", order_line(101), order_line(102, country="SG"))
    assert "published 2 orders, left out 0 lines" in home.call("produce", "--file", good).stdout
    assert "2 orders, 1 of them fraud" in home.run("consume", "--once")
    assert one(database, "SELECT fraud_reasons FROM orders WHERE id = 102") == ["foreign_country"]
    lines = [
        decode_flagged(line)
        for segment in sorted(home.settings.flagged_topic_dir.glob("*.jsonl"))
        for line in segment.read_bytes().splitlines()
    ]
    assert {line.id: line.status for line in lines if line.id in (101, 102)} == {101: "genuine", 102: "fraud"}


def test_produce_leaves_out_invalid_lines_unless_raw(home: Home) -> None:
    mixed = home.file("mixed.jsonl", order_line(111), "{nonsense", order_line(112, quantity=0))
    checked = home.call("produce", "--file", mixed, exit_code=1)
    assert "published 1 orders, left out 2 lines" in checked.stdout
    assert "line 2" in checked.stderr
    assert "line 3" in checked.stderr
    assert "invalid_quantity" in checked.stderr
    assert "published 3 lines, unchecked" in home.call("produce", "--raw", "--file", mixed).stdout
    home.call("consume", "--once")
    rejected = home.rows("rejected", "list")
    assert {"malformed_json", "invalid_quantity"} <= {str(row["reason"]) for row in rejected}
    assert "malformed_json" in home.call("rejected", "list").stdout


def test_consume_retries_rejected_orders_when_their_user_arrives(
    home: Home, database: psycopg2.extensions.connection
) -> None:
    home.call("produce", "--file", home.file("unknown.jsonl", order_line(121, user_id=99)))
    assert "unknown_user 1" in home.call("consume", "--once").stdout
    (home.files / "late.csv").write_text(USERS.splitlines()[0] + "\n99,l,l@example.com,L,L,,2024-01-01\n")
    home.call("import", "users", "late.csv")
    home.call("consume", "--once")
    assert one(database, "SELECT count(*) FROM orders WHERE id = 121") == 1


def test_rejected_retry_publishes_lines_again(home: Home) -> None:
    position = next(
        row["position"]
        for row in home.rows("rejected", "list")
        if row["reason"] == "malformed_json" and row["retried_at"] is None
    )
    assert home.rows("rejected", "retry", str(position)) == [{"retried": 1}]
    assert "999999999" in home.call("rejected", "retry", "999999999", exit_code=1).stderr


def test_produce_simulates_the_same_past_days_every_time(
    home: Home, database: psycopg2.extensions.connection
) -> None:
    yesterday = str(TODAY - timedelta(days=1))
    days = ("produce", "--from", yesterday, "--to", yesterday, "--orders-per-day", "50")
    first = home.call(*days).stdout
    assert "published" in first
    home.call("consume", "--once")
    orders = one(database, "SELECT count(*) FROM orders")
    assert home.call(*days).stdout == first
    assert "duplicates" in home.call("consume", "--once").stdout
    assert one(database, "SELECT count(*) FROM orders") == orders


def test_produce_and_consume_run_until_sigterm(home: Home, database: psycopg2.extensions.connection) -> None:
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
        for process in (producer, consumer):
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    assert (producer.returncode, consumer.returncode) == (0, 0)


def test_materialize_refuses_impossible_days(home: Home) -> None:
    future, yesterday = str(TODAY + timedelta(days=2)), str(TODAY - timedelta(days=1))
    assert future in home.call("materialize", "--from", future, "--to", future, exit_code=1).stderr
    swapped = home.call("materialize", "--from", str(TODAY), "--to", yesterday, exit_code=1)
    assert "swap them" in swapped.stderr


@pytest.fixture(scope="module")
def shown(home: Home) -> str:
    """The output of a demo on the home: orders of the tests above, two simulated days, the planted user."""
    (home.files / "planted.csv").write_text(PLANTED)
    home.call("import", "users", "planted.csv")
    home.call("produce", "--file", home.file("planted.jsonl", order_line(150, user_id=50, country="SG")))
    return home.call("demo", "--days", "2", "--orders-per-day", "500", "--rows", "6").stdout


def test_demo_shows_every_mart(home: Home, shown: str) -> None:
    assert "gold/most_fraudulent_users" in shown, "the run's table of assets"
    for mart in MARTS:
        [row] = home.rows("query", f"SELECT count(*) AS n FROM gold.{mart}")
        assert f"gold.{mart}: {row['n']:,} rows\n" in shown
    _, _, users = shown.partition("gold.most_fraudulent_users: ")
    ranks = re.findall(r"^│ +(\d+) │", users.partition("gold.")[0], re.MULTILINE)
    assert ranks == ["1", "2", "3", "4", "5", "6"]


def test_demo_ends_with_the_rules(shown: str, database: psycopg2.extensions.connection) -> None:
    """With what each flagged, and the reason why the rest is empty after two days."""
    _, _, rules = shown.partition("The rules: gold.rule_totals")
    flagged = dict(re.findall(r"^│ (\w+) +│ (?:active|shadow) │ +(\d+) │ +│", rules, re.MULTILINE))
    with database.cursor() as cursor:
        cursor.execute(
            "SELECT rule, count(*) FROM orders, unnest(fraud_reasons || shadow_reasons) AS rule GROUP BY rule"
        )
        assert {rule: int(orders) for rule, orders in flagged.items()} == dict(cursor.fetchall())
    assert "foreign_country" in flagged
    assert "No day is 60 days old yet: `ecommersss demo --days 120` has some." in rules


def test_stream_and_warehouse_decide_alike(home: Home, shown: str) -> None:
    first, [stored] = "2000-01-01", home.rows("query", "SELECT count(*) AS n FROM silver.fact_orders")
    found = json.loads(
        home.call("rules", "parity", "--from", first, "--to", "today", "--format", "json").stdout
    )
    assert (found["compared"], found["orders"], found["differences"]) == (stored["n"], stored["n"], 0)


def test_status_reports_topic_partitions_and_rejected_lines(home: Home, shown: str) -> None:
    report = json.loads(home.call("status", "--format", "json").stdout)
    assert report["up"] is False
    assert report["processes"] == []
    assert {row["table"]: row["newest"] for row in report["partitions"]}["raw.orders"] == str(TODAY)
    [consumer] = report["topic"]["consumers"]
    assert consumer["lag"] == report["topic"]["end"] - consumer["position"] == 0
    assert report["rejected"]["lines"] >= 3
    assert "fraud" in home.call("status").stdout


def test_reports_are_made_with_the_days_and_built_again_by_command(home: Home, shown: str) -> None:
    folder = home.settings.reports_dir
    yesterday = TODAY - timedelta(days=1)
    made = {page.name for page in folder.glob("*.html")}
    assert made == {"index.html", f"{yesterday}.html", f"{TODAY}.html"}
    today = (folder / f"{TODAY}.html").read_text()
    assert "The day is not over" in today
    assert "ecommersss lists add block " in today
    agree = r"PostgreSQL, raw\.orders and silver\.fact_orders agree on \d\d"
    assert re.search(agree, (folder / f"{yesterday}.html").read_text())

    status = json.loads(home.call("status", "--format", "json").stdout)
    assert status["report"] == {"day": str(TODAY), "page": (folder / f"{TODAY}.html").as_uri()}
    assert home.call("report", "open", "--no-browser").stdout == f"{(folder / f'{TODAY}.html').as_uri()}\n"
    assert "no report of 2020-01-01" in home.call("report", "open", "2020-01-01", exit_code=1).stderr

    (folder / f"{TODAY}.html").unlink()
    rows = home.rows("report", "build", "--from", "2020-01-01", "--to", "2020-01-01")
    rows += home.rows("report", "build", "--last", "30")  # all days of the younger platform: two
    assert [row["day"] for row in rows] == ["2020-01-01", str(yesterday), str(TODAY)]
    assert rows[0]["orders"] == 0 < rows[2]["orders"]
    assert "No orders were loaded for this day." in (folder / "2020-01-01.html").read_text()
    assert (folder / "index.html").read_text().count('<th scope="row"') == 3
    (folder / "2020-01-01.html").unlink()


def test_query_prints_every_format_and_is_read_only(home: Home, shown: str) -> None:
    sql = "SELECT order_id, is_fraud, amount FROM silver.fact_orders WHERE order_id IN (101, 102) ORDER BY 1"
    assert home.rows("query", sql) == [
        {"order_id": 101, "is_fraud": False, "amount": 250000.0},
        {"order_id": 102, "is_fraud": True, "amount": 250000.0},
    ]
    rows = list(csv.DictReader(io.StringIO(home.call("query", sql, "--format", "csv").stdout)))
    assert rows[1] == {"order_id": "102", "is_fraud": "True", "amount": "250000.00"}
    assert "250,000.00" in home.call("query", sql).stdout
    refused = home.call("query", "DELETE FROM raw.orders", exit_code=1)
    assert refused.stderr.startswith("ecommersss: ")
    assert len(home.rows("query", sql)) == 2


def test_everything_in_the_home_is_for_its_owner_only(home: Home, shown: str) -> None:
    settings = home.settings
    paths = [settings.home, *settings.home.rglob("*")]
    made = {settings.warehouse_path, settings.ground_truth_path, settings.dagster_home, settings.logs_dir}
    made |= {settings.reports_dir, settings.reports_dir / "index.html"}
    assert made <= set(paths)
    # The server's account passes through its own directory, which it cannot list.
    paths.remove(settings.postgres_dir)
    assert [path for path in paths if not path.is_symlink() and path.lstat().st_mode & 0o077] == []


def test_names_and_addresses_end_in_bronze(home: Home, shown: str) -> None:
    """No table of silver and gold, file, log, preview or event of a run has them, or the key of hashes."""
    settings, server = home.settings, embedded_server(home.settings)
    shown_to_people = {"output": shown, "server.log": server.log.read_text(errors="replace")}
    for path in settings.home.rglob("*"):
        if path.is_file() and not path.is_relative_to(settings.postgres_dir):
            shown_to_people[str(path.relative_to(settings.home))] = path.read_text(errors="replace")
    key = shown_to_people.pop("pseudonym_key").strip()
    del shown_to_people[settings.warehouse_path.name]
    assert {f"dbt/{run.name}/dbt.log" for run in (settings.home / "dbt").iterdir() if run.is_dir()} & set(
        shown_to_people
    )
    with closing(psycopg2.connect(server.url("dagster"))) as dagster, dagster.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        for (table,) in cursor.fetchall():
            cursor.execute(f"SELECT string_agg(t::text, ' ') FROM {table} t")
            shown_to_people[f"dagster.{table}"] = (cursor.fetchone() or ("",))[0] or ""
    assert "raw.users" in shown_to_people["dagster.event_logs"]
    with duckdb.connect(str(settings.warehouse_path), read_only=True) as warehouse:
        tables = {
            f"{schema}.{name}": str(warehouse.execute(f"SELECT * FROM {schema}.{name}").fetchall())
            for schema, name in warehouse.execute(
                "SELECT table_schema, table_name FROM information_schema.tables"
            ).fetchall()
        }
    bronze = {name: tables.pop(name) for name in list(tables) if name.startswith(("raw.", "bronze."))}
    found = {
        (secret, where)
        for where, text in (shown_to_people | tables).items()
        for secret in ("qzx.handle", "qzx.address", "qzxgiven", "qzxfamily", key.lower())
        if secret in text.lower()
    }
    assert found == set()
    for text in (bronze["raw.users"], bronze["bronze.stg_users"]):
        assert all(secret in text for secret in ("Qzx.Handle", "qzx.address", "Qzxgiven", "Qzxfamily"))
        assert key not in text
    # The user is there all the same.
    expected = hmac.new(key.encode(), b"qzx.address@surat.example", "sha256").hexdigest()
    assert (
        home.rows("query", "SELECT * FROM gold.users_and_blacklist WHERE user_id = 50")[0].items()
        >= {
            "username": "Q***@kantor.example",
            "masked_email": "q***@surat.example",
            "email_hash": expected,
            "fraud_orders": 1,
        }.items()
    )


@pytest.mark.long
def test_materialize_again_changes_no_table(home: Home, shown: str) -> None:
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
    assert {f"raw.{table.name}" for table in RAW_TABLES} < before.keys()
    assert before["silver.fact_orders"]
    home.call("materialize", "--last", "30", "--rebuild")  # all days of the younger platform: two
    after = tables()
    # Only the load log grows: one more entry per table and day, with the same rows and checksum.
    old, new = before.pop("raw.load_log"), after.pop("raw.load_log")
    assert after == before
    assert len(new) == len(old) + len(RAW_TABLES) * 2
    day_table_rows_checksum = itemgetter(0, 1, 3, 4)
    assert set(map(day_table_rows_checksum, new)) == set(map(day_table_rows_checksum, old))
