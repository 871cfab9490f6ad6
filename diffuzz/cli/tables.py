"""How numbers, parameters, bounds and tables are written, by all commands alike."""

from __future__ import annotations

import io
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    from diffuzz.targets.outcome import Bound
    from diffuzz.targets.parameter import Params

Number = float | str
# Columns of a table where no terminal says how many there are, and the fewest that one is laid out for.
_WIDTH, _NARROW = 160, 40
# How the commands begin that a report tells to run.
_COMMANDS = ("python -m diffuzz ", "pip install ")


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    width: int = _WIDTH,
    justify: Literal["left", "right"] = "left",
    first: int = 0,
    wraps: bool = True,
) -> list[str]:
    """The lines of a table. The first column, at least ``first`` wide, is justified to the left; an unnamed last one
    is, too. It is ``width`` wide at most. If it ``wraps``, it is no wider than the terminal either, and cells that are
    too wide are folded. What a cell says is text, and no markup of rich.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(headings):
        ends = place == 0 or (place == len(headings) - 1 and not heading)
        grid.add_column(
            Text(heading),
            justify="left" if ends else justify,
            overflow="fold",
            no_wrap=not wraps,
            min_width=first if place == 0 and first else len(heading) if not wraps else None,
        )
    for row in rows:
        grid.add_row(*map(Text, row))
    written = io.StringIO()
    Console(width=at_most(width) if wraps else width, file=written, color_system=None).print(grid)
    return [line.rstrip() for line in written.getvalue().splitlines()]


def bare_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, wraps: bool = True) -> list[str]:
    """The same without the empty lines before and after it."""
    return [line for line in table(headings, rows, wraps=wraps) if line]


def fitting(headings: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str]) -> list[str]:
    """A table without the columns that have nothing, and without those of ``spare``, one after the other, as long as
    the terminal is too narrow for it.
    """
    there = [place for place in range(len(headings)) if any(row[place] for row in rows)]
    left = list(spare)
    while True:
        cells = [[row[place] for place in there] for row in rows]
        whole = bare_table([headings[place] for place in there], cells, wraps=False)
        if max(map(len, whole)) <= columns():
            return whole
        if not left:
            return bare_table([headings[place] for place in there], cells)
        name = left.pop(0)
        there = [place for place in there if headings[place] != name]


def at_most(width: int) -> int:
    """The width of a table that is ``width`` wide where no terminal is narrower."""
    return min(width, columns()) if sys.stdout.isatty() else width


def columns() -> int:
    """How wide a report may be: as its terminal is; where there is none, programs read it, and lines stay whole."""
    return max(_NARROW, shutil.get_terminal_size().columns) if sys.stdout.isatty() else _WIDTH


def folded(lines: Iterable[str]) -> list[str]:
    """Lines of text, those that are too long for a terminal over several; what follows a label stays in its column. A
    command stays one line, which the terminal itself breaks: it is there to be copied.
    """
    if not sys.stdout.isatty():
        return list(lines)
    width = columns()
    return [part for line in lines for part in _folded(line, width)]


def _folded(line: str, width: int) -> list[str]:
    if len(line) <= width or any(command in line for command in _COMMANDS):
        return [line]
    label = re.match(r"\s*\S.*?\s{2,}(?=\S)", line) or re.match(r"\s*", line)
    indent = label.end() if label is not None and label.end() <= width // 2 else 4
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * indent,
        drop_whitespace=True,
        break_on_hyphens=False,
        break_long_words=False,
    )


def number(value: float) -> str:
    """A value as people read it: seven significant digits."""
    return f"{value:.7g}"


def libraries_text(libraries: Mapping[str, str]) -> list[str]:
    """A line for each library that took part: its name, the file that was taken, and its version."""
    return [f"{name} is {about.partition('; ')[0]}." for name, about in libraries.items()]


def plain(value: object) -> str:
    """A parameter as it is given on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def params_text(params: Params) -> str:
    """``n=7, max_abs=10, ...``, and what is left of the domain, as options."""
    from diffuzz.cases import domain

    given = [f"{name}={plain(value)}" for name, value in params.items() if not domain.is_domain(name)]
    return ", ".join(given + [one.text for one in domain.restrictions(params)])


def bound_text(bound: Bound | None) -> str:
    """The value, its derivation, and what rounding may add to it."""
    if bound is None:
        return "none known"
    rounding = f", up to {bound.rounding:.1e} more by rounding" if bound.rounding else ""
    return f"{number(bound.value)}  ({bound.because}{rounding})"


def bound_json(bound: Bound | None) -> dict[str, Number | None]:
    """``bound``, a number or null, its derivation, and what rounding may add to it, relative."""
    if bound is None:
        return {"bound": None}
    value, rounding = json_number(bound.value), json_number(bound.rounding)
    return {"bound": value, "bound_because": bound.because, "bound_rounding": rounding}
