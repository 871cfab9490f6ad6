"""Exponentials, logarithms, waves and other functions with an ULP budget, element by element.

What each adds to its budget is the largest change of the result when the operand moves within its error e.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from diffuzz.analysis.arithmetic import budget, constant_error
from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Rounding
from diffuzz.analysis.rules.elementwise import monotone

_TWO_OVER_ROOT_PI = 2 / math.sqrt(math.pi)


def exp(rounding: Rounding, a: Estimate) -> Estimate:
    """e^a: e^a (exp(e) - 1), for e <= 1 at most e^a (e + e^2)."""
    value = np.exp(a.value)
    return rounding.result(
        value,
        lambda: _changed(a, value, lambda: value, 1, np.exp),
        name="exp",
        operands=(a,),
        function=np.exp,
        nonnegative=True,
    )


def exp2(rounding: Rounding, a: Estimate) -> Estimate:
    """2^a: 2^a (2^e - 1). It is e^(a log 2) as well (XLA), with a rounding of log 2 and one of the argument."""
    value = np.exp2(a.value)

    def propagate() -> Any:
        limits = rounding.number_format
        of_constant = max(constant_error(limits, math.log(2)), 2.0**-54) / math.log(2)
        rounded = (limits.unit + of_constant) * 1.01 * np.abs(a.value)
        moved = Estimate(a.value, rounded if a.error is None else a.error * 1.01 + rounded)
        return _changed(moved, value, lambda: value * math.log(2), math.log(2), np.exp2)

    return rounding.result(
        value,
        propagate,
        name="exp2",
        operands=(a,),
        function=np.exp2,
        nonnegative=True,
    )


def expm1(rounding: Rounding, a: Estimate) -> Estimate:
    """e^a - 1: e^a (exp(e) - 1)."""
    value = np.expm1(a.value)
    return rounding.result(
        value,
        lambda: _changed(a, value, lambda: value + 1, 1, np.expm1),
        name="expm1",
        operands=(a,),
        function=np.expm1,
        nonnegative=a.nonnegative,
    )


def log(rounding: Rounding, a: Estimate) -> Estimate:
    """The natural logarithm: -log(1 - e / a); infinite where a may be zero."""
    return rounding.result(
        np.log(a.value), lambda: _relative_logarithm(a, a.value), name="log", operands=(a,), function=np.log
    )


def log1p(rounding: Rounding, a: Estimate) -> Estimate:
    """log(1 + a): -log(1 - e / (1 + a)); infinite where a may be -1."""
    return rounding.result(
        np.log1p(a.value),
        lambda: _relative_logarithm(a, 1 + a.value),
        name="log1p",
        operands=(a,),
        function=np.log1p,
        nonnegative=a.nonnegative,
    )


def tanh(rounding: Rounding, a: Estimate) -> Estimate:
    """tanh: (1 - tanh^2) (exp(2 e) - 1) / 2, from tanh(a) = 2 logistic(2 a) - 1."""
    value = np.tanh(a.value)
    return rounding.result(
        value,
        lambda: _changed(a, value, lambda: 1 - value * value + 2.0**-52, 2, np.tanh),
        name="tanh",
        operands=(a,),
        function=np.tanh,
        nonnegative=a.nonnegative,
    )


def logistic(rounding: Rounding, a: Estimate) -> Estimate:
    """s = 1 / (1 + e^-a): s (1 - s) (exp(e) - 1), because s(a + d) - s = s (1 - s) (e^d - 1) / (1 + s (e^d - 1)).

    Where e^-a may overflow, an implementation gives 0.
    """
    value = _logistic(a.value)

    def propagate() -> Any:
        error = _changed(a, value, lambda: value * (1 - value + 2.0**-52), 1, _logistic)
        least = 1.01 / rounding.number_format.largest
        if value.size == 0 or value.min() - (0.0 if error is None else np.max(error)) > least:
            return error
        lost = np.where(value - (0.0 if error is None else error) <= least, value, 0.0)
        return lost if error is None else error + lost

    return rounding.result(
        value,
        propagate,
        name="logistic",
        operands=(a,),
        function=_logistic,
        nonnegative=True,
    )


def sin(rounding: Rounding, a: Estimate) -> Estimate:
    """sin: |cos a| e + e^2 / 2, at most 2."""
    return _wave(rounding, a, np.sin, np.cos, "sin")


def cos(rounding: Rounding, a: Estimate) -> Estimate:
    """cos: |sin a| e + e^2 / 2, at most 2."""
    return _wave(rounding, a, np.cos, np.sin, "cos")


def erf(rounding: Rounding, a: Estimate) -> Estimate:
    """erf: e times the largest derivative on the way, which is the one nearest to zero."""
    return _bell(rounding, a, _special().erf, "erf", nonnegative=a.nonnegative)


def erfc(rounding: Rounding, a: Estimate) -> Estimate:
    """1 - erf, as sharp as erf in its own tail, where e^(-a^2) is that of a rounded square (XLA)."""
    return _bell(rounding, a, _special().erfc, "erfc", nonnegative=True)


def tan(rounding: Rounding, a: Estimate) -> Estimate:
    """tan: monotone between its poles, infinite where one is within reach."""
    value = np.tan(a.value)

    def propagate() -> Any:
        if a.error is None:
            return None
        turn = np.floor(a.value / math.pi - 0.5)
        crosses = (np.floor(a.lowest() / math.pi - 0.5) != turn) | (np.floor(a.highest() / math.pi - 0.5) != turn)
        reach = np.maximum(np.abs(np.tan(a.highest()) - value), np.abs(np.tan(a.lowest()) - value))
        return np.where(crosses, np.inf, reach)

    return rounding.result(value, propagate, name="tan")


def asin(rounding: Rounding, a: Estimate) -> Estimate:
    """The inverse sine, monotone; infinite where a may be beyond 1."""
    return monotone(rounding, a, np.arcsin, "asin", nonnegative=a.nonnegative)


def acos(rounding: Rounding, a: Estimate) -> Estimate:
    """The inverse cosine, monotone; infinite where a may be beyond 1."""
    return monotone(rounding, a, np.arccos, "acos", nonnegative=True)


def atan(rounding: Rounding, a: Estimate) -> Estimate:
    """The inverse tangent, monotone."""
    return monotone(rounding, a, np.arctan, "atan", nonnegative=a.nonnegative)


def sinh(rounding: Rounding, a: Estimate) -> Estimate:
    """sinh, monotone. Also e^(a - log 2) - e^(-a - log 2), with rounded arguments (XLA)."""
    value = np.sinh(a.value)

    def propagate() -> Any:
        own = rounding.number_format.unit * np.abs(a.value) * np.cosh(a.value)
        if a.error is None:
            return own
        return own + np.maximum(np.abs(np.sinh(a.highest()) - value), np.abs(np.sinh(a.lowest()) - value))

    return rounding.result(value, propagate, name="sinh", operands=(a,), function=np.sinh, nonnegative=a.nonnegative)


def cosh(rounding: Rounding, a: Estimate) -> Estimate:
    """cosh: sinh(|a| + e) e, and the rounded arguments of two exponentials as for sinh."""
    value = np.cosh(a.value)

    def propagate() -> Any:
        own = rounding.number_format.unit * np.abs(a.value) * value
        return own if a.error is None else own + np.sinh(np.abs(a.value) + a.error) * a.error

    return rounding.result(value, propagate, name="cosh", operands=(a,), function=np.cosh, nonnegative=True)


def asinh(rounding: Rounding, a: Estimate) -> Estimate:
    """The inverse of sinh, monotone."""
    return monotone(rounding, a, np.arcsinh, "asinh", nonnegative=a.nonnegative)


def acosh(rounding: Rounding, a: Estimate) -> Estimate:
    """The inverse of cosh, monotone; infinite where a may be below 1."""
    return monotone(rounding, a, np.arccosh, "acosh", nonnegative=True)


def atanh(rounding: Rounding, a: Estimate) -> Estimate:
    """The inverse of tanh, monotone; infinite where a may reach 1."""
    return monotone(rounding, a, np.arctanh, "atanh", nonnegative=a.nonnegative)


def erf_inv(rounding: Rounding, a: Estimate) -> Estimate:
    """The inverse of erf, monotone; infinite where a may reach 1. It is one of log(1 - a^2), whose square is rounded
    (XLA): that is as if a were off by u / 2.
    """
    value = _special().erfinv(a.value)

    def propagate() -> Any:
        low, high = _special().erfinv(a.lowest()), _special().erfinv(a.highest())
        slope = np.exp(np.square(np.maximum(np.abs(low), np.abs(high)))) / _TWO_OVER_ROOT_PI
        squared = rounding.number_format.unit / 2 * np.square(a.value) * slope
        return np.maximum(np.abs(high - value), np.abs(low - value)) + np.where(value == 0, 0.0, squared)

    return rounding.result(
        value, propagate, name="erf_inv", operands=(a,), function=_special().erfinv, nonnegative=a.nonnegative
    )


def bessel_i0e(rounding: Rounding, a: Estimate) -> Estimate:
    """The scaled modified Bessel function of order 0, whose slope is at most 1."""
    value = _special().i0e(a.value)
    return rounding.result(value, lambda: a.error, name="bessel", nonnegative=True)


def bessel_i1e(rounding: Rounding, a: Estimate) -> Estimate:
    """The scaled modified Bessel function of order 1, whose slope is at most 1/2."""
    value = _special().i1e(a.value)
    return rounding.result(value, lambda: a.error, name="bessel")


def atan2(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """The angle of (b, a): the errors over the least distance from the origin, and a whole turn where that may be zero
    or the cut at b < 0, a = 0 is within reach.
    """
    value = np.arctan2(a.value, b.value)

    def propagate() -> Any:
        if a.error is None and b.error is None:
            return None
        error = np.hypot(a.errors(), b.errors())
        least = np.hypot(a.value, b.value) - error
        cut = (np.abs(a.value) <= a.errors()) & (b.value - b.errors() < 0) & (a.errors() > 0)
        angle = np.where(least > 0, np.minimum(math.pi / 2 * error / least, 2 * math.pi), 2 * math.pi)
        return np.where(error == 0, 0.0, np.where(np.isinf(error), np.inf, np.where(cut, 2 * math.pi, angle)))

    return rounding.result(value, propagate, name="atan2", operands=(a, b), function=np.arctan2)


def lgamma(rounding: Rounding, a: Estimate) -> Estimate:
    """log|gamma(a)| for a > 0: digamma's largest size on the way times e. Infinite where a may be negative. Near its
    zeros at 1 and 2 it is as certain as near other numbers, not more.
    """
    special = _special()
    value = special.gammaln(a.value)

    def propagate() -> Any:
        least = a.value - a.errors()
        slope = np.maximum(np.abs(special.digamma(least)), np.abs(special.digamma(a.highest())))
        near = 2.0 * budget_of_one(rounding, "lgamma")
        return np.where(least > 0, slope * a.errors() + near, np.inf)

    return rounding.result(value, propagate, name="lgamma")


def digamma(rounding: Rounding, a: Estimate) -> Estimate:
    """The derivative of lgamma, monotone for a > 0. Infinite where a may be negative."""
    special = _special()
    value = special.digamma(a.value)

    def propagate() -> Any:
        least = a.value - a.errors()
        reach = np.maximum(np.abs(special.digamma(least) - value), np.abs(special.digamma(a.highest()) - value))
        near = 0.5 * budget_of_one(rounding, "digamma")
        return np.where(least > 0, reach + near, np.inf)

    return rounding.result(value, propagate, name="digamma")


def budget_of_one(rounding: Rounding, name: str) -> float:
    """The error that a function of this name may have at a result of 1."""
    number_format = rounding.number_format
    return 2 * budget(name, number_format) * number_format.unit


def _grown(e: Any) -> Any:
    """e + e^2, which is more than exp(e) - 1 for e <= 1."""
    grown = e * e
    grown += e
    return grown


def _changed(a: Estimate, value: Any, slope: Callable[[], Any], reach: float, function: Callable[..., Any]) -> Any:
    """The change of a monotone function: ``slope()`` times e + e^2 (with reach e for e) where that holds, for reach e
    <= 1; elsewhere the farther end.
    """
    if a.error is None:
        return None
    near = a.error if reach == 1 else a.error * reach
    error = slope() * _grown(near) / reach
    if near.max(initial=0.0) <= 1:
        return error
    ends = np.maximum(np.abs(function(a.highest()) - value), np.abs(function(a.lowest()) - value))
    return _or_nothing(a, np.where(near <= 1, error, ends))


def _or_nothing(a: Estimate, error: Any) -> Any:
    """The error, but infinite where the operand's is: what overflows may become NaN, which bounded functions keep."""
    return error if a.error is None else np.where(np.isinf(a.error), np.inf, error)


