"""Progress for people: bars on a terminal, a line per finished step elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Gives a function `report(what, done, total)` that draws one bar per `what`, on standard error."""
    console = Console(file=sys.stderr, highlight=False)
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)
            if (
                not console.is_terminal
                and what != "bytes"
                and done >= total
                and not bars.tasks[tasks[what]].fields.get("said")
            ):
                bars.update(tasks[what], said=True)
                console.print(f"  {what}: {total:,}")

        yield report
