"""`ecommersss rules` and `ecommersss lists`, on a database with orders."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ecommersss_platform.cli import app as cli
from ecommersss_platform_tests.support.shop import NOON, execute, open_shop, order, query
from streaming.consumer import Consumer
from streaming.database import connect
from streaming.database.exemptions import remove_exemption
from streaming.database.rule_books import find_book
from streaming.database.user_lists import add_entry, block_for_platform, list_entries, remove_entry
from streaming.errors import PlatformError
from streaming.explain import BookNotKept, explain
from streaming.orders import encode
from streaming.rules import RULES_PATH, RuleBook
from streaming.rules.examples import EXAMPLES_PATH
from streaming.topics.jsonl import JsonlTopic

pytestmark = pytest.mark.integration

BOOK = RuleBook.load(RULES_PATH)
MINUTE = timedelta(minutes=1)
Run = Callable[..., Result]


@pytest.fixture
def url(database: str) -> str:
    open_shop(database)
    return database


@pytest.fixture
def run(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("ECOMMERSSS_DATABASE_URL", url)
    monkeypatch.setenv("ECOMMERSSS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ECOMMERSSS_RULES", raising=False)
    return lambda *arguments: CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def consume(url: str, tmp_path: Path) -> Callable[..., None]:
    """Publish orders and have them stored, as one batch."""
    topic, flagged = JsonlTopic(tmp_path / "orders"), JsonlTopic(tmp_path / "flagged")

    def consume(*orders: object) -> None:
        topic.publish([encode(o) for o in orders])  # type: ignore[arg-type]
        Consumer(url, topic, flagged, BOOK).run(once=True)

    return consume


def test_explain_uses_what_was_known_at_the_orders_position(url: str, consume: Callable[..., None]) -> None:
    """Later orders, list entries and prices change nothing."""
    add_entry(url, 1, "block", "x")
    consume(
        order(1, created_date=NOON - 60 * 24 * MINUTE),
        order(2, created_date=NOON + MINUTE, country="SG"),
        order(3, country="MY", amount=Decimal("5.00")),
    )
    remove_entry(url, 1, "block")
    consume(order(4, created_date=NOON - MINUTE), order(5, created_date=NOON - MINUTE))
    explained = explain(url, 3, BOOK)
    row = explained.row
    assert (row.user_orders_24h, row.user_countries_24h, row.is_blacklisted) == (1, 1, True)
    assert (row.seconds_since_last_order, row.user_amount_24h) == (86_400, Decimal("5.00"))
    assert (explained.same_book, explained.agrees) == (True, True)
    assert explained.reasons == (["foreign_country"], ["price_mismatch", "blacklisted_user"], [])
    for id in (1, 2, 4, 5):
        assert explain(url, id, BOOK).agrees, id
    assert explain(url, 5, BOOK).row.user_orders_10m == 2
    assert explain(url, 5, BOOK).row.is_blacklisted is False


def test_explain_shows_each_rule_with_the_order_values(run: Run, consume: Callable[..., None]) -> None:
    consume(order(1, country="SG"))
    shown = run("rules", "explain", "1", "--format", "json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.output)
    assert (found["status"], found["fraud_reasons"], found["agrees"]) == ("fraud", ["foreign_country"], True)
    rules = {rule["name"]: rule for rule in found["rules"]}
    assert list(rules) == [rule.name for rule in BOOK.rules]
    assert rules["foreign_country"] == {
        "name": "foreign_country",
        "mode": "active",
        "holds": True,
        "exempted": None,
        "when": "country <> 'ID'",
        "values": {"country": "SG"},
    }
    assert rules["first_order_too_big"]["values"] == {"amount": 3000.0, "seconds_since_last_order": None}

    table = run("rules", "explain", "1").output
    assert "Order 1 is fraud: foreign_country; shadow rules: none; for review: none." in table
    assert "country = 'SG'" in table
    assert "seconds_since_last_order = NULL" in table


def test_explain_with_another_book_shows_what_it_would_decide(
    run: Run, consume: Callable[..., None], tmp_path: Path
) -> None:
    consume(order(1))
    other = tmp_path / "other.yml"
    other.write_text("rules: [{name: any, description: d, mode: active, when: quantity > 1}]")
    shown = run("rules", "explain", "1", "--book", str(other))
    assert "Order 1 is genuine: no active rule held" in shown.output
    assert "Another rule book decided. With this one, " in shown.output
    assert "would be fraud: any; shadow rules: none; for review: none." in shown.output


def test_explain_refuses_an_order_that_is_not_stored(url: str) -> None:
    with pytest.raises(
        PlatformError, match="order 7 is not stored: it never arrived, waits in the topic, or was"
    ):
        explain(url, 7, BOOK)


def test_explain_agrees_whatever_changed_since(
    url: str, run: Run, consume: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The book, the lists, and prices and sign-ups that are corrected for a time before the order."""
    add_entry(url, 1, "block", "x")
    consume(order(1, amount=Decimal("5.00")))
    mine = tmp_path / "mine.yml"
    mine.write_text("rules: [{name: any, description: d, mode: active, when: quantity > 1}]")
    monkeypatch.setenv("ECOMMERSSS_RULES", str(mine))
    remove_entry(url, 1, "block")
    execute(
        url,
        "SELECT set_config('ecommersss.clock', '2025-06-01', true); UPDATE products SET price = 2.5;"
        " UPDATE users SET created_date = '2026-03-01'",
    )
    found = json.loads(run("rules", "explain", "1", "--format", "json").output)
    assert (found["agrees"], found["explained_with"]) == (True, BOOK.version)
    assert found["shadow_reasons"] == ["price_mismatch", "blacklisted_user"]
    row = explain(url, 1).row
    assert (row.list_price, row.user_age_days, row.is_blacklisted) == (Decimal("1500.00"), 400, True)


