"""The rule book: read from YAML, checked, and compiled to one Python function.

A book is a mapping with `rules`, a list, and perhaps `sample`: the share of passed orders that people review
(see `streaming.rules.sample`). A rule has a `name`, a `description`, a `mode` and `when`: a boolean SQL
expression over the columns in `streaming.rules.features`. A rule that was promoted also says who did it, when
and why, and the share of orders it was expected to hold for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, cast, get_args

import yaml

from streaming.errors import PlatformError
from streaming.rules.errors import RuleError
from streaming.rules.expression import PYTHON_NAMES, Expression, ExpressionError, to_sql
from streaming.rules.expression import parse as parse_expression
from streaming.rules.features import FeatureRow
from streaming.rules.nodes import compose, place_of_word
from streaming.rules.sample import REASON, threshold

Mode = Literal["active", "review", "shadow", "off"]

RULES_PATH: Final = Path(__file__).with_name("rules.yml")
"""The rule book that the platform ships."""

VERSION_DIGITS: Final = 16
"""Number of hexadecimal digits in a rule book's version."""

MAX_BYTES: Final = 300_000
"""Longest rule book. A longer one is refused before it is parsed, which would take minutes."""

MAX_RULES: Final = 1_000
"""Most rules of a book."""

MAX_SOURCE: Final = 1_000_000
"""Longest Python source of a book's rules, in characters. It bounds the time that one order takes."""

_FUNCTION_SOURCE: Final = 50_000
"""Compiling a function holds the interpreter's lock, so a book with more source has several functions."""

MODES: Final[tuple[Mode, ...]] = get_args(Mode)
DECIDES: Final[tuple[Mode, ...]] = ("active", "review")
"""The modes in which a rule has consequences: an order is fraud, or waits for a person."""

_KEYS: Final = ("name", "description", "mode", "when")
PROMOTION_KEYS: Final = ("expected_share", "promoted_by", "promoted_at", "promoted_because")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")

Reasons = tuple[list[str], list[str], list[str]]
"""The active, the shadow and the review rules that hold, each in rule order."""

