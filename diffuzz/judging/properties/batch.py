"""batch: the bits of a row do not depend on the rows beside it: their number, their numbers, or the row's place.

Rows are those of the batch, and of every dimension in which the results for a part are that part of the results: the
rows of a matrix, tokens, heads, output channels. Which these are is asked of the reference (see cuts).

What shows here: another algorithm for one row than for several, tiles whose last one is not full, a scale or an eps of
the first row for all, a sum over the whole tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffuzz.cases.ranges import float32_range
from diffuzz.judging.properties.cuts import Cut, cuts
from diffuzz.judging.properties.property import NOTHING, Look, Numbers, Property, Ranges, Way, failed, held_against
from diffuzz.judging.properties.subject import Arrays, Sizes, Subject

# What the rows beside the one in question hold.
_BESIDE = ("copies of it", "zeros", "other numbers", "the largest numbers", "the least numbers")


def _ways(subject: Subject) -> Sequence[Way] | str:
    found = [cut for cut in cuts(subject) if cut.kind == "any"]
    return [_way(subject, cut) for cut in found] or "no dimension has results that belong to one row of it each"


def _way(subject: Subject, cut: Cut) -> Way:
    (name,) = cut.dims
    dim = subject.dims[name]
    unit, step = dim.lowest, dim.step

    def ranges(sizes: Sizes) -> Ranges | None:
        places = (sizes[name] - unit) // step
        return {"place": (0, places), "beside": (0, len(_BESIDE) - 1)} if places > 0 else None

    def look(sizes: Sizes, numbers: Numbers) -> Look:
        size, begin = sizes[name], numbers["place"] * step
        if begin + unit > size or size == unit:
            return NOTHING
        whole = subject.drawn(sizes)
        alone = subject.part(whole, {name: (begin, begin + unit)})
        whole = _beside(subject, whole, alone, name, begin, unit, numbers["beside"])
        first, other = subject.returned(alone), subject.returned(whole)
        which = f"{name}[{begin}]" if unit == 1 else f"{name}[{begin}:{begin + unit}]"
        changed = f"{which} alone, and among {size}, beside {_BESIDE[numbers['beside']]}"
        if (stopped := failed(changed, (alone, first), (whole, other))) is not None:
            return stopped
        part = cut.of(other.results, size, begin, begin + unit)
        if part is None:
            return NOTHING
        return held_against(changed, first.results, part, ((alone, first), (whole, other)))

    return Way(f"rows of {name}", ranges, look, least={name: unit + step})


def _beside(subject: Subject, whole: Arrays, alone: Arrays, name: str, begin: int, unit: int, kind: int) -> Arrays:
    """The arrays with other numbers beside the part in question, in those that have the dimension."""
    if _BESIDE[kind] == "other numbers":
        return whole
    made = {}
    for key, array in whole.items():
        axis, spec = subject.has(key, name), subject.space[key]
        if axis is None or key in subject.scalars:
            made[key] = array
            continue
        own = np.moveaxis(np.array(array), axis, 0)
        part = np.moveaxis(alone[key], axis, 0)
        start, length = begin * len(part) // unit, len(part)
        if _BESIDE[kind] == "copies of it":
            own[...] = part[np.arange(len(own)) % length]
        elif spec.kind == "blocks" or (array.dtype.kind != "f" and _BESIDE[kind] == "zeros"):
            own[...] = np.zeros_like(own) if spec.kind == "blocks" else np.clip(0, spec.low, spec.high)
        elif array.dtype.kind == "f":
            low, high = float32_range(spec)
            own[...] = {"zeros": np.clip(np.float32(0), low, high), "the largest numbers": high}.get(_BESIDE[kind], low)
        own[start : start + length] = part
        made[key] = np.moveaxis(own, 0, axis)
    return {key: np.ascontiguousarray(array) for key, array in made.items()}


PROPERTY = Property("batch", "the bits of a row do not depend on the rows beside it", _ways)
