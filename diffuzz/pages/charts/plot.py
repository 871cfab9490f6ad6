"""The frame of a plot over the elements of an array, or over time: its scale at the left, and what is below it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from diffuzz.pages.figures import Ruler
from diffuzz.pages.markup import Child, Markup, element

# Units of a picture in both directions.
SIZE = 1000
# Numbers below a plot, at most.
_MOST = 6
_STEPS = (1, 2, 4, 5, 8)


def plot(
    label: str, scale: Ruler, height: float, *drawn: Child, ends: Sequence[Markup] = (), over: Sequence[Markup] = ()
) -> Markup:
    """A plot of this ``height`` in rem; ``label`` says what it shows to whoever cannot see it, ``ends`` stand at the
    right of it, and what is ``over`` it has places of its own.
    """
    lines = "".join(f"M0 {y(place)}H{SIZE}" for place, _ in scale.ticks)
    picture = element(
        "svg", element("path", class_="grid", d=lines), drawn, viewBox=f"0 0 {SIZE} {SIZE}",
        preserveAspectRatio="none", aria_hidden="true",
    )  # fmt: skip
    ticks = [element("span", text, class_="y", style=f"top:{100 * (1 - place):.2f}%") for place, text in scale.ticks]
    return element(
        "div", picture, ticks, ends, over, class_="plot" if ends else "plot lone", role="img", aria_label=label,
        style=f"height:{height}rem",
    )  # fmt: skip


def below(name: str, ticks: Iterable[tuple[float, str]], *, lone: bool = True) -> Markup:
    """What is written below a plot: texts at places from 0 to 1."""
    spans = [element("span", text, style=f"left:{100 * place:.2f}%") for place, text in ticks]
    return element(
        "div", element("span", name, class_="name"), spans, class_="axis lone" if lone else "axis", aria_hidden="true"
    )


def elements(size: int, per: int = 1) -> list[tuple[float, str]]:
    """Some of the indices of ``size`` elements that are drawn in bins of ``per``, and where they are."""
    bins = -(-size // per)
    step = next(step * 10**power for power in range(12) for step in _STEPS if size <= (_MOST + 1) * step * 10**power)
    return [((index // per + 0.5) / bins, str(index)) for index in range(0, size, step)]


def y(place: float) -> float:
    """Where a place from 0, at the bottom, to 1 is in a picture."""
    return round(SIZE * (1 - place), 1)
