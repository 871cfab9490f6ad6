"""Functions that read or write what is not theirs."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from diffuzz.studies.properties import right
from diffuzz.studies.properties.right import Array


def _around(x: np.ndarray, before: int, after: int) -> np.ndarray:
    """The numbers of a contiguous array, with so many before and after it."""
    start = x.ctypes.data - before * x.itemsize
    size = x.size + before + after

    class _Memory:
        __array_interface__ = {  # noqa: RUF012, read once
            "data": (start, False), "shape": (size,), "typestr": x.dtype.str, "version": 3,
        }  # fmt: skip

    return np.asarray(_Memory())


def one_after(z: Array) -> Array:
    """Reads one number after the end, and does not use it."""
    more = _around(z, 0, 1) if z.flags.c_contiguous else z
    return right.softmax(z) + np.float32(0) * np.nan_to_num(more[..., -1:].reshape(-1)[-1:], nan=1.0, posinf=1.0)


def one_before(z: Array) -> Array:
    """Reads one number before the beginning, and does not use it."""
    more = _around(z, 1, 0) if z.flags.c_contiguous else z.reshape(-1)
    return right.softmax(z) + np.float32(0) * np.nan_to_num(more[:1], nan=1.0, posinf=1.0, neginf=1.0)


def whole_vectors(x: Array, eps: float) -> Array:
    """Reads vectors of 8, also the last, of which not all is there."""
    if x.flags.c_contiguous:
        np.nan_to_num(_around(x, 0, -x.size % 8)).max()
    return right.rmsnorm(x, eps)


def only_whole_tiles(x: Array, eps: float) -> Array:
    """Reads one number too many where rows are multiples of 16."""
    if x.flags.c_contiguous and x.shape[1] % 16 == 0:
        _around(x, 0, 1)[-1:].copy()
    return right.rmsnorm(x, eps)


def neighbour_shows(z: Array) -> Array:
    """What lies after the end is added to the last number, if it is one."""
    out = right.softmax(z)
    if z.flags.c_contiguous:
        beyond = _around(z, 0, 1)[-1]
        out[-1, -1] += np.float32(0) if np.isnan(beyond) or abs(beyond) > 2 else beyond * np.float32(2**-24)
    return out


def padding_shows(x: Array, eps: float) -> Array:
    """Padding between the rows is added to their sums."""
    gap = x.strides[0] // x.itemsize - x.shape[1]
    if gap <= 0 or x.strides[1] != x.itemsize or len(x) < 2:
        return right.rmsnorm(x, eps)
    padding = as_strided(x[:, -1:], (len(x) - 1, 2), x.strides)[:, 1]
    out = right.rmsnorm(x, eps)
    out[:-1] += np.nan_to_num(padding, nan=1.0)[:, None]
    return out


def writes_after(z: Array) -> Array:
    """Uses the number after the end for a sentinel."""
    if z.flags.c_contiguous:
        _around(z, 0, 1)[-1] = 0
    return right.softmax(z)


def writes_before(z: Array) -> Array:
    """Uses the number before the beginning for a sentinel."""
    if z.flags.c_contiguous:
        _around(z, 1, 0)[0] = 0
    return right.softmax(z)


def beyond_the_columns(a: Array, b: Array) -> Array:
    """Reads a row of b too many where the sums are odd."""
    if b.flags.c_contiguous and a.shape[1] % 2:
        _around(b, 0, b.shape[1])[-1:].copy()
    return right.matmul(a, b)
