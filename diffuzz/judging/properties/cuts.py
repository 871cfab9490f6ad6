"""Cuts: which part of a call has which part of its results. Nobody declares that: the reference is asked.

any      the results for a part of the dimension are that part of the results: rows of a batch, columns of a matrix
first    so it is for the first part only: a running sum, a convolution
last     for the last part only: the queries of causal attention
both     for the first part of two dimensions at once: causal attention of a shorter prompt
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import attrs
import numpy as np

from diffuzz.judging.properties.subject import Arrays, Sizes, Subject, nearest

# Sizes that dimensions have meanwhile, those of step 1 in their order: one may end at another, which comes later.
_SIZES = (4, 5, 6, 7, 9, 11, 13)
_BOTH = 7
# How far apart two evaluations of the reference may be, which adds up in another order.
_CLOSE = 1e-9


@attrs.frozen
class Axis:
    """Where the results have a dimension: in an axis, whose index is ``outer`` size times another, or times it."""

    axis: int
    outer: bool

    def cut(self, result: np.ndarray, size: int, begin: int, end: int) -> np.ndarray | None:
        """That part of a result in which the dimension has ``size``; None if it does not fit."""
        if self.axis >= result.ndim or result.shape[self.axis] % size:
            return None
        rest = result.shape[self.axis] // size
        apart = (size, rest) if self.outer else (rest, size)
        shape = (*result.shape[: self.axis], *apart, *result.shape[self.axis + 1 :])
        where = self.axis if self.outer else self.axis + 1
        taken = result.reshape(shape)[(slice(None),) * where + (slice(begin, end),)]
        return taken.reshape(*result.shape[: self.axis], -1, *result.shape[self.axis + 1 :])


@attrs.frozen
class Cut:
    """A dimension, or two that are cut together, and where each result has it."""

    dims: tuple[str, ...]
    kind: Literal["any", "first", "last", "both"]
    axes: tuple[Axis, ...]

    def of(self, results: Sequence[np.ndarray], size: int, begin: int, end: int) -> list[np.ndarray] | None:
        """That part of the results; None where a result does not have the dimension in this size."""
        if len(results) != len(self.axes):
            return None
        found = [axis.cut(one, size, begin, end) for axis, one in zip(self.axes, results, strict=True)]
        return None if any(one is None for one in found) else [one for one in found if one is not None]


def cuts(subject: Subject) -> tuple[Cut, ...]:
    """All cuts of a subject."""
    dims = {name: dim for name, dim in subject.dims.items() if dim.lowest < dim.highest}
    sizes = {
        name: nearest(dim, max(dim.lowest + 2 * dim.step, _SIZES[place % len(_SIZES)] if dim.step == 1 else 0))
        for place, (name, dim) in enumerate(dims.items())
    }
    found: list[Cut] = []
    for name, dim in dims.items():
        if (cut := _of_one(subject, sizes, name, dim.step, dim.lowest)) is not None:
            found.append(cut)
    known = {cut.dims[0] for cut in found if cut.kind in ("any", "first")}
    for one, other in itertools.permutations(dims, 2):
        if one in known or other in known or dims[one].step != dims[other].step:
            continue
        size = _BOTH * dims[one].step
        if not (dims[one].admits(size) and dims[other].admits(size)):
            continue
        both = {**sizes, one: size, other: size}
        axes = _axes(subject, both, (one, other), [(0, dims[one].step), (0, 3 * dims[one].step)])
        if axes is not None and not any({one, other} == set(cut.dims) for cut in found):
            found.append(Cut((one, other), "both", axes))
    return tuple(found)


def _of_one(subject: Subject, sizes: Sizes, name: str, step: int, lowest: int) -> Cut | None:
    size = sizes[name]
    first, last = [(0, lowest), (0, lowest + step)], [(size - lowest, size), (step, size)]
    first, last = ([(a, b) for a, b in each if b - a < size] for each in (first, last))
    middle = [(step, step + lowest)] if step + lowest < size else []
    if not first:
        return None
    for kind, windows in (("any", first + middle + last), ("first", first), ("last", last)):
        axes = _axes(subject, sizes, (name,), windows)
        if axes is not None:
            return Cut((name,), kind, axes)  # type: ignore[arg-type]
    return None


def _axes(
    subject: Subject, sizes: Sizes, names: tuple[str, ...], windows: Sequence[tuple[int, int]]
) -> tuple[Axis, ...] | None:
    """Where results have the dimension, if the results of each window are that part of the results."""
    arrays = subject.drawn(sizes)
    whole = _exact(subject, arrays)
    if whole is None:
        return None
    parts = [_exact(subject, subject.part(arrays, dict.fromkeys(names, window))) for window in windows]
    found = []
    for number, result in enumerate(whole):
        fits = [
            Axis(axis, outer)
            for axis in range(result.ndim)
            for outer in (True, False)
            if all(
                part is not None and close(Axis(axis, outer).cut(result, sizes[names[0]], *window), part[number])
                for part, window in zip(parts, windows, strict=True)
            )
        ]
        if not fits:
            return None
        found.append(fits[0])
    return tuple(found)


def _exact(subject: Subject, arrays: Arrays) -> list[np.ndarray] | None:
    try:
        return subject.exact(arrays)
    except ValueError:
        # Such as sizes that do not go together.
        return None


def close(one: np.ndarray | None, other: np.ndarray) -> bool:
    """Whether both are results of the reference for the same numbers."""
    if one is None or one.shape != other.shape:
        return False
    scale = float(np.abs(other[np.isfinite(other)]).max(initial=0.0))
    return bool(np.allclose(one, other, rtol=_CLOSE, atol=_CLOSE * scale, equal_nan=True))
