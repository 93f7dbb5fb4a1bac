"""Check a rule's SQL expression, and compile it to Python source and to the SQL of a warehouse.

An expression means the same in every engine, so that the stream and the warehouse flag the same orders:

- NULL works as in SQL: a condition is true, false or NULL, and a rule holds if it is true.
- `+ - *` of integers and decimals are exact. `/` always divides two doubles, and its divisor must be a
  non-zero literal or `NULLIF(x, 0)`.
- Text is compared by code points. UPPER and LOWER only change the letters A to Z.

Anything that engines would answer differently, or not at all, is refused.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Context, Decimal
from itertools import pairwise
from string import ascii_lowercase, ascii_uppercase
from typing import Any, Final, NoReturn

import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import SqlglotError

from streaming.rules.features import FEATURES, Kind, Type

MAX_DIGITS: Final = 38
"""Most digits of a decimal that every warehouse supports."""

MAX_SCALE: Final = 9
"""Most decimals of a literal that every warehouse supports."""

MAX_SOURCE: Final = 50_000
"""Longest Python source of a rule, in characters: a longer one is refused as too complex."""

MAX_TYPES: Final = 3
"""Most types with arguments, such as DECIMAL(9, 2), that are worth parsing. None is supported."""

MAX_DEPTH: Final = 50
"""Deepest nesting of an expression, including parentheses."""

_DUCKDB_SMALL: Final = 18
"""DuckDB does not widen the result of two decimals beyond these digits, and fails if it needs more."""

DIALECTS: Final = ("duckdb", "bigquery")

_BOOLEAN = Type(Kind.BOOLEAN)
_TYPES = DuckDB.Parser.TYPE_TOKENS


class ExpressionError(ValueError):
    """A `problem` with an expression, at an `offset` in it (characters from 0)."""

    def __init__(self, problem: str, offset: int = 0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked boolean expression.

    `truth` is Python source that is truthy exactly if the condition is true, `falsity` exactly if it is
    false. Both use a local `c_<name>` for each of `columns`, and the names in `constants`.
    """

    text: str
    truth: str
    falsity: str
    columns: tuple[str, ...]
    constants: dict[str, object]
    tree: exp.Expr


@dataclass(frozen=True, slots=True)
class _Value:
    """A value: its Python source and its SQL. Only literals have a `constant`."""

    type: Type
    nullable: bool
    source: str
    sql: exp.Expr
    constant: Any = None


@dataclass(frozen=True, slots=True)
class _Condition:
    """A boolean, as Python source for when it is true and for when it is false."""

    nullable: bool
    truth: str
    falsity: str
    sql: exp.Expr


_Node = _Value | _Condition


def parse(text: str, prefix: str = "") -> Expression:
    """Check an expression. `prefix` keeps the constants of several expressions apart.

    Raises `ExpressionError`.
    """
    try:
        tree = syntax_tree(text)
        checker = _Checker(prefix)
        condition = checker.condition(tree)
    except SqlglotError as error:
        raise _syntax_error(error, text) from None
    except RecursionError:
        raise ExpressionError(
            f"nested more than {MAX_DEPTH} levels deep: split it into several rules"
        ) from None
    return Expression(
        text=text,
        truth=condition.truth,
        falsity=condition.falsity,
        columns=tuple(name for name in FEATURES if name in checker.columns),
        constants=checker.constants,
        tree=condition.sql,
    )


def syntax_tree(text: str) -> exp.Expr:
    """Parse a text, without a check of its columns and types.

    Raises `ExpressionError`, `SqlglotError` or `RecursionError`.
    """
    tokens = sqlglot.tokenize(text, dialect="duckdb")
    # The parser reads BIGINT(BIGINT(BIGINT(1))) in two ways at each level.
    types = [
        token
        for token, after in pairwise(tokens)
        if token.token_type in _TYPES and after.text in ("(", "<", "[")
    ]
    if len(types) > MAX_TYPES:
        raise ExpressionError(f"{types[0].text} is not supported in rules. {_SUPPORTED}", types[0].start)
    try:
        return sqlglot.parse_one(text, into=exp.Condition, dialect="duckdb")
    except TypeError:  # the compiled parser's answer where an operand is missing, as in "1 ->"
        raise ExpressionError("not an SQL expression: something is missing") from None


def to_sql(expression: Expression, dialect: str) -> str:
    """Return the expression in a warehouse's SQL, over columns named as in `FEATURES`."""
    if dialect not in DIALECTS:
        raise ValueError(f"unknown dialect {dialect!r}: use {' or '.join(DIALECTS)}")
    tree = expression.tree.copy()
    return (tree.transform(_for_bigquery) if dialect == "bigquery" else tree).sql(dialect=dialect)


