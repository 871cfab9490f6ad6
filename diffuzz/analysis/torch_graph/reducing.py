"""Rules of ATen operations over axes: sums, means, variances, extremes, logic, and their cumulative forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rules import elementwise as rules
from diffuzz.analysis.rules import reductions
from diffuzz.analysis.torch_graph.call import Call, Rule, Table, as_result, axes_of, constant, floats, integers, moved


def kept(a: Estimate, axes: tuple[int, ...], keep: bool) -> Estimate:
    """A reduced estimate, with its axes back as length 1 if they are to be kept."""
    return moved(a, lambda x: np.expand_dims(x, axes)) if keep else a


def _sum(call: Call, a: Estimate, axes: Any = None, keepdim: bool = False, **_: Any) -> Estimate:
    operand = as_result(call, a)
    over = axes_of(axes, operand.value.ndim)
    return kept(reductions.reduce_sum(call.rounding, operand, over), over, keepdim)


def mean(call: Call, a: Estimate, axes: Any = None, keepdim: bool = False, **_: Any) -> Estimate:
    """The sum, divided by the number of elements."""
    operand = floats(call, a)
    over = axes_of(axes, operand.value.ndim)
    total = kept(reductions.reduce_sum(call.rounding, operand, over), over, keepdim)
    return rules.divide(call.rounding, total, constant(call, float(_count(operand, over))))


def _count(a: Estimate, axes: tuple[int, ...]) -> int:
    return int(np.prod([a.value.shape[axis] for axis in axes], dtype=np.int64))


def _variance(
    call: Call, a: Estimate, axes: Any = None, correction: float | None = None, keepdim: bool = False
) -> tuple[Estimate, Estimate]:
    """The sum of squared distances from the mean, divided by n - correction.

    The bound of this formula holds for Welford's algorithm as well: it is off by n kappa u of the variance (Chan, Golub
    and LeVeque, The American Statistician 37 (1983), table 1, kappa the ratio of the root mean square and the standard
    deviation), and the error of the mean, which reaches each distance here, is as large.
    """
    operand = floats(call, a)
    over = axes_of(axes, operand.value.ndim)
    centre = mean(call, operand, list(over), keepdim=True)
    distance = rules.subtract(call.rounding, operand, centre)
    squares = reductions.reduce_sum(call.rounding, rules.square(call.rounding, distance), over)
    least = 1 if correction is None else correction
    freedom = max(_count(operand, over) - least, 0)
    spread_ = rules.divide(call.rounding, squares, constant(call, float(freedom)))
    squeezed = moved(centre, lambda x: np.squeeze(x, over))
    return kept(spread_, over, keepdim), kept(squeezed, over, keepdim)


def _extreme(rule: Callable[..., Estimate]) -> Rule:
    def over_axes(call: Call, a: Estimate, axes: Any = None, keepdim: bool = False) -> Estimate:
        over = axes_of(axes, a.value.ndim)
        return kept(rule(call.rounding, a, over), over, keepdim)

    return over_axes


def _any(call: Call, a: Estimate, axes: Any = None, keepdim: bool = False) -> Estimate:
    truth = integers(call, a, np.dtype(np.bool_))
    over = axes_of(axes, truth.value.ndim)
    value = np.asarray(np.any(truth.value, axis=over, keepdims=keepdim))
    if truth.error is None:
        return Estimate(value)
    unsure = truth.errors() > 0
    sure = np.any(truth.value & ~unsure, axis=over, keepdims=keepdim)
    return Estimate(value, np.where(~sure & np.any(unsure, axis=over, keepdims=keepdim), 1.0, 0.0))


REDUCING: Table = {
    "aten.sum": _sum,
    "aten.mean": mean,
    "aten.var": lambda call, *arguments, **named: _variance(call, *arguments, **named)[0],
    "aten.var_mean": _variance,
    "aten.amax": _extreme(reductions.reduce_max),
    "aten.amin": _extreme(reductions.reduce_min),
    "aten.any": _any,
}