def test_explain_shows_for_ever_from_what_the_user_was_exempt(
    url: str, run: Run, consume: Callable[..., None]
) -> None:
    """After the exemption has expired, and after it was removed. Its instants are in the past by now."""
    until = NOON + 60 * MINUTE
    execute(
        url,
        "INSERT INTO rule_exemptions (rule, user_id, reason, author, expires_at) VALUES"
        " ('foreign_country', 1, 'abroad \x1b[31m', 'Sari', %(until)s),"
        " ('extreme_order', 1, 'a reseller', 'Budi', %(until)s)",
        {"until": until},
    )
    exempt, expired = order(1, country="SG"), order(2, country="SG", created_date=until)
    consume(exempt, expired, order(3, country="SG", user_id=2))
    remove_exemption(url, "foreign_country", 1)
    consume(order(4, country="SG"))
    for id in range(1, 5):
        explained = explain(url, id)
        assert explained.order.fraud_reasons == ([] if id == 1 else ["foreign_country"]), id
        assert explained.agrees, id
    found = json.loads(run("rules", "explain", "1", "--format", "json").output)
    rules = {rule["name"]: (rule["holds"], rule["exempted"]) for rule in found["rules"]}
    assert (found["status"], found["agrees"], rules["night_bulk_order"]) == ("genuine", True, (False, None))
    exempted = {"until": "2026-03-02T13:00:00+07:00", "author": "Sari", "reason": "abroad \x1b[31m"}
    assert rules["foreign_country"] == (True, exempted)
    assert rules["extreme_order"] == (False, exempted | {"author": "Budi", "reason": "a reseller"})
    table = run("rules", "explain", "1").output
    assert "yes, but exempted" in table
    assert "no, but exempted" not in table
    assert "User 1 was exempt from foreign_country until 2026-03-02T13:00:00+07:00, by Sari: abroad" in table
    assert "\x1b" not in table
    assert "exempt" not in run("rules", "explain", "2").output


def test_exemptions_are_added_listed_and_removed(url: str, run: Run) -> None:
    assert run("rules", "exemptions", "list").output == "Nobody is exempt from a rule.\n"
    exempt = ("rules", "exempt", "foreign_country", "--user", "1", "--until", "2099-01-31", "--reason")
    said = "user 1 is exempt from the rule foreign_country until 2099-01-31 00:00 (Asia/Jakarta)"
    assert run(*exempt, "abroad", "--by", "Sari").output == f"{said}\n"
    assert run(*exempt, "abroad again").output == f"{said}; the earlier exemption was replaced\n"
    [shown] = json.loads(run("rules", "exemptions", "list", "--format", "json").output)
    assert shown.pop("added_at")
    assert shown == {
        "rule": "foreign_country",
        "user_id": 1,
        "reason": "abroad again",
        "author": getpass.getuser(),
        "expires_at": "2099-01-31T00:00:00+07:00",
    }
    everything = run("rules", "exemptions", "list", "--user", "1", "--all", "--format", "jsonl").output
    assert [json.loads(line)["author"] for line in everything.splitlines()] == ["Sari", getpass.getuser()]
    removed = run("rules", "exemptions", "remove", "foreign_country", "--user", "1").output
    assert removed == "user 1 is no longer exempt from the rule foreign_country\n"
    assert run("rules", "exemptions", "list", "--user", "1").output == "User 1 is exempt from no rule.\n"
    assert run(*exempt[:5], "--reason", "no end").exit_code == 2