def _for_bigquery(node: exp.Expr) -> exp.Expr:
    # In BigQuery a decimal literal is FLOAT64, and NUMERIC has only 29 digits before the point.
    if isinstance(node, exp.DataType) and node.this == exp.DataType.Type.DECIMAL:
        return exp.DataType.build("BIGDECIMAL")
    if isinstance(node, exp.Literal) and not node.is_string and ("." in node.this or len(node.this) > 18):
        return exp.Cast(this=exp.Literal.string(node.this), to=exp.DataType.build("BIGDECIMAL"))
    return node


def _syntax_error(error: SqlglotError, text: str) -> ExpressionError:
    details = getattr(error, "errors", None)
    if not text.strip():
        return ExpressionError("the expression is empty")
    if not details:
        return ExpressionError("not an SQL expression: a quote is not closed", len(text.rstrip()) - 1)
    first = details[0]
    token = first["highlight"] or ""
    lines = text.split("\n")[: first["line"]]
    offset = sum(len(line) + 1 for line in lines[:-1]) + max(first["col"] - len(token), 0)
    missing = first["description"].startswith("Required keyword")
    problem = "something is missing" if missing else first["description"]
    return ExpressionError(f"not an SQL expression at {token!r}: {problem}", min(offset, len(text) - 1))


# Exact arithmetic: results have at most 38 digits, which is checked, so nothing is ever rounded.
_EXACT = Context(prec=2 * MAX_DIGITS)
_UPPER = str.maketrans(ascii_lowercase, ascii_uppercase)
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)

PYTHON_NAMES: Final[dict[str, object]] = {
    "add": _EXACT.add,
    "subtract": _EXACT.subtract,
    "multiply": _EXACT.multiply,
    "minus": _EXACT.minus,
    "absolute": _EXACT.abs,
    "upper": _UPPER,
    "lower": _LOWER,
    "float": float,
    "max": max,
    "min": min,
    "abs": abs,
}
"""The names that generated source uses besides its columns and constants."""

_COMPARISONS: Final[dict[type[exp.Expr], tuple[str, str]]] = {
    exp.EQ: ("==", "!="),
    exp.NEQ: ("!=", "=="),
    exp.LT: ("<", ">="),
    exp.LTE: ("<=", ">"),
    exp.GT: (">", "<="),
    exp.GTE: (">=", "<"),
}
"""The Python operator of each comparison, and of its opposite (there are no NaNs)."""

_ARITHMETIC: Final[dict[type[exp.Expr], tuple[str, str]]] = {
    exp.Add: ("+", "add"),
    exp.Sub: ("-", "subtract"),
    exp.Mul: ("*", "multiply"),
}


