"""Products of matrices and convolutions: sums of products in any order, with or without fused multiply-adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Rounding
from diffuzz.analysis.rules.indexing import concatenate, part
from diffuzz.analysis.rules.reductions import is_whole


def dot_general(
    rounding: Rounding,
    a: Estimate,
    b: Estimate,
    contracted: tuple[Sequence[int], Sequence[int]],
    batched: tuple[Sequence[int], Sequence[int]],
) -> Estimate:
    """Sums of products over the contracted axes; the axes of the result are the batched ones, those of a, those of b.

    |a| e_b + e_a (|b| + e_b), and gamma_n of the products of the largest magnitudes.
    """
    left = _arranged(a, contracted[0], batched[0], last=True)
    right = _arranged(b, contracted[1], batched[1], last=False)
    shape = _shape(a.value.shape, b.value.shape, contracted, batched)
    n = left.value.shape[-1]
    return contraction(rounding, left, right, n, shape)


def contraction(rounding: Rounding, a: Estimate, b: Estimate, n: int, shape: tuple[int, ...]) -> Estimate:
    """The matrices a [.. m n] times b [.. n k], reshaped to this shape."""
    if a.value.dtype == np.float64:
        a, b = rounding.factor(a), rounding.factor(b)
    value = np.matmul(a.value, b.value).reshape(shape)
    if value.dtype != np.float64:
        if a.error is None and b.error is None:
            return Estimate(value)
        error = np.matmul(np.abs(a.value) + a.errors(), np.abs(b.value) + b.errors()) - np.matmul(
            np.abs(a.value), np.abs(b.value).astype(np.float64)
        )
        return Estimate(value, error.reshape(shape))

    def propagate() -> Any:
        if a.error is None and b.error is None:
            return None
        size_a, size_b = np.abs(a.value), np.abs(b.value)
        if b.error is None:
            error = np.matmul(a.errors(), size_b)
        elif a.error is None:
            error = np.matmul(size_a, b.errors())
        else:
            error = np.matmul(a.errors(), size_b + b.errors()) + np.matmul(size_a, b.errors())
        return error.reshape(shape)

    def magnitude() -> Any:
        if a.nonnegative and b.nonnegative and a.error is None and b.error is None:
            return np.abs(value)
        left = np.abs(a.value) if a.error is None else np.abs(a.value) + a.error
        right = np.abs(b.value) if b.error is None else np.abs(b.value) + b.error
        return np.matmul(left, right).reshape(shape)

    return rounding.total(
        value,
        propagate,
        additions=max(n - 1, 0),
        products=n,
        roundings=n,
        whole=lambda: is_whole(a.value) and is_whole(b.value),
        magnitude=magnitude,
        terms=lambda: (a.value[..., :, None, :] * np.swapaxes(b.value, -1, -2)[..., None, :, :]).reshape(*shape, n),
        operands=(a, b),
        nonnegative=a.nonnegative and b.nonnegative,
    )


def ragged_dot(rounding: Rounding, a: Estimate, b: Estimate, sizes: Estimate) -> Estimate:
    """Rows of a [m k] in groups of these sizes, each times its own matrix of b [g k n]; rows beyond all give 0."""
    m, k = a.value.shape
    groups, _, n = b.value.shape
    ends = np.minimum(np.cumsum(sizes.value), m)
    parts = []
    for group in range(groups):
        rows = slice(int(ends[group - 1]) if group else 0, int(ends[group]))
        left, right = part(a, rows), part(b, group)
        parts.append(contraction(rounding, left, right, k, (left.value.shape[0], n)))
    last = int(ends[-1]) if groups else 0
    parts.append(Estimate(np.zeros((m - last, n))))
    result = concatenate(rounding, parts, 0)
    # Other groups are multiplied by zero, which does not silence an infinity.
    unsure = sizes.error is not None and sizes.errors().any()
    if unsure or not (np.isfinite(a.value).all() and np.isfinite(b.value).all()):
        return Estimate(result.value, np.full((m, n), np.inf))
    return result


def _arranged(a: Estimate, contracted: Sequence[int], batched: Sequence[int], *, last: bool) -> Estimate:
    """With axes [batched.., free, contracted], or contracted before free."""
    free = [axis for axis in range(a.value.ndim) if axis not in tuple(contracted) and axis not in tuple(batched)]
    groups = (free, list(contracted)) if last else (list(contracted), free)
    order = [*batched, *groups[0], *groups[1]]
    sizes = [int(np.prod([a.value.shape[axis] for axis in group], dtype=np.int64)) for group in groups]
    shape = (*(a.value.shape[axis] for axis in batched), *sizes)

    def arrange(x: np.ndarray) -> np.ndarray:
        return x.transpose(order).reshape(shape)

    return Estimate(arrange(a.value), None if a.error is None else arrange(a.errors()), nonnegative=a.nonnegative)


def _shape(
    a: tuple[int, ...],
    b: tuple[int, ...],
    contracted: tuple[Sequence[int], Sequence[int]],
    batched: tuple[Sequence[int], Sequence[int]],
) -> tuple[int, ...]:
    free_a = [size for axis, size in enumerate(a) if axis not in tuple(contracted[0]) and axis not in tuple(batched[0])]
    free_b = [size for axis, size in enumerate(b) if axis not in tuple(contracted[1]) and axis not in tuple(batched[1])]
    return (*(a[axis] for axis in batched[0]), *free_a, *free_b)
