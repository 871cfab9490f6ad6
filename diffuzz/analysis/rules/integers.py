"""Division, remainders, shifts and bits. Integers that are certain give integers that are certain; of others, division
and remainders know an interval, and bits nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffuzz.analysis.arithmetic import FORMATS
from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Rounding


def divide(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """a / b towards zero; -1 (all ones) for a zero b, as in XLA."""
    value = _truncated_quotient(a.value, b.value)
    if a.error is None and b.error is None:
        return Estimate(value)
    if b.error is not None:
        return Estimate(value, np.full(value.shape, np.inf))
    size = np.maximum(np.abs(b.value.astype(np.float64)), 1)
    return Estimate(value, np.ceil(a.errors() / size))


def remainder(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """a - b trunc(a / b), with the sign of a; exact for floats too (it is what fmod computes). Where the quotient is
    open, the remainder is anything up to b.
    """
    if a.value.dtype != np.float64:
        value = _remainder_of_integers(a.value, b.value)
        if a.error is None and b.error is None:
            return Estimate(value)
        return Estimate(value, np.abs(value) + np.abs(b.value.astype(np.float64)) + b.errors())
    value = np.fmod(a.value, b.value)
    if rounding.values_only:
        return Estimate(value)
    if a.error is None and b.error is None:
        return rounding.result(value, lambda: None, roundings=0.0)
    quotient = np.abs(np.trunc(a.value / b.value))
    size_a, size_b = np.abs(a.value), np.abs(b.value)
    least, most = size_b - b.errors(), size_b + b.errors()
    fewest = np.trunc(np.maximum(size_a - a.errors(), 0) / most)
    farthest = np.trunc((size_a + a.errors()) / least)
    same_sign = (size_a >= a.errors()) | (quotient == 0)
    certain = (fewest == quotient) & (farthest == quotient) & (least > 0) & same_sign
    error = np.where(certain, a.errors() + quotient * b.errors(), np.abs(value) + most)
    sure = (least > 0) & np.isfinite(a.errors())
    return rounding.result(value, lambda: np.where(sure, error, np.inf), roundings=0.0)


def of_bits(function: Callable[..., np.ndarray]) -> Callable[..., Estimate]:
    """The rule of a function of bits: certain on what is certain, else anything."""

    def rule(rounding: Rounding, *operands: Estimate) -> Estimate:
        value = function(*(each.value for each in operands))
        unsure = [each.errors() > 0 for each in operands if each.error is not None]
        if not unsure:
            return Estimate(value)
        mask = np.broadcast_to(np.logical_or.reduce(np.broadcast_arrays(*unsure)), value.shape)
        return Estimate(value, np.where(mask, np.inf, 0.0)) if mask.any() else Estimate(value)

    return rule


def bitcast(rounding: Rounding, a: Estimate, source: str, target: np.dtype[Any]) -> Estimate:
    """The same bits as another dtype, of numbers that are certain; nothing is known of others."""
    stored = a.value.astype(np.dtype(source)) if source in FORMATS else a.value
    wide = np.dtype(target)
    if wide.itemsize > stored.dtype.itemsize:
        value = np.ascontiguousarray(stored).view(wide)[..., 0]
    elif wide.itemsize < stored.dtype.itemsize:
        value = np.ascontiguousarray(stored)[..., None].view(wide)
    else:
        value = np.ascontiguousarray(stored).view(wide)
    if wide.name in FORMATS:
        value = value.astype(np.float64)
    if a.error is None or not a.errors().any():
        return Estimate(value)
    return Estimate(value, np.full(value.shape, np.inf))


def _left(a: np.ndarray, by: np.ndarray) -> np.ndarray:
    return np.where(_within(a, by), np.left_shift(a, np.where(_within(a, by), by, 0)), 0).astype(a.dtype)


def _right_arithmetic(a: np.ndarray, by: np.ndarray) -> np.ndarray:
    by = np.where(_within(a, by), by, 8 * a.dtype.itemsize - 1).astype(a.dtype)
    return np.asarray(np.right_shift(a, by))


def _right_logical(a: np.ndarray, by: np.ndarray) -> np.ndarray:
    bits = a.view(np.dtype(f"u{a.dtype.itemsize}"))
    shifted = np.right_shift(bits, np.where(_within(a, by), by, 0).astype(bits.dtype))
    return np.where(_within(a, by), shifted, 0).astype(bits.dtype).view(a.dtype)


def _within(a: np.ndarray, by: np.ndarray) -> np.ndarray:
    return np.asarray((by >= 0) & (by < 8 * a.dtype.itemsize))


def _leading_zeros(a: np.ndarray) -> np.ndarray:
    bits, count = a.view(np.dtype(f"u{a.dtype.itemsize}")).copy(), np.full(a.shape, 8 * a.dtype.itemsize)
    while bits.any():
        count -= bits > 0
        bits >>= np.array(1, bits.dtype)
    return count.astype(a.dtype)


shift_left = of_bits(_left)
shift_right_arithmetic = of_bits(_right_arithmetic)
shift_right_logical = of_bits(_right_logical)
population_count = of_bits(lambda a: np.bitwise_count(a.view(np.dtype(f"u{a.dtype.itemsize}"))).astype(a.dtype))
leading_zeros = of_bits(_leading_zeros)


def _truncated_quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    safe = np.where(b == 0, np.ones_like(b), b)
    if a.dtype.kind == "u":
        return np.where(b == 0, np.iinfo(a.dtype).max, a // safe).astype(a.dtype)
    floor = a // safe
    inexact = floor * safe != a
    return np.where(b == 0, -1, floor + (inexact & (floor < 0))).astype(a.dtype)


def _remainder_of_integers(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(b == 0, a, np.fmod(a, np.where(b == 0, np.ones_like(b), b))).astype(a.dtype)
