"""Running sums, products and extremes along an axis. The k-th result is a reduction of the first k + 1 elements in any
order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Rounding
from diffuzz.analysis.rules.elementwise import farthest
from diffuzz.analysis.rules.indexing import moved
from diffuzz.analysis.rules.reductions import is_whole


def _along_last(rule: Callable[[Rounding, Estimate], Estimate]) -> Callable[..., Estimate]:
    """The rule for the last axis, forwards, as one for any axis and both directions."""

    def turned(rounding: Rounding, a: Estimate, axis: int, *, reverse: bool = False) -> Estimate:
        def there(x: np.ndarray) -> np.ndarray:
            line = np.moveaxis(x, axis, -1)
            return line[..., ::-1] if reverse else line

        def back(x: np.ndarray) -> np.ndarray:
            return np.moveaxis(x[..., ::-1] if reverse else x, -1, axis)

        return moved(rule(rounding, moved(a, there)), back)

    turned.__doc__ = rule.__doc__
    return turned


def _sums(rounding: Rounding, a: Estimate) -> Estimate:
    """Running sums: gamma_k of the running sum of magnitudes at the k-th. Nothing is promised once one is infinite: XLA
    multiplies by a triangle of ones and zeros.
    """
    value = np.cumsum(a.value, axis=-1, dtype=a.value.dtype)
    error = None if a.error is None else np.cumsum(a.errors(), axis=-1)
    if a.value.dtype != np.float64 or a.value.shape[-1] <= 1:
        return Estimate(value, error, nonnegative=a.nonnegative)
    count = np.arange(a.value.shape[-1], dtype=np.float64)
    return rounding.total(
        value,
        lambda: error,
        additions=count,
        products=0,
        roundings=count,
        whole=lambda: is_whole(a.value),
        magnitude=lambda: np.cumsum(np.abs(a.value), axis=-1) + (0.0 if error is None else error),
        terms=lambda: np.where(np.tri(len(count), dtype=bool), a.value[..., None, :], 0.0),
        operands=(a,),
        nonnegative=a.nonnegative,
    )


def _products(rounding: Rounding, a: Estimate) -> Estimate:
    """Running products: as reduce_product, with k roundings at the k-th."""
    value = np.cumprod(a.value, axis=-1, dtype=a.value.dtype)
    if a.value.dtype != np.float64:
        return Estimate(value, None if a.error is None else np.full(value.shape, np.inf))
    count = np.arange(a.value.shape[-1], dtype=np.float64)

    def propagate() -> Any:
        reach = np.abs(a.value) + a.errors()
        far = np.cumprod(reach, axis=-1)
        error = (far - np.abs(value) if a.error is not None else 0.0) + count * rounding.number_format.unit * 1.01 * far
        return rounding.lost_in_product(
            error,
            value,
            np.cumprod(np.maximum(reach, 1.0), axis=-1),
            np.cumprod(np.minimum(reach, 1.0), axis=-1),
            len(count),
        )

    return rounding.result(value, propagate, nonnegative=a.nonnegative)


def _largest(rounding: Rounding, a: Estimate) -> Estimate:
    """Running maxima, exact on what is computed."""
    return _extremes(a, np.maximum)


def _smallest(rounding: Rounding, a: Estimate) -> Estimate:
    """Running minima, exact on what is computed."""
    return _extremes(a, np.minimum)


def _log_sums(rounding: Rounding, a: Estimate) -> Estimate:
    """Running log-sum-exp: it moves by no more than the largest error so far, and each of the k steps adds an
    exponential and a logarithm (at most log 2) with their budgets, and a rounded sum.
    """
    value = np.logaddexp.accumulate(a.value, axis=-1)

    def propagate() -> Any:
        count = np.arange(1, a.value.shape[-1] + 1, dtype=np.float64)
        size = np.maximum.accumulate(np.abs(np.where(np.isfinite(a.value), a.value, 0.0)) + a.errors(), axis=-1)
        step = rounding.number_format.unit * (16.0 + 3.0 * (size + np.log(count)))
        return np.maximum.accumulate(a.errors(), axis=-1) + count * step

    return rounding.result(
        value, propagate, operands=(a,), function=lambda x: np.logaddexp.accumulate(x, axis=-1), elementwise=False
    )


def _extremes(a: Estimate, function: np.ufunc) -> Estimate:
    value = function.accumulate(a.value, axis=-1)
    if a.error is None:
        return Estimate(value, nonnegative=a.nonnegative)
    low, high = function.accumulate(a.lowest(), axis=-1), function.accumulate(a.highest(), axis=-1)
    error = farthest(value, low, high)
    if a.nonnegative:
        # An overflow may become NaN, which is below zero no more than above it.
        error = np.where(np.logical_or.accumulate(np.isinf(a.errors()), axis=-1), np.inf, error)
    return Estimate(value, error, nonnegative=a.nonnegative)


cumulative_sum = _along_last(_sums)
cumulative_product = _along_last(_products)
cumulative_max = _along_last(_largest)
cumulative_min = _along_last(_smallest)
cumulative_logsumexp = _along_last(_log_sums)
