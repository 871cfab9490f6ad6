"""What is shown while a command works, on stderr, and only if that is a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from diffuzz.cli.tables import number
from diffuzz.escaping import escaped

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from diffuzz.searching.objective import Found

# What minimising may try, as work of so many seconds (see diffuzz.searching.search).
MINIMISING = 3.0


class Searching(NamedTuple):
    """What a search calls: with each improvement, and while it minimises with the share of the cost that is left."""

    on_found: Callable[[Found], None]
    on_smaller: Callable[[float], None]


@contextmanager
def searching(label: str, seconds: float) -> Iterator[Searching]:
    """A live line for the search, and then one for minimising, each with a clock of its own."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    # Names of targets and engines are those of files: no markup.
    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}", markup=False),
    )
    shown = sys.stderr.isatty()
    # Quiet, too: older versions of rich end even a disabled progress with an empty line.
    console = Console(stderr=True, quiet=not shown)
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        search = bar.add_task(label, total=seconds, said="starting")
        minimise = bar.add_task("minimising", total=MINIMISING, said="", start=False, visible=False)

        def found(case: Found) -> None:
            bar.update(
                search,
                said=f"largest so far: {number(case.value)} by {case.engine} after {case.evaluations:,} evaluations",
            )

        def smaller(share: float) -> None:
            if not bar.tasks[minimise].started:
                bar.stop_task(search)
                bar.start_task(minimise)
            bar.update(minimise, visible=True, said=f"{100 * share:.0f} % of its first size")

        with _ticking(bar, (search, minimise)):
            yield Searching(found, smaller)


@contextmanager
def _ticking(bar: Progress, tasks: tuple[TaskID, ...]) -> Iterator[None]:
    """Moves the bars with their clocks while the search works."""
    if bar.disable:
        yield
        return
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.1):
            for task in tasks:
                elapsed, total = bar.tasks[task].elapsed, bar.tasks[task].total
                bar.update(task, completed=min(elapsed or 0.0, total or 0.0))

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def line_printer() -> Callable[[str], None] | None:
    """What prints a line for each part of the work that is done; None if stderr is no terminal."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    console = Console(stderr=True)
    return lambda line: console.print(escaped(line), highlight=False, markup=False, emoji=False)
