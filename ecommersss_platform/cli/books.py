"""`ecommersss rules books`: the rule books that decided about orders, and how they differ."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ecommersss_platform.cli.common import FormatOption, open_database, read_settings
from ecommersss_platform.cli.output import Format, as_json, print_rows
from ecommersss_platform.terminal import visible

if TYPE_CHECKING:
    from streaming.database.rule_books import Decided
    from streaming.rules import Rule, RuleBook
    from streaming.rules.diff import Change

app = typer.Typer(help="The rule books that decided about orders; all are kept.", no_args_is_help=True)

BookArgument = Annotated[str, typer.Argument(help="the version of a kept book, or its beginning, or a file")]


@app.command("list")
def list_(style: FormatOption = Format.TABLE) -> None:
    """Show each book that decided: its first use, its rules by mode, and how many orders it decided.

    The current one is the platform's file, with the rules in shadow that the brake put there. A book without
    a first use last decided before the platform kept books.
    """
    from streaming.database.overrides import effective_book
    from streaming.database.rule_books import list_books
    from streaming.rules import RuleBook, RuleError
    from streaming.rules.book import MODES

    try:
        current = RuleBook.load(read_settings().rules_path)
    except RuleError:  # `ecommersss status` says so
        current = None
    with open_database() as url:
        books = list_books(url)
        version = effective_book(url, current).book.version if current else None
    rows = [_row(book, MODES) | {"current": book.version == version} for book in books]
    if not rows and style is Format.TABLE:
        typer.echo("No book has decided about an order.")
        return
    columns = ("version", "first_used_at", "first_position", *MODES, "orders", "current")
    print_rows(columns, rows, style)


def _row(book: Decided, modes: tuple[str, ...]) -> dict[str, object]:
    from streaming.rules import RuleError

    try:
        parsed = book.parse()
    except RuleError:  # a book of an earlier version of the language
        parsed = None
    counts = Counter[str](rule.mode for rule in parsed.rules) if parsed else None
    return {
        "version": book.version,
        "first_used_at": book.first_used_at,
        "first_position": book.first_position,
        **{mode: counts[mode] if counts is not None else None for mode in modes},
        "orders": book.orders,
    }


@app.command("show")
def show(
    version: Annotated[str, typer.Argument(help="the version of a kept book, or its beginning")],
) -> None:
    """Print a kept book, byte for byte as the file was."""
    from streaming.database.rule_books import find_book

    with open_database() as url:
        text = find_book(url, version).text
    if sys.stdout.isatty():
        typer.echo(visible(text.replace("\r\n", "\n")), nl=False)
    else:
        typer.echo(text.encode(), nl=False)


@app.command("diff")
def diff(
    before: BookArgument,
    after: Annotated[
        str | None, typer.Argument(help="the book to compare with (default: the platform's file)")
    ] = None,
    style: FormatOption = Format.TABLE,
) -> None:
    """Show how a book differs from another one, rule by rule: added, removed, and what was changed."""
    from streaming.rules import RuleBook
    from streaming.rules.diff import compare

    with open_database() as url:
        old = _find(url, before)
        new = _find(url, after) if after else RuleBook.load(read_settings().rules_path)
    changes = compare(old, new)
    if style is Format.TABLE:
        _print_changes(old, new, changes)
        return
    found = {
        "before": old.version,
        "after": new.version,
        "sample": {"before": old.sample, "after": new.sample},
        "changes": [
            {"rule": c.rule, "change": c.kind, "before": _fields(c.before), "after": _fields(c.after)}
            for c in changes
        ],
    }
    typer.echo(as_json(found, indent=2 if style is Format.JSON else None))


def _find(url: str, name: str) -> RuleBook:
    """Return the kept book if the name is that of a version and not of a file, else the book in the file."""
    from streaming.database.rule_books import find_book
    from streaming.rules import RuleBook

    is_version = re.fullmatch("[0-9a-fA-F]{1,16}", name) and not Path(name).exists()
    return find_book(url, name) if is_version else RuleBook.load(Path(name))


def _fields(rule: Rule | None) -> dict[str, object] | None:
    from streaming.rules.diff import FIELDS

    return None if rule is None else {name: getattr(rule, name) for name in FIELDS}


def _print_changes(old: RuleBook, new: RuleBook, changes: list[Change]) -> None:
    lines = [f"from {old.name}, version {old.version}", f"to {new.name}, version {new.version}"]
    for change in changes:
        rule = change.after or change.before
        assert rule is not None
        lines.append(f"{change.kind} {change.rule}" + ("" if change.kind == "changed" else f" ({rule.mode})"))
        if change.kind == "changed":
            for name in change.fields:
                lines += [f"    {name}", f"      - {_value(change.before, name)}"]
                lines += [f"      + {_value(change.after, name)}"]
        else:
            lines += [f"    when {rule.when}", f"    {rule.description}"]
    if old.sample != new.sample:
        lines += ["changed sample", f"      - {old.sample}", f"      + {new.sample}"]
    elif not changes:
        if old.text == new.text:
            lines.append("the same book")
        elif [rule.name for rule in old.rules] != [rule.name for rule in new.rules]:
            lines.append("the same rules in another order")
        else:
            lines.append("the same rules: only comments or layout differ")
    typer.echo(visible("\n".join(lines)))


def _value(rule: Rule | None, name: str) -> object:
    value = getattr(rule, name)
    if isinstance(value, tuple):
        return " to ".join(map(str, value))
    return "(none)" if value is None else value
