"""Rule books: their YAML, their version, and how they evaluate and explain orders."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecommersss_platform_tests.support.rules import book, row
from streaming.rules import RuleBook, RuleError


def test_evaluate_returns_active_shadow_and_review_rules_in_order() -> None:
    several = book(
        ("b", "active", "quantity = 4"),
        ("z", "shadow", "quantity = 4"),
        ("off", "off", "quantity = 4"),
        ("a", "active", "quantity = 4"),
        ("no", "active", "is_blacklisted"),
        ("y", "shadow", "quantity = 4"),
        ("r", "review", "quantity = 4"),
    )
    assert several.evaluate(row()) == (["b", "a"], ["z", "y"], ["r"])
    first, _, _ = several.evaluate(row())
    first.append("mine")
    assert several.evaluate(row())[0] == ["b", "a"], "each order gets its own lists"


def test_explain_returns_results_and_values() -> None:
    several = book(
        ("a", "active", "amount > 50 AND quantity < 9"),
        ("b", "off", "is_blacklisted"),
        ("c", "shadow", "FALSE"),
    )
    explained = several.explain(row())
    assert [(e.name, e.mode, e.when, e.result, e.held, e.values) for e in explained] == [
        (
            "a",
            "active",
            "amount > 50 AND quantity < 9",
            True,
            True,
            {"quantity": 4, "amount": Decimal("100.00")},
        ),
        ("b", "off", "is_blacklisted", None, False, {"is_blacklisted": None}),
        ("c", "shadow", "FALSE", False, False, {}),
    ]


HEAD = "rules:\n  - name: a\n    description: d\n    mode: active\n"
GOOD = HEAD + "    when: TRUE\n"


def test_a_promoted_rule_says_who_when_why_and_what_was_expected() -> None:
    text = (
        GOOD
        + "    expected_share: [0.001, 0.004]\n    promoted_by: ani\n"
        + "    promoted_at: 2024-05-01T10:00:00+07:00\n    promoted_because: it caught 12 of 13\n"
        + "sample: 0.001\n"
    )
    promoted = RuleBook.parse(text)
    [rule] = promoted.rules
    assert rule.expected_share == (0.001, 0.004)
    assert (rule.promoted_by, rule.promoted_because) == ("ani", "it caught 12 of 13")
    assert rule.promoted_at == datetime(2024, 5, 1, 3, tzinfo=UTC)
    assert promoted.sample == Decimal("0.001")
    [plain] = RuleBook.parse(GOOD).rules
    assert (plain.expected_share, plain.promoted_by, plain.promoted_at) == (None, None, None)
    assert RuleBook.parse(GOOD).sample == 0


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("", "1:1", "the rule book is empty"),
        ("# only a comment\n", "1:1", "the rule book is empty"),
        ("rules:\n", "1:7", "`rules` must be a list of at least one rule"),
        ("rules: []", "1:8", "`rules` must be a list of at least one rule"),
        ("rules: {}", "1:8", "`rules` must be a list of at least one rule"),
        ("- a", "1:1", "a rule book must be a mapping with rules"),
        ("just text", "1:1", "a rule book must be a mapping with rules"),
        ("rule: []", "1:1", "unknown key 'rule': a rule book has rules"),
        ("rules: [x]", "1:9", "a rule must be a mapping with name, description, mode, when"),
        ("? [x]\n: 1", "1:3", "a key must be text"),
        (HEAD, "2:5", "when is missing"),
        (HEAD + "    when: TRUE\n    when: FALSE\n", "6:5", "when occurs twice"),
        (HEAD + "    where: TRUE\n", "5:5", "unknown key 'where'"),
        (HEAD + "    when: [TRUE]\n", "5:11", "rule a: when must be text"),
        (
            HEAD.replace("active", "on") + "    when: TRUE\n",
            "4:11",
            "mode 'on' must be one of active, review, shadow, off",
        ),
        (
            HEAD.replace("name: a", "name: A b") + "    when: TRUE\n",
            "2:11",
            "name 'A b' must be up to 63 lower-case",
        ),
        (HEAD.replace("name: a", "name: ''") + "    when: TRUE\n", "2:11", "must be up to 63 lower-case"),
        (HEAD.replace("tion: d", "tion: ' '") + "    when: TRUE\n", "3:18", "description is empty"),
        (
            HEAD + "    when: TRUE\n" + HEAD[7:] + "    when: TRUE\n",
            "6:11",
            "rule a: duplicate name: the rule on line 2 has",
        ),
        (
            HEAD.replace("name: a", "name: random_sample") + "    when: TRUE\n",
            "2:11",
            "name 'random_sample' stands for the sample",
        ),
        ("sample: 1.5\n" + GOOD, "1:9", "sample '1.5' must be a share from 0 to 1"),
        ("sample: nan\n" + GOOD, "1:9", "sample 'nan' must be a share from 0 to 1"),
        ("sample: [1]\n" + GOOD, "1:9", "sample must be text"),
        (GOOD + "    expected_share: 0.1\n", "6:21", "expected_share must be two shares of orders"),
        (GOOD + "    expected_share: [0.1, x]\n", "6:27", "expected_share 'x' must be a share from 0 to 1"),
        (GOOD + "    expected_share: [0.2, 0.1]\n", "6:21", "the smaller share comes first"),
        (GOOD + "    promoted_at: 2024-05-01\n", "6:18", "must be a time with offset"),
        (GOOD + "    promoted: me\n", "6:5", "unknown key 'promoted'"),
        ("rules: [", "1:9", "not YAML:"),
        ("rules:\n\t- x", "2:1", "not YAML:"),
        ("rules: \x00", "1:1", "not YAML:"),
        ("a: 1\n---\nb: 1\n", "2:1", "not YAML:"),
        ("[" * 5000, "1:1", "not YAML: too deeply nested"),
    ],
)
def test_invalid_books_are_refused(text: str, where: str, message: str) -> None:
    with pytest.raises(RuleError, match=re.escape(message)) as raised:
        RuleBook.parse(text, "test.yml")
    assert str(raised.value).startswith(f"test.yml:{where}: ")


def test_a_book_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(RuleError, match=r"^test.yml:2:1: not UTF-8"):
        RuleBook.parse(b"rules:\n  - name: \xff", "test.yml")


@pytest.mark.parametrize(
    ("written", "where"),
    [
        ("when: quantity > 1 AND amout > 5", (5, 28)),
        ("when: 'quantity > 1 AND amout > 5'", (5, 29)),
        ("when: 'country = ''x'' AND amout > 5'", (5, 32)),
        ('when: "quantity > 1 AND amout > 5"', (5, 29)),
        ("when: |\n      quantity > 1\n      AND amout > 5", (7, 11)),
        ("when: >-\n      quantity > 1\n      AND\n      amout > 5", (8, 7)),
        ("when: quantity > 1\n      AND amout > 5", (6, 11)),
        ("when: |  # why\n\n      quantity > 1 AND\n        amout > 5", (8, 9)),
    ],
)
def test_errors_have_their_position_in_the_file(written: str, where: tuple[int, int]) -> None:
    with pytest.raises(RuleError, match="unknown column amout") as raised:
        RuleBook.parse(f"{HEAD}    {written}\n", "test.yml")
    assert (raised.value.line, raised.value.column) == where


def test_the_version_is_a_hash_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "rules.yml"
    path.write_text(HEAD + "    when: TRUE\n")
    loaded = RuleBook.load(path)
    assert re.fullmatch(r"[0-9a-f]{16}", loaded.version)
    assert RuleBook.parse(path.read_text(), "other").version == loaded.version
    path.write_text(HEAD + "    when: TRUE \n")
    assert RuleBook.load(path).version != loaded.version


def test_an_unreadable_file_is_a_rule_error(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match=r"nowhere.yml:1:1: cannot be read: No such file"):
        RuleBook.load(tmp_path / "nowhere.yml")
    with pytest.raises(RuleError, match="cannot be read"):
        RuleBook.load(tmp_path)


@given(
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: HEAD.encode() + f"    when: {text}".encode("utf-8", "replace"))
)
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_a_book_or_a_rule_error(data: bytes) -> None:
    try:
        RuleBook.parse(data, "test.yml")
    except RuleError as error:
        refused = error
    else:
        return
    assert str(refused).startswith(f"test.yml:{refused.line}:{refused.column}: ")
    assert refused.line >= 1
    assert refused.column >= 1


def _book_of(rules: int, when: str) -> str:
    return "rules:\n" + "".join(
        f"- {{name: r{n}, description: d, mode: active, when: {when!r}}}\n" for n in range(rules)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_book_of(20_000, "TRUE"), "longer than 300,000 bytes"),
        (_book_of(1_001, "TRUE"), "1,001 rules: a rule book has at most 1,000"),
        ("rules: [" + "{a: b}," * 40_000 + "]", "more than 40,000 keys and values"),
        (_book_of(400, " AND ".join(["user_amount_24h > 1"] * 25)), "too complex together"),
    ],
)
def test_a_book_that_would_slow_down_the_stream_is_refused_in_seconds(text: str, message: str) -> None:
    began = time.process_time()
    with pytest.raises(RuleError, match=re.escape(message)):
        RuleBook.parse(text)
    assert time.process_time() - began < 20


def test_a_large_book_evaluates_its_rules_in_order() -> None:
    conditions = [
        f"quantity = 4 OR amount IN ({', '.join(str(n + i) + '.5' for i in range(50))})" for n in range(60)
    ]
    modes = ("active", "shadow", "review") * 20
    large = book(*((f"r{n}", modes[n], when) for n, when in enumerate(conditions)))
    names = [f"r{n}" for n in range(60)]
    assert large.evaluate(row()) == (names[::3], names[1::3], names[2::3])
