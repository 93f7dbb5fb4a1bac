"""The rule book in its file: unusable, or the one whose rules are watched."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from ecommersss_platform.alerts.look import Look
from ecommersss_platform.alerts.problem import Problem
from ecommersss_platform.health import rule_book_problem


def rule_book_invalid(look: Look) -> list[Problem]:
    """Return a problem if the rule book cannot be used."""
    problem, _ = _read(path := look.settings.rules_path, _state(path))
    return [Problem("rule_book_invalid", path.name, problem)] if problem else []


def active_rules(path: Path) -> frozenset[str]:
    """Return the names of the rules of a book that decide; none if it cannot be used."""
    return _read(path, _state(path))[1]


def _state(path: Path) -> tuple[int, ...]:
    """Return what changes with the file."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


@lru_cache(maxsize=2)
def _read(path: Path, _state: tuple[int, ...]) -> tuple[str | None, frozenset[str]]:
    """Return why the book cannot be used, and its active rules. Parses it only after a change of the file."""
    from streaming.rules import RuleBook

    if problem := rule_book_problem(path):
        return problem, frozenset()
    return None, frozenset(rule.name for rule in RuleBook.load(path).rules if rule.mode == "active")
