"""Bars: a share as a length in a row of a table, and shares over layers as columns; with a mark for a second number."""

from __future__ import annotations

from collections.abc import Sequence

from diffuzz.pages.charts.axis import Layers
from diffuzz.pages.figures import short
from diffuzz.pages.markup import Markup, element

_SIZE = 1000


def bar(share: float, other: float, most: float) -> Markup:
    """The cell of a table: a bar for ``share`` of ``most``, and a mark at ``other``. The numbers stand beside it."""
    drawn = element("i", style=f"width:{100 * share / most:.2f}%")
    mark = element("b", style=f"left:{100 * other / most:.2f}%")
    return element("td", element("div", drawn, mark, class_="bar"), class_="wide", aria_hidden="true")


def columns(label: str, axis: Layers, shares: Sequence[float], others: Sequence[float]) -> Markup:
    """A column for each place of an axis, and a line across it at the second number."""
    most = max((*shares, *others), default=0.0) or 1.0
    width = _SIZE / len(axis.names)
    bodies = "".join(
        f"M{(place + 0.12) * width:.1f} {_SIZE}v{-_SIZE * share / most:.1f}h{0.76 * width:.1f}V{_SIZE}z"
        for place, share in enumerate(shares)
    )
    marks = "".join(f"M{place * width:.1f} {_SIZE * (1 - other / most):.1f}h{width:.1f}"
                    for place, other in enumerate(others))  # fmt: skip
    picture = element(
        "svg", element("path", class_="column", d=bodies), element("path", class_="again", d=marks),
        viewBox=f"0 0 {_SIZE} {_SIZE}", preserveAspectRatio="none", aria_hidden="true",
    )  # fmt: skip
    ticks = [
        element("span", short(most * part, 2), class_="y", style=f"top:{100 * (1 - part):.0f}%") for part in (1.0, 0.5)
    ]
    plot = element("div", picture, ticks, class_="plot", role="img", aria_label=label, style="height:8rem")
    return element("div", plot, axis.written())
