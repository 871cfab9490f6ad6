"""Lines over layers on a logarithmic scale, each with its name at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from diffuzz.pages.charts import ends
from diffuzz.pages.charts.axis import Layers
from diffuzz.pages.figures import Scale, power
from diffuzz.pages.markup import Markup, element

_SIZE = 1000
_HEIGHT = 15.0  # rem


@attrs.frozen(eq=False)
class Line:
    """A line by its name, with a kind of style.css. NaN is a gap. What is ``filled`` is so down to the bottom."""

    name: str
    kind: str
    numbers: Sequence[float]
    filled: bool = False


def chart(label: str, axis: Layers, lines: Sequence[Line]) -> Markup:
    """The picture; ``label`` says what it shows to whoever cannot see it. Zero is at the bottom, below all others."""
    numbers = [number for line in lines for number in line.numbers]
    scale = Scale.of(numbers)
    names = {tick: power(tick) for tick in scale.ticks}
    if 0.0 in numbers:
        scale = Scale(scale.low - 1, scale.high)
        names[scale.low] = "0"
    grid = element("path", class_="grid", d="".join(f"M0 {_y(scale, 10.0**tick)}H{_SIZE}" for tick in names))
    filled = [element("path", class_="below", d=_area(axis, scale, line)) for line in lines if line.filled]
    drawn = [element("path", class_=line.kind, d=_path(axis, scale, line)) for line in lines]
    picture = element(
        "svg", filled, grid, drawn, viewBox=f"0 0 {_SIZE} {_SIZE}", preserveAspectRatio="none", aria_hidden="true"
    )
    ticks = [
        element("span", name, class_="y", style=f"top:{100 * (1 - scale.at(10.0**tick)):.2f}%")
        for tick, name in names.items()
    ]
    plot = element(
        "div", picture, ticks, _names(scale, lines), class_="plot", role="img", aria_label=label,
        style=f"height:{_HEIGHT}rem",
    )  # fmt: skip
    return element("div", plot, axis.written())


def _y(scale: Scale, number: float) -> float:
    return round(_SIZE * (1 - scale.at(number)), 1)


def _runs(axis: Layers, scale: Scale, line: Line) -> list[list[tuple[float, float]]]:
    """The points of a line between its gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for place, number in enumerate(line.numbers):
        if math.isnan(number):
            runs.append([])
        else:
            runs[-1].append((round(_SIZE * axis.centre(place), 1), _y(scale, number)))
    return [run for run in runs if run]


def _path(axis: Layers, scale: Scale, line: Line) -> str:
    # A point alone is a line of no length, which has round ends.
    return "".join("M" + "L".join(f"{x} {y}" for x, y in (run if len(run) > 1 else run * 2))
                   for run in _runs(axis, scale, line))  # fmt: skip


def _area(axis: Layers, scale: Scale, line: Line) -> str:
    return "".join(f"M{run[0][0]} {_SIZE}L" + "L".join(f"{x} {y}" for x, y in run) + f"L{run[-1][0]} {_SIZE}Z"
                   for run in _runs(axis, scale, line))  # fmt: skip


def _names(scale: Scale, lines: Sequence[Line]) -> list[Markup]:
    """The names of lines beside their last numbers."""
    found = []
    for line in lines:
        known = [number for number in line.numbers if not math.isnan(number)]
        if known:
            found.append((scale.at(known[-1]), line.name, line.kind))
    return ends.names(found, _HEIGHT)
