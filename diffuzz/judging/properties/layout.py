"""layout: an array that lies in memory in another way, with the same numbers, has the same results.

Against arrays that are contiguous and aligned to 64 bytes: other alignments, the order of Fortran, slices with gaps, a
part of longer rows, negative strides, and a stride of 0. What shows here: strides that are ignored, and another
algorithm for what is not contiguous or not aligned. A function that refuses such an array keeps the property.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffuzz.judging.memory import Kind, Place
from diffuzz.judging.properties.property import NOTHING, Look, Numbers, Property, Ranges, Way, failed, held_against
from diffuzz.judging.properties.subject import Arrays, Sizes, Subject

# How each way names what it does; where there is an integer, its range.
_KINDS: tuple[tuple[Kind, str, tuple[int, int] | None], ...] = (
    ("offset", "{n} bytes after an address that is a multiple of 64", (1, 63)),
    ("fortran", "in the order of Fortran", None),
    ("gaps", "every element number {n} of a larger array", (2, 5)),
    ("wide", "in rows that are longer by {n}", (1, 65)),
    ("reversed", "axis {n} with a negative stride", None),
    ("repeated", "axis {n} with the stride 0", None),
)


def _ways(subject: Subject) -> Sequence[Way] | str:
    if subject.contiguous:
        return subject.contiguous
    shapes = {name: one.ndim for name, one in subject.inputs(subject.drawn(_least(subject))).items()}
    ways = []
    for name, ndim in shapes.items():
        for kind, words, numbers in _KINDS:
            if kind == "fortran" and ndim < 2:
                continue
            for axis in range(ndim) if kind in ("reversed", "repeated") else (0,):
                ways.append(_way(subject, name, kind, words, numbers or (axis, axis)))
    return ways


def _least(subject: Subject) -> dict[str, int]:
    return {name: dim.lowest for name, dim in subject.dims.items()}


def _way(subject: Subject, name: str, kind: Kind, words: str, numbers: tuple[int, int]) -> Way:
    def ranges(sizes: Sizes) -> Ranges:
        return {"layout": numbers}

    def look(sizes: Sizes, given: Numbers) -> Look:
        drawn = subject.drawn(sizes)
        arrays = _repeated(subject, drawn, name, given["layout"]) if kind == "repeated" else drawn
        if arrays is None or min(subject.inputs(arrays)[name].shape, default=0) == 0:
            return NOTHING
        place = Place(kind, given["layout"])
        first, other = subject.returned(arrays), subject.returned(arrays, {name: place})
        changed = f"{name} contiguous, and {words.format(n=given['layout'])}"
        if (stopped := failed(changed, (arrays, first), (arrays, other))) is not None:
            return stopped
        return held_against(changed, first.results, other.results, ((arrays, first), (arrays, other)))

    label = f"{name} {kind}" + (f" {numbers[0]}" if kind in ("reversed", "repeated") else "")
    return Way(label, ranges, look)


def _repeated(subject: Subject, arrays: Arrays, name: str, axis: int) -> Arrays | None:
    """The arrays with equal parts along an axis of an input, where that is an axis of one array of the case."""
    array = arrays.get(name)
    given = subject.inputs(arrays).get(name)
    if array is None or given is None or array.shape != given.shape:
        return None
    return {**arrays, name: np.ascontiguousarray(np.broadcast_to(np.take(array, [0], axis=axis), array.shape))}


PROPERTY = Property("layout", "strides, alignment and order in memory do not show", _ways, kept_by_refusing=True)
