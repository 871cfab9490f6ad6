"""Rules of ATen's linear interpolation, one axis after the other.

    y_i = (1 - w) x_k + w x_(k+1),  s = (i + 1/2) r - 1/2 or i r,  k = floor(s),  w = s - k

with r the ratio of the lengths. Kernels write it so, or as x_k + w (x_(k+1) - x_k): the allowance covers both. They
compute s in the format of intermediates, so w is off by its error; where that reaches a whole number, k may be the next
one, but y is continuous there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffuzz.analysis.arithmetic import round_to
from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rules import indexing
from diffuzz.analysis.torch_graph.call import Call, Table, floats


def _linear(call: Call, a: Estimate, size: Any, align_corners: bool, scales: Sequence[float] | None = None) -> Estimate:
    result = floats(call, a)
    dimensions = result.value.ndim - 2
    for k in range(dimensions):
        axis = 2 + k
        scale = scales[k] if scales else None
        result = _along(call, result, axis, call.shape[axis], align_corners, scale)
    return result


def _along(call: Call, a: Estimate, axis: int, out: int, align_corners: bool, scale: float | None) -> Estimate:
    size = a.value.shape[axis]
    number = np.arange(out)
    if align_corners:
        ratio = (size - 1) / (out - 1) if out > 1 else 0.0
        place = number * ratio
    else:
        ratio = 1 / scale if scale else size / out
        place = np.maximum((number + 0.5) * ratio - 0.5, 0.0)
    place = np.minimum(place, size - 1)
    first = np.floor(place).astype(np.int64)
    spread = [-1 if k == axis else 1 for k in range(a.value.ndim)]
    weight = (place - first).reshape(spread)

    def at(shift: int) -> Estimate:
        where = np.clip(first + shift, 0, size - 1)
        return indexing.moved(a, lambda x: np.take(x, where, axis))

    left, right = at(0), at(1)
    value = (1 - weight) * left.value + weight * right.value
    if call.computing is None:
        return Estimate(value)
    unit = call.computing.unit
    off = 4 * unit * (place + 1)
    if round_to(call.computing, ratio) == ratio and (round_to(call.computing, place) == place).all():
        off = np.zeros(place.shape)  # the ratio of a power of two: positions are exact

    def propagate() -> np.ndarray:
        slopes = [np.abs(high.value - low.value) for low, high in ((at(-1), left), (left, right), (right, at(2)))]
        steep = np.maximum(np.maximum(slopes[0], slopes[2]), slopes[1]) * off.reshape(spread)
        ends = (1 - weight) * np.abs(left.value) + weight * np.abs(right.value)
        both = (1 - weight) * left.errors() + weight * right.errors()
        # The other form rounds a difference and its product with w; this one the weight, two products and a sum.
        total: np.ndarray = steep + both + unit * (2 * weight * slopes[1] + 3 * ends)
        return total

    return call.rounding.result(value, propagate, nonnegative=a.nonnegative)


RESIZING: Table = {
    "aten.upsample_linear1d": _linear,
    "aten.upsample_bilinear2d": _linear,
    "aten.upsample_trilinear3d": _linear,
}
