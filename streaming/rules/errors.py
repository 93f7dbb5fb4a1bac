"""What is wrong with a rule book."""

from __future__ import annotations

from streaming.errors import PlatformError


class RuleError(PlatformError, ValueError):
    """A rule book that cannot be used: `problem`, and where (`line` and `column` count from 1).

    `rule` is the rule's name, or None where the problem is not within a rule that has one.
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
