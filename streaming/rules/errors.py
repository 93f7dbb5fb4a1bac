"""The error for a rule book that cannot be used."""

from __future__ import annotations

from streaming.errors import PlatformError


class RuleError(PlatformError, ValueError):
    """A rule book that cannot be used: the `problem`, and where it is (`line` and `column` count from 1).

    `rule` is the name of the rule with the problem, or None if it is outside any named rule.
    """

    def __init__(
        self, problem: str, file: str, rule: str | None = None, line: int = 1, column: int = 1
    ) -> None:
        self.problem = problem
        self.file = file
        self.rule = rule
        self.line = line
        self.column = column
        where = f"{file}:{line}:{column}: " + (f"rule {rule}: " if rule else "")
        super().__init__(where + problem)
