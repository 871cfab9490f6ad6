"""Which elements XLA's gather and scatter mean: places in a flattened array, from the dimension numbers.

A start index is a vector along the last axis of the indices; entry k moves along axis ``start_index_map[k]`` of the
operand. The window axes of the result follow the operand's axes that are neither collapsed nor batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffuzz.analysis.rules.indexing import Places


def of_slices(
    shape: Sequence[int],
    size: Sequence[int],
    start_axes: Sequence[int],
    dropped: Sequence[int],
    batched: Sequence[int],
    batched_starts: Sequence[int],
    *,
    clip: bool,
    fill: Any,
) -> Places:
    """The places of slices of this size, for starts of shape [batch.., k]: an array [batch.., window..]. ``batched``
    axes of the operand go along with the axes ``batched_starts`` of the starts. Starts beyond the end are moved back if
    ``clip``, else invalid.
    """
    windows = [axis for axis in range(len(shape)) if axis not in dropped and axis not in batched]
    strides = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]

    def places(starts: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, Any]:
        batch = starts.shape[:-1]
        starts = starts.astype(np.int64)
        flat = np.zeros((*batch, *(1 for _ in windows)), np.int64)
        valid = np.ones(batch, bool)
        spread = tuple(1 for _ in windows)
        for entry, axis in enumerate(start_axes):
            most = shape[axis] - size[axis]
            start = starts[..., entry]
            if not clip:
                valid &= (start >= 0) & (start <= most)
            flat = flat + np.reshape(np.clip(start, 0, max(most, 0)) * strides[axis], (*batch, *spread))
        for axis, along in zip(batched, batched_starts, strict=True):
            line = [1] * (len(batch) + len(windows))
            line[along] = shape[axis]
            flat = flat + (np.arange(shape[axis]) * strides[axis]).reshape(line)
        for position, axis in enumerate(windows):
            line = [1] * (len(batch) + len(windows))
            line[len(batch) + position] = size[axis]
            flat = flat + (np.arange(size[axis]) * strides[axis]).reshape(line)
        return flat, None if clip or valid.all() else np.broadcast_to(valid.reshape(*batch, *spread), flat.shape), fill

    return places


def moved_windows(places: Places, offset_axes: Sequence[int]) -> Places:
    """The same places with the window axes at these positions of the result."""

    def moved(starts: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, Any]:
        flat, valid, fill = places(starts)
        order = result_order(flat.ndim, offset_axes)
        return flat.transpose(order), None if valid is None else valid.transpose(order), fill

    return moved


def result_order(rank: int, offset_axes: Sequence[int]) -> list[int]:
    """The transposition that takes [batch.., window..] to the result's order."""
    batch = iter(range(rank - len(offset_axes)))
    window = iter(range(rank - len(offset_axes), rank))
    return [next(window) if axis in offset_axes else next(batch) for axis in range(rank)]


def fill_value(dtype: np.dtype[Any], given: Any) -> Any:
    """What stands for elements out of bounds: NaN, the least signed or the largest unsigned integer, or true; unless
    given.
    """
    if given is not None:
        return given
    if dtype.kind == "b":
        return True
    if dtype.kind == "f":
        return np.nan
    return np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max
