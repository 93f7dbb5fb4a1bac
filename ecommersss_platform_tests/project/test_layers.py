"""The layers of the code: who may import whom, and where a kind of topic or warehouse may be asked for."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ecommersss_platform_tests.support.project import PROJECT

PACKAGES = ("streaming", "ecommersss_platform")


@cache
def modules() -> dict[str, Path]:
    """Return the path of every module by its dotted name."""
    paths = [path for package in PACKAGES for path in sorted((PROJECT / package).rglob("*.py"))]
    return {
        ".".join(p.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): p for p in paths
    }


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text())


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield what runs when a module is imported: no body of a function, nothing under TYPE_CHECKING."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            continue
        for field in ("body", "orelse", "handlers", "finalbody"):
            if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from statements(getattr(statement, field, []))


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Yield the dotted names that import statements ask for, submodules of a package among them."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules() else node.module


def at_import(module: str) -> set[str]:
    return set(imported(statements(tree(module).body)))


def anywhere(module: str) -> set[str]:
    return set(imported(ast.walk(tree(module))))


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def constants(module: str) -> set[str]:
    """Return the text constants of a module that something is compared with or matched against."""
    compared = [node for node in ast.walk(tree(module)) if isinstance(node, ast.Compare | ast.MatchValue)]
    inner = [
        constant for node in compared for constant in ast.walk(node) if isinstance(constant, ast.Constant)
    ]
    return {constant.value for constant in inner if isinstance(constant.value, str)}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: at_import(module) & modules().keys() - {module} for module in modules()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_stream_knows_neither_dagster_nor_the_platform() -> None:
    forbidden = {
        module: found
        for module in modules()
        if within(module, "streaming")
        and (
            found := [
                name for name in anywhere(module) if name.split(".")[0].startswith(("dagster", PACKAGES[1]))
            ]
        )
    }
    assert forbidden == {}


def test_nothing_in_the_stream_needs_the_simulator() -> None:
    users = {
        module
        for module in modules()
        if within(module, "streaming")
        and any(within(name, "streaming.simulator") for name in anywhere(module))
    }
    assert {module for module in users if not within(module, "streaming.simulator")} == set()


def test_nothing_needs_the_command() -> None:
    users = {
        module
        for module in modules()
        if any(within(name, "ecommersss_platform.cli") for name in anywhere(module))
    }
    assert {module for module in users if not within(module, "ecommersss_platform.cli")} == set()


@pytest.mark.parametrize("module", ["streaming.decisions", "streaming.lists"])
def test_pure_modules_take_nothing_from_the_database(module: str) -> None:
    assert [name for name in anywhere(module) if within(name, "streaming.database", "psycopg2")] == []


MAY_ASK_FOR_A_TOPIC = ("streaming.topics", "ecommersss_platform.topics", "ecommersss_platform.settings")
MAY_ASK_FOR_A_WAREHOUSE = (
    "ecommersss_platform.warehouse",
    "ecommersss_platform.dbt",
    "ecommersss_platform.settings",
    # Write a rule and the sample as SQL in the dialect of either.
    "streaming.rules.expression",
    "streaming.rules.sample",
)


@pytest.mark.parametrize(
    ("kinds", "may_ask"),
    [({"pubsub", "jsonl"}, MAY_ASK_FOR_A_TOPIC), ({"bigquery", "duckdb"}, MAY_ASK_FOR_A_WAREHOUSE)],
)
def test_a_kind_is_asked_for_where_it_is_chosen(kinds: set[str], may_ask: tuple[str, ...]) -> None:
    askers = {module: found for module in modules() if (found := kinds & constants(module))}
    assert {module: found for module, found in askers.items() if not within(module, *may_ask)} == {}
