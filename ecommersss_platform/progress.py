"""Progress for people: bars on a terminal, one line per finished step elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from streaming.progress import Progress


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Yield a progress function that draws one bar per `what` on standard error."""
    console = Console(file=sys.stderr, highlight=False)
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}
        finished: set[str] = set()

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)
            if done >= total and what not in finished:
                finished.add(what)
                if not console.is_terminal and what != "bytes":
                    console.print(f"  {what}: {total:,}")

        yield report
