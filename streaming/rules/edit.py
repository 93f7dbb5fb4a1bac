"""Edits of a rule book's text that change one rule and leave everything else as it is, byte for byte.

Comments, layout, the order of keys and the style of each value stay. The edited text is parsed and compared
with the original: if more than the rule changed, the edit is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from decimal import Decimal
from itertools import groupby

import yaml

from streaming.errors import PlatformError
from streaming.rules.book import Mode, Rule, RuleBook
from streaming.rules.nodes import compose, place_of_word

Value = str | datetime | tuple[float, float]

_Edit = tuple[int, int, str]
"""Where to replace text, [begin, end), and by what."""

_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""A line's end in YAML."""

_Pairs = Sequence[tuple[yaml.Node, yaml.Node]]
"""The keys and values of a rule."""

_DERIVED = ("line", "columns", "result", "expression", "mode_place")


class EditError(PlatformError):
    """A rule that cannot be changed in place."""


def set_modes(book: RuleBook, modes: Mapping[str, Mode]) -> str:
    """Return a book's text with other modes for some rules. It is not parsed, so this is fast.

    If one of these modes is a YAML alias or the like, all of the text is written again, without comments.
    """
    places = [(rule.mode_place, modes[rule.name]) for rule in book.rules if rule.name in modes]
    edits: list[_Edit] = [(*place, mode) for place, mode in places if place is not None]
    return _applied(book.text, edits) if len(edits) == len(places) else _rewritten(book.text, modes)


def set_keys(book: RuleBook, rule: str, mode: Mode, keys: Mapping[str, Value | None]) -> str:
    """Return a book's text with another mode and other keys for a rule; None removes a key.

    The keys are attributes of `Rule`. They are written after the mode. Raises `PlatformError` for an unknown
    rule, and `EditError` for one that is written in a way that this does not understand.
    """
    old = book.rule(rule)
    problem = EditError(
        f"{book.name}:{old.line}: rule {rule} is written in a way that cannot be changed automatically. Write"
        " its keys on lines of their own, without anchors, aliases, escapes or question marks, and try again"
    )
    edits = _edits(book.text, rule, mode, keys)
    if edits is None:
        raise problem
    edited = _applied(book.text, edits)
    try:
        after = RuleBook.parse(edited, book.name)
    except PlatformError as error:
        raise problem from error
    new = replace(old, mode=mode, **keys)  # type: ignore[arg-type]
    wanted = [new if r is old else r for r in book.rules]
    if [*map(_content, after.rules)] != [*map(_content, wanted)] or after.sample != book.sample:
        raise problem
    return edited


def _content(rule: Rule) -> list[object]:
    """Return what a rule says, apart from where and how it is written."""
    return [getattr(rule, field.name) for field in fields(rule) if field.name not in _DERIVED]


def _applied(text: str, edits: list[_Edit]) -> str:
    for begin, end, new in sorted(edits, reverse=True):
        text = text[:begin] + new + text[end:]
    return text


def _rewritten(text: str, modes: Mapping[str, Mode]) -> str:
    root, _ = compose(text)
    for entry in _entries(root):
        pairs = {key.value: key for key, _ in entry.value}
        name = next(value.value for key, value in entry.value if key.value == "name")
        if name in modes:
            new = yaml.ScalarNode("tag:yaml.org,2002:str", modes[name])
            entry.value = [(k, new if k is pairs["mode"] else v) for k, v in entry.value]
    return yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True)


def _entries(root: yaml.Node | None) -> list[yaml.MappingNode]:
    """Return the rules of a valid book."""
    assert isinstance(root, yaml.MappingNode)
    return next(value.value for key, value in root.value if key.value == "rules")


def _edits(text: str, rule: str, mode: str, keys: Mapping[str, Value | None]) -> list[_Edit] | None:
    root, shared = compose(text)
    [entry] = [
        entry
        for entry in _entries(root)
        if any(key.value == "name" and value.value == rule for key, value in entry.value)
    ]
    changed = [pair for pair in entry.value if pair[0].value in {*keys, "mode"}]
    if any(node in shared for pair in changed for node in pair):
        return None
    mode_key, mode_value = next(pair for pair in changed if pair[0].value == "mode")
    place = place_of_word(text, mode_value, shared)
    if place is None:
        return None
    after = _end(text, mode_value)
    new = {key: _yaml(value) for key, value in keys.items() if value is not None}
    edits = [(*place, mode)]
    if entry.flow_style:
        edits += _removed_from_flow(text, entry.value, keys)
        quote = mode_key.style or ""  # of JSON
        edits.append((after, after, "".join(f", {quote}{k}{quote}: {value}" for k, value in new.items())))
        return edits
    edits += _removed_lines(text, entry.value, keys)
    indent = " " * entry.value[0][0].start_mark.column
    line_end = _BREAK.search(text, after)
    known_break = line_end or _BREAK.search(text)
    line_break = known_break.group() if known_break else "\n"
    lines = [f"{indent}{key}: {value}" for key, value in new.items()]
    if line_end:
        added = "".join(line + line_break for line in lines)
        return [*edits, (line_end.end(), line_end.end(), added)]
    return [*edits, (len(text), len(text), "".join(line_break + line for line in lines))]


def _removed_from_flow(text: str, pairs: _Pairs, keys: Container[str]) -> Iterator[_Edit]:
    """Yield the removal of keys from a mapping in braces, with one comma each."""
    for begin, end in _runs(pairs, keys):
        if end < len(pairs):
            yield pairs[begin][0].start_mark.index, pairs[end][0].start_mark.index, ""
        else:
            yield _end(text, pairs[begin - 1][1]), _end(text, pairs[end - 1][1]), ""


def _removed_lines(text: str, pairs: _Pairs, keys: Container[str]) -> Iterator[_Edit]:
    """Yield the removal of the lines of keys."""
    for begin, end in _runs(pairs, keys):
        first = pairs[begin][0].start_mark.index
        if text[_line_begin(text, first) : first].strip():  # on the line of the dash
            dash = len(text[:first].rstrip())
            line_end = _BREAK.search(text, _end(text, pairs[begin][1]))
            yield dash, line_end.start() if line_end else len(text), ""
            begin += 1
        for key, value in pairs[begin:end]:
            line_end = _BREAK.search(text, _end(text, value))
            yield _line_begin(text, key.start_mark.index), line_end.end() if line_end else len(text), ""


def _runs(pairs: _Pairs, keys: Container[str]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of consecutive pairs that have one of the keys."""
    begin = 0
    for found, run in groupby(pairs, lambda pair: pair[0].value in keys):
        end = begin + len([*run])
        if found:
            yield begin, end
        begin = end


def _end(text: str, node: yaml.Node) -> int:
    """Return where a value ends, without the white space and comments that YAML counts to it."""
    end: int = node.end_mark.index
    if isinstance(node, yaml.ScalarNode):
        return len(text[:end].rstrip()) if node.style in ("|", ">") else end
    if not isinstance(node, yaml.SequenceNode) or node.flow_style:
        return end
    return _end(text, node.value[-1])


def _line_begin(text: str, at: int) -> int:
    return max(text.rfind(mark, 0, at) for mark in "\n\r\x85\u2028\u2029") + 1


def _yaml(value: Value) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(f'{Decimal(str(share)):f}' for share in value)}]"
    text = value if isinstance(value, str) else value.isoformat()
    return str(yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf)).strip()
