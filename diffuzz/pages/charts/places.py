"""Where in its step each number is before it is rounded to a code: in the middle it is the code, at an edge a tie."""

from __future__ import annotations

from collections.abc import Sequence

from diffuzz.pages.charts import plot
from diffuzz.pages.charts.plot import SIZE, y
from diffuzz.pages.figures import Ruler
from diffuzz.pages.markup import Markup, element

# Steps from an edge within which a number is at it.
AT = 1e-3
_EDGE = 0.5
# The scale goes a little beyond the edges.
_SCALE = Ruler(((0.5 - 0.5 / 1.2, "tie"), (0.5, "code"), (0.5 + 0.5 / 1.2, "tie")), False,
               lambda place: 0.5 + place / 1.2)  # fmt: skip


def ties(places: Sequence[float]) -> int:
    """How many numbers are at an edge."""
    return sum(_tied(place) for place in places)


def nearest(places: Sequence[float]) -> float:
    """How many steps the nearest is from an edge."""
    return min(abs(abs(place) - _EDGE) for place in places)


def chart(label: str, places: Sequence[float]) -> Markup:
    """The picture: a point for each number."""
    width = SIZE / max(len(places), 1)
    points: dict[str, list[str]] = {"dot": [], "dot tied": []}
    for at, place in enumerate(places):
        points["dot tied" if _tied(place) else "dot"].append(f"M{(at + 0.5) * width:.1f} {y(_SCALE.at(place))}h0")
    drawn = [element("path", class_=kind, d="".join(found)) for kind, found in points.items()]
    return element("div", plot.plot(label, _SCALE, 5.0, drawn), plot.below("element", plot.elements(len(places))))


def _tied(place: float) -> bool:
    return abs(abs(place) - _EDGE) <= AT
