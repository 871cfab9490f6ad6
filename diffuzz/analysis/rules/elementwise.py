"""Sums, products, quotients, roots, extremes and steps, element by element.

A rule takes the :class:`~diffuzz.analysis.rounding.Rounding` of its result and estimates, and returns the estimate of
the result. What each adds is the largest change of the result when the operands move within their errors: e is the
operand's error, v its value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Rounding


def negate(rounding: Rounding, a: Estimate) -> Estimate:
    """-a, exact."""
    return Estimate(-a.value, a.error)


def absolute(rounding: Rounding, a: Estimate) -> Estimate:
    """|a|, exact."""
    return Estimate(np.abs(a.value), a.error, nonnegative=True)


def sign(rounding: Rounding, a: Estimate) -> Estimate:
    """-1, 0 or 1; uncertain where the error reaches zero."""
    value = np.sign(a.value)
    return _steps(a, value, np.sign)


def add(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """a + b: e_a + e_b."""
    return rounding.result(
        a.value + b.value,
        lambda: _sum_of(a.error, b.error),
        operands=(a, b),
        function=np.add,
        nonnegative=a.nonnegative and b.nonnegative,
    )


def subtract(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """a - b: e_a + e_b, for an operand less itself too: one of the two may be fused into the subtraction and not
    rounded.
    """
    return rounding.result(a.value - b.value, lambda: _sum_of(a.error, b.error), operands=(a, b), function=np.subtract)


def multiply(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """a b: |a| e_b + |b| e_a + e_a e_b; exact by a power of two."""
    if a is b:
        return square(rounding, a)
    for scaled, factor in ((a, b), (b, a)):
        if is_power_of_two(factor):
            return _scaled(rounding, scaled, factor, a.value * b.value, np.multiply)

    def propagate() -> Any:
        if a.error is None:
            return None if b.error is None else np.abs(a.value) * b.error
        if b.error is None:
            return np.abs(b.value) * a.error
        reach = np.abs(a.value) + a.error
        reach = reach * b.error
        return reach + np.abs(b.value) * a.error

    return rounding.result(
        a.value * b.value,
        propagate,
        operands=(a, b),
        function=np.multiply,
        nonnegative=a.nonnegative and b.nonnegative,
    )


def divide(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """a / b: (e_a + |a / b| e_b) / (|b| - e_b), infinite where b may be zero; exact by a power of two.

    A product with a reciprocal counts as a quotient, so the reciprocal may be flushed or overflow.
    """
    value = a.value / b.value
    if is_power_of_two(b):
        return _scaled(rounding, a, b, value, np.divide)

    def propagate() -> Any:
        size = np.abs(b.value)
        least = size if b.error is None else size - b.error
        error = None
        if b.error is not None:
            error = np.abs(value) * (b.error / least)
        if a.error is not None:
            error = a.error / least if error is None else error + a.error / least
        lost = rounding.lost_by_reciprocal(a.value, size, least)
        if b.error is not None and least.size and not least.min() > 0:
            lost = np.where(least > 0, 0.0 if lost is None else lost, np.inf)
        return _sum_of(error, lost)

    return rounding.result(
        value,
        propagate,
        name="divide",
        operands=(a, b),
        function=np.divide,
        nonnegative=a.nonnegative and b.nonnegative,
    )


def square(rounding: Rounding, a: Estimate) -> Estimate:
    """a^2: (2 |a| + e) e."""
    return rounding.result(
        np.square(a.value),
        lambda: None if a.error is None else (2 * np.abs(a.value) + a.error) * a.error,
        operands=(a,),
        function=np.square,
        nonnegative=True,
    )


def integer_power(rounding: Rounding, a: Estimate, exponent: int) -> Estimate:
    """a^k for a whole k: |k| - 1 products in any order (at least two ULP from the third power on, as functions have),
    and for a negative k the quotient of 1 and the product.
    """
    if exponent < 0:
        return divide(rounding, Estimate(np.ones(())), integer_power(rounding, a, -exponent))
    if exponent == 0:
        return Estimate(np.ones_like(a.value))
    if exponent == 1:
        return a
    if exponent == 2:
        return square(rounding, a)

    def propagate() -> Any:
        if a.error is None:
            return None
        size = np.abs(a.value)
        # The difference of the powers would cancel.
        grown = size**exponent * np.expm1(exponent * np.log1p(a.error / size)) * (1 + 2.0**-40)
        if size.size and size.min() > 0:
            return grown
        return np.where(size > 0, grown, a.error**exponent)

    return rounding.result(
        a.value**exponent,
        propagate,
        roundings=max(exponent - 1.0, 4.0),
        operands=(a,),
        function=lambda x: x**exponent,
        nonnegative=exponent % 2 == 0 or a.nonnegative,
    )


def power(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """a^b, monotone in both for a > 0: the farthest corner. A base that may be negative needs a whole exponent that is
    certain.
    """
    value = np.power(a.value.astype(np.float64), b.value)

    def propagate() -> Any:
        if a.error is None and b.error is None:
            return None
        low, high = a.lowest(), a.highest()
        worst = np.zeros(value.shape)
        for base in (low, high):
            for exponent in (b.lowest(), b.highest()):
                worst = np.maximum(worst, np.abs(np.power(base, exponent) - value))
        certain = b.error is None and (b.value == np.rint(b.value))
        crosses = (low < 0) & (high > 0)
        return np.where(
            (low < 0) & ~np.asarray(certain) | crosses & (b.value < 0),
            np.inf,
            np.where(crosses, np.maximum(worst, np.abs(value)), worst),
        )

    return rounding.result(value, propagate, name="pow", operands=(a, b), function=np.power, nonnegative=a.nonnegative)


def sqrt(rounding: Rounding, a: Estimate) -> Estimate:
    """The square root: e / (sqrt(a) + sqrt(a - e)); infinite where a may be negative."""
    value = np.sqrt(a.value)

    def propagate() -> Any:
        if a.error is None:
            return None
        least = a.value - a.error
        if a.nonnegative:
            least = np.maximum(least, 0.0)
            # Below, a computed zero is as far as the root; above, the root of the sum.
            far = value + np.sqrt(least)
            up = np.sqrt(a.value + a.error) - value
            return np.where(a.error == 0, 0.0, np.where(least > 0, a.error / far, np.maximum(value, up)))
        return np.where(a.error == 0, 0.0, a.error / (value + np.sqrt(least)))

    return rounding.result(value, propagate, name="sqrt", operands=(a,), function=np.sqrt, nonnegative=True)


def rsqrt(rounding: Rounding, a: Estimate) -> Estimate:
    """1 / sqrt(a): e (a - e)^(-3/2) / 2, by the mean value theorem; infinite where a may be zero or negative."""
    value = 1 / np.sqrt(a.value)

    def propagate() -> Any:
        if a.error is None:
            return None
        least = a.value - a.error
        return np.where(least > 0, 0.5 * a.error / (least * np.sqrt(least)), np.inf)

    return rounding.result(
        value, propagate, name="rsqrt", operands=(a,), function=lambda x: 1 / np.sqrt(x), nonnegative=True
    )


def cbrt(rounding: Rounding, a: Estimate) -> Estimate:
    """The cube root, monotone."""
    return monotone(rounding, a, np.cbrt, "cbrt", nonnegative=a.nonnegative)


def maximum(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """The larger, exact: the farther of the largest on both ends."""
    return _extreme(a, b, np.maximum, nonnegative=a.nonnegative or b.nonnegative)


def minimum(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """The smaller, exact."""
    return _extreme(a, b, np.minimum, nonnegative=a.nonnegative and b.nonnegative)


def clamp(rounding: Rounding, low: Estimate, a: Estimate, high: Estimate) -> Estimate:
    """min(max(a, low), high), exact."""
    return minimum(rounding, maximum(rounding, a, low), high)


def monotone(
    rounding: Rounding,
    a: Estimate,
    function: Callable[[np.ndarray], np.ndarray],
    name: str,
    *,
    nonnegative: bool = False,
) -> Estimate:
    """A monotone function of this budget: the farther of f(v + e) and f(v - e)."""
    value = function(a.value)

    def propagate() -> Any:
        if a.error is None:
            return None
        reach = np.maximum(np.abs(function(a.highest()) - value), np.abs(function(a.lowest()) - value))
        # What overflows may become NaN, which bounded functions keep.
        return np.where(np.isinf(a.error), np.inf, reach)

    return rounding.result(value, propagate, name=name, operands=(a,), function=function, nonnegative=nonnegative)


def floor(rounding: Rounding, a: Estimate) -> Estimate:
    """The whole number below; one step farther where the error crosses one. Exact on what is computed, as all steps
    are.
    """
    return _steps(a, np.floor(a.value), np.floor)


def ceil(rounding: Rounding, a: Estimate) -> Estimate:
    """The whole number above."""
    return _steps(a, np.ceil(a.value), np.ceil)


def round_half_even(rounding: Rounding, a: Estimate) -> Estimate:
    """The nearest whole number, of two the even one."""
    return _steps(a, np.rint(a.value), np.rint)


def round_half_away(rounding: Rounding, a: Estimate) -> Estimate:
    """The nearest whole number, of two the one away from zero."""
    return _steps(a, _half_away(a.value), _half_away)


def nextafter(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """The next number from a towards b: within one place of the format, which is not that of the evaluation."""
    value = np.nextafter(a.value, b.value)
    return rounding.result(value, lambda: a.errors(), roundings=4.0)


def is_power_of_two(a: Estimate) -> bool:
    """Whether this is a constant, and one power of two; zero is none."""
    if not a.constant or a.error is not None or a.value.dtype != np.float64 or a.value.size == 0:
        return False
    if a.value.size > 1 and any(a.value.strides[axis] for axis in range(a.value.ndim) if a.value.shape[axis] > 1):
        return False
    first = abs(float(a.value.flat[0]))
    return 0 < first < math.inf and math.frexp(first)[0] == 0.5


def _scaled(
    rounding: Rounding,
    a: Estimate,
    factor: Estimate,
    value: np.ndarray,
    function: Callable[..., np.ndarray],
) -> Estimate:
    return rounding.result(
        value,
        lambda: None if a.error is None else np.abs(function(a.error, factor.value)),
        roundings=0.0,
        operands=(a, factor),
        function=function,
        nonnegative=a.nonnegative and factor.value.flat[0] > 0,
    )


def _sum_of(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _extreme(a: Estimate, b: Estimate, function: Callable[..., np.ndarray], *, nonnegative: bool) -> Estimate:
    value = function(a.value, b.value)
    if a.error is None and b.error is None:
        return Estimate(value, nonnegative=nonnegative)
    high = function(a.highest(), b.highest())
    low = function(a.lowest(), b.lowest())
    error = farthest(value, low, high)
    for each in (a, b):
        if each.nonnegative and each.error is not None:
            # An overflow may become NaN, which is below zero no more than above it.
            error = np.where(np.isinf(each.error), np.inf, error)
    return Estimate(value, error, nonnegative=nonnegative)


def farthest(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The larger of high - value and value - low: 0 between equal infinities, infinite for NaN."""
    error: np.ndarray = np.maximum(high - value, value - low)
    if not np.isfinite(error.max(initial=0.0)):
        error = np.maximum(np.where(high == value, 0.0, high - value), np.where(low == value, 0.0, value - low))
        error = np.where(np.isnan(error), np.inf, error)
    return error


def _half_away(x: Any) -> Any:
    return np.copysign(np.floor(np.abs(x) + 0.5) - (np.abs(x) == np.nextafter(0.5, 0.0)), x)


def _steps(a: Estimate, value: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """A monotone function that is exact on what is computed, as steps are."""
    if a.error is None:
        return Estimate(value)
    error = farthest(value, function(a.lowest()), function(a.highest()))
    # What overflows may become NaN, which steps keep.
    return Estimate(value, np.where(np.isinf(a.error), np.inf, error))
