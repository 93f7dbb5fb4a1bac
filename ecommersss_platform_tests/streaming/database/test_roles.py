"""The roles of the operational database: each can do its work, and nothing else."""

from __future__ import annotations

from pathlib import Path

import psycopg2
import pytest

from ecommersss_platform.assets.raw import extract
from ecommersss_platform.contracts import RAW_TABLES
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform.partitions import Days
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform_tests.conftest import administer
from ecommersss_platform_tests.support.shop import (
    NOON,
    add_orders,
    add_users,
    execute,
    flagged,
    open_shop,
    order,
    query,
)
from streaming.business_days import business_day
from streaming.consumer import Consumer
from streaming.database import migrate
from streaming.database.shared import SharedOrderStore
from streaming.database.user_lists import add_entry
from streaming.orders import encode
from streaming.roles import GRANTS, LEAST, Role, role_statements
from streaming.rules import RULES_PATH, RuleBook, RuleFile
from streaming.simulator.history import produce_days, simulate_history
from streaming.topics.jsonl import JsonlTopic

pytestmark = pytest.mark.integration

NOBODY = (
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY users FROM PROGRAM 'true'",
    "COPY users TO '/tmp/users'",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT pg_ls_dir('.')",
    "SELECT lo_import('/etc/passwd')",
    "CREATE FUNCTION f() RETURNS int LANGUAGE internal AS 'f'",
    "SET session_preload_libraries = 'x'",
    "GRANT pg_execute_server_program TO CURRENT_USER",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "CREATE ROLE another",
    "SET ROLE postgres",
)
ONLY_THE_OWNER = (
    "CREATE TABLE t (n INT)",
    "DROP TABLE orders",
    "ALTER TABLE orders ADD COLUMN n INT",
    "TRUNCATE orders",
    "DELETE FROM orders",
    "UPDATE orders SET is_fraud = false",
    "DELETE FROM rejected_orders",
    "UPDATE users SET email = ''",
    "UPDATE users_history SET email = ''",
    "DELETE FROM shipments",
    "UPDATE verdicts SET verdict = 'genuine'",
    "UPDATE rule_books SET text = ''",
    "UPDATE user_lists SET removed_at = now()",
    "UPDATE rule_overrides SET lifted_at = now(), lifted_by = 'me', lifted_because = 'mine'",
    "DELETE FROM rule_probations",
    "INSERT INTO user_lists (user_id, list, reason, source) VALUES (1, 'allow', 'mine', 'person')",
    "UPDATE rule_exemptions SET removed_at = now()",
    "INSERT INTO rule_exemptions (rule) VALUES ('foreign_country')",
    f"SET ROLE {Role.OWNER}",
)
ANOTHER = {
    Role.CONSUMER: (
        "INSERT INTO users (id) VALUES (7)",
        "UPDATE products SET price = 1",
        "INSERT INTO verdicts (order_id) VALUES (7)",
    ),
    Role.READER: (
        "INSERT INTO users (id) VALUES (7)",
        "UPDATE products SET price = 1",
        "INSERT INTO orders (id) VALUES (7)",
        "INSERT INTO rule_books (version) VALUES ('v')",
        "INSERT INTO rule_overrides (rule) VALUES ('r')",
        "UPDATE rule_probations SET held = 0",
        "UPDATE topic_positions SET position = 0",
        "SELECT nextval('order_positions')",
    ),
    Role.SIMULATOR: (
        "SELECT is_fraud FROM orders",
        "SELECT raw FROM rejected_orders",
        "SELECT reason FROM user_lists",
        "SELECT reason FROM rule_exemptions",
        "INSERT INTO orders (id) VALUES (7)",
        "UPDATE topic_positions SET position = 0",
    ),
}


@pytest.fixture
def shop(database: str) -> str:
    """The name of a database with a shop in it."""
    open_shop(database)
    return database.rpartition("/")[2]


@pytest.mark.parametrize("role", Role)
def test_no_role_does_more_than_its_work(shop: str, postgres: EmbeddedPostgres, role: Role) -> None:
    url = postgres.url(shop, role)
    refused = NOBODY if role is Role.OWNER else (*NOBODY, *ONLY_THE_OWNER, *ANOTHER[role])
    for statement in refused:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            execute(url, statement)
    assert query(
        url,
        "SELECT rolsuper, rolcreaterole, rolbypassrls, rolreplication FROM pg_roles"
        " WHERE rolname = CURRENT_USER",
    ) == [(False, False, False, False)]


