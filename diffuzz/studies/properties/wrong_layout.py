"""Functions that mind how their arrays lie in memory."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from diffuzz.studies.properties import right
from diffuzz.studies.properties.right import Array


def _either(first: bool) -> right.Add:
    return right.float32_total if first else right.backwards


def _as_if_contiguous(x: np.ndarray) -> np.ndarray:
    flat = as_strided(x, (x.size,), (x.itemsize,))
    return np.nan_to_num(flat.reshape(x.shape), nan=0.0)


def strides_ignored(z: Array) -> Array:
    """Strides are not looked at."""
    return right.softmax(_as_if_contiguous(z))


def row_stride_ignored(x: Array, eps: float) -> Array:
    """Only the stride within a row is looked at."""
    tight = as_strided(x, x.shape, (x.shape[1] * x.itemsize, x.strides[1]))
    return right.rmsnorm(np.nan_to_num(tight, nan=0.0) if x.strides[0] > 0 and x.strides[1] > 0 else x, eps)


def backwards_forgotten(z: Array) -> Array:
    """A negative stride is taken for a positive one."""
    if min(z.strides) >= 0:
        return right.softmax(z)
    return right.softmax(z[tuple(slice(None, None, -1 if one < 0 else 1) for one in z.strides)])


def column_major(z: Array) -> Array:
    """Columns one after the other, where they lie so: another order of the sum."""
    return right.softmax(z, _either(z.flags.c_contiguous or not z.flags.f_contiguous))


def unaligned(x: Array, eps: float) -> Array:
    """Another loop for what is not aligned to 32 bytes."""
    return right.rmsnorm(x, eps, _either(x.ctypes.data % 32 == 0))


def misaligned(z: Array) -> Array:
    """Another loop for what is not aligned to a number."""
    return right.softmax(z, _either(bool(z.flags.aligned)))


def peeled(z: Array) -> Array:
    """The sum begins at the first number that is aligned to 16 bytes."""
    first = -(z.ctypes.data // 4) % 4

    def add(e: np.ndarray) -> np.ndarray:
        return right.float32_total(e[..., first:]) + right.float32_total(e[..., :first])

    return right.softmax(z, add)


def gathered(a: Array, b: Array) -> Array:
    """Another order where the second matrix is not contiguous."""
    if b.flags.c_contiguous:
        return right.matmul(a, b)
    out = np.zeros((len(a), b.shape[1]), np.float32)
    for k in range(a.shape[1]):
        out = out + a[:, k, None].astype(np.float32) * b[k].astype(np.float32)
    return out


def order_kept(z: Array) -> Array:
    """Rows of the memory's order, not of the array's."""
    return right.softmax(z.ravel(order="K").reshape(z.shape))


def wide_rows(z: Array) -> Array:
    """The length of a row is that of its stride."""
    step = z.strides[0] // z.itemsize
    if step <= z.shape[1] or z.strides[1] != z.itemsize or len(z) < 2:
        return right.softmax(z)
    wide = as_strided(z, (len(z) - 1, step), z.strides)
    out = right.softmax(z)
    out[:-1] = right.softmax(np.nan_to_num(wide, nan=-5.0))[:, : z.shape[1]]
    return out


def repeated_rows(a: Array, b: Array) -> Array:
    """A stride of 0 is a chance to compute once, in another way."""
    if 0 not in a.strides or len(a) < 2:
        return right.matmul(a, b)
    half = a.shape[1] // 2
    return right.matmul(a[:, :half], b[:half]) + right.matmul(a[:, half:], b[half:])


def whole_buffer(x: Array, eps: float) -> Array:
    """A part of a larger array is taken for all of it."""
    base = x.base
    if isinstance(base, np.ndarray) and base.dtype == x.dtype and base.ndim == 2 and base.shape != x.shape:
        return right.rmsnorm(np.nan_to_num(base[: len(x), : x.shape[1]], nan=0.0), eps)
    return right.rmsnorm(x, eps, _either(x.flags.c_contiguous))
