"""Sums, products, extremes and logic over axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Rounding
from diffuzz.analysis.rules.elementwise import farthest


def reduce_sum(rounding: Rounding, a: Estimate, axes: Sequence[int]) -> Estimate:
    """The sum over these axes in any order: the sum of the errors, and gamma_(n-1) of the sum of the magnitudes."""
    axes = tuple(int(axis) for axis in axes)
    value = _summed(a.value, axes)
    if a.value.dtype != np.float64:
        error = None if a.error is None else _summed(a.errors(), axes)
        return Estimate(value.astype(a.value.dtype, copy=False), error)
    n = int(np.prod([a.value.shape[axis] for axis in axes], dtype=np.int64))
    if n <= 1:
        return Estimate(value, None if a.error is None else _summed(a.errors(), axes), nonnegative=a.nonnegative)
    error = None if a.error is None else _summed(a.errors(), axes)

    def magnitude() -> np.ndarray:
        size = np.abs(value) if a.nonnegative else _summed(np.abs(a.value), axes)
        return size if error is None else size + error

    def terms() -> np.ndarray:
        moved = np.moveaxis(a.value, axes, range(-len(axes), 0))
        return moved.reshape(*moved.shape[: moved.ndim - len(axes)], -1)

    return rounding.total(
        value,
        lambda: error,
        additions=n - 1,
        products=0,
        roundings=n - 1,
        whole=lambda: is_whole(a.value),
        magnitude=magnitude,
        terms=terms,
        function=lambda x: _summed(x, axes),
        operands=(a,),
        nonnegative=a.nonnegative,
    )


def reduce_max(rounding: Rounding, a: Estimate, axes: Sequence[int]) -> Estimate:
    """The largest over these axes, exact on what is computed."""
    return _extreme(a, axes, np.max)


def reduce_min(rounding: Rounding, a: Estimate, axes: Sequence[int]) -> Estimate:
    """The smallest over these axes, exact on what is computed."""
    return _extreme(a, axes, np.min)


def is_whole(x: np.ndarray) -> bool:
    """Whether all are whole numbers; a few are looked at first."""
    few = x.reshape(-1)[:8] if x.flags.c_contiguous else x[(0,) * (x.ndim - 1)][:8] if x.ndim and x.size else x
    return bool((few == np.rint(few)).all() and (x == np.rint(x)).all())


def _summed(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.asarray(np.sum(x, axis=axes))


def _extreme(a: Estimate, axes: Sequence[int], function: Callable[..., Any]) -> Estimate:
    axes = tuple(int(axis) for axis in axes)
    value = np.asarray(function(a.value, axis=axes))
    if a.error is None:
        return Estimate(value, nonnegative=a.nonnegative)
    low, high = np.asarray(function(a.lowest(), axis=axes)), np.asarray(function(a.highest(), axis=axes))
    error = farthest(value, low, high)
    if a.nonnegative:
        # An overflow may become NaN, which is below zero no more than above it.
        error = np.where(np.isinf(a.errors()).any(axis=axes), np.inf, error)
    return Estimate(value, error, nonnegative=a.nonnegative)


def reduce_product(rounding: Rounding, a: Estimate, axes: Sequence[int]) -> Estimate:
    """The product over these axes in any order: prod(|v| + e) - prod|v|, and n - 1 roundings. A partial product may
    leave the range that the result is in, so the largest ones are asked for as well.
    """
    axes = tuple(int(axis) for axis in axes)
    value = np.asarray(np.prod(a.value, axis=axes))
    if a.value.dtype != np.float64:
        return Estimate(value.astype(a.value.dtype), None if a.error is None else np.full(value.shape, np.inf))
    n = int(np.prod([a.value.shape[axis] for axis in axes], dtype=np.int64))
    if n <= 1:
        return Estimate(value, None if a.error is None else _summed(a.errors(), axes), nonnegative=a.nonnegative)

    def propagate() -> Any:
        reach = np.abs(a.value) + a.errors()
        far = np.prod(reach, axis=axes)
        error = far - np.abs(value) if a.error is not None else None
        largest = np.prod(np.maximum(reach, 1.0), axis=axes)
        return rounding.lost_in_product(error, value, largest, np.prod(np.minimum(reach, 1.0), axis=axes), n)

    return rounding.result(
        value,
        propagate,
        roundings=float(n - 1),
        operands=(a,),
        nonnegative=a.nonnegative,
    )


def reduce_all(rounding: Rounding, a: Estimate, axes: Sequence[int]) -> Estimate:
    """Whether all are true; bits in common for integers."""
    return _logical(a, axes, np.bitwise_and)


def reduce_any(rounding: Rounding, a: Estimate, axes: Sequence[int]) -> Estimate:
    """Whether any is true; bits of any for integers."""
    return _logical(a, axes, np.bitwise_or)


def reduce_parity(rounding: Rounding, a: Estimate, axes: Sequence[int]) -> Estimate:
    """Whether an odd number is true."""
    return _logical(a, axes, np.bitwise_xor)


def _logical(a: Estimate, axes: Sequence[int], function: np.ufunc) -> Estimate:
    axes = tuple(int(axis) for axis in axes)
    value = np.asarray(function.reduce(a.value, axis=axes))
    if a.error is None:
        return Estimate(value)
    unsure = a.errors() > 0
    if a.value.dtype != bool or function is np.bitwise_xor:
        open_ = unsure.any(axis=axes)
        return Estimate(value, np.where(open_, 1.0 if value.dtype == bool else np.inf, 0.0))
    other = function.reduce(np.where(unsure, ~a.value, a.value), axis=axes)
    # All unsure ones true, and all false: the two ends of what may come out.
    high = function.reduce(a.value | unsure, axis=axes)
    low = function.reduce(a.value & ~unsure, axis=axes)
    open_ = (high != value) | (low != value) | (other != value)
    return Estimate(value, open_.astype(np.float64) if open_.any() else None)