@pytest.mark.parametrize(
    ("name", "hint"),
    [("foreign_land", "did you mean foreign_country"), ("zzz", "see `ecommersss rules list`")],
)
def test_only_a_rule_of_the_book_can_be_exempted(run: Run, name: str, hint: str) -> None:
    refused = run("rules", "exempt", name, "--user", "1", "--until", "2099-01-31", "--reason", "x").exception
    assert f"has no rule '{name}': {hint}" in str(refused)


def test_explain_finds_a_verdict_that_was_changed_by_hand(
    url: str, run: Run, consume: Callable[..., None]
) -> None:
    consume(order(1))
    execute(url, "UPDATE orders SET is_fraud = true, fraud_reasons = '{foreign_country}'")
    assert "The stored reasons differ." in run("rules", "explain", "1").output


def test_explain_without_the_book_that_decided_uses_the_current_one_and_says_so(
    url: str, run: Run, consume: Callable[..., None]
) -> None:
    consume(order(1, country="SG"))
    execute(url, "UPDATE orders SET rules_version = '0123456789abcdef'")
    with pytest.raises(BookNotKept, match="rule book 0123456789abcdef, which decided about order 1, is not"):
        explain(url, 1)
    shown = run("rules", "explain", "1").output
    assert "it last decided before the platform kept rule books" in shown
    assert f"With the current one, {BOOK.version}, the order would be fraud: foreign_country;" in shown
    execute(url, "ALTER TABLE rule_books DISABLE TRIGGER append_only; DELETE FROM rule_books")
    execute(url, "UPDATE orders SET rules_version = %s", (BOOK.version,))
    assert "With the" not in run("rules", "explain", "1").output, "the current book is the one that decided"


