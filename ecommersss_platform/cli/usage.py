"""Wrong usage in the reader's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperGroup


class PlainGroup(TyperGroup):
    """The `ecommersss` command: what it says about a wrong value is plain English."""

    def invoke(self, ctx: Any) -> Any:
        """Run the sub-command. Raises `BadParameter` for a value that it cannot take."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            # Typer checks values with pydantic, and quotes its words.
            errors = getattr(error.__cause__, "errors", None)
            if errors is not None:
                error.message = in_plain_words(errors()[0])
            raise


def in_plain_words(problem: Mapping[str, Any]) -> str:
    """Return what pydantic found wrong with a value of the command line."""
    value, limits = problem["input"], problem.get("ctx", {})
    match problem["type"]:
        case "greater_than_equal":
            return f"must be at least {_shown(limits['ge'])}, not {value}"
        case "less_than_equal":
            return f"must be at most {_shown(limits['le'])}, not {value}"
        case "int_parsing" | "int_from_float" | "int_parsing_size":
            return f"{value} is not a whole number"
        case "float_parsing" | "finite_number":
            return f"{value} is not a number"
    return str(problem["msg"]).removeprefix("Value error, ")


def _shown(limit: float) -> str:
    return str(int(limit) if int(limit) == limit else limit)
