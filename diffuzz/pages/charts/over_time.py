"""The largest value of a search over time, beside what was claimed and what is proven."""

from __future__ import annotations

import math
from collections.abc import Sequence

from diffuzz.pages.charts import ends, plot
from diffuzz.pages.charts.plot import SIZE, y
from diffuzz.pages.figures import power, ruler
from diffuzz.pages.markup import Markup, element

_HEIGHT = 13.0  # rem
# An axis of time is logarithmic where it is this long.
_LONG = 30.0
# Values that are less apart, as a share of the scale, are one.
_APART = 0.01


def chart(
    label: str, found: Sequence[tuple[float, float]], over: float, final: float, threshold: float, bound: float | None
) -> Markup:
    """The picture: ``found`` has seconds and value of each improvement; after ``over``, when its case had been made
    simpler, the value was the ``final`` one.
    """
    first = max(found[0][0], 1e-6)
    over = max(over, found[-1][0], first * 1.0001)
    logarithmic = over > _LONG * first
    lower = first / 1.3 if logarithmic else 0.0

    def x(seconds: float) -> float:
        if logarithmic:
            return SIZE * math.log(max(seconds, lower) / lower) / math.log(over / lower)
        return SIZE * seconds / over

    values = [value for _, value in found]
    scale = ruler([*values, final, threshold, *([] if bound is None else [bound])])
    if math.inf in (*values, final):
        scale = scale.with_infinity()
    steps = f"M{x(found[0][0]):.1f} {y(scale.at(0.0))}" + "".join(
        f"H{x(seconds):.1f}V{y(scale.at(value))}" for seconds, value in found
    )
    dots = "".join(f"M{x(seconds):.1f} {y(scale.at(value))}h0" for seconds, value in found)
    shown = [element("path", class_="limit", d=f"M0 {y(scale.at(threshold))}H{SIZE}")]
    names = [(scale.at(threshold), "threshold", "limit"), (scale.at(values[-1]), "found", "median")]
    if bound is not None and math.isfinite(bound):
        top = y(scale.at(bound))
        shown = [
            element("path", class_="below", d=f"M0 0H{SIZE}V{top}H0z"),
            element("path", class_="floor", d=f"M0 {top}H{SIZE}"),
            *shown,
        ]
        names.append((scale.at(bound), "proven", "floor"))
    if abs(scale.at(final) - scale.at(values[-1])) > _APART:
        shown.append(element("path", class_="after", d=f"M{SIZE} {y(scale.at(values[-1]))}V{y(scale.at(final))}h0"))
        dots += f"M{SIZE} {y(scale.at(final))}h0"
        names.append((scale.at(final), "simpler", "after"))
    drawn = [*shown, element("path", class_="median", d=f"{steps}H{SIZE}"), element("path", class_="dot", d=dots)]
    ticks = _decades(lower, over) if logarithmic else _even(over)
    at = [(x(seconds) / SIZE, text) for seconds, text in ticks]
    return element(
        "div", plot.plot(label, scale, _HEIGHT, drawn, ends=ends.names(names, _HEIGHT)),
        plot.below("time", at, lone=False),
    )  # fmt: skip


def _decades(low: float, high: float) -> list[tuple[float, str]]:
    """Powers of ten between two times, at most six."""
    powers = list(range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1))
    step = max(1, -(-len(powers) // 6))
    return [(10.0**k, _seconds(10.0**k)) for k in powers[::step]]


def _even(high: float) -> list[tuple[float, str]]:
    """A few times from zero on."""
    unit = 10.0 ** math.floor(math.log10(high))
    step = next(unit * share for share in (0.2, 0.5, 1.0, 2.0) if high / (unit * share) <= 6)
    return [(step * k, _seconds(step * k) if k else "0") for k in range(int(high / step) + 1)]


def _seconds(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{power(round(math.log10(seconds)))} s"
    return f"{seconds * 1000:.3g} ms" if seconds < 0.1 else f"{seconds:.3g} s"