def test_rules_check_list_and_test_use_the_book_of_the_settings(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = run("rules", "check").output
    assert f"is good: version {BOOK.version}, 10 rules (4 active, 0 review, 6 shadow, 0 off)" in shipped
    assert run("rules", "test", str(EXAMPLES_PATH)).output.endswith("14 passed, 0 failed\n")

    mine = tmp_path / "mine.yml"
    mine.write_text("rules: [{name: any, description: d, mode: 'off', when: quantity > 1}]")
    monkeypatch.setenv("ECOMMERSSS_RULES", str(mine))
    assert run("rules", "check").output.startswith(f"{mine} is good: version ")
    assert json.loads(run("rules", "list", "--format", "json").output) == [
        {
            "name": "any",
            "mode": "off",
            "mode_in_file": "off",
            "probation_orders": None,
            "probation_held": None,
            "when": "quantity > 1",
            "description": "d",
        }
    ]
    examples = tmp_path / "examples.yml"
    examples.write_text("examples: [{name: one, fraud: [any]}]")
    tried = run("rules", "test", str(examples))
    assert tried.exit_code == 1
    assert "FAILED  line 1: one: fraud is nothing, expected any" in tried.output


def test_broken_book_is_one_clear_message(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text("rules: [{name: any, description: d, mode: active, when: quantity / quantity > 1}]")
    with pytest.raises(SystemExit):
        cli.main(["rules", "check", str(broken)])
    assert capsys.readouterr().err == (
        f"ecommersss: {broken}:1:68: rule any: division by a possible zero: write quantity /"
        " NULLIF(quantity, 0)\n"
    )


def test_books_are_listed_shown_and_compared(
    url: str, run: Run, consume: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("rules", "books", "list").output == "No book has decided about an order.\n"
    consume(order(1), order(2))
    execute(url, "INSERT INTO rule_books VALUES ('fedcba9876543210', 'rules: older', 7, '2026-01-01')")
    execute(url, "UPDATE orders SET rules_version = '0123' WHERE id = 2")
    unkept, older, shipped = json.loads(run("rules", "books", "list", "--format", "json").output)
    assert unkept == {
        "version": "0123",
        "first_used_at": None,
        "first_position": None,
        "active": None,
        "review": None,
        "shadow": None,
        "off": None,
        "orders": 1,
        "current": False,
    }
    assert (older["version"], older["active"], older["orders"]) == ("fedcba9876543210", None, 0)
    assert {name: value for name, value in shipped.items() if name != "first_used_at"} == {
        "version": BOOK.version,
        "first_position": 0,
        "active": 4,
        "review": 0,
        "shadow": 6,
        "off": 0,
        "orders": 1,
        "current": True,
    }
    assert BOOK.version in run("rules", "books", "list").output

    assert run("rules", "books", "show", BOOK.version[:5]).stdout_bytes == RULES_PATH.read_bytes()
    assert run("rules", "books", "diff", BOOK.version[:5]).output.endswith("the same book\n")
    mine = tmp_path / "mine.yml"
    mine.write_text(
        BOOK.text.replace("name: extreme_order", "name: huge_order", 1).replace("<> 'ID'", "= 'SG'")
    )
    monkeypatch.setenv("ECOMMERSSS_RULES", str(mine))
    found = json.loads(run("rules", "books", "diff", BOOK.version, "--format", "json").output)
    assert (found["before"], found["after"]) == (BOOK.version, RuleBook.load(mine).version)
    assert [(change["change"], change["rule"]) for change in found["changes"]] == [
        ("changed", "foreign_country"),
        ("added", "huge_order"),
        ("removed", "extreme_order"),
    ]
    assert found["changes"][0]["before"]["when"] == "country <> 'ID'"
    assert found["changes"][2]["after"] is None
    shown = run("rules", "books", "diff", BOOK.version).output
    assert "changed foreign_country\n    when\n      - country <> 'ID'\n      + country = 'SG'\n" in shown
    assert "added huge_order (active)\n" in shown
    other = run("rules", "books", "diff", str(mine), BOOK.version.upper()).output
    assert "removed huge_order (active)\n" in other
    mine.write_text(BOOK.text + "# a comment\n")
    assert "only comments or layout differ" in run("rules", "books", "diff", BOOK.version).output


def test_a_kept_book_is_found_by_the_beginning_of_its_version(url: str) -> None:
    execute(url, "INSERT INTO rule_books VALUES ('aa01', 'x', 7, now()), ('aa02', 'x', 8, now())")
    with pytest.raises(PlatformError, match=r"more than one kept rule book has .* 'aa': aa01, aa02"):
        find_book(url, "aa")
    with pytest.raises(PlatformError, match="no kept rule book has a version that begins with 'b'"):
        find_book(url, "b")


def test_lists_show_add_and_remove(url: str, run: Run) -> None:
    assert run("lists", "show").output == "Nobody is on a list.\n"
    added = run("lists", "add", "block", "1", "--reason", "chargebacks", "--until", "2099-01-31")
    assert added.output == "user 1 is on the block list until 2099-01-31 00:00 (Asia/Jakarta)\n"
    again = run("lists", "add", "block", "1", "--reason", "more chargebacks")
    assert again.output == "user 1 is on the block list with no expiry; the earlier entry was replaced\n"
    [shown] = json.loads(run("lists", "show", "--format", "json").output)
    assert {name: shown[name] for name in ("user_id", "list", "reason", "source", "expires_at")} == {
        "user_id": 1,
        "list": "block",
        "reason": "more chargebacks",
        "source": "person",
        "expires_at": None,
    }
    everything = run("lists", "show", "1", "--all", "--format", "jsonl").output.splitlines()
    assert [json.loads(line)["reason"] for line in everything] == ["chargebacks", "more chargebacks"]
    assert json.loads(everything[0])["expires_at"] == "2099-01-31T00:00:00+07:00"
    assert run("lists", "remove", "block", "1").output == "user 1 is off the block list\n"
    assert run("lists", "show", "1").output == "User 1 is on no list.\n"
    assert run("lists", "add", "grey", "1", "--reason", "x").exit_code == 2


def test_removing_a_platform_entry_says_how_to_overrule_it(url: str, run: Run) -> None:
    with closing(connect(url)) as connection:
        block_for_platform(connection, {3: "3 fraud orders"})
    removed = run("lists", "remove", "block", "3").output
    assert 'ecommersss lists add allow 3 --reason "..."' in removed
    assert list_entries(url) == []
    assert query(url, "SELECT count(*) FROM user_lists") == [(1,)]


def test_rules_check_warns_of_a_condition_that_can_never_hold(run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yml"
    mine.write_text(
        "rules:\n- {name: night, description: d, mode: active, when: local_hour BETWEEN 22 AND 4}\n"
    )
    result = run("rules", "check", str(mine))
    assert result.exit_code == 0
    assert f"warning: {mine}:2: rule night: local_hour BETWEEN 22 AND 4 can never hold" in result.output
    assert "is good" in result.output
