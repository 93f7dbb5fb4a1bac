"""Edits of one rule in a rule book's text: nothing else changes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.errors import PlatformError
from streaming.rules import RuleBook
from streaming.rules.edit import EditError, set_keys, set_modes

AT = datetime.fromisoformat("2026-05-01T10:00:00+07:00")
PROMOTED: dict[str, Any] = {
    "expected_share": (0.00001, 0.004),
    "promoted_by": "siti",
    "promoted_at": AT,
    "promoted_because": 'it says "no": # 火',
}
REMOVED = dict.fromkeys(PROMOTED)

BOOK = """\
# Our rules.
rules:
  - name: a
    description: The first.
    mode: shadow  # until May
    when: country <> 'ID'

  # Why there is a second one.
  - name: b
    mode: 'active'
    expected_share:
      - 0.1  # least
      - 0.2
    promoted_by: budi

    # What it looks for:
    when: |
      quantity > 3
    description: "The second: 'b'"
  - {name: c, description: In braces, when: TRUE, mode: off}
"""


def edited(text: str, rule: str, mode: str, keys: dict[str, Any]) -> str:
    return set_keys(RuleBook.parse(text, "rules.yml"), rule, mode, keys)  # type: ignore[arg-type]


def test_promotion_writes_its_keys_after_the_mode() -> None:
    assert edited(BOOK, "a", "active", PROMOTED) == BOOK.replace(
        "    mode: shadow  # until May\n",
        "    mode: active  # until May\n"
        "    expected_share: [0.00001, 0.004]\n"
        '    promoted_by: "siti"\n'
        '    promoted_at: "2026-05-01T10:00:00+07:00"\n'
        '    promoted_because: "it says \\"no\\": # 火"\n',
    )


def test_a_rule_in_braces_stays_in_braces() -> None:
    braces = "mode: review, expected_share: [0.1, 0.5]}"
    changed = edited(BOOK, "c", "review", {"expected_share": (0.1, 0.5)})
    assert changed == BOOK.replace("mode: off}", braces)
    assert edited(changed, "c", "off", REMOVED) == BOOK
    json = '{"rules": [{"name": "a", "description": "d", "mode": "active", "when": "TRUE"}]}'
    promoted = '"mode": "review", "promoted_by": "siti", "when"'
    assert edited(json, "a", "review", {"promoted_by": "siti"}) == json.replace(
        '"mode": "active", "when"', promoted
    )


def test_keys_of_an_earlier_promotion_are_removed_or_replaced() -> None:
    without = BOOK.replace(
        "    expected_share:\n      - 0.1  # least\n      - 0.2\n    promoted_by: budi\n", ""
    )
    assert edited(BOOK, "b", "off", REMOVED) == without.replace("'active'", "'off'")
    again = edited(BOOK, "b", "active", REMOVED | {"expected_share": (0, 1)})
    assert again == without.replace("'active'\n", "'active'\n    expected_share: [0, 1]\n")


def test_line_ends_and_the_byte_order_mark_stay() -> None:
    windows = "\ufeff" + BOOK.replace("\n", "\r\n")
    promoted = edited(windows, "a", "active", PROMOTED)
    assert promoted == "\ufeff" + edited(BOOK, "a", "active", PROMOTED).replace("\n", "\r\n")
    last = "rules:\n- name: a\n  description: d\n  when: TRUE\n  mode: off"
    assert edited(last, "a", "active", {"promoted_by": "x"}) == (
        last.replace("off", "active") + '\n  promoted_by: "x"'
    )


def test_what_cannot_be_changed_in_place_is_refused() -> None:
    anchors = BOOK.replace("'active'", "&m active").replace("mode: off", "mode: *m")
    for rule in ("b", "c"):
        with pytest.raises(EditError, match=rf"rules.yml:\d+: rule {rule} .* without anchors"):
            edited(anchors, rule, "shadow", REMOVED)
    with pytest.raises(PlatformError, match="has no rule 'd'"):
        edited(BOOK, "d", "off", {})
    shared = BOOK.replace("budi", "&who budi").replace("mode: off", "mode: off, promoted_by: *who")
    with pytest.raises(EditError):
        edited(shared, "b", "off", REMOVED)
    asked = "rules:\n- ? name\n  : a\n  ? description\n  : d\n  ? mode\n  : off\n  ? when\n  : 'TRUE'\n"
    with pytest.raises(EditError):
        edited(asked, "a", "active", PROMOTED)


def test_modes_are_set_without_parsing_however_they_are_written() -> None:
    book = RuleBook.parse(BOOK)
    changed = set_modes(book, {"a": "review", "b": "shadow", "c": "active"})
    assert changed == (
        BOOK.replace("mode: shadow", "mode: review")
        .replace("'active'", "'shadow'")
        .replace("off}", "active}")
    )
    assert set_modes(book, {}) == BOOK
    for written in (
        "&m active",
        '"\\x61ctive"',
        "&active 'active'",
        "!!str active",
        ">-  # active\n      active",
    ):
        odd = RuleBook.parse(BOOK.replace("'active'", written))
        after = RuleBook.parse(set_modes(odd, {"b": "shadow"}))
        assert [rule.mode for rule in after.rules] == ["shadow", "shadow", "off"], written
        assert [rule.when for rule in after.rules] == [rule.when for rule in odd.rules]
    aliases = BOOK.replace("'active'", "&m active").replace("mode: off", "mode: *m")
    for pulled, modes in {"b": ["shadow", "shadow", "active"], "c": ["shadow", "active", "shadow"]}.items():
        after = RuleBook.parse(set_modes(RuleBook.parse(aliases), {pulled: "shadow"}))
        assert [rule.mode for rule in after.rules] == modes


@dataclass
class Written:
    """A rule's text, and the lines of it that an edit must keep."""

    text: str
    kept: list[str]