class _Checker:
    """A check of one expression, from the leaves up, which compiles each part."""

    def __init__(self, prefix: str) -> None:
        self.columns: set[str] = set()
        self.constants: dict[str, object] = {}
        self._prefix = prefix
        self._temporaries = 0
        self._depth = 0

    # Entry points.

    def condition(self, node: exp.Expr) -> _Condition:
        """Check a node that must be boolean."""
        checked = self._check(node)
        if isinstance(checked, _Condition):
            return checked
        if checked.type.kind is not Kind.BOOLEAN:
            _refuse(node, f"{_text(node)} is {checked.type.kind.value}, but a condition is needed")
        return _Condition(
            checked.nullable,
            checked.source,
            f"({checked.source} is False)" if checked.nullable else f"(not {checked.source})",
            checked.sql,
        )

    def value(self, node: exp.Expr) -> _Value:
        """Check a node as a value. A condition becomes a boolean value."""
        checked = self._check(node)
        if isinstance(checked, _Value):
            return checked
        if checked.nullable:
            source = f"(True if {checked.truth} else False if {checked.falsity} else None)"
        else:
            source = f"(True if {checked.truth} else False)"
        return _Value(_BOOLEAN, checked.nullable, source, checked.sql)

    def _check(self, node: exp.Expr | None) -> _Node:
        if not isinstance(node, exp.Expr):
            raise ExpressionError("not an SQL expression: something is missing")
        method = _METHODS.get(type(node))
        known = _ARGUMENTS.get(type(node), _OPERANDS)
        # Refuse parts that this module does not know, say of a newer parser: they could change the meaning.
        if method is not None and all(name in known for name, part in node.args.items() if part):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                _refuse(node, f"nested more than {MAX_DEPTH} levels deep: split it into several rules")
            checked: _Node = method(self, node)
            self._depth -= 1
            source = checked.source if isinstance(checked, _Value) else checked.truth + checked.falsity
            if len(source) > MAX_SOURCE:
                _refuse(node, "too complex: split it into several rules")
            return checked
        _refuse(node, f"{_text(node)} is not supported in rules. {_SUPPORTED}")

    # Leaves.

    def _paren(self, node: exp.Paren) -> _Node:
        inner = self._check(node.this)
        return replace(inner, sql=exp.Paren(this=inner.sql))

    def _column(self, node: exp.Column) -> _Value:
        identifier = node.this
        if not isinstance(identifier, exp.Identifier) or len(node.parts) > 1:
            _refuse(node, f"{_text(node)}: write only the column's name")
        name = identifier.this if identifier.quoted else identifier.this.lower()
        feature = FEATURES.get(name)
        if feature is None:
            near = difflib.get_close_matches(name, FEATURES, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"known columns are {', '.join(FEATURES)}"
            if identifier.quoted:
                hint = f"{hint if near else ''} Text is written in single quotes: '{identifier.this}'".strip()
            _refuse(node, f"unknown column {identifier.this}: {hint}")
        self.columns.add(name)
        return _Value(feature.type, feature.nullable, f"c_{name}", exp.column(name))

    def _literal(self, node: exp.Literal) -> _Value:
        if node.is_string:
            text = node.this
            if any(character == "\0" or 0xD800 <= ord(character) < 0xE000 for character in text):
                _refuse(node, "the text has a character that no warehouse can store")
            return _Value(Type(Kind.TEXT), False, self._constant(text), exp.Literal.string(text), text)
        if not _NUMBER.fullmatch(node.this):
            _refuse(node, f"{node.this} is not a number that every warehouse supports")
        return self._number(node, Decimal(node.this))

    def _number(self, node: exp.Expr, number: Decimal) -> _Value:
        """Return an exact number without an exponent, so that 1e3 and 1000 are the same to every engine."""
        _, digits, exponent = number.normalize(_EXACT).as_tuple()
        assert isinstance(exponent, int)
        scale = max(-exponent, 0)
        count = max(len(digits) + max(exponent, 0), scale)
        if len(number.as_tuple().digits) > MAX_DIGITS or count > MAX_DIGITS or scale > MAX_SCALE:
            _refuse(
                node,
                f"{_text(node)}: a number has at most {MAX_DIGITS} digits, and at most {MAX_SCALE} decimals",
            )
        written = exp.Literal.number(f"{number.normalize(_EXACT):f}")
        if scale:
            return _Value(Type(Kind.DECIMAL, count, scale), False, self._constant(number), written, number)
        whole = int(number)
        return _Value(Type(Kind.INTEGER, count), False, f"({whole})", written, whole)

    def _boolean(self, node: exp.Boolean) -> _Condition:
        return _Condition(False, str(node.this), str(not node.this), exp.Boolean(this=node.this))

    def _null(self, node: exp.Null) -> _Value:
        return _Value(Type(Kind.NULL), True, "None", exp.Null())

    def _time(self, node: exp.Cast) -> _Value:
        """Check a time such as TIMESTAMPTZ '2026-01-01 00:00:00+07:00', the only cast that is supported."""
        literal = node.this
        if type(node) is not exp.Cast or not isinstance(literal, exp.Literal) or not literal.is_string:
            _refuse(node, f"{_text(node)} is not supported in rules. {_SUPPORTED}")
        if node.to.this != exp.DataType.Type.TIMESTAMPTZ:
            _refuse(node, f"{_text(node)}: write times as TIMESTAMPTZ '2026-01-01 00:00:00+07:00'")
        try:
            instant = datetime.fromisoformat(literal.this)
        except ValueError:
            _refuse(node, f"{literal.this!r} is not a time")
        if instant.tzinfo is None:
            _refuse(node, f"{literal.this!r} has no offset, so engines would read it differently: add +07:00")
        sql = _cast(exp.Literal.string(instant.isoformat()), "TIMESTAMPTZ")
        return _Value(Type(Kind.TIMESTAMP), False, self._constant(instant), sql, instant)

    # Conditions.

    def _and(self, node: exp.And) -> _Condition:
        return self._connective(node, " and ", " or ", exp.and_)

    def _or(self, node: exp.Or) -> _Condition:
        return self._connective(node, " or ", " and ", exp.or_)

    def _connective(
        self, node: exp.Connector, truth: str, falsity: str, build: Callable[..., exp.Expr]
    ) -> _Condition:
        parts = [self.condition(part) for part in node.flatten(unnest=False)]
        return _Condition(
            any(part.nullable for part in parts),
            f"({truth.join(part.truth for part in parts)})",
            f"({falsity.join(part.falsity for part in parts)})",
            build(*(part.sql for part in parts), copy=False),
        )

    def _not(self, node: exp.Not) -> _Condition:
        inner = self.condition(node.this)
        return _Condition(inner.nullable, inner.falsity, inner.truth, exp.Not(this=_operand(inner.sql)))

    def _compare(self, node: exp.Binary) -> _Condition:
        return self._comparison(node, type(node), self.value(node.this), self.value(node.expression))

    def _comparison(self, node: exp.Expr, kind: type[exp.Expr], left: _Value, right: _Value) -> _Condition:
        left, right = self._comparable(node, left, right)
        if left.type.kind is Kind.BOOLEAN and kind not in (exp.EQ, exp.NEQ):
            _refuse(node, f"{_text(node)}: booleans cannot be ordered")
        operator, opposite = _COMPARISONS[kind]
        guard, (a, b) = self._null_guard(left, right)
        return _Condition(
            left.nullable or right.nullable,
            f"({guard}{a} {operator} {b})",
            f"({guard}{a} {opposite} {b})",
            kind(this=_operand(left.sql), expression=_operand(right.sql)),
        )

    def _distinct(self, node: exp.NullSafeNEQ | exp.NullSafeEQ) -> _Condition:
        left, right = self._comparable(node, self.value(node.this), self.value(node.expression))
        differ = f"({left.source} != {right.source})"
        same = f"({left.source} == {right.source})"
        truth, falsity = (differ, same) if isinstance(node, exp.NullSafeNEQ) else (same, differ)
        sql = type(node)(this=_operand(left.sql), expression=_operand(right.sql))
        return _Condition(False, truth, falsity, sql)

    def _between(self, node: exp.Between) -> _Condition:
        value, low, high = self.value(node.this), self.value(node.args["low"]), self.value(node.args["high"])
        above = self._comparison(node, exp.GTE, value, low)
        below = self._comparison(node, exp.LTE, value, high)
        return _Condition(
            above.nullable or below.nullable,
            f"({above.truth} and {below.truth})",
            f"({above.falsity} or {below.falsity})",
            exp.and_(above.sql, below.sql, copy=False),
        )

    def _in(self, node: exp.In) -> _Condition:
        options = node.args.get("expressions")
        if not options:
            _refuse(node, f"{_text(node)}: IN needs a list of values")
        value = self.value(node.this)
        pairs = [self._comparable(node, value, self.value(option)) for option in options]
        values = [option for _, option in pairs]
        kind = value.type.kind
        if kind in (Kind.TEXT, Kind.INTEGER) and all(
            o.constant is not None and o.type.kind is kind for o in values
        ):
            among = self._constant(frozenset(option.constant for option in values))
            guard, (source,) = self._null_guard(value)
            sql = exp.In(this=_operand(value.sql), expressions=[option.sql for option in values])
            return _Condition(
                value.nullable, f"({value.source} in {among})", f"({guard}{source} not in {among})", sql
            )
        # Separate tests mean the same in every engine; the type of a mixed list differs between them.
        tests = [self._comparison(node, exp.EQ, value, self.value(option)) for option in options]
        return _Condition(
            any(test.nullable for test in tests),
            f"({' or '.join(test.truth for test in tests)})",
            f"({' and '.join(test.falsity for test in tests)})",
            exp.paren(exp.or_(*(test.sql for test in tests), copy=False), copy=False),
        )

    def _is(self, node: exp.Is) -> _Condition:
        if isinstance(node.expression, exp.Null):
            value = self.value(node.this)
            sql = exp.Is(this=_operand(value.sql), expression=exp.Null())
            if not value.nullable:
                # Not refused: the rule stays right if the column becomes nullable.
                return _Condition(False, "False", "True", sql)
            return _Condition(False, f"({value.source} is None)", f"({value.source} is not None)", sql)
        if isinstance(node.expression, exp.Boolean):
            wanted = bool(node.expression.this)
            inner = self.condition(node.this)
            holds = inner.truth if wanted else inner.falsity
            sql = exp.Is(this=_operand(inner.sql), expression=exp.Boolean(this=wanted))
            return _Condition(False, holds, f"(not {holds})", sql)
        _refuse(node, f"{_text(node)}: IS needs NULL, TRUE or FALSE")

    def _like(self, node: exp.Like) -> _Condition:
        value, pattern = self.value(node.this), node.expression
        if not isinstance(pattern, exp.Literal) or not pattern.is_string:
            _refuse(node, f"{_text(node)}: LIKE needs a text literal")
        if value.type.kind is not Kind.TEXT:
            _refuse(node, f"{_text(node.this)} is {value.type.kind.value}, but LIKE needs text")
        if "\\" in pattern.this:
            _refuse(pattern, f"{pattern.this!r}: engines treat a backslash in LIKE differently")
        match = self._constant(_like_matcher(pattern.this))
        guard, (source,) = self._null_guard(value)
        like = f"({guard}{match}({source}) is not None)"
        unlike = f"({guard}{match}({source}) is None)"
        sql: exp.Expr = exp.Like(this=_operand(value.sql), expression=exp.Literal.string(pattern.this))
        if node.args.get("negate"):
            return _Condition(value.nullable, unlike, like, exp.Not(this=exp.Paren(this=sql)))
        return _Condition(value.nullable, like, unlike, sql)

    # Values.

    def _arithmetic(self, node: exp.Binary) -> _Value:
        operator, function = _ARITHMETIC[type(node)]
        left, right = self._numbers(node, node.this, node.expression)
        if Kind.FLOAT in (left.type.kind, right.type.kind):
            left, right = self._as_float(left), self._as_float(right)
            result, pattern = Type(Kind.FLOAT), f"({{0}} {operator} {{1}})"
        else:
            result = _exact_type(node, left.type, right.type)
            left, right = _as_decimal(left), _as_decimal(right)
            if result.digits > _DUCKDB_SMALL >= max(left.type.digits, right.type.digits):
                left = _as_decimal(left, Type(Kind.DECIMAL, _DUCKDB_SMALL + 1, left.type.scale))
            whole = result.kind is Kind.INTEGER
            pattern = f"({{0}} {operator} {{1}})" if whole else f"{function}({{0}}, {{1}})"
        sql = type(node)(this=_operand(left.sql), expression=_operand(right.sql))
        return self._null_if_any_null(result, pattern, sql, left, right)

    def _divide(self, node: exp.Div) -> _Value:
        left, right = self._numbers(node, node.this, node.expression)
        divisor = node.expression.unnest()
        zero = right.constant == 0 if right.constant is not None else not _never_zero(divisor)
        if zero:
            _refuse(
                node.expression,
                f"division by a possible zero: write {_text(node.this)} / NULLIF({_text(divisor)}, 0)",
            )
        left, right = self._as_float(left), self._as_float(right)
        sql = exp.Div(this=_operand(left.sql), expression=_operand(right.sql), typed=False, safe=False)
        return self._null_if_any_null(Type(Kind.FLOAT), "({0} / {1})", sql, left, right)

    def _negative(self, node: exp.Neg) -> _Value:
        (value,) = self._numbers(node, node.this)
        if value.constant is not None:
            source = (
                self._constant(-value.constant) if value.type.kind is Kind.DECIMAL else f"({-value.constant})"
            )
            sql = exp.Neg(this=value.sql)
            return _Value(value.type, False, source, sql, -value.constant)
        pattern = "minus({0})" if value.type.kind is Kind.DECIMAL else "(-{0})"
        return self._null_if_any_null(value.type, pattern, exp.Neg(this=_operand(value.sql)), value)

    def _abs(self, node: exp.Abs) -> _Value:
        (value,) = self._numbers(node, node.this)
        pattern = "absolute({0})" if value.type.kind is Kind.DECIMAL else "abs({0})"
        value = _as_decimal(value)  # the smallest BIGINT has no absolute value in BIGINT
        return self._null_if_any_null(value.type, pattern, exp.Abs(this=value.sql), value)

    def _greatest_or_least(self, node: exp.Greatest | exp.Least) -> _Value:
        values = self._numbers(node, node.this, *node.expressions)
        for value, argument in zip(values, [node.this, *node.expressions], strict=True):
            if value.nullable:
                _refuse(
                    argument,
                    f"{_text(argument)} may be NULL, which engines treat differently here: use COALESCE",
                )
        values = self._same_type(node, values)
        function = "max" if isinstance(node, exp.Greatest) else "min"
        source = (
            f"{function}({', '.join(value.source for value in values)})" if values[1:] else values[0].source
        )
        sql = type(node)(this=values[0].sql, expressions=[value.sql for value in values[1:]])
        return _Value(values[0].type, False, source, sql)

    def _coalesce(self, node: exp.Coalesce) -> _Value:
        values = self._same_type(node, [self.value(part) for part in (node.this, *node.expressions)])
        source = values[-1].source
        for value in reversed(values[:-1]):
            if value.nullable:
                name = self._temporary()
                source = f"({name} if ({name} := {value.source}) is not None else {source})"
            else:
                source = value.source
        sql = exp.Coalesce(this=values[0].sql, expressions=[value.sql for value in values[1:]])
        return _Value(values[0].type, all(value.nullable for value in values), source, sql)

    def _nullif(self, node: exp.Nullif) -> _Value:
        value, other = self.value(node.this), self.value(node.expression)
        left, right = self._comparable(node, value, other)
        name = self._temporary()
        sql = exp.Nullif(this=left.sql, expression=right.sql)
        return _Value(
            left.type, True, f"(None if ({name} := {left.source}) == {right.source} else {name})", sql
        )

    def _case(self, node: exp.Case) -> _Value:
        tests = []
        for branch in node.args["ifs"]:
            if node.this is None:
                tests.append(self.condition(branch.this))
            else:
                value, option = self.value(node.this), self.value(branch.this)
                tests.append(self._comparison(branch.this, exp.EQ, value, option))
        results = [self.value(branch.args["true"]) for branch in node.args["ifs"]]
        default = node.args.get("default")
        results.append(self.value(default) if default is not None else self._null(exp.Null()))
        results = self._same_type(node, results)
        source = results[-1].source
        for test, result in zip(reversed(tests), reversed(results[:-1]), strict=True):
            source = f"({result.source} if {test.truth} else {source})"
        sql = exp.Case(
            ifs=[exp.If(this=t.sql, true=r.sql) for t, r in zip(tests, results[:-1], strict=True)],
            default=results[-1].sql,
        )
        return _Value(results[0].type, any(result.nullable for result in results), source, sql)

    def _change_case(self, node: exp.Upper | exp.Lower) -> _Value:
        value = self.value(node.this)
        if value.type.kind is not Kind.TEXT:
            _refuse(node.this, f"{_text(node.this)} is {value.type.kind.value}, but {_text(node)} needs text")
        table, name = (
            (ascii_uppercase, "upper") if isinstance(node, exp.Upper) else (ascii_lowercase, "lower")
        )
        origin = ascii_lowercase if isinstance(node, exp.Upper) else ascii_uppercase
        # Engines disagree beyond A to Z (what is ß in upper case?), so every engine changes only these.
        sql = exp.Anonymous(
            this="TRANSLATE", expressions=[value.sql, exp.Literal.string(origin), exp.Literal.string(table)]
        )
        return self._null_if_any_null(Type(Kind.TEXT), f"{{0}}.translate({name})", sql, value)

    # Helpers.

    def _null_if_any_null(self, type_: Type, pattern: str, sql: exp.Expr, *values: _Value) -> _Value:
        """Return a value that is NULL if any of its operands is."""
        guard, sources = self._null_guard(*values)
        source = pattern.format(*sources)
        if guard:
            source = f"({source} if {guard.removesuffix(' and ')} else None)"
        return _Value(type_, bool(guard), source, sql)

    def _null_guard(self, *values: _Value) -> tuple[str, list[str]]:
        """Return source that is true if no value is NULL ("" or ending in "and"), and the values' sources."""
        guard, sources = "", []
        for value in values:
            source = value.source
            if value.nullable:
                if source.startswith("c_") and source.isidentifier():
                    guard += f"{source} is not None and "
                else:
                    # Evaluate it only once.
                    source = self._temporary()
                    guard += f"({source} := {value.source}) is not None and "
            sources.append(source)
        return guard, sources

    def _comparable(self, node: exp.Expr, left: _Value, right: _Value) -> tuple[_Value, _Value]:
        """Convert two values so that they can be compared. Raises `ExpressionError` if they cannot."""
        if Kind.NULL in (left.type.kind, right.type.kind):
            _refuse(node, f"{_text(node)}: a comparison with NULL is never true: use IS NULL or IS NOT NULL")
        if left.type.numeric and right.type.numeric:
            if Kind.FLOAT in (left.type.kind, right.type.kind):
                return self._as_float(left), self._as_float(right)
            if Kind.DECIMAL in (left.type.kind, right.type.kind):
                return self._constant_decimal(left), self._constant_decimal(right)
        elif left.type.kind is not right.type.kind:
            _refuse(node, f"{_text(node)}: compares {left.type.kind.value} with {right.type.kind.value}")
        return left, right

    def _same_type(self, node: exp.Expr, values: list[_Value]) -> list[_Value]:
        """Convert values to one type, for the branches of CASE and COALESCE."""
        types = [value.type for value in values if value.type.kind is not Kind.NULL]
        if not types:
            _refuse(node, f"{_text(node)} is always NULL")
        if all(t.numeric for t in types):
            if any(t.kind is Kind.FLOAT for t in types):
                return [self._as_float(v) if v.type.numeric else _retyped(v, Kind.FLOAT) for v in values]
            joined = _common_type(node, types)
            same = len(set(types)) == 1
            return [
                _as_decimal(v, joined) if v.type.numeric and not same else _retyped(v, joined) for v in values
            ]
        if len({t.kind for t in types}) > 1:
            kinds = " and ".join(sorted({t.kind.value for t in types}))
            _refuse(node, f"{_text(node)} mixes {kinds}")
        return [_retyped(value, types[0]) for value in values]

    def _numbers(self, node: exp.Expr, *parts: exp.Expr) -> list[_Value]:
        values = [self.value(part) for part in parts]
        for value, part in zip(values, parts, strict=True):
            if not value.type.numeric:
                _refuse(part, f"{_text(part)} is {value.type.kind.value}, but {_text(node)} needs numbers")
        return values

    def _as_float(self, value: _Value) -> _Value:
        if value.type.kind is Kind.FLOAT:
            return value
        sql = value.sql
        bigint = isinstance(sql, exp.Column) and value.type.kind is Kind.INTEGER
        if value.type.digits > 15 and not bigint:
            # Convert through text, which rounds once; a direct cast of a long decimal would round twice.
            sql = _cast(sql, "VARCHAR")
        sql = _cast(sql, "DOUBLE")
        if value.constant is not None:
            return _Value(Type(Kind.FLOAT), False, self._constant(float(value.constant)), sql, value.constant)
        return self._null_if_any_null(Type(Kind.FLOAT), "float({0})", sql, value)

    def _constant_decimal(self, value: _Value) -> _Value:
        """Make an integer constant a Decimal, which Python compares with Decimals faster than an int."""
        if value.type.kind is Kind.INTEGER and value.constant is not None:
            return replace(value, source=self._constant(Decimal(value.constant)))
        return value

    def _constant(self, value: object) -> str:
        name = f"k_{self._prefix}{len(self.constants)}"
        self.constants[name] = value
        return name

    def _temporary(self) -> str:
        self._temporaries += 1
        return f"t_{self._temporaries}"


_METHODS: Final[dict[type, Callable[[_Checker, Any], _Node]]] = {
    exp.Paren: _Checker._paren,
    exp.Column: _Checker._column,
    exp.Literal: _Checker._literal,
    exp.Boolean: _Checker._boolean,
    exp.Null: _Checker._null,
    exp.Cast: _Checker._time,
    exp.And: _Checker._and,
    exp.Or: _Checker._or,
    exp.Not: _Checker._not,
    **dict.fromkeys(_COMPARISONS, _Checker._compare),
    exp.NullSafeEQ: _Checker._distinct,
    exp.NullSafeNEQ: _Checker._distinct,
    exp.Between: _Checker._between,
    exp.In: _Checker._in,
    exp.Is: _Checker._is,
    exp.Like: _Checker._like,
    **dict.fromkeys(_ARITHMETIC, _Checker._arithmetic),
    exp.Div: _Checker._divide,
    exp.Neg: _Checker._negative,
    exp.Abs: _Checker._abs,
    exp.Greatest: _Checker._greatest_or_least,
    exp.Least: _Checker._greatest_or_least,
    exp.Coalesce: _Checker._coalesce,
    exp.Nullif: _Checker._nullif,
    exp.Case: _Checker._case,
    exp.Upper: _Checker._change_case,
    exp.Lower: _Checker._change_case,
}

_OPERANDS: Final = frozenset({"this", "expression", "expressions"})
_ARGUMENTS: Final[dict[type, frozenset[str]]] = {
    exp.Column: _OPERANDS | {"table", "db", "catalog"},
    exp.Literal: frozenset({"this", "is_string"}),
    exp.Cast: frozenset({"this", "to"}),
    exp.Between: frozenset({"this", "low", "high"}),
    exp.Case: frozenset({"this", "ifs", "default"}),
    exp.Div: _OPERANDS | {"typed", "safe"},
    exp.Like: _OPERANDS | {"negate"},
    exp.Greatest: _OPERANDS | {"ignore_nulls"},
    exp.Least: _OPERANDS | {"ignore_nulls"},
}
"""The parts of a node that its check handles."""

_SUPPORTED = (
    "Rules support comparisons, + - * /, AND, OR, NOT, IN, BETWEEN, LIKE, IS NULL, IS DISTINCT FROM, CASE,"
    " COALESCE, NULLIF, ABS, LEAST, GREATEST, UPPER and LOWER."
)
_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?", re.ASCII)


def _like_matcher(pattern: str) -> Callable[[str], object]:
    """Return a function that returns None for a text that the pattern does not match.

    Each piece between two `%` is taken where it occurs first. Atomic groups keep the engine from trying
    another place, so a match takes at most one pass over the text for each piece, whatever the text.
    """
    pieces = ["".join("." if c == "_" else re.escape(c) for c in piece) for piece in pattern.split("%")]
    if len(pieces) == 1:
        return re.compile(pieces[0], re.DOTALL).fullmatch
    first, *inner, last = pieces
    found = "".join(f"(?>.*?{piece})" for piece in inner if piece)
    return re.compile(f"{first}{found}.*{last}", re.DOTALL).fullmatch


def _refuse(node: exp.Expr, problem: str) -> NoReturn:
    raise ExpressionError(problem, _offset(node))


def _offset(node: exp.Expr) -> int:
    """Return where a node begins. The parser only marks leaves and functions."""
    return min((part.meta["start"] for part in node.walk() if "start" in part.meta), default=0)


def _text(node: exp.Expr) -> str:
    unsupported = [part for part in node.find_all(exp.Func) if type(part) not in _METHODS]
    if len(unsupported) > 1:  # rendering nested ones can take exponential time, or fail
        name = unsupported[0].sql_name()
        return f"{unsupported[0].name.upper() if name == 'ANONYMOUS' else name}(...)"
    text = node.sql(dialect="duckdb", comments=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _cast(sql: exp.Expr, type_: str) -> exp.Cast:
    """Cast a value. sqlglot's own `cast` treats DECIMAL(16, 0) as DECIMAL(19, 0) and omits the cast."""
    return exp.Cast(this=sql.copy(), to=exp.DataType.build(type_, dialect="duckdb"))


def _operand(sql: exp.Expr) -> exp.Expr:
    """Copy an operand, in parentheses unless it is a leaf or a call: precedence then never matters."""
    sql = sql.copy()
    if isinstance(sql, exp.Binary | exp.Unary | exp.In) and not isinstance(sql, exp.Paren):
        return exp.Paren(this=sql)
    return sql


def _retyped(value: _Value, type_: Type | Kind) -> _Value:
    return replace(value, type=type_ if isinstance(type_, Type) else Type(type_))


def _never_zero(divisor: exp.Expr) -> bool:
    if not isinstance(divisor, exp.Nullif):
        return False
    other = divisor.expression.unnest()
    return isinstance(other, exp.Literal) and not other.is_string and Decimal(other.this) == 0


def _exact_type(node: exp.Expr, left: Type, right: Type) -> Type:
    """Return the type that DuckDB gives a sum, difference or product of two exact numbers."""
    if isinstance(node, exp.Mul):
        scale = left.scale + right.scale
        digits = left.digits + right.digits
    else:
        scale = max(left.scale, right.scale)
        digits = max(left.digits - left.scale, right.digits - right.scale) + scale + 1
    return _sized_type(node, digits, scale, left.kind is right.kind is Kind.INTEGER)


def _common_type(node: exp.Expr, types: Iterable[Type]) -> Type:
    """Return the smallest exact type that holds the values of all these types."""
    types = list(types)
    scale = max(t.scale for t in types)
    digits = max(t.digits - t.scale for t in types) + scale
    return _sized_type(node, digits, scale, all(t.kind is Kind.INTEGER for t in types))


def _sized_type(node: exp.Expr, digits: int, scale: int, whole: bool) -> Type:
    if digits > MAX_DIGITS:
        _refuse(
            node,
            f"{_text(node)} may need {digits} digits, but warehouses are exact only to {MAX_DIGITS}:"
            " compare a ratio (a / NULLIF(b, 0)) instead",
        )
    return Type(Kind.INTEGER if whole else Kind.DECIMAL, digits, scale)


def _as_decimal(value: _Value, type_: Type | None = None) -> _Value:
    """Make an exact number a sized DECIMAL in SQL, where BIGINT could overflow; Python needs no change."""
    if value.type.kind is Kind.FLOAT:
        return value
    type_ = type_ or value.type
    if type_ == value.type and value.type.kind is Kind.DECIMAL:
        return value
    return replace(value, type=type_, sql=_cast(value.sql, f"DECIMAL({type_.digits}, {type_.scale})"))
