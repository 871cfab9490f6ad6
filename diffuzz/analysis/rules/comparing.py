"""Comparisons, logic and selection. A predicate that the errors of its operands can flip is unsure, which is an error
of 1; what is selected by it may be any of the branches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Rounding, distance


def equal(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """a == b; of an operand with itself it asks for NaN."""
    return _compared(a, b, np.equal)


def not_equal(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """a != b; of an operand with itself it asks for NaN."""
    return _compared(a, b, np.not_equal)


def less(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """a < b."""
    return _compared(a, b, np.less)


def less_equal(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """a <= b."""
    return _compared(a, b, np.less_equal)


def greater(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """a > b."""
    return _compared(a, b, np.greater)


def greater_equal(rounding: Rounding, a: Estimate, b: Estimate) -> Estimate:
    """a >= b."""
    return _compared(a, b, np.greater_equal)


def is_finite(rounding: Rounding, a: Estimate) -> Estimate:
    """Whether a is finite, unsure where its error is infinite."""
    value = np.isfinite(a.value)
    if a.error is None:
        return Estimate(value)
    return _unsure(value, np.isinf(a.errors()))


def select(rounding: Rounding, which: Estimate, *cases: Estimate) -> Estimate:
    """cases[which], for a truth value (two cases) or an index; where it is unsure, the farthest of all cases."""
    choice = which.value
    if choice.ndim == 0:
        choice = np.broadcast_to(choice, cases[0].value.shape)
    if len(cases) == 2:
        value = np.where(choice, cases[1].value, cases[0].value)
    else:
        value = np.choose(choice, [case.value for case in cases], mode="clip")
    value = value.astype(cases[0].value.dtype, copy=False)
    nonnegative = all(case.nonnegative for case in cases)
    unsure = None if which.error is None else np.broadcast_to(which.error, choice.shape) > 0
    if unsure is not None and not unsure.any():
        unsure = None
    if unsure is None and all(case.error is None for case in cases):
        return Estimate(value, nonnegative=nonnegative)
    errors = [case.errors() for case in cases]
    error = np.where(choice, errors[1], errors[0]) if len(cases) == 2 else np.choose(choice, errors, mode="clip")
    if unsure is not None:
        far = error
        for case in cases:
            far = np.maximum(far, _gap(case.value, value) + case.errors())
        error = np.where(unsure, far, error)
    return Estimate(value, error, nonnegative=nonnegative)


def logical(
    function: Callable[..., np.ndarray],
) -> Callable[..., Estimate]:
    """The rule of a bitwise function (and, or, xor, not) of truth values or exact integers."""

    def rule(rounding: Rounding, *operands: Estimate) -> Estimate:
        value = function(*(each.value for each in operands))
        if all(each.error is None for each in operands):
            return Estimate(value)
        unsure = np.zeros(value.shape, bool)
        if value.dtype != bool:
            for each in operands:
                unsure |= each.errors() > 0
            return Estimate(value, np.where(unsure, np.inf, 0.0))
        # Unsure where flipping the unsure operands changes the result.
        values = [[each.value, each.value ^ (each.errors() > 0)] for each in operands]
        if len(operands) == 1:
            return _unsure(value, operands[0].errors() > 0)
        for left in values[0]:
            for right in values[1]:
                unsure |= function(left, right) != value
        return _unsure(value, unsure)

    return rule


bitwise_and = logical(np.bitwise_and)
bitwise_or = logical(np.bitwise_or)
bitwise_xor = logical(np.bitwise_xor)
bitwise_not = logical(np.invert)


def _compared(a: Estimate, b: Estimate, function: Callable[..., np.ndarray]) -> Estimate:
    value = function(a.value, b.value)
    if a.error is None and b.error is None:
        return Estimate(value)
    if a is b:
        return _unsure(value, np.isinf(a.errors()))
    reach = a.error if b.error is None else b.error if a.error is None else a.error + b.error
    gap = np.abs(a.value.astype(np.float64, copy=False) - b.value)
    assert reach is not None
    certain = gap > reach
    if not certain.all():
        infinite = np.isinf(a.value) | np.isinf(b.value)
        certain = np.where(infinite, (a.value == b.value) & (reach == 0) | certain & np.isfinite(reach), certain)
        certain |= reach == 0
    return _unsure(value, ~certain)


def _unsure(value: np.ndarray, unsure: np.ndarray) -> Estimate:
    return Estimate(value, unsure.astype(np.float64)) if unsure.any() else Estimate(value)


def _gap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return distance(a.astype(np.float64, copy=False), b.astype(np.float64, copy=False))


def all_certain(estimates: Sequence[Estimate]) -> bool:
    """Whether no element of these is uncertain."""
    return all(each.error is None or not np.any(each.error) for each in estimates)