@st.composite
def written(draw: st.DrawFn, name: str) -> Written:
    """A rule in one of the many ways to write it."""
    pick = draw
    values = {
        "name": [name, f"'{name}'", f'"{name}"'],
        "description": [
            "d",
            "'it''s # d'",
            '"a: \\"b\\", c"',
            ">-\n      folded\n\n      text",
            "d\n      more",
        ],
        "mode": [
            "active",
            "'shadow'",
            '"off"',
            "review",
            "|-\n      active\n",
            "\n      shadow",
        ],
        "when": ["TRUE", "country = 'ID'", '"quantity > 1"', "|\n      quantity > 2\n      AND TRUE"],
        "expected_share": [
            "[0.1, 0.2]",
            "\n      - 0\n      - 1",
            "[0.1,\n      0.2]",
            "\n    - 0.5\n    - 0.6",
        ],
        "promoted_by": ["me", '"me: # you"', "|\n      me"],
        "promoted_because": ["", "why", ">\n      why\n\n      not\n"],
    }
    optional = pick(st.sets(st.sampled_from(["expected_share", "promoted_by", "promoted_because"])))
    keys = pick(st.permutations(["name", "description", "mode", "when", *sorted(optional)]))
    if pick(st.booleans()):  # in braces
        flat = {
            key: [v for v in options if "\n" not in v and "|" not in v] for key, options in values.items()
        }
        flat["description"].remove('"a: \\"b\\", c"')
        inside = pick(st.sampled_from([", ", ",\n      "])).join(
            f"{key}: {pick(st.sampled_from(flat[key])) or '~'}" for key in keys
        )
        return Written(f"  - {{{inside}}}\n", [])
    lines, kept = [], []
    for n, key in enumerate(keys):
        value = pick(st.sampled_from(values[key]))
        space = "" if value.startswith("\n") or not value else " "
        one_line = "\n" not in value
        comment = pick(st.sampled_from(["", f"  # {key}"])) if one_line else ""
        line = f"{'  - ' if n == 0 else '    '}{key}:{space}{value}{comment}\n"
        if n and pick(st.booleans()):
            above = f"    # above {key}\n"
            kept.append(above)
            lines.append(above)
        lines.append(line)
        if key in ("name", "description", "when") and n:
            kept.append(line)
    return Written("".join(lines), kept)


@given(st.data(), st.sampled_from(["active", "review", "shadow", "off"]), st.booleans(), st.booleans())
@settings(max_examples=60)
def test_an_edit_changes_one_rule_and_keeps_every_other_byte(
    data: st.DataObject, mode: str, promoted: bool, windows: bool
) -> None:
    parts = [data.draw(written(name)) for name in "abc"]
    between = [
        "# head\nrules:\n",
        *(data.draw(st.sampled_from(["", "\n", "  # between\n"])) for _ in "ab"),
        "",
    ]
    line_break = "\r\n" if windows else "\n"
    texts = [part.text.replace("\n", line_break) for part in parts]
    head, *gaps = (gap.replace("\n", line_break) for gap in between)
    book = RuleBook.parse(head + "".join(text + gap for text, gap in zip(texts, gaps, strict=True)))
    at = data.draw(st.integers(0, 2))
    keys = PROMOTED if promoted else REMOVED

    text = set_keys(book, "abc"[at], mode, keys)  # type: ignore[arg-type]

    before = head + "".join(t + gap for t, gap in zip(texts[:at], gaps[:at], strict=True))
    after = gaps[at] + "".join(t + gap for t, gap in zip(texts[at + 1 :], gaps[at + 1 :], strict=True))
    assert text.startswith(before)
    assert text.endswith(after)
    changed = text[len(before) : len(text) - len(after)]
    for line in parts[at].kept:
        assert line.strip().replace("\n", line_break) in changed
    rule = RuleBook.parse(text).rules[at]
    assert (rule.mode, rule.description) == (mode, book.rules[at].description)
    assert {key: getattr(rule, key) for key in keys} == keys
    fast = RuleBook.parse(set_modes(book, {"abc"[at]: mode}))  # type: ignore[dict-item]
    assert [r.mode for r in fast.rules] == [r.mode for r in RuleBook.parse(text).rules]
