"""Functions that keep all properties but one, or all of them, for the target softmax; and some for others."""

from __future__ import annotations

import numpy as np

CALLS = 0


def fixed(z: np.ndarray) -> np.ndarray:
    """One row after the other, each a sum in one order: keeps all properties, whatever the layout."""
    out = np.empty(z.shape, z.dtype)
    for i in range(len(z)):
        row = np.array(z[i], np.float64, order="C")
        e = np.exp(row - row.max())
        out[i] = (e / e.sum()).astype(z.dtype)
    return out


def by_count(z: np.ndarray) -> np.ndarray:
    """Another order of the sum from 38 rows on."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    half = z.shape[1] // 2 if len(z) > 37 else z.shape[1]
    return e / (e[:, :half].sum(axis=-1, keepdims=True) + e[:, half:].sum(axis=-1, keepdims=True))


def first_for_all(z: np.ndarray) -> np.ndarray:
    """The maximum of the first row for all: overflows beside other rows."""
    e = np.exp(np.minimum(z - z[:1].max(), 80))
    return e / e.sum(axis=-1, keepdims=True)


def from_the_third_call(z: np.ndarray) -> np.ndarray:
    global CALLS
    CALLS += 1
    out = fixed(z)
    return np.nextafter(out, np.float32(2)) if CALLS > 2 else out


def in_place(z: np.ndarray) -> np.ndarray:
    z -= z.max(axis=-1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=-1, keepdims=True)
    return z


def past_the_end(z: np.ndarray) -> np.ndarray:
    """Reads one number after the end of its input."""
    more = np.lib.stride_tricks.as_strided(z, (z.size + 1,), (z.itemsize,))
    return fixed(z) + np.float32(0) * np.nan_to_num(more[-1], nan=1.0)


def short_at_nine(z: np.ndarray) -> np.ndarray:
    """Loses the last column where there are nine."""
    return fixed(z)[:, :-1] if z.shape[1] == 9 else fixed(z)


def strides_ignored(z: np.ndarray) -> np.ndarray:
    """Reads as many numbers from the first one on as there are."""
    flat = np.lib.stride_tricks.as_strided(z, (z.size,), (z.itemsize,))
    return fixed(np.nan_to_num(flat.reshape(z.shape), nan=0.0))
