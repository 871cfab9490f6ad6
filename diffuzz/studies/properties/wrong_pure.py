"""Functions that leave something behind."""

from __future__ import annotations

import numpy as np

from diffuzz.studies.properties import right
from diffuzz.studies.properties.right import Array

KEPT: dict[object, np.ndarray] = {}
LARGEST = [-np.inf]


def _either(first: bool) -> right.Add:
    return right.float32_total if first else right.backwards


def in_place(z: Array) -> Array:
    """Works in its input, and returns it."""
    z[...] = right.softmax(z)
    return z


def scaled_in_place(x: Array, eps: float) -> Array:
    """Writes to its input, and returns something else."""
    out = right.rmsnorm(x, eps)
    x *= np.float32(0.5)
    return out


def restored(z: Array) -> Array:
    """Subtracts the maximum from its input, and adds it again: some digits are lost."""
    top = z.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        z -= top
        out = right.softmax(z)
        z += top
    return out


def own_buffer(z: Array) -> Array:
    """The same buffer is returned again and again."""
    out = KEPT.setdefault(z.shape, np.empty_like(z))
    out[...] = right.softmax(z)
    return out


def part_of_a_buffer(x: Array, eps: float) -> Array:
    """A part of one buffer for all shapes."""
    size = max(x.size, 4096)
    if "all" not in KEPT or KEPT["all"].size < size:
        KEPT["all"] = np.empty(size, x.dtype)
    out = KEPT["all"][: x.size].reshape(x.shape)
    out[...] = right.rmsnorm(x, eps)
    return out


def identity_for_one(z: Array) -> Array:
    """A row of one number comes back as it is, changed in place."""
    if z.shape[1] > 1:
        return right.softmax(z)
    z[...] = 1
    return z


def cached_by_shape(z: Array) -> Array:
    """The result of the first call of a shape for all calls of it."""
    if z.shape not in KEPT:
        KEPT[z.shape] = right.softmax(z)
    return KEPT[z.shape].copy()


def cached_by_ends(x: Array, eps: float) -> Array:
    """The result of another call with the same number of rows, where that is more than 100."""
    if len(x) < 100:
        return right.rmsnorm(x, eps)
    out = KEPT.get(len(x))
    if out is None or out.shape != x.shape:
        out = KEPT[len(x)] = right.rmsnorm(x, eps)
    return out.copy()


def stale_scratch(z: Array) -> Array:
    """A sum goes over all of a scratch buffer, which an earlier, longer row may have filled."""
    length = max(z.shape[1], KEPT.get("scratch", np.zeros(0)).size)
    scratch = np.zeros(length, np.float32)
    scratch[: KEPT.get("scratch", np.zeros(0)).size] = KEPT.get("scratch", np.zeros(0))
    scratch[: z.shape[1]] = z[0] != z[0]
    out = right.softmax(z) * (np.float32(1) + np.float32(2**-23) * scratch.max())
    scratch[: z.shape[1]] = np.nan_to_num(np.abs(z[0]), posinf=1.0)
    KEPT["scratch"] = scratch
    return out


def running_maximum(z: Array) -> Array:
    """The largest number of all calls so far decides how sums are added."""
    LARGEST[0] = max(LARGEST[0], float(z.max()))
    return right.softmax(z, _either(float(z.max()) >= LARGEST[0]))


def residual_in_place(x: Array, residual: Array, gain: Array, *, eps: float) -> tuple[Array, Array]:
    """The sum is written to the residual, as fused kernels do."""
    y, both = right.add_rmsnorm(x, residual, gain, eps=eps)
    residual[...] = both
    return y, residual


def one_memory(x: Array, residual: Array, gain: Array, *, eps: float) -> tuple[Array, Array]:
    """Both results are the same memory."""
    y, both = right.add_rmsnorm(x, residual, gain, eps=eps)
    y[...] = both
    return y, y[...]


def same_array(x: Array, residual: Array, gain: Array, *, eps: float) -> tuple[Array, Array]:
    """The sum is written to x, and is a view of it."""
    y, both = right.add_rmsnorm(x, residual, gain, eps=eps)
    x[...] = both
    return y, x


def longer_before(a: Array, b: Array) -> Array:
    """After a call with more columns, sums are added otherwise."""
    seen = KEPT.get("columns", np.zeros(1))
    KEPT["columns"] = np.maximum(seen, b.shape[1])
    if b.shape[1] < seen[0]:
        half = a.shape[1] // 2
        return right.matmul(a[:, :half], b[:half]) + right.matmul(a[:, half:], b[half:])
    return right.matmul(a, b)
