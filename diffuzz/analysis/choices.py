"""Sets of right integers, for indices that errors or ties leave open.

The k-th of sorted numbers may be any element that can stand at rank k: those that are certainly before it number at
most k, and those that are certainly after it at most n - 1 - k. :class:`Ranked` keeps these two counts for each
element, which takes no more memory than the numbers themselves. Where such an index is calculated with, its set is
listed as :class:`Listed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np

# The most numbers that a list of sets holds; beyond, an index is only known to be in an interval.
_LARGEST_LIST = 2**23


@attrs.frozen(eq=False)
class Listed:
    """``options[i]`` is an array of the index's shape; an element may be each of its options. Some may repeat."""

    options: np.ndarray

    def admits(self, candidate: np.ndarray) -> np.ndarray:
        """Whether each element of the candidate is one of its options."""
        return np.asarray((self.options == candidate).any(axis=0))

    def listed(self) -> np.ndarray:
        """The options."""
        return self.options


@attrs.frozen(eq=False)
class Ranked:
    """An element of the sorted axis may have the ranks from ``lowest`` to ``highest`` (arrays with that axis last). The
    index at rank k of the result, for the first ``count`` ranks, is any element that may have it. ``axis`` is where the
    result has its ranks; None where only the first is asked for and the axis is gone.
    """

    lowest: np.ndarray
    highest: np.ndarray
    count: int
    axis: int | None

    def admits(self, candidate: np.ndarray) -> np.ndarray:
        """Whether each index may stand where it stands, and is no second one."""
        moved = candidate[..., None] if self.axis is None else np.moveaxis(candidate, self.axis, -1)
        n = self.lowest.shape[-1]
        inside = (moved >= 0) & (moved < n)
        index = np.where(inside, moved, 0).astype(np.int64)
        rank = np.arange(self.count)
        right = inside & (np.take_along_axis(self.lowest, index, -1) <= rank)
        right &= np.take_along_axis(self.highest, index, -1) >= rank
        order = np.argsort(index, axis=-1, kind="stable")
        in_order = np.take_along_axis(index, order, -1)
        again = np.zeros(index.shape, bool)
        np.put_along_axis(again[..., :], order[..., 1:], in_order[..., 1:] == in_order[..., :-1], -1)
        right &= ~again
        return right[..., 0] if self.axis is None else np.moveaxis(right, -1, self.axis)

    def listed(self) -> np.ndarray | None:
        """The sets as a list of arrays of the result's shape; None where that is too long."""
        rank = np.arange(self.count)
        widest = 1
        rows = int(np.prod(self.lowest.shape[:-1], dtype=np.int64))
        n = self.lowest.shape[-1]
        if rows * self.count * n > 8 * _LARGEST_LIST:
            # How many may have a rank: those whose interval has begun less those whose interval has ended.
            if not (self.lowest == self.highest).all():
                return None
            mask = None
        else:
            mask = (self.lowest[..., None, :] <= rank[:, None]) & (self.highest[..., None, :] >= rank[:, None])
            widest = int(mask.sum(axis=-1).max(initial=1))
        if rows * self.count * widest > _LARGEST_LIST:
            return None
        if mask is None:
            options = np.argsort(self.lowest, axis=-1)[..., : self.count][..., None]
        else:
            options = np.argsort(~mask, axis=-1, kind="stable")[..., :widest]
            short = np.take_along_axis(mask, options, -1)
            options = np.where(short, options, options[..., :1])
        if self.axis is None:
            options = options[..., 0, :]
            return np.moveaxis(options, -1, 0)
        return np.moveaxis(np.moveaxis(options, -1, 0), -1, 1 + self.axis)


Choices = Listed | Ranked


def ranked(low: np.ndarray, high: np.ndarray, count: int, axis: int | None, *, descending: bool) -> Ranked:
    """The ranks that numbers between low and high may have along the last axis. Equal numbers may come in any order."""
    if descending:
        low, high = -high, -low
    n = low.shape[-1]
    rows_low, rows_high = low.reshape(-1, n), high.reshape(-1, n)
    order = np.argsort(rows_low, axis=-1)
    in_order = np.take_along_axis(rows_low, order, -1)
    highest_before = np.take_along_axis(rows_high, order, -1)[:, :-1]
    lowest = np.empty(rows_low.shape, np.int64)
    np.put_along_axis(lowest, order, np.broadcast_to(np.arange(n), lowest.shape), -1)
    highest = lowest.copy()
    # Rows whose intervals are apart have one order.
    apart = highest_before < in_order[:, 1:]
    mixed = np.flatnonzero(~apart.all(axis=-1))
    if mixed.size and np.array_equal(rows_low, rows_high):
        # Of exact numbers only equal ones may change places: those of a run have the ranks of its ends.
        place = np.broadcast_to(np.arange(n), lowest.shape)
        first, last = np.array(place), np.array(place)
        first[:, 1:][~apart] = 0
        last[:, :-1][~apart] = n - 1
        np.put_along_axis(lowest, order, np.maximum.accumulate(first, axis=-1), -1)
        np.put_along_axis(highest, order, np.minimum.accumulate(last[:, ::-1], axis=-1)[:, ::-1], -1)
    elif mixed.size:
        # In one order of all ends, the lower ones before equal higher ones: how many higher ones come before a lower
        # one, and how many lower ones before a higher one.
        ends = np.argsort(np.concatenate([rows_low[mixed], rows_high[mixed]], axis=-1), axis=-1, kind="stable")
        counts = np.where(ends < n, np.cumsum(ends >= n, axis=-1), np.cumsum(ends < n, axis=-1) - 1)
        back = np.empty(ends.shape, np.int64)
        np.put_along_axis(back, ends, counts, -1)
        lowest[mixed], highest[mixed] = back[:, :n], back[:, n:]
    unknown = np.isnan(rows_low) | np.isnan(rows_high)
    if unknown.any():
        touched = unknown.any(axis=-1, keepdims=True)
        lowest, highest = np.where(touched, 0, lowest), np.where(touched, n - 1, highest)
    return Ranked(lowest.reshape(low.shape), highest.reshape(low.shape), count, axis)


def enumerated(function: Callable[..., np.ndarray], values: Sequence[np.ndarray], options: Sequence[Any]) -> Any:
    """The options of a function's result, element by element, for operands of which some have a list of options: an
    array of results, the first axis of which is the option, or None where there are too many combinations.
    """
    varying = [position for position, each in enumerate(options) if each is not None]
    results = [list(values)]
    for position in varying:
        results = [[*row[:position], option, *row[position + 1 :]] for row in results for option in options[position]]
        if len(results) > 256 and len(varying) > 1:
            return None
    return np.stack([np.asarray(function(*row)) for row in results])