Evaluate = Callable[[FeatureRow], Reasons]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `when` is its SQL as written; `columns` are the features that the SQL uses.

    `result` evaluates the condition on a row: True, False, or None for NULL. `line` is where the rule begins
    in its file.
    """

    name: str
    description: str
    mode: Mode
    when: str
    line: int
    columns: tuple[str, ...]
    result: Callable[[FeatureRow], bool | None]
    expression: Expression
    expected_share: tuple[float, float] | None = None
    """The least and the greatest share of orders for which a promoted rule was expected to hold."""
    promoted_by: str | None = None
    promoted_at: datetime | None = None
    promoted_because: str | None = None
    mode_place: tuple[int, int] | None = None
    """Where the book's text has the mode, if another one can be written there."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One rule's outcome for an order: the `result` of its condition and the values that it used."""

    name: str
    mode: Mode
    when: str
    result: bool | None
    values: dict[str, object]

    @property
    def held(self) -> bool:
        """Whether the rule held: its condition was true, not false or NULL."""
        return self.result is True


class RuleBook:
    """A sequence of rules, compiled into one function.

    `evaluate(row)` returns the names of the active, the shadow and the review rules that hold: three new
    lists in rule order. `text` is the book as written, `version` a hash of it in UTF-8. `sample` is the share
    of passed orders to review; an order is in if its `draw` is below `sample_threshold`.
    """

    __slots__ = ("evaluate", "name", "rules", "sample", "sample_threshold", "text", "version")

    def __init__(self, name: str, text: str, rules: tuple[Rule, ...], sample: Decimal = Decimal(0)) -> None:
        self.name: str = name
        self.text: str = text
        self.version: str = hashlib.sha256(text.encode()).hexdigest()[:VERSION_DIGITS]
        self.rules: tuple[Rule, ...] = rules
        self.sample: Decimal = sample
        self.sample_threshold: int = threshold(sample)
        self.evaluate: Evaluate = _compile_all(rules)

    @classmethod
    def load(cls, path: Path) -> RuleBook:
        """Read the book in a file. Raises `RuleError`, also if the file cannot be read."""
        try:
            data = read_bytes(path)
        except OSError as error:
            raise RuleError(f"cannot be read: {error.strerror}", str(path)) from error
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, text: str | bytes, name: str = "rules") -> RuleBook:
        """Parse the book in a text; messages call the text `name`. Raises `RuleError`."""
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        if len(data) > MAX_BYTES:
            raise RuleError(f"longer than {MAX_BYTES:,} bytes, the most that a rule book may have", name)
        try:
            decoded = data.decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise RuleError("not UTF-8", name, None, line) from None
        reader = _BookReader(decoded, name)
        return cls(name, decoded, tuple(reader.rules()), reader.sample())

    def rule(self, name: str) -> Rule:
        """Return the rule with this name. Raises `PlatformError` if the book has none."""
        for rule in self.rules:
            if rule.name == name:
                return rule
        near = get_close_matches(name, [rule.name for rule in self.rules])
        hint = f"did you mean {' or '.join(near)}?" if near else "see `ecommersss rules list`"
        raise PlatformError(f"{self.name} has no rule {name!r}: {hint}")

    def explain(self, row: FeatureRow) -> list[Explanation]:
        """Return the outcome of every rule for a row, including rules that are off."""
        return [
            Explanation(
                rule.name,
                rule.mode,
                rule.when,
                rule.result(row),
                {column: getattr(row, column) for column in rule.columns},
            )
            for rule in self.rules
        ]

    def __repr__(self) -> str:
        return f"RuleBook({self.name!r}, version={self.version!r}, {len(self.rules)} rules)"


def sql(rule: Rule, dialect: str) -> str:
    """Return the rule's condition in the SQL of "duckdb" or "bigquery", over columns named as in `FEATURES`.

    It gives the same results as the stream. Raises `ValueError` for any other dialect.
    """
    return to_sql(rule.expression, dialect)


def read_bytes(path: Path) -> bytes:
    """Return a file's content, cut off where it is too long for a rule book anyway. Raises `OSError`."""
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


# Compile expressions into functions. Their source has no text from the book: columns are known names, and
# literals are passed in as constants.


def _compile_all(rules: tuple[Rule, ...]) -> Evaluate:
    parts: list[list[Rule]] = [[]]
    size = 0
    for rule in rules:
        if rule.mode == "off":
            continue
        size += len(rule.expression.truth)
        if size > _FUNCTION_SOURCE and parts[-1]:
            parts.append([])
            size = len(rule.expression.truth)
        parts[-1].append(rule)
    functions = [_compile_together(part) for part in parts]
    if len(functions) == 1:
        return functions[0]

    def evaluate(row: FeatureRow) -> Reasons:
        held: Reasons = ([], [], [])
        for function in functions:
            for names, more in zip(held, function(row), strict=True):
                names += more
        return held

    return evaluate


def _compile_together(rules: list[Rule]) -> Evaluate:
    columns = {column: None for rule in rules for column in rule.columns}
    tests = [
        f"    if {rule.expression.truth}:\n        {rule.mode}.append({rule.name!r})\n" for rule in rules
    ]
    constants = {name: value for rule in rules for name, value in rule.expression.constants.items()}
    begin, end = "    active = []\n    shadow = []\n    review = []\n", "    return active, shadow, review\n"
    source = begin + "".join(tests) + end
    return cast(Evaluate, _function(columns, source, constants))


def compile_condition(expression: Expression) -> Callable[[FeatureRow], bool | None]:
    """Return a function that evaluates an expression on a row: True, False, or None for NULL."""
    source = f"    return True if {expression.truth} else False if {expression.falsity} else None\n"
    return _function(dict.fromkeys(expression.columns), source, expression.constants)


