"""Sorting and picking: sorted values are as certain as the numbers themselves, indices are sets.

The k-th smallest of numbers that move by at most their errors lies between the k-th smallest of v - e and of v + e.
Which element stands there is any that may: see :mod:`diffuzz.analysis.choices`. Equal numbers may come in any order,
because libraries differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from diffuzz.analysis.choices import Ranked, ranked
from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Rounding, distance
from diffuzz.analysis.rules.elementwise import farthest


def sort(rounding: Rounding, operands: Sequence[Estimate], axis: int, keys: int) -> list[Estimate]:
    """The operands in the order of the first ``keys`` of them, ascending, NaN last. Where the order is open, what is
    carried along may be any element that can stand there.
    """
    order = _order([each.value for each in operands[:keys]], axis)
    values = [np.take_along_axis(each.value, order, axis) for each in operands]
    if rounding.values_only:
        return [Estimate(value) for value in values]
    if keys > 1:
        certain = all(each.error is None for each in operands[:keys])
        pairs = zip(operands, values, strict=True)
        return [_carried_by_many(each, value, order, axis, certain) for each, value in pairs]
    key = _flushed(rounding, operands[0], axis)
    ranks = ranked(
        np.moveaxis(np.asarray(key.lowest(), np.float64), axis, -1),
        np.moveaxis(np.asarray(key.highest(), np.float64), axis, -1),
        key.value.shape[axis],
        axis,
        descending=False,
    )
    carried = zip(operands[1:], values[1:], strict=True)
    return [_ordered(key, values[0], axis), *(_carried(each, value, order, ranks, axis) for each, value in carried)]


def top_k(rounding: Rounding, a: Estimate, k: int, axis: int = -1) -> list[Estimate]:
    """The k largest, descending, and their indices (int32)."""
    axis %= a.value.ndim
    order = _order([a.value], axis, descending=True)
    first = [slice(None)] * a.value.ndim
    first[axis] = slice(0, k)
    chosen = order[tuple(first)]
    value = np.take_along_axis(a.value, chosen, axis)
    index = chosen.astype(np.int32)
    if rounding.values_only:
        return [Estimate(value), Estimate(index)]
    a = _flushed(rounding, a, axis)
    low, high = np.asarray(a.lowest(), np.float64), np.asarray(a.highest(), np.float64)
    ranks = ranked(np.moveaxis(low, axis, -1), np.moveaxis(high, axis, -1), k, axis, descending=True)
    error = None
    if a.error is not None:
        ends = [-np.sort(-end, axis=axis)[tuple(first)] for end in (low, high)]
        error = farthest(value, *ends)
    # Libraries differ in where NaN comes, and XLA in its sign.
    unknown = np.isnan(a.value).any(axis=axis, keepdims=True)
    if unknown.any():
        error = np.where(unknown, np.inf, 0.0 if error is None else error)
    return [Estimate(value, error, nonnegative=a.nonnegative), _index(index, ranks, axis)]


def argmax(rounding: Rounding, a: Estimate, axis: int, dtype: Any = np.int32) -> Estimate:
    """The index of the largest; any that may be the largest is right."""
    return _argument(rounding, a, axis, dtype, largest=True)


def argmin(rounding: Rounding, a: Estimate, axis: int, dtype: Any = np.int32) -> Estimate:
    """The index of the smallest; any that may be the smallest is right."""
    return _argument(rounding, a, axis, dtype, largest=False)


def _argument(rounding: Rounding, a: Estimate, axis: int, dtype: Any, *, largest: bool) -> Estimate:
    index = (np.argmax if largest else np.argmin)(a.value, axis=axis).astype(dtype)
    if rounding.values_only:
        return Estimate(index)
    a = _flushed(rounding, a, axis)
    low, high = np.moveaxis(a.lowest(), axis, -1), np.moveaxis(a.highest(), axis, -1)
    if largest:
        possible = ~(high < low.max(axis=-1, keepdims=True))
    else:
        possible = ~(low > high.min(axis=-1, keepdims=True))
    n = a.value.shape[axis]
    ranks = Ranked(np.where(possible, 0, n), np.full(possible.shape, n - 1), 1, None)
    return _index(index, ranks, None)


def _index(index: np.ndarray, ranks: Ranked, axis: int | None) -> Estimate:
    """An index with the set that it is from: its error is the distance of the farthest in the set."""
    n = ranks.lowest.shape[-1]
    rank = np.arange(ranks.count)
    here = index[..., None] if axis is None else np.moveaxis(index, axis, -1)
    error = np.empty(here.shape)
    for k in range(ranks.count):
        mask = (ranks.lowest <= rank[k]) & (ranks.highest >= rank[k])
        first, last = mask.argmax(axis=-1), n - 1 - mask[..., ::-1].argmax(axis=-1)
        error[..., k] = np.maximum(last - here[..., k], here[..., k] - first)
    error = error[..., 0] if axis is None else np.moveaxis(error, -1, axis)
    return Estimate(index, error, ranks) if error.any() else Estimate(index)


def _flushed(rounding: Rounding, a: Estimate, axis: int) -> Estimate:
    """What a comparison sees that takes tiny numbers for zeros: in a row that has one, zeros may be in its place."""
    if rounding.flushed == 0 or a.error is None or a.value.dtype != np.float64:
        return a
    tiny = np.abs(a.value) < rounding.flushed
    rows = (tiny & (a.value != 0)).any(axis=axis, keepdims=True)
    if not rows.any():
        return a
    return attrs.evolve(a, error=np.where(tiny & rows, np.maximum(a.errors(), rounding.flushed), a.errors()))


def _order(keys: Sequence[np.ndarray], axis: int, *, descending: bool = False) -> np.ndarray:
    if len(keys) > 1:
        return np.lexsort(tuple(reversed(keys)), axis=axis)
    key = keys[0]
    if descending:
        # The first of equal numbers first, and NaN before all others, as in XLA.
        if key.dtype.kind == "f":
            return np.lexsort((-key, ~np.isnan(key)), axis=axis)
        key = ~key
    return np.argsort(key, axis=axis, kind="stable")


def _ordered(key: Estimate, value: np.ndarray, axis: int) -> Estimate:
    if key.error is None:
        return Estimate(value, nonnegative=key.nonnegative)
    low, high = np.sort(key.lowest(), axis=axis), np.sort(key.highest(), axis=axis)
    error = farthest(value, low, high)
    # NaN sorts last, whatever it should have been.
    unknown = np.isnan(value).any(axis=axis, keepdims=True)
    return Estimate(value, np.where(unknown, np.inf, error) if unknown.any() else error, nonnegative=key.nonnegative)


def _carried(a: Estimate, value: np.ndarray, order: np.ndarray, ranks: Ranked, axis: int) -> Estimate:
    """What is sorted along: any element that may have the rank."""
    line = np.moveaxis(a.value, axis, -1)
    if a.error is None and line.dtype.kind in "iu" and (line == np.arange(line.shape[-1])).all():
        return _index_of_sort(value, ranks, axis)
    error = np.take_along_axis(a.errors(), order, axis)
    if (ranks.lowest == ranks.highest).all():
        return Estimate(value, error if error.any() else None, nonnegative=a.nonnegative)
    options = ranks.listed()
    if options is None:
        return Estimate(value, _spread(a, axis) + error, nonnegative=a.nonnegative)
    far = error
    for option in options:
        other = np.take_along_axis(a.value, option, axis)
        reach = distance(other.astype(np.float64), value.astype(np.float64))
        far = np.maximum(far, reach + np.take_along_axis(a.errors(), option, axis))
    return Estimate(value, far if far.any() else None, nonnegative=a.nonnegative)


def _index_of_sort(index: np.ndarray, ranks: Ranked, axis: int) -> Estimate:
    if (ranks.lowest == ranks.highest).all():
        return Estimate(index)
    return _index(index, ranks, axis)


def _carried_by_many(a: Estimate, value: np.ndarray, order: np.ndarray, axis: int, certain: bool) -> Estimate:
    """With several keys, of which equal ones are rare: exact keys give one order, others any."""
    error = np.take_along_axis(a.errors(), order, axis)
    if not certain:
        error = error + _spread(a, axis)
    return Estimate(value, error if error.any() else None, nonnegative=a.nonnegative)


def _spread(a: Estimate, axis: int) -> np.ndarray:
    """The distance between the largest and the smallest along an axis."""
    with np.errstate(all="ignore"):
        gap = np.max(a.value, axis=axis, keepdims=True) - np.min(a.value, axis=axis, keepdims=True)
        gap = gap + np.max(a.errors(), axis=axis, keepdims=True)
    return np.where(np.isnan(gap), np.inf, gap)
