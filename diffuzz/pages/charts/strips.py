"""Strips: a row of cells for a name, a cell for each layer, the darker the larger its number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs

from diffuzz.pages.charts.axis import Layers
from diffuzz.pages.figures import Levels, short
from diffuzz.pages.markup import Child, Markup, element

# Cells of longer strips have no gaps between them.
_APART = 48


@attrs.frozen(eq=False)
class Strip:
    """A row.

    name, note    what stands before and after it
    numbers       of each cell; NaN is none
    marks         "wrong" or "suspect" cells, by place
    """

    name: str
    numbers: Sequence[float]
    note: str = ""
    marks: Mapping[int, str] = attrs.field(factory=dict)


def chart(label: str, axis: Layers, strips: Sequence[Strip], levels: Levels) -> Markup:
    """Strips one below the other over an axis; ``label`` says what they show to whoever cannot see them."""
    rows = []
    for strip in strips:
        places = zip(axis.names, strip.numbers, strict=True)
        titles = [f"{strip.name}, {_where(name)}: {short(number)}" for name, number in places]
        drawn = cells(strip.numbers, levels, strip.marks, titles)
        rows.append(
            element("div", element("span", _broken(strip.name)), drawn, element("span", strip.note), class_="strip")
        )
    return element("div", element("div", rows, class_="strips", role="img", aria_label=label), axis.written())


def cells(
    numbers: Sequence[float], levels: Levels, marks: Mapping[int, str] | None = None, titles: Sequence[str] = ()
) -> Markup:
    """The cells of one strip. Those with a title say their number where a pointer rests on them."""
    marks = marks or {}
    by_colour: dict[int, list[int]] = {}
    for place, number in enumerate(numbers):
        colour = levels.colour(number)
        if colour is not None and marks.get(place) != "wrong":
            by_colour.setdefault(colour, []).append(place)
    drawn = [element("path", class_=f"l{level}", d="".join(f"M{place} 0h1v1h-1z" for place in places))
             for level, places in sorted(by_colour.items())]  # fmt: skip
    gaps = None
    if len(numbers) <= _APART:
        gaps = element("path", class_="gaps", d="".join(f"M{place} 0v1" for place in range(1, len(numbers))))
    marked: list[Markup] = []
    for place, mark in marks.items():
        if mark == "wrong":
            marked += [element("path", class_="wrong", d=f"M{place} 0h1v1h-1z"),
                       element("path", class_="cross", d=f"M{place + 0.2} .2l.6 .6m-.6 0l.6 -.6")]  # fmt: skip
        else:
            marked.append(element("path", class_="suspect", d=f"M{place + 0.1} .1h.8v.8h-.8z"))
    hover = [element("rect", element("title", title), x=place)
             for place, title in enumerate(titles) if not math.isnan(numbers[place])]  # fmt: skip
    return element(
        "svg", drawn, gaps, marked, hover, viewBox=f"0 0 {len(numbers)} 1", preserveAspectRatio="none",
        aria_hidden="true",
    )  # fmt: skip


def legend(levels: Levels, *, marked: bool = False) -> Markup:
    """What the colours stand for."""
    items = [_item(f"l{level}", name) for level, name in levels.names.items()]
    if marked:
        items += [_item("wrong", "wrong", element("path", class_="cross", d="M.2 .2l.6 .6m-.6 0l.6 -.6")),
                  _item("suspect", "suspect")]  # fmt: skip
    return element("ul", items, class_="legend")


def _item(kind: str, name: str, *more: Markup) -> Markup:
    picture = element("path", class_=kind, d="M0 0h1v1h-1z")
    return element("li", element("svg", picture, more, viewBox="0 0 1 1", aria_hidden="true"), name)


def _broken(name: str) -> list[Child]:
    """A name that may be broken after its underscores."""
    first, *rest = name.split("_")
    return [first, *(child for part in rest for child in ("_", element("wbr"), part))]


def _where(name: str) -> str:
    return f"layer {name}" if name.isdigit() else name
