"""How numbers, parameters, bounds and tables are written, by all commands alike."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from diffuzz.targets.outcome import Bound
    from diffuzz.targets.parameter import Params

Number = float | str


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    width: int = 160,
    justify: Literal["left", "right"] = "left",
    first: int = 0,
    wraps: bool = True,
) -> list[str]:
    """The lines of a table. The first column, at least ``first`` wide, is justified to the left; an unnamed last one
    is, too. Cells that are too wide are folded if it ``wraps``. What a cell says is text, and no markup of rich.
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
    Console(width=width, file=written, color_system=None).print(grid)
    return [line.rstrip() for line in written.getvalue().splitlines()]


def number(value: float) -> str:
    """A value as people read it: seven significant digits."""
    return f"{value:.7g}"


def libraries_text(libraries: Mapping[str, str]) -> list[str]:
    """A line for each library that took part: its name, the file that was taken, and its version."""
    return [f"{name} is {about.partition('; ')[0]}." for name, about in libraries.items()]


def json_number(value: float) -> Number:
    """A number for JSON, which has no infinities: those are the strings "inf", "-inf", "nan"."""
    return value if math.isfinite(value) else str(value)


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
