"""Conversions between dtypes. One to a narrower float is part of a function's meaning: the value is rounded."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffuzz.analysis.arithmetic import FloatFormat, round_to
from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Rounding
from diffuzz.analysis.rules.elementwise import farthest


def to_format(
    rounding: Rounding, a: Estimate, number_format: FloatFormat, source: FloatFormat | None = None
) -> Estimate:
    """The value rounded to a format. The computed number is rounded as well, unless a compiler skips the conversion of
    a format that it computes in a wider one: so the error reaches round(v +- e) and, but for float8, v +- e.
    """
    if number_format.name == "float64":
        # Back from a format that the function states to that of its other intermediates.
        if source is None or source.name == "float64" or rounding.number_format.includes(source):
            return a
        return rounding.result(a.value, lambda: a.error, operands=(a,), function=np.positive, nonnegative=a.nonnegative)
    value = round_to(number_format, a.value)
    if rounding.values_only:
        return Estimate(value, nonnegative=a.nonnegative)
    return Estimate(
        value,
        _reach(a, value, number_format, skipped=number_format.unit < 2.0**-5, flushes=rounding.flushed > 0),
        nonnegative=a.nonnegative,
    )


def stored(rounding: Rounding, a: Estimate, number_format: FloatFormat) -> Estimate:
    """The exact value, with the error that it has once it is stored in a format: the farther of round(v + e) and
    round(v - e).
    """
    if rounding.values_only:
        return a
    error = _reach(a, a.value, number_format, skipped=False, flushes=rounding.flushed > 0)
    return Estimate(a.value, error, nonnegative=a.nonnegative)


def _reach(
    a: Estimate, value: np.ndarray, number_format: FloatFormat, *, skipped: bool, flushes: bool
) -> np.ndarray | None:
    """The distance of the farthest of round(v + e) and round(v - e) from the value, with v +- e where rounding may be
    skipped, and of any number near the smallest normal one if that may be flushed. Both roundings are the same where
    no number between two neighbours of the format is within reach.
    """
    worst: Any = None
    for end in (a.lowest(), a.highest()) if a.error is not None else (a.value,):
        for reached in (round_to(number_format, end), end) if skipped else (round_to(number_format, end),):
            gap = np.abs(reached - value)
            worst = gap if worst is None else np.maximum(worst, gap)
    if not np.isfinite(worst.max(initial=0.0)):
        # What is infinite for certain stays so where the format has infinities; an end that overflows is
        # infinitely far.
        sure = np.isinf(a.value) & (a.errors() == 0) & (number_format.name != "float8_e4m3fn")
        worst = np.where(sure, 0.0, np.where(np.isnan(worst), np.inf, worst))
    tiny = 2 * number_format.smallest_normal
    if flushes and not number_format.keeps_subnormals and worst.size:
        size = np.abs(value)
        if size.min() < tiny:
            worst = np.where((size < tiny) & (size > 0), np.maximum(worst, tiny), worst)
    return worst if worst.any() else None


def reduced_precision(rounding: Rounding, a: Estimate, number_format: FloatFormat) -> Estimate:
    """The value rounded to fewer bits, as XLA's reduce_precision does it: what is subnormal in fewer exponent bits is
    0.
    """
    result = to_format(rounding, a, number_format)
    if rounding.values_only:
        return result
    small = np.abs(a.value) - a.errors() < number_format.smallest_normal
    lost = np.where(small, np.abs(result.value), 0.0)
    return Estimate(result.value, result.errors() + lost, nonnegative=a.nonnegative)


def to_integer(rounding: Rounding, a: Estimate, dtype: np.dtype) -> Estimate:
    """Floats towards zero, integers and truth values as they are; unsure where the error crosses a whole number."""
    if dtype.kind == "b":
        value = a.value != 0
        unsure = None if a.error is None else ((np.abs(a.value) <= a.error) & (a.errors() > 0)).astype(np.float64)
        return Estimate(value, unsure)
    value = _cast(a.value, dtype)
    if a.error is None:
        return Estimate(value)
    if a.value.dtype == bool:
        return Estimate(value, a.error)
    if a.value.dtype != np.float64:
        return Estimate(value, a.error)
    error = farthest(np.trunc(a.value), np.trunc(a.lowest()), np.trunc(a.highest()))
    return Estimate(value, error)


def _cast(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floats beyond the integers' range become its end, as in XLA; NaN becomes 0."""
    if x.dtype != np.float64:
        return x.astype(dtype)
    ends = np.iinfo(dtype)
    inside = np.where(np.isnan(x), 0.0, np.clip(np.trunc(x), float(ends.min), float(ends.max)))
    high = inside >= float(ends.max)
    return np.where(high, ends.max, np.where(high, 0.0, inside).astype(dtype)).astype(dtype)


def from_integer(rounding: Rounding, a: Estimate) -> Estimate:
    """Integers and truth values as floats: exact up to the format's precision, beyond it rounded."""
    value = a.value.astype(np.float64)
    nonnegative = a.value.dtype.kind in "bu"
    if rounding.values_only:
        return rounding.result(value, lambda: None)
    whole = 1 / rounding.number_format.unit
    size = np.abs(value) if a.error is None else np.abs(value) + a.error
    if size.size == 0 or size.max() <= whole:
        return Estimate(value, a.error, nonnegative=nonnegative)
    rounded = rounding.result(value, lambda: a.error, nonnegative=nonnegative)
    return Estimate(value, np.where(size <= whole, a.errors(), rounded.errors()), nonnegative=nonnegative)
