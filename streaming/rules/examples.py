"""Example orders with the verdicts that a rule book must give them: tests of the book, as data.

    examples:
      - name: a big order in the small hours
        order: {amount: 100000000, created_date: 2026-01-05T04:59:00+07:00}
        fraud: [night_bulk_order]
        shadow: []
        review: []

`order` may have any column in `streaming.rules.features`. The others are those of an ordinary order and fit
the given ones (`local_hour` follows `created_date`; `list_price` and `user_amount_24h` follow `amount`).
`fraud`, `shadow` and `review` are the rules that must hold, in any sequence; without them, none may hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

from streaming.business_days import JAKARTA
from streaming.errors import PlatformError
from streaming.orders import CENT
from streaming.rules.book import Reasons, RuleBook
from streaming.rules.features import FEATURES, Feature, FeatureRow, Kind

EXAMPLES_PATH: Final = Path(__file__).with_name("examples.yml")
"""Examples for the rule book that the platform ships."""

_NULL = ("", "null", "~")
_KINDS = ("fraud", "shadow", "review")
_KEYS = ("name", "order", *_KINDS)


class ExampleError(PlatformError):
    """A file of examples that cannot be used; the text says where the problem is."""


@dataclass(frozen=True, slots=True)
class Example:
    """An order as rules see it, the rules that must hold for it, and its line in the file."""

    name: str
    line: int
    row: FeatureRow
    fraud: frozenset[str]
    shadow: frozenset[str]
    review: frozenset[str]

    @property
    def expected(self) -> tuple[frozenset[str], ...]:
        """The rules that must hold, by kind, as `RuleBook.evaluate` returns them."""
        return self.fraud, self.shadow, self.review


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verdict of a rule book on an example."""

    example: Example
    found: Reasons

    @property
    def passed(self) -> bool:
        return tuple(map(frozenset, self.found)) == self.example.expected

    def __str__(self) -> str:
        """Describe the outcome in one line; for a failure, with the expected and actual rules."""
        head = f"line {self.example.line}: {self.example.name}"
        if self.passed:
            return f"passed  {head}"
        parts = [
            f"{kind} is {_join(found)}, expected {_join(sorted(expected))}"
            for kind, found, expected in zip(_KINDS, self.found, self.example.expected, strict=True)
            if set(found) != expected
        ]
        return f"FAILED  {head}: {'; '.join(parts)}"


def run_examples(book: RuleBook, examples: list[Example]) -> list[Outcome]:
    """Evaluate a rule book on each example. Raises `ExampleError` if an example names an unknown rule."""
    rules = {rule.name for rule in book.rules}
    for example in examples:
        for name in sorted(frozenset.union(*example.expected) - rules):
            raise ExampleError(
                f"line {example.line}: {example.name}: {book.name} has no rule {name}; it has"
                f" {', '.join(rule.name for rule in book.rules)}"
            )
    return [Outcome(example, book.evaluate(example.row)) for example in examples]


