"""Rules of ATen's pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rules import elementwise as rules
from diffuzz.analysis.rules import reductions, windows
from diffuzz.analysis.torch_graph.call import Call, Rule, Table, constant, floats
from diffuzz.analysis.walking import AnalysisError


def _listed(values: Any, dimensions: int, default: Sequence[int]) -> list[int]:
    listed = [int(value) for value in (values if isinstance(values, list | tuple) else [values])]
    return list(default) if not listed else listed if len(listed) == dimensions else listed * dimensions


def _max_pool(dimensions: int) -> Rule:
    def rule(
        call: Call,
        a: Estimate,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> list[Estimate]:
        if call.uses(1):
            raise AnalysisError("the indices of max pooling have no rule: use the values alone")
        kernel = _listed(kernel, dimensions, ())
        stride = _listed(stride, dimensions, kernel)
        padding, dilation = _listed(padding, dimensions, ()), _listed(dilation, dimensions, ())
        pads = _pads(a.value.shape[-dimensions:], kernel, stride, dilation, padding, call.shape[-dimensions:])
        # Padding of minus infinity never is the largest: each window has an element of the input.
        view, over = _windows(a, kernel, stride, dilation, pads, -np.inf)
        return [reductions.reduce_max(call.rounding, view, over), Estimate(np.zeros(()))]

    return rule


def _average_pool(dimensions: int) -> Rule:
    def rule(
        call: Call,
        a: Estimate,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Estimate:
        kernel = _listed(kernel, dimensions, ())
        stride, padding = _listed(stride, dimensions, kernel), _listed(padding, dimensions, ())
        ones, out = [1] * dimensions, call.shape[-dimensions:]
        operand = floats(call, a)
        space = operand.value.shape[-dimensions:]
        pads = _pads(space, kernel, stride, ones, padding, out)
        view, over = _windows(operand, kernel, stride, ones, pads, 0.0)
        total = reductions.reduce_sum(call.rounding, view, over)
        if divisor_override is not None:
            return rules.divide(call.rounding, total, constant(call, float(divisor_override)))
        # What counts: the input's own elements, or the padding too; never what ceil mode adds beyond the padding.
        counted = np.ones(space)
        if count_include_pad:
            counted = np.ones([size + 2 * width for size, width in zip(space, padding, strict=True)])
            pads = [(0, high - width) for (_, high), width in zip(pads, padding, strict=True)]
        seen, within = _windows(Estimate(counted), kernel, stride, ones, pads, 0.0)
        counts = seen.value.sum(axis=within)
        if counts.size and (counts == counts.flat[0]).all():
            return rules.divide(call.rounding, total, constant(call, float(counts.flat[0])))
        return rules.divide(call.rounding, total, constant(call, counts))

    return rule


def _windows(
    a: Estimate,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    pads: Sequence[tuple[int, int]],
    filling: float,
) -> tuple[Estimate, tuple[int, ...]]:
    """The windows over the last axes, and the axes within one of them."""
    rest = a.value.ndim - len(kernel)
    lone = (1,) * rest
    spread = ((0, 0),) * rest
    step, within = (*lone, *stride), (*lone, *dilation)
    view = windows.windows(a, (*lone, *kernel), step, (*spread, *pads), (1,) * a.value.ndim, within, filling)
    return view, tuple(range(a.value.ndim, 2 * a.value.ndim))


def _pads(
    space: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    out: Sequence[int],
) -> list[tuple[int, int]]:
    """Paddings with which exactly `out` windows fit: in ceil mode the last one reaches beyond the padding."""
    pads = []
    for k, size in enumerate(space):
        needed = (out[k] - 1) * stride[k] + dilation[k] * (kernel[k] - 1) + 1
        pads.append((padding[k], needed - size - padding[k]))
    return pads


POOLING: Table = {
    "aten.max_pool2d_with_indices": _max_pool(2),
    "aten.max_pool3d_with_indices": _max_pool(3),
    "aten.avg_pool2d": _average_pool(2),
    "aten.avg_pool3d": _average_pool(3),
}
