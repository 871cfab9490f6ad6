"""A number for each operation of each layer, as a picture with the table behind it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from diffuzz.pages.charts import axis, strips
from diffuzz.pages.charts.strips import Strip
from diffuzz.pages.document import behind, table
from diffuzz.pages.figures import Levels, short
from diffuzz.pages.markup import Child, Markup, element

# An operation and its layer, None outside layers.
Place = tuple[str, int | None]
_MARKED = {"wrong": " (wrong)", "suspect": " (suspect)"}


def figure(
    name: str, caption: Child, numbers: Mapping[Place, float], levels: Levels, marks: Mapping[Place, str] | None = None
) -> Markup:
    """The picture of ``numbers``, where NaN is none; those of ``marks`` are "wrong" or "suspect"."""
    marks = marks or {}
    layers = sorted({layer for _, layer in numbers if layer is not None})
    ops = list(dict.fromkeys(op for op, layer in numbers if layer is not None))
    outside = [place for place in numbers if place[1] is None]
    rows = []
    for op in ops:
        found = [numbers.get((op, layer), math.nan) for layer in layers]
        marked = {i: marks[op, layer] for i, layer in enumerate(layers) if (op, layer) in marks}
        rows.append(Strip(op, found, short(largest(found)), marked))
    most = largest(numbers.values())
    where = next((_where(place) for place, number in numbers.items() if number == most), "nowhere")
    label = f"{name}, {len(ops)} operations in {len(layers)} layers: the largest is {short(most)}, {where}."
    rest = [f"{place[0]} {short(numbers[place])}{_MARKED.get(marks.get(place, ''), '')}" for place in outside]
    return element(
        "figure",
        element("figcaption", caption, " At the right: the largest of a row."),
        strips.chart(label, axis.of([str(layer) for layer in layers]), rows, levels) if layers else None,
        strips.legend(levels, marked=bool(marks)),
        element("p", f"Outside layers: {', '.join(rest)}.", class_="small soft") if rest else None,
        behind(f"Numbers: {name[:1].lower()}{name[1:]}", _table(name, numbers, ops, layers)),
    )


def largest(numbers: Iterable[float]) -> float:
    """The largest, but for NaN; NaN of none."""
    return max((number for number in numbers if not math.isnan(number)), default=math.nan)


def _where(place: Place) -> str:
    return place[0] if place[1] is None else f"{place[0]} of layer {place[1]}"


def _table(name: str, numbers: Mapping[Place, float], ops: Iterable[str], layers: Iterable[int]) -> Markup:
    rows = [[str(layer), *(_known(numbers, (op, layer)) for op in ops)] for layer in layers]
    return table(name, ("layer", *ops), rows, tall=True)


def _known(numbers: Mapping[Place, float], place: Place) -> str:
    return short(numbers[place]) if place in numbers else ""
