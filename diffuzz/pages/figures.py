"""Numbers as a page writes them, logarithmic scales, and the steps of colour of a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Steps of colour that are told apart; see style.css.
_LEVELS = 6


def real(value: Any) -> float:
    """A number of a JSON object: null is NaN, and "inf" is infinity."""
    return math.nan if value is None else float(value)


def short(value: float, digits: int = 2) -> str:
    """A number in ``digits`` significant digits, for tables."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if 1000 <= abs(value) < 1e6:
        return f"{float(f'{value:.{digits}g}'):,.0f}".replace("-", "−")
    text = f"{value:.{digits}g}"
    mantissa, e, exponent = text.partition("e")
    return (f"{mantissa}e{int(exponent)}" if e else text).replace("-", "−")


def times(ratio: float) -> str:
    """How many times something is, in words: "0.2 times", "3,010 times"."""
    if ratio >= 1e6:
        return "over a million times"
    return f"{short(ratio, 3)} times"


def ranges(indices: Sequence[int], most: int = 8) -> str:
    """Indices, with those that follow one another as one range: "0–3, 7"."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    shown = ", ".join(f"{first}" if first == last else f"{first}–{last}" for first, last in runs[:most])
    return shown + (f" and others, {len(indices)} in all" if len(runs) > most else "")


def power(exponent: int) -> str:
    """A power of ten: "10⁻³"; ``1`` and ``10`` as they are."""
    return str(10**exponent) if exponent in (0, 1) else f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def usual(numbers: Iterable[float]) -> list[float]:
    """Those that a logarithmic scale can have."""
    return [number for number in numbers if 0 < number < math.inf]


@attrs.frozen
class Scale:
    """A logarithmic scale from 10^low to 10^high."""

    low: int
    high: int

    @classmethod
    def of(cls, numbers: Iterable[float]) -> Scale:
        """Whole decades that hold all numbers."""
        logs = [math.log10(number) for number in usual(numbers)] or [0.0]
        low, high = math.floor(min(logs)), math.ceil(max(logs))
        return cls(low if low < high else high - 1, high)

    def at(self, number: float) -> float:
        """Where a number is: 0 at the lower end, where all that is not above it is, and 1 at the upper one."""
        if not number > 0:
            return 0.0
        if math.isinf(number):
            return 1.0
        return min(max((math.log10(number) - self.low) / (self.high - self.low), 0.0), 1.0)

    @property
    def ticks(self) -> list[int]:
        """The exponents to write beside it: at most six."""
        step = math.ceil((self.high - self.low) / 5)
        return list(range(self.high, self.low - 1, -step))


@attrs.frozen
class Levels:
    """Steps of colour: a number takes the colour of the last edge that it is not below, or else the first colour."""

    edges: tuple[float, ...]

    @classmethod
    def of(cls, numbers: Iterable[float]) -> Levels:
        """Edges at half decades, decades or several of them, as many as the numbers need."""
        found = usual(numbers) or [1.0]
        top, bottom = math.log10(max(found)), math.log10(min(found))
        steps = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 150.0)
        step = next(step for step in steps if math.floor(top / step) - math.floor(bottom / step) < _LEVELS)
        return cls(tuple(10 ** (step * k) for k in range(math.floor(bottom / step), math.floor(top / step) + 1)))

    def colour(self, number: float) -> int | None:
        """The number of its colour, where the last edge has the last one; None for zero and for what is no number."""
        if not number > 0:
            return None
        return _LEVELS - len(self.edges) + max(0, sum(number >= edge for edge in self.edges) - 1)

    @property
    def names(self) -> dict[int, str]:
        """What each colour stands for."""
        first, *rest = (_edge(edge) for edge in self.edges)
        said = [f"below {rest[0]}" if rest else f"from {first}", *(f"from {edge}" for edge in rest)]
        return dict(enumerate(said, _LEVELS - len(self.edges)))


def _edge(edge: float) -> str:
    exponent = round(math.log10(edge))
    whole = math.isclose(edge, 10.0**exponent, rel_tol=1e-9)
    return power(exponent) if whole and exponent < -2 else short(edge, 1)