def test_the_consumer_consumes_retries_and_uses_the_lists(
    shop: str, database: str, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    url = postgres.url(shop, Role.CONSUMER)
    topic, stream = JsonlTopic(tmp_path / "orders"), JsonlTopic(tmp_path / "flagged")
    add_entry(database, 2, "block", "a test")
    topic.publish([encode(order(1)), b"{", encode(order(2, user_id=2)), encode(order(3, user_id=99))])
    Consumer(url, topic, stream, RuleFile(RULES_PATH)).run(once=True)
    assert query(database, "SELECT count(*) FROM rejected_orders WHERE retried_at IS NULL") == [(2,)]
    add_users(database, [99])
    Consumer(url, topic, stream, RuleFile(RULES_PATH)).run(once=True)
    assert query(database, "SELECT array_agg(id ORDER BY id) FROM orders") == [([1, 2, 3],)]
    assert query(database, "SELECT DISTINCT lists_version > 0 FROM orders") == [(True,)]
    kept = "SELECT version, first_position FROM rule_books"
    assert query(database, kept) == [(RuleFile(RULES_PATH).book.version, 0)]


def test_the_consumer_pulls_a_rule(
    shop: str, database: str, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    topic, stream = JsonlTopic(tmp_path / "orders"), JsonlTopic(tmp_path / "flagged")
    book = RuleBook.parse(
        "rules:\n- {name: all, description: d, mode: active, expected_share: [0, 0.1], when: quantity > 0}\n"
    )
    topic.publish([encode(order(n)) for n in range(1, 301)])
    Consumer(postgres.url(shop, Role.CONSUMER), topic, stream, book).run(once=True)
    counted = "SELECT rule, orders, held FROM rule_probations"
    assert query(database, counted) == [("all", 200, 200)]
    assert query(database, "SELECT rule, orders, added_version FROM rule_overrides") == [("all", 200, 1)]
    assert query(database, "SELECT count(*) FROM orders WHERE is_fraud") == [(200,)]


def test_the_consumer_of_a_shared_topic_takes_positions(shop: str, postgres: EmbeddedPostgres) -> None:
    url = postgres.url(shop, Role.CONSUMER)
    with SharedOrderStore(url) as store:
        store.open()
        positions = store.take_turn({1}, 2)
        store.put([flagged(n, position=p) for n, p in enumerate(positions, 1)], [], {})
    assert query(url, "SELECT array_agg(position ORDER BY id) FROM orders") == [(positions,)]


def test_the_simulator_simulates(
    shop: str, database: str, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    url, topic = postgres.url(shop, Role.SIMULATOR), JsonlTopic(tmp_path / "orders")
    day = business_day(NOON)
    history = simulate_history(url, topic, day, NOON, 100)
    assert history.users > 0
    assert history.products > 0
    assert history.repriced > 0
    assert produce_days(url, topic, day, day, 100, now=NOON) > 0
    assert query(url, "SELECT count(id) FROM orders") == [(0,)]
    add_orders(database, [1])
    execute(url, "INSERT INTO shipments (order_id, status, packed_at) VALUES (1, 'packed', now())")
    execute(url, "UPDATE shipments SET status = 'shipped', shipped_at = now()")
    execute(url, "INSERT INTO verdicts (order_id, verdict, reviewer) VALUES (1, 'fraud', 'nobody')")
    assert query(database, "SELECT status FROM shipments_history") == [("packed",), ("shipped",)]


def test_the_reader_reads_every_raw_table(
    shop: str, database: str, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOMMERSSS_PSEUDONYM_KEY", "k" * 32)
    reader = PostgresResource(url=postgres.url(shop, Role.READER))
    today = business_day(NOON)
    for table in RAW_TABLES:
        assert extract(table, Days.between(today, today), reader).read_all().num_rows == 0


@pytest.mark.parametrize("role", LEAST)
def test_every_role_may_ask_for_a_schema_that_is_up_to_date(
    shop: str, database: str, postgres: EmbeddedPostgres, role: Role
) -> None:
    assert migrate(postgres.url(shop, role)) == migrate(database)


def test_rights_are_granted_where_they_are_missing(postgres: EmbeddedPostgres) -> None:
    """A database of an earlier version, and a table of a later one."""
    administer(postgres, "CREATE DATABASE without_rights")
    try:
        url, reader = (postgres.url("without_rights", role) for role in (Role.OWNER, Role.READER))
        migrate(url)
        execute(url, GRANTS.replace("GRANT ", "REVOKE ").replace(" TO ", " FROM "))
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            query(reader, "SELECT FROM orders")
        migrate(url)
        assert query(reader, "SELECT id FROM orders") == []
    finally:
        administer(postgres, "DROP DATABASE without_rights WITH (FORCE)")


def test_printed_statements_make_the_roles_on_another_server(
    shop: str, database: str, postgres: EmbeddedPostgres
) -> None:
    statements = role_statements(Role.OWNER)
    for role in LEAST:  # this server has the real ones
        statements = statements.replace(role, f"{role}_printed")
    administrator = f"postgres:{postgres._credentials().admin_password}@"
    admin = database.replace(f"{Role.OWNER}:{postgres._credentials().password}@", administrator)
    execute(admin, statements)
    try:
        privilege = "SELECT has_table_privilege(%s, %s, %s)"
        rights = [(Role.CONSUMER, "orders"), (Role.READER, "orders"), (Role.SIMULATOR, "products")]
        for right in ("SELECT", "INSERT"):
            found = [query(admin, privilege, (f"{role}_printed", table, right)) for role, table in rights]
            assert found == [[(True,)], [(right == "SELECT",)], [(True,)]]
    finally:
        for role in LEAST:
            execute(admin, f"DROP OWNED BY {role}_printed; DROP ROLE {role}_printed")
