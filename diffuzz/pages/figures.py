"""Numbers as a page writes them, the scales of pictures, and their steps of colour."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Steps of colour that are told apart; see style.css.
_LEVELS = 6
# Numbers of which multiples may be infinite.
_HUGE = 1e300
# Distances below which steps are next to the subnormal numbers.
_TINY = 1e-290


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
    if "e+" in text and abs(value) < 1000:
        return str(int(float(text))).replace("-", "−")
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


# Numbers are wide apart where the largest is this many times what most of them are above.
_WIDE = 200.0
# Decades of a scale that has both signs, on one side: what is smaller is at zero.
_DECADES = 12
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
# The part of a scale that finite numbers have where there is an infinite one.
_FINITE = 0.86


@attrs.frozen(eq=False)
class Ruler:
    """A scale for numbers of any sign, from 0 at its lower end to 1; ``ticks`` are what is written beside it, as places
    and texts.
    """

    ticks: tuple[tuple[float, str], ...]
    wide: bool
    _of: Callable[[float], float]

    def at(self, number: float) -> float:
        """Where a number is; what is beyond an end is at that end."""
        return min(max(self._of(number), 0.0), 1.0) if not math.isnan(number) else math.nan

    def with_infinity(self) -> Ruler:
        """The same below a place for infinity."""

        def of(number: float) -> float:
            return 1.0 if number == math.inf else _FINITE * self.at(number)

        ticks = ((_FINITE * place, text) for place, text in self.ticks)
        return Ruler((*ticks, (1.0, "∞")), self.wide, of)


def ruler(numbers: Iterable[float], *, zero: bool = True) -> Ruler:
    """A scale that has all finite ``numbers`` and, if it is asked for, ``zero``: in decades from zero where the numbers
    are wide apart, else linear.
    """
    found = [number for number in numbers if math.isfinite(number)]
    sizes = sorted(abs(number) for number in found if number)
    few = sizes[0] if 0 < len(sizes) <= 16 else sizes[len(sizes) // 4] if sizes else 0.0
    if sizes and sizes[-1] > _WIDE * few:
        return decades(found, few)
    low, high = min(found, default=0.0), max(found, default=0.0)
    return _linear(min(low, 0.0) if zero else low, max(high, 0.0) if zero else high)


def _linear(low: float, high: float) -> Ruler:
    if not high - low > 0:
        low, high = (low - 1, high + 1) if low else (0.0, 1.0)
    if max(abs(low), abs(high)) > _HUGE:
        # Round numbers beyond these might be none, and so might their distance.
        low, high = (low, high) if low < high else (min(low, 0.0), max(high, 0.0))
        ends = ((0.0, plain(low, 4)), (1.0, plain(high, 4)))
        return Ruler(ends, False, lambda number: (number / 4 - low / 4) / (high / 4 - low / 4))
    if high - low < _TINY:
        # Nor are there round numbers between these.
        return Ruler(((0.0, plain(low, 4)), (1.0, plain(high, 4))), False, lambda number: (number - low) / (high - low))
    # Three or four are written.
    rough = (high - low) / 3
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * times for times in _STEPS if unit * times >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    low, high = first * step, last * step
    # As many digits as tell them apart.
    digits = max(4, 1 + math.ceil(math.log10(max(abs(low), abs(high)) / step)))
    ticks = tuple(((k - first) / (last - first), plain(k * step, digits)) for k in range(first, last + 1))
    return Ruler(ticks, False, lambda number: (number - low) / (high - low))


def decades(numbers: Sequence[float], least: float) -> Ruler:
    """A scale in decades on both sides of zero, as far as there are numbers: the first unit is linear up to the power
    of ten that is not above ``least``.
    """
    largest = max(map(abs, numbers))
    top = math.ceil(math.log10(largest) - 1e-9)
    bottom = max(math.floor(math.log10(least) + 1e-9), top - _DECADES)
    bottom = min(bottom, top - 1)

    def units(number: float) -> float:
        size = abs(number) / 10.0**bottom
        return math.copysign(size if size <= 1 else 1 + math.log10(size), number)

    up, down = (1 + top - bottom if any(sign * number > 0 for number in numbers) else 0 for sign in (1, -1))
    whole = up + down
    step = math.ceil((top - bottom + 1) / (5 if not (up and down) else 2))
    powers = range(top, bottom - 1, -step)
    ticks = [(down / whole, "0")]
    ticks += [((down + 1 + k - bottom) / whole, power(k)) for k in powers if up]
    ticks += [((down - 1 - k + bottom) / whole, f"−{power(k)}") for k in powers if down]
    return Ruler(tuple(sorted(ticks)), True, lambda number: (units(number) + down) / whole)


def plain(value: Any, digits: int = 9) -> str:
    """A number of a JSON object as people read it, in up to ``digits`` digits, or the word that it is."""
    if value is None:
        return "–"
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if 1000 <= abs(number) < 1e6:
        return f"{float(f'{number:.{digits}g}'):.15g}".replace("-", "−")
    return short(number, digits)


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
