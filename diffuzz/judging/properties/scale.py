"""scale: what is exact in any arithmetic is exact.

    a power of two       f(2^-k x) = 2^(-k p) f(x), of an input, or of all: products, rotations, sums, mean squares
    the other sign       f(-x) = f(x), or -f(x)
    a shift of logits    f(z + c) = f(z), where z + c is exact
    the order of rows    f(rows backwards) = f(rows) backwards

Roundings commute with powers of two and with signs, in any order of sums, as long as nothing under- or overflows; so a
kernel that computes in floating point keeps them without trying. One with a table, a fixed point or a constant that is
added on the way need not. Which relations a target has is asked of the reference, in float64: nobody declares them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import numpy as np

from diffuzz.cases.ranges import float32_range, held
from diffuzz.judging.properties.cuts import close, cuts
from diffuzz.judging.properties.property import NOTHING, Look, Numbers, Property, Way, failed, held_against
from diffuzz.judging.properties.subject import Arrays, Sizes, Subject, listed, nearest

# Exponents that are tried, of the input and of the result.
_POWERS, _RESULT_POWERS = (1, 4), (0, 1, 2, -1)
# Shifts, and the steps of the logits that are shifted: a power of two so that sums are exact.
_SHIFTS, _GRID = (1, 32), 2.0**-8
# Below so many times the least normal number of a dtype, results are not held against each other.
_NORMAL = 2.0**8


@attrs.frozen
class _Relation:
    """``arrays`` before and ``changed(arrays, number)`` after, or None where that is not exact, and what the results
    become: ``results(results, number)``. ``numbers`` is the range of the number.
    """

    name: str
    words: str
    numbers: tuple[int, int]
    before: Callable[[Arrays], Arrays]
    changed: Callable[[Arrays, int], Arrays | None]
    results: Callable[[Sequence[np.ndarray], int], list[np.ndarray]]


def _ways(subject: Subject) -> Sequence[Way] | str:
    sizes = {
        name: nearest(dim, max(dim.lowest + dim.step, (3, 4, 5, 6, 7)[place % 5] if dim.step == 1 else 0))
        for place, (name, dim) in enumerate(subject.dims.items())
    }
    found = [one for one in _candidates(subject) if _holds(subject, one, sizes)]
    names: dict[str, _Relation] = {}
    for one in found:
        # The first of several powers of the result that fit, as where all results are zero.
        names.setdefault(one.name, one)
    return [_way(subject, one) for one in names.values()] or "its reference has no such relation"


def _candidates(subject: Subject) -> list[_Relation]:
    floats = [
        spec.name
        for spec in subject.space.tensors
        if spec.dtype == "float32" and spec.absent is None and spec.kind != "gain" and spec.low < 0 < spec.high
    ]
    groups = [(name,) for name in floats] + ([tuple(floats)] if len(floats) > 1 else [])
    found = []
    for group in groups:
        for power in _RESULT_POWERS:
            found.append(_by_power(subject, group, power))
        for sign in (1, -1):
            found.append(_by_sign(group, sign))
    for name in floats:
        if subject.space[name].kind == "logits":
            found.append(_by_shift(subject, name))
    for cut in cuts(subject):
        if cut.kind == "any":
            found.append(_by_order(subject, cut.dims[0], cut.axes))
    return found


def _by_power(subject: Subject, group: tuple[str, ...], power: int) -> _Relation:
    def changed(arrays: Arrays, number: int) -> Arrays | None:
        made = dict(arrays)
        for name in group:
            made[name] = np.ldexp(arrays[name], -number).astype(np.float32)
            if not np.array_equal(held(subject.space[name].holds, made[name]), made[name]):
                return None
        return made

    def results(given: Sequence[np.ndarray], number: int) -> list[np.ndarray]:
        return [_times(one, 2.0 ** (-number * power)) for one in given]

    words = f"{listed(group)}, and 2^-{{n}} times that"
    return _Relation(f"powers of two of {listed(group)}", words, _POWERS, lambda arrays: arrays, changed, results)


def _times(one: np.ndarray, factor: float) -> np.ndarray:
    return one if one.dtype.kind in "iub" else (one.astype(np.float64) * factor).astype(one.dtype)


def _by_sign(group: tuple[str, ...], sign: int) -> _Relation:
    return _Relation(
        f"sign of {listed(group)}",
        f"{listed(group)}, and the opposite",
        (0, 0),
        lambda arrays: arrays,
        lambda arrays, number: {**arrays, **{name: -arrays[name] for name in group}},
        lambda given, number: [one if one.dtype.kind in "iub" else sign * one for one in given],
    )


def _by_shift(subject: Subject, name: str) -> _Relation:
    spec = subject.space[name]

    def before(arrays: Arrays) -> Arrays:
        return {**arrays, name: (np.round(arrays[name] / _GRID) * _GRID).astype(np.float32)}

    def changed(arrays: Arrays, number: int) -> Arrays | None:
        moved = (arrays[name].astype(np.float64) + number).astype(np.float32)
        low, high = float32_range(spec)
        exact = np.array_equal(moved.astype(np.float64) - number, arrays[name].astype(np.float64))
        exact &= np.array_equal(held(spec.holds, moved), moved)
        exact &= np.array_equal(held(spec.holds, arrays[name]), arrays[name])
        return {**arrays, name: moved} if exact and low <= moved.min() and moved.max() <= high else None

    return _Relation(
        f"shift of {name}", f"{name}, and {{n}} more", _SHIFTS, before, changed, lambda given, number: list(given)
    )


def _by_order(subject: Subject, dim: str, axes: Sequence[object]) -> _Relation:
    def changed(arrays: Arrays, number: int) -> Arrays | None:
        made = {}
        for name, array in arrays.items():
            axis = subject.has(name, dim)
            made[name] = array if axis is None else np.ascontiguousarray(np.flip(array, axis))
        return made if all(_flips(subject, name, dim) for name in arrays) else None

    def results(given: Sequence[np.ndarray], number: int) -> list[np.ndarray]:
        found = []
        for one, axis in zip(given, axes, strict=True):
            found.append(np.ascontiguousarray(np.flip(one, axis.axis)))  # type: ignore[attr-defined]
        return found

    return _Relation(f"order of {dim}", f"{dim} in order, and backwards", (0, 0), lambda a: a, changed, results)


def _flips(subject: Subject, name: str, dim: str) -> bool:
    """Whether an array can be turned around along a dimension: not where it counts bytes of blocks."""
    spec = subject.space[name]
    axis = subject.has(name, dim)
    return spec.format is None or axis is None or spec.shape[-1].name != dim


def _holds(subject: Subject, one: _Relation, sizes: Sizes) -> bool:
    """Whether the reference has the relation."""
    arrays = one.before(subject.drawn(sizes))
    number = one.numbers[0]
    moved = one.changed(arrays, number)
    if moved is None:
        return False
    try:
        first, other = one.results(subject.exact(arrays), number), subject.exact(moved)
    except ValueError:
        return False
    return all(close(a, b) for a, b in zip(first, other, strict=True))


def _way(subject: Subject, one: _Relation) -> Way:
    def look(sizes: Sizes, numbers: Numbers) -> Look:
        number = numbers["by"]
        arrays = one.before(subject.drawn(sizes))
        moved = one.changed(arrays, number)
        if moved is None:
            return NOTHING
        changed = one.words.format(n=number)
        first, other = subject.returned(arrays), subject.returned(moved)
        if (stopped := failed(changed, (arrays, first), (moved, other))) is not None:
            return stopped
        wanted, got = _normal(one.results(first.results, number), other.results)
        return held_against(changed, wanted, got, ((arrays, first), (moved, other)), zeros=True)

    return Way(one.name, lambda sizes: {"by": one.numbers}, look)


def _normal(wanted: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Both, with zeros where either is near the subnormal numbers, whose rounding depends on the scale."""
    both: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for one, other in zip(wanted, got, strict=True):
        if one.dtype.kind in "iub" or one.shape != other.shape or one.dtype != other.dtype:
            both[0].append(one)
            both[1].append(other)
            continue
        least = _NORMAL * float(np.finfo(one.dtype).tiny if one.dtype.kind == "f" else 2.0**-126)
        a, b = one.astype(np.float64), other.astype(np.float64)
        small = (np.abs(a) < least) & (np.abs(b) < least)
        both[0].append(np.where(small, one.dtype.type(0), one))
        both[1].append(np.where(small, one.dtype.type(0), other))
    return both


PROPERTY = Property("scale", "what is exact in any arithmetic is exact", _ways)
