"""What the command line prints: progress on a terminal, results as text, results as JSON; of a search, see
diffuzz.printing_search.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from diffuzz import corpus, report, targets
from diffuzz.claims import Settled
from diffuzz.entry import Counterexample, space
from diffuzz.kernels import missing
from diffuzz.matrix import Cell
from diffuzz.objective import Found
from diffuzz.pair import implementations
from diffuzz.printing_search import bound_json, number, plain
from diffuzz.replay import Replayed
from diffuzz.target import Target


@contextmanager
def progress(label: str, seconds: float) -> Iterator[Callable[[Found], None]]:
    """A live line on stderr, if that is a terminal, and what to call with each improvement."""
    console = Console(stderr=True)
    with Progress(*_columns(), console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(label, total=seconds, found="starting")
        with _ticking(bar, task, seconds):
            yield lambda found: bar.update(
                task, found=f"{number(found.value)} by {found.engine} after {found.evaluations:,} evaluations"
            )


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("largest so far: {task.fields[found]}"),
    )


@contextmanager
def _ticking(bar: Progress, task: TaskID, seconds: float) -> Iterator[None]:
    """Moves the bar with the clock, from rich's own refresh thread's point of view, while the search works."""
    if bar.disable:
        yield
        return
    done = threading.Event()

    def tick() -> None:
        elapsed = 0.0
        while not done.wait(0.1):
            elapsed += 0.1
            bar.update(task, completed=min(elapsed, seconds))

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def entry_text(entry: Counterexample, path: Path) -> str:
    """The report of ``show``."""
    contract = entry.candidate is not None or entry.kernels is not None
    shown = space(targets.get(entry.target), entry.params, contract=contract)
    return f"{corpus.printable(str(path))}\n\n{report.entry_text(entry, shown)}"


def target_json(target: Target) -> dict[str, Any]:
    """One entry of ``targets --json``."""
    params = target.params()
    return {
        "name": target.name,
        "summary": target.summary,
        "claim": target.claim,
        "measure": target.measure(params),
        "limit": report.json_number(target.limit(params)),
        **bound_json(target.bound(params)),
        "candidate": target.contract.signature if target.contract else None,
        "kernels": dict(zip(("here", "missing"), _kernels_of(target), strict=True)),
        "parameters": [
            {
                "name": parameter.name,
                "default": parameter.default,
                "type": type(parameter.default).__name__,
                "low": parameter.low,
                "high": parameter.high,
                "choices": list(parameter.choices),
                "help": parameter.help,
            }
            for parameter in target.parameters
        ],
    }


def _kernels_of(target: Target) -> tuple[list[str], list[str]]:
    """Names of the implementations that are here, with default parameters, and of those that are not."""
    names = implementations(target, target.params())
    return [name for name in names if not missing(name)], [name for name in names if missing(name)]


def targets_text(listed: list[Target]) -> str:
    """The list of ``targets``."""
    lines = []
    for target in listed:
        lines += [f"{target.name}", f"    {target.summary}"]
        bound = target.bound(target.params())
        if bound is not None:
            lines.append(f"    limit {number(bound.value)}: {bound.because}")
        if target.contract is not None:
            lines.append(f"    --candidate {target.contract.signature}")
            here, away = _kernels_of(target)
            lines.append(f"    --kernels two of {', '.join(here)}" + "".join(f"; not here: {name}" for name in away))
        for parameter in target.parameters:
            choice = f" ({'|'.join(parameter.choices)})" if parameter.choices else ""
            lines.append(f"      {parameter.name}={plain(parameter.default)}  {parameter.help}{choice}")
        lines.append("")
    return "\n".join(lines)


def claims_progress() -> Callable[[Settled], None] | None:
    """What prints a line on stderr for each settled claim, or None if that is no terminal."""
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        return None
    return lambda settled: console.print(f"{settled.row.id}  {settled.row.claim}: {settled.verdict}", highlight=False)


def matrix_progress() -> Callable[[Cell], None] | None:
    """What prints a line on stderr for each pair, or None if that is no terminal."""
    if not sys.stderr.isatty():
        return None
    console = Console(stderr=True)
    return lambda cell: console.print(f"{cell.a}, {cell.b}: {cell.agreement.value}", highlight=False)


def claims_text(settled: list[Settled]) -> str:
    """The table of the claims: published, reproduced, found, bound, verdict."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("claim", "published", "reproduced", "largest found", "limit", "verdict"):
        table.add_column(heading, overflow="fold")
    for one in settled:
        table.add_row(
            f"{'' if one.row.variant else one.row.id.removeprefix('FFN-GGUF-') + ' '}{one.row.claim}",
            one.row.published,
            "\n".join(f"{name} {_figure(value)}" for name, value in one.reproduced.items()),
            "" if one.found is None else number(one.found),
            "" if one.bound is None else number(one.bound),
            one.verdict,
        )
    console = Console(width=150, file=io.StringIO(), color_system=None)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"  # type: ignore[attr-defined]


def _figure(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def replay_json(results: list[Replayed]) -> dict[str, Any]:
    """The object of ``replay --json``."""
    return {
        "replayed": len(results),
        "as_recorded": sum(result.status == "as recorded" for result in results),
        "results": [
            {
                "path": str(result.path),
                "status": result.status,
                "message": result.message,
                "value": None if result.value is None else report.json_number(result.value),
                "verdict": None if result.verdict is None else result.verdict.value,
            }
            for result in results
        ],
    }


def replay_text(results: list[Replayed]) -> str:
    """One line for each entry, whatever its file is called, and a count."""
    width = max(len(str(result.path)) for result in results)
    lines = [corpus.printable(f"{result.status:12} {result.path!s:{width}}  {result.message}") for result in results]
    good = sum(result.status == "as recorded" for result in results)
    seconds = sum(result.seconds for result in results)
    lines.append(f"{good} of {len(results)} entries replayed as recorded, in {seconds:.2f} s")
    return "\n".join(lines) + "\n"


def junit(results: list[Replayed]) -> str:
    """JUnit XML: a test case for each entry; a changed one is a failure, one that could not be replayed an error."""
    suite = ElementTree.Element(
        "testsuite",
        name="diffuzz replay",
        tests=str(len(results)),
        failures=str(sum(result.status == "changed" for result in results)),
        errors=str(sum(result.status not in ("as recorded", "changed") for result in results)),
        time=f"{sum(result.seconds for result in results):.3f}",
    )
    for result in results:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=corpus.printable(result.path.parent.name),
            name=corpus.printable(result.path.stem),
            time=f"{result.seconds:.3f}",
        )
        if result.status != "as recorded":
            kind = "failure" if result.status == "changed" else "error"
            ElementTree.SubElement(case, kind, message=corpus.printable(result.message))
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"
