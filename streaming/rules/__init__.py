"""Fraud rules: the rule book (`rules.yml`), and the engine that checks, compiles and evaluates it."""

from streaming.rules.book import RULES_PATH, Explanation, Mode, Reasons, Rule, RuleBook, sql
from streaming.rules.errors import RuleError
from streaming.rules.features import FEATURES, Feature, FeatureRow
from streaming.rules.file import RuleFile

__all__ = [
    "FEATURES",
    "RULES_PATH",
    "Explanation",
    "Feature",
    "FeatureRow",
    "Mode",
    "Reasons",
    "Rule",
    "RuleBook",
    "RuleError",
    "RuleFile",
    "sql",
]
