"""Warnings about a valid rule: conditions that no order can meet, or that every order meets.

A condition over one column is tried on values of the column: on all of them if they are few, otherwise on
those next to the literals that the column is compared with, between which no comparison changes its result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from decimal import ROUND_FLOOR, Context, Decimal
from itertools import product
from string import ascii_uppercase
from types import SimpleNamespace
from typing import Any, Final, cast

from sqlglot import exp

from streaming.orders import CENT, MAX_PAYMENT_METHOD
from streaming.rules.book import Rule, compile_condition
from streaming.rules.expression import ExpressionError, parse, syntax_tree
from streaming.rules.features import FEATURES, Feature, FeatureRow, Kind

_CODES: Final = ["".join(letters) for letters in product(ascii_uppercase, repeat=2)]
_EXACT: Final = Context(prec=100)
_MANY: Final = 1_000
"""Most literals of a condition that is tried."""

_COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ)
_SIMPLE = (
    *(exp.And, exp.Or, exp.Not, exp.Paren, exp.Between, exp.In, exp.Is, *_COMPARISONS),
    *(exp.Column, exp.Identifier, exp.Literal, exp.Neg, exp.Null, exp.Boolean),
)
"""Nodes of a condition whose result only changes next to its literals."""


def warnings(rule: Rule) -> list[str]:
    """Return a sentence for each doubtful part of a rule."""
    tree = syntax_tree(rule.when)
    quoted = sorted({c.name for c in tree.find_all(exp.Column) if c.this.quoted})
    return [
        f"\"{name}\" in double quotes is the column {name}: write text in single quotes, '{name}'"
        for name in quoted
    ] + list(dict.fromkeys(_constant_parts(tree)))


def _constant_parts(node: exp.Expr) -> Iterator[str]:
    """Yield a sentence for each smallest condition that has one result for every order."""
    node = node.unnest()
    if isinstance(node, exp.Not):
        inner = list(_constant_parts(node.this))
        yield from inner or _constant(node)
    elif isinstance(node, exp.And | exp.Or):
        operands = list(node.flatten())
        found = [sentence for operand in operands for sentence in _constant_parts(operand)]
        if found:
            yield from found
            return
        together: dict[str, list[exp.Expr]] = defaultdict(list)
        for operand in operands:
            if (column := _only_column(operand)) is not None:
                together[column].append(operand)
        build = exp.and_ if isinstance(node, exp.And) else exp.or_
        for same in together.values():
            if len(same) > 1:
                yield from _constant(build(*same))
    elif isinstance(node, exp.In) and len(node.expressions) <= _MANY:
        # A single value that the column never has is likely a mistake too.
        options = [exp.EQ(this=node.this.copy(), expression=option.copy()) for option in node.expressions]
        yield from list(_constant(node)) or [text for option in options for text in _constant(option)]
    else:
        yield from _constant(node)


def _constant(condition: exp.Expr) -> Iterator[str]:
    column = _only_column(condition)
    if column is None:
        return
    feature = FEATURES[column]
    values = _values(feature, condition)
    if values is None:
        return
    text = condition.sql(dialect="duckdb", comments=False)
    try:
        holds = _result(text)
    except ExpressionError:
        return
    results = {holds(value) for value in values}
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    if True not in results:
        yield f"{shown} can never hold{_why(feature, condition)}"
    elif results == {True}:
        yield f"{shown} holds for every order{_why(feature, condition)}"
    elif results == {True, None}:
        yield f"{shown} holds for every order whose {column} is not NULL{_why(feature, condition)}"


def _result(text: str) -> Callable[[object], bool | None]:
    """Return a function that evaluates a condition over one column. Raises `ExpressionError`."""
    expression = parse(text)
    condition = compile_condition(expression)
    (column,) = expression.columns
    return lambda value: condition(cast(FeatureRow, SimpleNamespace(**{column: value})))


def _only_column(node: exp.Expr) -> str | None:
    names = {c.name if c.this.quoted else c.name.lower() for c in node.find_all(exp.Column)}
    return names.pop() if len(names) == 1 else None


def _why(feature: Feature, condition: exp.Expr) -> str:
    name = feature.name
    if isinstance(condition, exp.Between):
        low, high = condition.args["low"], condition.args["high"]
        if low.is_number and high.is_number and Decimal(low.name) > Decimal(high.name):
            return f": BETWEEN needs the lower value first, or write {name} >= {low} OR {name} <= {high}"
    if feature.name == "country":
        return ": country is two upper-case letters"
    if feature.type.kind is Kind.TEXT:
        return f": {name} is one text of 1 to {MAX_PAYMENT_METHOD} characters"
    if feature.least is None:
        return ""
    most = "" if feature.most is None else f" and at most {feature.most}"
    return f": {name} is at least {feature.least}{most}"


def _values(feature: Feature, condition: exp.Expr) -> list[Any] | None:
    """Return values of a column that give every result that the condition can have, or None if unknown."""
    values: list[Any]
    literals = list(condition.find_all(exp.Literal))
    if len(literals) > _MANY:
        return None
    if feature.name == "country":
        values = list(_CODES)
    elif feature.type.kind is Kind.BOOLEAN:
        values = [True, False]
    elif feature.least is not None and feature.most is not None and feature.most - feature.least < _MANY:
        values = list(range(int(feature.least), int(feature.most) + 1))
    elif not all(isinstance(node, _SIMPLE) for node in condition.walk()):
        return None
    elif feature.type.numeric:
        values = _numbers(feature, [Decimal(literal.this) for literal in literals if not literal.is_string])
    elif feature.type.kind is Kind.TEXT and not condition.find(exp.LT, exp.LTE, exp.GT, exp.GTE, exp.Between):
        texts = {literal.this for literal in literals}
        other = next(text for text in ("x" * n for n in range(1, _MANY + 2)) if text not in texts)
        values = [*(text for text in texts if 1 <= len(text) <= MAX_PAYMENT_METHOD), other]
    else:
        return None
    return [*values, None] if feature.nullable else values


def _numbers(feature: Feature, literals: list[Decimal]) -> list[Any]:
    whole = feature.type.kind is Kind.INTEGER
    step = Decimal(1) if whole else CENT
    limits = [limit for limit in (feature.least, feature.most) if limit is not None]
    points: set[Decimal] = set()
    for value in [*literals, *(-literal for literal in literals), *limits]:
        below = Decimal(value).quantize(step, ROUND_FLOOR, _EXACT)
        points |= {below - step, below, below + step}
    inside = [
        point
        for point in points
        if (feature.least is None or point >= feature.least)
        and (feature.most is None or point <= feature.most)
    ]
    return [int(point) for point in inside] if whole else inside
