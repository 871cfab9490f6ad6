"""Where in a result the error sits: the error of each element over what is allowed, on a logarithmic scale."""

from __future__ import annotations

import math

from diffuzz.pages.charts import ends, plot
from diffuzz.pages.charts.plot import SIZE, y
from diffuzz.pages.charts.row import Row, bars, breaks, hover, widths
from diffuzz.pages.figures import Ruler, Scale, power, usual
from diffuzz.pages.markup import Child, Markup, element

_HEIGHT = 12.0  # rem
# Below this share of what is allowed, all errors are alike.
LEAST = 1e-4


def chart(label: str, row: Row, other: Row | None = None, name: str = "") -> Markup:
    """The picture: a bar for each bin as long as its largest error; up to 1 it is right. A mark is at the error of the
    ``other``, whose ``name`` stands beside its last. What is not judged is grey.
    """
    errors = Row(row.size, row.per, row.high, row.high, row.length)
    marks = [] if other is None else list(other.high)
    found = [number for number in usual([*errors.high, *marks]) if number >= LEAST]
    spread = Scale.of([*found, 1.0, 0.1])
    span = spread.high - spread.low
    scale = Ruler(
        tuple((spread.at(10.0**tick), power(tick)) for tick in spread.ticks),
        True,
        lambda number: (math.log10(number) - spread.low) / span if number > 0 else 0.0,
    )
    if math.inf in errors.high:
        scale = scale.with_infinity()
    one, (width, gap) = y(scale.at(1.0)), widths(errors)
    unjudged = "".join(f"M{place * width:.2f} 0h{width:.2f}v{SIZE}h{-width:.2f}z"
                       for place, number in enumerate(errors.high) if math.isnan(number))  # fmt: skip
    inside = Row(row.size, row.per, errors.low, [min(number, 1.0) for number in errors.high], row.length)
    beyond = Row(row.size, row.per, errors.low, [number if number > 1 else math.nan for number in errors.high])
    least = 10.0**spread.low
    drawn: list[Child] = [
        element("path", class_="below", d=unjudged),
        breaks(row),
        bars(_flat(inside, least), scale, "within", base=least),
        bars(_flat(beyond, 1.0), scale, "wrong", base=1.0),
        element("path", class_="limit", d=f"M0 {one}H{SIZE}"),
    ]
    names = [(scale.at(1.0), "allowed", "limit")]
    if marks:
        ticks = "".join(f"M{place * width + gap / 2:.2f} {y(scale.at(number))}h{width - gap:.2f}"
                        for place, number in enumerate(marks) if number >= least)  # fmt: skip
        drawn.append(element("path", class_="again", d=ticks))
        known = [number for number in marks if number >= least]
        if known:
            names.append((scale.at(known[-1]), name, "again"))
    drawn.append(hover(errors))
    return element(
        "div", plot.plot(label, scale, _HEIGHT, drawn, ends=ends.names(names, _HEIGHT)),
        plot.below("element", row.ticks(), lone=False),
    )  # fmt: skip


def differing(label: str, row: Row) -> Markup:
    """The picture of a result that is fixed to the bit: a bar for each element that differs."""
    scale = Ruler(((0.0, "equal"), (1.0, "differs")), False, lambda number: number)
    return element(
        "div", plot.plot(label, scale, 3.0, breaks(row), bars(row, scale, "wrong")), plot.below("element", row.ticks())
    )


def _flat(row: Row, base: float) -> Row:
    """A row whose bars begin at ``base``."""
    return Row(row.size, row.per, [base if high > 0 else math.nan for high in row.high], row.high)