def _function(
    columns: dict[str, None], body: str, constants: dict[str, object]
) -> Callable[[FeatureRow], Any]:
    loads = "".join(f"    c_{column} = row.{column}\n" for column in columns)
    namespace: dict[str, Any] = {"__builtins__": {}, **PYTHON_NAMES, **constants}
    exec(compile(f"def rule(row):\n{loads}{body}", "<rules>", "exec"), namespace)  # noqa: S102
    return cast(Callable[[FeatureRow], Any], namespace["rule"])


class _BookReader:
    """A reader of a book's YAML nodes, which have their positions in the file."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._book = self._read()

    def _read(self) -> dict[str, yaml.Node]:
        try:
            root, self._shared = compose(self._text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not one document"
            raise RuleError(f"not YAML: {problem}", self._name, None, line, column) from None
        except RecursionError:
            raise RuleError("not YAML: too deeply nested", self._name) from None
        if root is None:
            raise RuleError("the rule book is empty: it needs `rules:`, a list", self._name)
        return self._mapping(root, None, "a rule book", ("rules",), ("sample",))

    def sample(self) -> Decimal:
        """Return the share of passed orders to review; 0 if the book has none."""
        node = self._book.get("sample")
        return Decimal(0) if node is None else self._share(node, None, "sample")

    def rules(self) -> Iterator[Rule]:
        entries = self._book["rules"]
        if not isinstance(entries, yaml.SequenceNode) or not entries.value:
            self._refuse(entries, None, "`rules` must be a list of at least one rule")
        if len(entries.value) > MAX_RULES:
            self._refuse(
                entries, None, f"{len(entries.value):,} rules: a rule book has at most {MAX_RULES:,}"
            )
        seen: dict[str, int] = {}
        source = 0
        for index, entry in enumerate(entries.value):
            rule = self._rule(entry, index)
            source += len(rule.expression.truth) + len(rule.expression.falsity)
            if source > MAX_SOURCE:
                self._refuse(
                    entry, rule.name, "the rules up to here are too complex together: remove or simplify some"
                )
            if rule.name in seen:
                name = self._mapping(entry, rule.name, "a rule", _KEYS, PROMOTION_KEYS)["name"]
                self._refuse(
                    name, rule.name, f"duplicate name: the rule on line {seen[rule.name]} has it too"
                )
            seen[rule.name] = rule.line
            yield rule

    def _rule(self, entry: yaml.Node, index: int) -> Rule:
        fields = self._mapping(entry, None, "a rule", _KEYS, PROMOTION_KEYS)
        name = self._scalar(fields["name"], None, "name")
        if not _NAME.fullmatch(name):
            self._refuse(
                fields["name"],
                None,
                f"name {name[:80]!r} must be up to 63 lower-case letters, digits and _, a letter first",
            )
        if name == REASON:
            self._refuse(fields["name"], None, f"name {name!r} stands for the sample: choose another one")
        mode = self._scalar(fields["mode"], name, "mode")
        if mode not in MODES:
            self._refuse(fields["mode"], name, f"mode {mode[:80]!r} must be one of {', '.join(MODES)}")
        description = self._scalar(fields["description"], name, "description").strip()
        if not description:
            self._refuse(fields["description"], name, "description is empty: say what the rule is for")
        where = fields["when"]
        when = self._scalar(where, name, "when")
        try:
            expression = parse_expression(when, f"{index}_")
        except ExpressionError as error:
            assert isinstance(where, yaml.ScalarNode)
            line, column = self._place(where, error.offset)
            raise RuleError(error.problem, self._name, name, line, column) from None
        try:
            result = compile_condition(expression)
        except (SyntaxError, RecursionError, MemoryError):
            self._refuse(where, name, "too complex: split it into several rules")
        return Rule(
            name=name,
            description=description,
            mode=cast(Mode, mode),
            when=when.strip(),
            line=entry.start_mark.line + 1,
            columns=expression.columns,
            result=result,
            expression=expression,
            expected_share=self._expected_share(fields.get("expected_share"), name),
            promoted_by=self._text_of(fields, name, "promoted_by"),
            promoted_at=self._instant(fields.get("promoted_at"), name),
            promoted_because=self._text_of(fields, name, "promoted_because"),
            mode_place=place_of_word(self._text, fields["mode"], self._shared),
        )

    def _expected_share(self, node: yaml.Node | None, rule: str) -> tuple[float, float] | None:
        if node is None:
            return None
        if not isinstance(node, yaml.SequenceNode) or len(node.value) != 2:
            self._refuse(node, rule, "expected_share must be two shares of orders, as in [0.001, 0.004]")
        low, high = (self._share(part, rule, "expected_share") for part in node.value)
        if low > high:
            self._refuse(node, rule, f"expected_share has {low} before {high}: the smaller share comes first")
        return float(low), float(high)

    def _share(self, node: yaml.Node, rule: str | None, key: str) -> Decimal:
        text = self._scalar(node, rule, key)
        try:
            share = Decimal(text)
        except InvalidOperation:
            share = Decimal(-1)
        if not (share.is_finite() and 0 <= share <= 1):
            self._refuse(node, rule, f"{key} {text[:80]!r} must be a share from 0 to 1, as in 0.001")
        return share

    def _instant(self, node: yaml.Node | None, rule: str) -> datetime | None:
        if node is None:
            return None
        text = self._scalar(node, rule, "promoted_at")
        try:
            instant = datetime.fromisoformat(text)
        except ValueError:
            instant = datetime.min  # noqa: DTZ901
        if instant.tzinfo is None:
            self._refuse(
                node, rule, f"promoted_at {text[:80]!r} must be a time with offset: 2024-05-01T10:00:00+07:00"
            )
        return instant

    def _text_of(self, fields: dict[str, yaml.Node], rule: str, key: str) -> str | None:
        node = fields.get(key)
        return None if node is None else self._scalar(node, rule, key).strip()

    def _mapping(
        self,
        node: yaml.Node,
        rule: str | None,
        what: str,
        keys: tuple[str, ...],
        optional: Collection[str] = (),
    ) -> dict[str, yaml.Node]:
        """Return the values of a mapping, checking that it has these keys and none but the optional ones."""
        if not isinstance(node, yaml.MappingNode):
            self._refuse(node, rule, f"{what} must be a mapping with {', '.join(keys)}")
        values: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self._scalar(key, rule, "a key")
            if name not in keys and name not in optional:
                known = ", ".join((*keys, *optional))
                self._refuse(key, rule, f"unknown key {name[:80]!r}: {what} has {known}")
            if name in values:
                self._refuse(key, rule, f"{name} occurs twice")
            values[name] = value
        for name in keys:
            if name not in values:
                self._refuse(node, rule, f"{name} is missing: {what} has {', '.join(keys)}")
        return values

    def _scalar(self, node: yaml.Node, rule: str | None, key: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self._refuse(node, rule, f"{key} must be text")
        return str(node.value)

    def _refuse(self, node: yaml.Node, rule: str | None, problem: str) -> NoReturn:
        raise RuleError(problem, self._name, rule, node.start_mark.line + 1, node.start_mark.column + 1)

    def _place(self, node: yaml.ScalarNode, offset: int) -> tuple[int, int]:
        """Return the line and column in the file of a character of a scalar, in any YAML style.

        Folding only changes white space, so this matches the other characters against the file's.
        """
        begin, end = node.start_mark.index, node.end_mark.index
        if node.style in ("|", ">"):
            begin = self._text.find("\n", begin, end) + 1 or begin
        elif node.style in ("'", '"'):
            begin += 1
        at = begin
        for character in node.value[: offset + 1]:
            if character.isspace():
                continue
            found = self._text.find(character, at, end)
            if found < 0:  # written as an escape: close enough
                break
            begin, at = found, found + 1
        line_start = self._text.rfind("\n", 0, begin) + 1
        return self._text.count("\n", 0, begin) + 1, begin - line_start + 1