def load_examples(path: Path) -> list[Example]:
    """Read the examples in a file. Raises `ExampleError`."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExampleError(f"{path} cannot be read: {error}") from error
    return parse_examples(text, str(path))


def parse_examples(text: str, name: str = "examples") -> list[Example]:
    """Parse the examples in a text; messages call the text `name`. Raises `ExampleError`."""
    try:
        # Read scalars as text: YAML would turn the country NO into false.
        root = yaml.compose(text, yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ExampleError(f"{name} is not YAML: {error}") from None
    reader = _ExampleReader(name)
    entries = reader.mapping(root, "the file", ("examples",), ("examples",))["examples"]
    if not isinstance(entries, yaml.SequenceNode) or not entries.value:
        reader.refuse(entries, "`examples` must be a list of at least one example")
    return [reader.example(entry) for entry in entries.value]


class _ExampleReader:
    """A reader of YAML nodes, which have their positions in the file."""

    def __init__(self, file: str) -> None:
        self._file = file

    def example(self, entry: yaml.Node) -> Example:
        fields = self.mapping(entry, "an example", _KEYS, ("name",))
        given = self.mapping(fields["order"], "an order", tuple(FEATURES), ()) if "order" in fields else {}
        values = {name: self._value(node, FEATURES[name]) for name, node in given.items()}
        return Example(
            name=self._text(fields["name"], "name"),
            line=entry.start_mark.line + 1,
            row=_ordinary_row(values),
            fraud=self._names(fields.get("fraud"), "fraud"),
            shadow=self._names(fields.get("shadow"), "shadow"),
            review=self._names(fields.get("review"), "review"),
        )

    def mapping(
        self, node: yaml.Node | None, what: str, keys: tuple[str, ...], required: tuple[str, ...]
    ) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            self.refuse(node, f"{what} must be a mapping with {', '.join(keys)}")
        values: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if key.value not in keys:
                self.refuse(key, f"unknown key {key.value!r}: {what} has {', '.join(keys)}")
            if key.value in values:
                self.refuse(key, f"{key.value} occurs twice")
            values[key.value] = value
        for name in required:
            if name not in values:
                self.refuse(node, f"{what} has no {name}")
        return values

    def _names(self, node: yaml.Node | None, what: str) -> frozenset[str]:
        if node is None:
            return frozenset()
        if not isinstance(node, yaml.SequenceNode):
            self.refuse(node, f"{what} must be a list of rule names")
        return frozenset(self._text(item, what) for item in node.value)

    def _value(self, node: yaml.Node, feature: Feature) -> Any:
        text = self._text(node, feature.name)
        quoted = isinstance(node, yaml.ScalarNode) and node.style in ("'", '"')
        if not quoted and text.lower() in _NULL:
            if feature.nullable:
                return None
            self.refuse(node, f"{feature.name} cannot be NULL")
        try:
            return _parse_value(text, feature)
        except (ValueError, InvalidOperation):
            self.refuse(node, f"{feature.name} must be {feature.type.kind.value}, not {text[:60]!r}")

    def _text(self, node: yaml.Node, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self.refuse(node, f"{what} must be a single value")
        return str(node.value)

    def refuse(self, node: yaml.Node | None, problem: str) -> NoReturn:
        line, column = (node.start_mark.line + 1, node.start_mark.column + 1) if node else (1, 1)
        raise ExampleError(f"{self._file}:{line}:{column}: {problem}")


def _parse_value(text: str, feature: Feature) -> Any:
    """Parse a feature's value. Raises `ValueError` or `InvalidOperation`."""
    match feature.type.kind:
        case Kind.INTEGER:
            return int(text.replace(",", ""))
        case Kind.DECIMAL:
            exact = Decimal(text.replace(",", ""))
            if not exact.is_finite() or exact != exact.quantize(CENT):
                raise ValueError("not a finite amount with two places")
            return exact.quantize(CENT)
        case Kind.BOOLEAN:
            if text.lower() not in ("true", "false"):
                raise ValueError("not a boolean")
            return text.lower() == "true"
        case Kind.TIMESTAMP:
            instant = datetime.fromisoformat(text)
            return instant if instant.tzinfo else instant.replace(tzinfo=JAKARTA)
        case _:
            return text


def _ordinary_row(given: dict[str, Any]) -> FeatureRow:
    """Return an order with the given values, otherwise one that no sensible rule flags."""
    placed = given.get("created_date", datetime(2026, 1, 5, 12, tzinfo=JAKARTA))
    quantity, amount = given.get("quantity", 1), given.get("amount", Decimal("150000.00"))
    values: dict[str, Any] = {
        "id": 1,
        "user_id": 1,
        "product_id": 1,
        "quantity": quantity,
        "amount": amount,
        "payment_method": "Bank Transfer",
        "country": "ID",
        "created_date": placed,
        "local_hour": placed.astimezone(JAKARTA).hour,
        "list_price": (amount / quantity).quantize(CENT) if quantity else None,
        "user_age_days": 365,
        "user_orders_10m": 1,
        "user_orders_24h": 1,
        "user_amount_24h": amount,
        "seconds_since_last_order": int(timedelta(days=7).total_seconds()),
        "user_countries_24h": 1,
        "is_blacklisted": False,
    }
    return FeatureRow(**(values | given))


def _join(names: list[str]) -> str:
    return ", ".join(names) or "nothing"
