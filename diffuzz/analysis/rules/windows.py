"""Convolutions and pooling: windows of an array, as another axis to reduce."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Rounding
from diffuzz.analysis.rules import indexing, products


def windows(
    a: Estimate,
    size: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    within: Sequence[int],
    fill: float | int,
) -> Estimate:
    """Every window of an array: its axes are those of the windows, and after them those within one window. ``dilation``
    spreads the array by that many places for each element, ``within`` does so in a window; both and the padding are
    filled.
    """
    padded = indexing.pad(a, fill, [(low, high, step - 1) for (low, high), step in zip(padding, dilation, strict=True)])
    reach = [(each - 1) * step + 1 for each, step in zip(size, within, strict=True)]

    steps = (*(slice(None, None, step) for step in strides), *(slice(None, None, step) for step in within))

    def view(x: np.ndarray) -> np.ndarray:
        lengths = list(zip(x.shape, reach, strides, strict=True))
        if any(have < need for have, need, _ in lengths):
            # An array that is smaller than a window has none.
            return np.zeros((*(max(0, (have - need) // step + 1) for have, need, step in lengths), *size), x.dtype)
        return np.lib.stride_tricks.sliding_window_view(x, reach)[steps]

    return indexing.moved(padded, view)


def convolution(
    rounding: Rounding,
    a: Estimate,
    b: Estimate,
    *,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    kernel_dilation: Sequence[int],
    groups: int = 1,
    batch_groups: int = 1,
) -> Estimate:
    """a [n c spatial..] with kernels b [o c/groups spatial..] to [n o spatial..], without flipping the kernel;
    ``dilation`` of a is what transposed convolutions have. Sums of products, as :func:`products.dot_general`.

    With ``batch_groups`` the batch falls into so many groups, each with its share of the kernels.
    """
    if batch_groups > 1:
        return _by_batch_groups(rounding, a, b, strides, padding, dilation, kernel_dilation, batch_groups)
    n, channels = a.value.shape[:2]
    outputs, each = b.value.shape[:2]
    size = b.value.shape[2:]
    spatial = len(size)
    seen = windows(
        a,
        (1, 1, *size),
        (1, 1, *strides),
        ((0, 0), (0, 0), *padding),
        (1, 1, *dilation),
        (1, 1, *kernel_dilation),
        0.0,
    )
    out = seen.value.shape[2 : 2 + spatial]
    # [n c out.. 1 1 size..] to [n groups out c/groups size]
    order = (0, 1, *range(3, 3 + spatial), 2, *range(3 + spatial, 3 + 2 * spatial))
    terms = int(np.prod((each, *size), dtype=np.int64))

    def patches(x: np.ndarray) -> np.ndarray:
        x = x.reshape(n, groups, channels // groups, *out, *size)
        return x.transpose(order).reshape(n, groups, int(np.prod(out, dtype=np.int64)), terms)

    def kernels(x: np.ndarray) -> np.ndarray:
        return np.swapaxes(x.reshape(groups, outputs // groups, terms), 1, 2)[None]

    left = indexing.moved(seen, patches)
    right = indexing.moved(b, kernels)
    result = products.contraction(
        rounding, left, right, terms, (n, groups, int(np.prod(out, dtype=np.int64)), outputs // groups)
    )
    return indexing.moved(result, lambda x: np.moveaxis(x, 3, 2).reshape(n, outputs, *out))


def _by_batch_groups(
    rounding: Rounding,
    a: Estimate,
    b: Estimate,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    kernel_dilation: Sequence[int],
    count: int,
) -> Estimate:
    parts = []
    rows, outputs = a.value.shape[0] // count, b.value.shape[0] // count
    for group in range(count):
        here = indexing.part(a, slice(group * rows, (group + 1) * rows))
        mine = indexing.part(b, slice(group * outputs, (group + 1) * outputs))
        parts.append(
            convolution(
                rounding,
                here,
                mine,
                strides=strides,
                padding=padding,
                dilation=dilation,
                kernel_dilation=kernel_dilation,
            )
        )
    return indexing.concatenate(rounding, parts, 1)