def _special() -> Any:
    """Functions that NumPy lacks; loaded when the first is used."""
    return importlib.import_module("scipy.special")


def _logistic(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _relative_logarithm(a: Estimate, distance: Any) -> Any:
    """-log(1 - e / distance); at most r (1 + r) for r = e / distance up to 1/2."""
    if a.error is None:
        return None
    ratio = a.error / distance
    if ratio.size and ratio.min() >= 0 and ratio.max() <= 0.5:
        return ratio * (1 + ratio)
    far = np.where((ratio >= 0) & (ratio < 1), -np.log1p(-ratio) * (1 + 2.0**-50), np.inf)
    return np.where(a.error == 0, 0.0, np.where((ratio >= 0) & (ratio <= 0.5), ratio * (1 + ratio), far))


def _wave(
    rounding: Rounding,
    a: Estimate,
    function: Callable[[np.ndarray], np.ndarray],
    slope: Callable[[np.ndarray], np.ndarray],
    name: str,
) -> Estimate:
    def propagate() -> Any:
        if a.error is None:
            return None
        near = np.minimum(np.abs(slope(a.value)) * a.error + a.error * a.error / 2, 2.0)
        return _or_nothing(a, np.where(np.isfinite(a.value), near, np.inf))

    return rounding.result(function(a.value), propagate, name=name)


def _bell(
    rounding: Rounding,
    a: Estimate,
    function: Callable[[np.ndarray], np.ndarray],
    name: str,
    *,
    nonnegative: bool,
) -> Estimate:
    value = function(a.value)

    def propagate() -> Any:
        squared = None
        if name == "erfc":
            squared = np.where(a.value > 1, rounding.number_format.unit * np.square(a.value) * value, 0.0)
            squared = np.where(value == 0, 0.0, squared)
        if a.error is None:
            return squared
        nearest = np.maximum(np.abs(a.value) - a.error, 0.0)
        moved = np.minimum(_TWO_OVER_ROOT_PI * np.exp(-nearest * nearest) * a.error * (1 + 2.0**-40), 2.0)
        moved = _or_nothing(a, moved)
        return moved if squared is None else moved + squared

    return rounding.result(value, propagate, name=name, operands=(a,), function=function, nonnegative=nonnegative)
