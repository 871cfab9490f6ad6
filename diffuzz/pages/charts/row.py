"""Numbers along a row: a bar from zero for each element, or for a bin of several from its least to its largest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from diffuzz.pages.charts import plot
from diffuzz.pages.charts.plot import SIZE, y
from diffuzz.pages.figures import Ruler, plain
from diffuzz.pages.markup import Markup, element

# Bars of more elements have no gaps between them, and those of even more say no numbers where a pointer rests.
_APART, _TOLD = 96, 160
# Numbers that are written at their bars, and how wide a bar is at most.
_WRITTEN, _WIDEST = 10, 70.0


@attrs.frozen(eq=False)
class Row:
    """``low`` and ``high`` of each bin of ``per`` elements of ``size``; NaN is none. ``length`` is that of a row of the
    array, where there are a few.
    """

    size: int
    per: int
    low: Sequence[float]
    high: Sequence[float]
    length: int | None = None

    @property
    def numbers(self) -> list[float]:
        """All of them."""
        return [*self.low, *self.high]

    def ticks(self) -> list[tuple[float, str]]:
        """The indices to write below it."""
        return plot.elements(self.size, self.per)

    def said(self, place: int) -> str:
        """A bin in words."""
        low, high = self.low[place], self.high[place]
        first = place * self.per
        what = f"element {first}" if self.per == 1 else f"elements {first} to {min(first + self.per, self.size) - 1}"
        return f"{what}: {plain(low)}" + (f" to {plain(high)}" if low != high else "")


def chart(
    label: str, row: Row, scale: Ruler, *, height: float = 8.0, kind: str = "column", below: bool = True
) -> Markup:
    """The picture, with the indices of elements ``below`` it."""
    zero = element("path", class_="zero", d=f"M0 {y(scale.at(0.0))}H{SIZE}") if min(row.low, default=0.0) < 0 else None
    return element(
        "div",
        plot.plot(
            label, scale, height, breaks(row), bars(row, scale, kind), zero, hover(row), over=_written(row, scale)
        ),
        plot.below("element", row.ticks()) if below else None,
    )


def _written(row: Row, scale: Ruler) -> list[Markup]:
    """The numbers of a few elements, at the ends of their bars."""
    if row.per > 1 or row.size > _WRITTEN:
        return []
    return [
        element("span", plain(number, 4), class_="value up" if number >= 0 else "value down",
                style=f"left:{100 * (place + 0.5) / row.size:.2f}%;top:{100 * (1 - scale.at(number)):.2f}%")
        for place, number in enumerate(row.low) if not math.isnan(number)
    ]  # fmt: skip


def bars(row: Row, scale: Ruler, kind: str, *, base: float = 0.0, top: float = math.inf) -> Markup:
    """A bar for each bin from ``base``, as far as ``top``."""
    width, gap = widths(row)
    drawn = []
    for place, (low, high) in enumerate(zip(row.low, row.high, strict=True)):
        first, last = scale.at(min(low, base)), scale.at(min(max(high, base), top))
        if last > first:
            drawn.append(
                f"M{place * width + gap:.2f} {y(last)}h{width - 2 * gap:.2f}V{y(first)}H{place * width + gap:.2f}z"
            )
    return element("path", class_=kind, d="".join(drawn))


def widths(row: Row) -> tuple[float, float]:
    """The width of the place of a bin, and the gap on either side of its bar."""
    width = SIZE / max(len(row.low), 1)
    return width, max(0.12 * width, (width - _WIDEST) / 2) if len(row.low) <= _APART else 0.0


def breaks(row: Row) -> Markup | None:
    """Lines where one row of the array ends and the next begins."""
    if row.length is None or row.per > 1:
        return None
    places = [SIZE * at / row.size for at in range(row.length, row.size, row.length)]
    return element("path", class_="break", d="".join(f"M{place:.2f} 0V{SIZE}" for place in places))


def hover(row: Row) -> Markup | None:
    """What is said where a pointer rests on a bin."""
    count = len(row.low)
    if count > _TOLD:
        return None
    found = [element("rect", element("title", row.said(place)), x=place)
             for place in range(count) if not math.isnan(row.low[place])]  # fmt: skip
    return element(
        "svg", found, viewBox=f"0 0 {count} 1", preserveAspectRatio="none", width=SIZE, height=SIZE, aria_hidden="true"
    )
