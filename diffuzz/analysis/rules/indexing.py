"""Operations that move elements: what is true of a value is true of its error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Rounding, distance

# Elements that are looked at to see what open starts may lead to.
_LARGEST_LIST = 2**22

# Places in a flattened array for these starts, which of them are valid (None: all), and what stands for the others.
Places = Callable[[np.ndarray], "tuple[np.ndarray, np.ndarray | None, Any]"]


def moved(a: Estimate, move: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """The estimate of what ``move`` makes of an array, which only moves, repeats or leaves out elements."""
    error = None if a.error is None else move(a.errors())
    return Estimate(move(a.value), error, nonnegative=a.nonnegative)


def broadcast_in_dim(rounding: Rounding, a: Estimate, shape: Sequence[int], axes: Sequence[int]) -> Estimate:
    """Axis k of a becomes axis axes[k] of the shape; the other axes repeat it."""
    spread = [1] * len(shape)
    for axis, size in zip(axes, a.value.shape, strict=True):
        spread[axis] = size
    return moved(a, lambda x: np.broadcast_to(x.reshape(spread), tuple(shape)))


def reshape(rounding: Rounding, a: Estimate, shape: Sequence[int]) -> Estimate:
    """The same elements in another shape."""
    return moved(a, lambda x: x.reshape(tuple(shape)))


def transpose(rounding: Rounding, a: Estimate, order: Sequence[int]) -> Estimate:
    """The axes in this order."""
    return moved(a, lambda x: x.transpose(tuple(order)))


def slice_(
    rounding: Rounding, a: Estimate, start: Sequence[int], limit: Sequence[int], strides: Sequence[int] | None
) -> Estimate:
    """Elements from start to before limit in each axis."""
    steps = strides or [1] * len(start)
    where = tuple(slice(*each) for each in zip(start, limit, steps, strict=True))
    return moved(a, lambda x: x[where])


def reverse(rounding: Rounding, a: Estimate, axes: Sequence[int]) -> Estimate:
    """These axes backwards."""
    return moved(a, lambda x: np.flip(x, tuple(axes)))


def concatenate(rounding: Rounding, parts: Sequence[Estimate], axis: int) -> Estimate:
    """Arrays one after the other along an axis."""
    value = np.concatenate([each.value for each in parts], axis)
    if all(each.error is None for each in parts):
        return Estimate(value, nonnegative=all(each.nonnegative for each in parts))
    error = np.concatenate([each.errors() for each in parts], axis)
    return Estimate(value, error, nonnegative=all(each.nonnegative for each in parts))


def stack(parts: Sequence[Estimate], axis: int) -> Estimate:
    """Arrays side by side along a new axis."""
    value = np.stack([each.value for each in parts], axis)
    nonnegative = all(each.nonnegative for each in parts)
    if all(each.error is None for each in parts):
        return Estimate(value, nonnegative=nonnegative)
    return Estimate(value, np.stack([each.errors() for each in parts], axis), nonnegative=nonnegative)


def unstack(a: Estimate, axis: int) -> list[Estimate]:
    """The arrays along an axis, one by one."""
    before = (slice(None),) * axis
    return [part(a, (*before, place)) for place in range(a.value.shape[axis])]


def part(a: Estimate, where: Any) -> Estimate:
    """a[where]."""
    return moved(a, lambda x: x[where])


def pad(a: Estimate, fill: float | int | bool, places: Sequence[tuple[int, int, int]]) -> Estimate:
    """For each axis: so many elements before, after (negative ones cut away) and between, all of them ``fill``."""
    nonnegative = a.nonnegative and fill >= 0
    if not any(any(each) for each in places):
        return a

    def padded(x: np.ndarray, filling: float | int | bool) -> np.ndarray:
        shape, wide, inside = [], [], []
        for size, (low, high, inner) in zip(x.shape, places, strict=True):
            reach = size + max(size - 1, 0) * inner
            shape.append(low + high + reach)
            wide.append(max(low, 0) + max(high, 0) + reach)
            inside.append(slice(max(low, 0), max(low, 0) + reach, inner + 1))
        result = np.full(wide, filling, x.dtype)
        result[tuple(inside)] = x
        cut = tuple(slice(max(-low, 0), max(-low, 0) + size) for size, (low, _, _) in zip(shape, places, strict=True))
        return result[cut]

    error = None if a.error is None else padded(a.errors(), 0.0)
    return Estimate(padded(a.value, fill), error, nonnegative=nonnegative)


def take(a: Estimate, places: np.ndarray, valid: np.ndarray | None, fill: float | int | bool) -> Estimate:
    """Elements at these places of the flattened array; ``fill`` where they are not valid."""

    def taken(x: np.ndarray, filling: Any) -> np.ndarray:
        found = x.reshape(-1)[places] if x.size else np.full(places.shape, filling, x.dtype)
        return found if valid is None else np.where(valid, found, np.asarray(filling, x.dtype))

    error = None if a.error is None else taken(a.errors(), 0.0)
    return Estimate(taken(a.value, fill), error, nonnegative=a.nonnegative and (valid is None or fill >= 0))


def farthest_of(value: Estimate, others: Sequence[Estimate]) -> Estimate:
    """The first, or any of the others: the distance of the farthest."""
    far = value.errors()
    exact = value.value.astype(np.float64, copy=False)
    for other in others:
        far = np.maximum(far, distance(other.value.astype(np.float64, copy=False), exact) + other.errors())
    return Estimate(value.value, far if far.any() else None, nonnegative=value.nonnegative)


def anything_in(a: Estimate, value: Estimate, unsure: np.ndarray) -> Estimate:
    """``value``, and where unsure any element of a."""
    low, high = (np.min(a.lowest()), np.max(a.highest())) if a.value.size else (0.0, 0.0)
    reach = np.maximum(high - value.value, value.value - low)
    reach = np.where(np.isnan(reach), np.inf, reach)
    error = np.where(unsure, np.maximum(reach, value.errors()), value.errors())
    return Estimate(value.value, error, nonnegative=a.nonnegative)


def gather(rounding: Rounding, a: Estimate, start: Estimate, places: Places) -> Estimate:
    """Slices of a at the starts. ``places`` gives, for an array of starts, the places of the flattened a, which of them
    are valid, and what the others are filled with. Where a start is open, the result may be any of its slices.
    """
    found, valid, fill = places(start.value)
    value = take(a, found, valid, fill)
    if start.error is None or not start.errors().any():
        return value
    ways = other_starts(start, value.value.size)
    if ways is not None:
        return farthest_of(value, [take(a, *places(way)) for way in ways])
    touched: np.ndarray = np.asarray((start.errors() > 0).any(axis=-1, keepdims=True))
    unsure = _follow(touched, start.value, places)
    return anything_in(a, value, unsure)


def other_starts(start: Estimate, elements: int) -> Sequence[np.ndarray] | None:
    """Arrays of starts, of which each start is one: the known options, or all integers within the error. None where
    more than one entry of the starts is open, or where that would be too many for so many ``elements`` of a result.
    """
    errors = start.errors()
    if start.value.ndim and errors.reshape(-1, start.value.shape[-1]).any(axis=0).sum() > 1:
        return None
    if (options := start.options()) is not None:
        return list(options)
    most = float(errors.max(initial=0.0))
    if not (2 * most + 1) * max(elements, 1) <= _LARGEST_LIST:
        return None
    steps = range(-int(most), int(most) + 1)
    return [start.value + np.where(errors >= abs(step), step, 0).astype(start.value.dtype) for step in steps]


def _follow(touched: np.ndarray, start: np.ndarray, places: Places) -> np.ndarray:
    """Which elements of the result come from a start that is open: those that another start would move. All, if that
    cannot be seen.
    """
    here, there = places(start)[0], places(np.where(touched, start + 1, start))[0]
    back = places(np.where(touched, start - 1, start))[0]
    moved_at_all = (here != there) | (here != back)
    return moved_at_all if moved_at_all.any() else np.ones(here.shape, bool)
