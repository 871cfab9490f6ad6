"""Rules of ATen's products of matrices and convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rules import elementwise as rules
from diffuzz.analysis.rules import indexing, products, windows
from diffuzz.analysis.torch_graph.call import Call, Table, constant, floats, same, spread

# Numbers in the patches of a convolution that are looked at together.
_PATCHES = 2**22


def _matrices(call: Call, a: Estimate, b: Estimate) -> Estimate:
    left, right = same(call, a, b)
    return products.contraction(call.rounding, left, right, left.value.shape[-1], call.shape)


def _with_addend(call: Call, a: Estimate, b: Estimate, n: int, addend: Estimate) -> Estimate:
    """a [.. m n] times b [.. n k] plus an addend that broadcasts to [.. m k].

    Some kernels accumulate the addend with the products, others round the product first: the bound is the larger of
    both.
    """
    shape = (*a.value.shape[:-1], b.value.shape[-1])
    apart = rules.add(call.rounding, products.contraction(call.rounding, a, b, n, shape), addend)
    if call.computing is None:
        return apart
    # One more product with 1: a column of ones for an addend of one row, else the column of the row's own number.
    rows = shape[-2] if addend.value.ndim > 1 and addend.value.shape[-2] > 1 else 1
    added = spread(addend, (*shape[:-2], rows, shape[-1]))
    ones = np.broadcast_to(np.eye(shape[-2]) if rows > 1 else np.ones((shape[-2], 1)), (*shape[:-1], rows))
    wide = indexing.concatenate(call.rounding, [a, Estimate(ones, nonnegative=True)], -1)
    tall = indexing.concatenate(call.rounding, [b, added], -2)
    together = products.contraction(call.rounding, wide, tall, n + 1, shape)
    error = np.maximum(apart.errors(), together.errors())
    return Estimate(apart.value, error if error.any() else None, nonnegative=apart.nonnegative)


def _addmm(call: Call, addend: Estimate, a: Estimate, b: Estimate, *, beta: float = 1, alpha: float = 1) -> Estimate:
    left, right = floats(call, a), floats(call, b)
    n = left.value.shape[-1]
    if alpha == 1 and beta == 1:
        return _with_addend(call, left, right, n, floats(call, addend))
    product = products.contraction(call.rounding, left, right, n, call.shape)
    if alpha != 1:
        product = rules.multiply(call.rounding, product, constant(call, alpha))
    if beta == 0:
        return product
    return rules.add(call.rounding, product, rules.multiply(call.rounding, floats(call, addend), constant(call, beta)))


def _convolution(
    call: Call,
    a: Estimate,
    weight: Estimate,
    bias: Estimate | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Estimate:
    """Sums over a group's channels and a window, and the bias. The transposed one is a convolution of the input with
    zeros between its elements; zeros take no part in the count of roundings."""
    dimensions = weight.value.ndim - 2
    stride, padding, dilation, output_padding = (
        [int(each) for each in (values if len(values) == dimensions else list(values) * dimensions)]
        for values in (stride, padding, dilation, output_padding)
    )
    a, weight = floats(call, a), floats(call, weight)
    batched = a if a.value.ndim == dimensions + 2 else indexing.moved(a, lambda x: x[None])
    spacing = [1] * dimensions
    pads = [(each, each) for each in padding]
    if transposed:
        reach = [step * (size - 1) for size, step in zip(weight.value.shape[2:], dilation, strict=True)]
        pads = [(reach[k] - padding[k], reach[k] - padding[k] + output_padding[k]) for k in range(dimensions)]
        weight = indexing.moved(weight, lambda x: _turned(x, groups))
        stride, spacing = spacing, stride
    out_channels, group_channels, *kernel = weight.value.shape

    def seen(x: Estimate) -> Estimate:  # [batch, channels, *out, 1, 1, *kernel]
        lone, none = (1, 1), ((0, 0), (0, 0))
        inner = ((*lone, *spacing), (*lone, *dilation))
        return windows.windows(x, (*lone, *kernel), (*lone, *stride), (*none, *pads), *inner, 0.0)

    # Padding, and zeros between elements, are no terms: as many as the fullest window has of the input's own.
    own = seen(Estimate(np.ones((1, 1, *a.value.shape[-dimensions:])))).value
    n = group_channels * int(own.sum(axis=tuple(range(-dimensions, 0))).max(initial=0.0))

    def patches(x: np.ndarray) -> np.ndarray:
        x = x.reshape(x.shape[0], groups, group_channels, *x.shape[2 : 2 + dimensions], *kernel)
        order = (1, 0, *range(3, 3 + dimensions), 2, *range(3 + dimensions, 3 + 2 * dimensions))
        return x.transpose(order).reshape(groups, -1, group_channels * int(np.prod(kernel)))

    per_group = out_channels // groups
    right = indexing.moved(weight, lambda x: x.reshape(groups, per_group, -1).transpose(0, 2, 1))
    addend = None if bias is None else indexing.moved(floats(call, bias), lambda x: x.reshape(groups, 1, per_group))
    out = call.shape[-dimensions:]
    order = (1, 0, 2 + dimensions, *range(2, 2 + dimensions))

    def convolved(x: Estimate) -> Estimate:
        left = indexing.moved(seen(x), patches)
        if addend is None:
            result = products.contraction(call.rounding, left, right, n, (groups, left.value.shape[1], per_group))
        else:
            result = _with_addend(call, left, right, n, addend)
        shape = (-1, out_channels, *out)
        return indexing.moved(result, lambda y: y.reshape(groups, -1, *out, per_group).transpose(order).reshape(shape))

    # Patches repeat the input once for each element of a window: a few rows at a time.
    row = int(np.prod((batched.value.shape[1], *out, *kernel)))
    step = max(1, _PATCHES // max(row, 1))
    parts = [
        convolved(indexing.part(batched, slice(start, start + step)))
        for start in range(0, max(batched.value.shape[0], 1), step)
    ]
    result = indexing.concatenate(call.rounding, parts, 0)
    return indexing.moved(result, lambda y: y.reshape(call.shape))


def _turned(weight: np.ndarray, groups: int) -> np.ndarray:
    """The weight [in, out / groups, *kernel] of a transposed convolution as that of the convolution: [out, in / groups,
    *kernel], backwards."""
    weight = np.flip(weight, tuple(range(2, weight.ndim)))
    split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return np.swapaxes(split, 1, 2).reshape(-1, weight.shape[0] // groups, *weight.shape[2:])


MULTIPLYING: Table = {
    "aten.mm": _matrices,
    "aten.bmm": _matrices,
    "aten.addmm": _addmm,
    "aten.baddbmm": _addmm,
    "aten.convolution": _convolution,
}
