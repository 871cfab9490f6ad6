"""Properties: what an implementation may keep or not, whatever its results are worth.

    PROPERTY = Property("repeat", "the same call gives the same bits", ways)

A property is asked in ways: each is one kind of change that should not show, with integers of its own beside the sizes
of the call. Whoever searches (see diffuzz.searching.keeping) chooses the integers, and makes them small again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import attrs
import numpy as np

from diffuzz.judging.properties.process import Returned
from diffuzz.judging.properties.subject import Arrays, Sizes, Subject
from diffuzz.kernels.process.worker import Failure

# Integers of a way by name, and their ranges, both ends included.
Numbers: TypeAlias = Mapping[str, int]
Ranges: TypeAlias = Mapping[str, tuple[int, int]]
# Failures that are one of the function whatever it promises.
_BREAKS = ("crashed", "hung", "out of memory", "garbage")
# Numbers of a call from which on it may be slow without being wrong.
_LARGE = 2**16


@attrs.frozen(eq=False)
class Difference:
    """What one change did: ``changed`` says what was changed, and ``how`` what came of it, both in words.

    ``elements`` of ``compared`` numbers have other bits, the first of them at ``place``, where they are ``a`` and
    ``b``; the largest distance is ``ulps``. ``broken`` says that this is an error whatever the function promises.
    ``sides`` are the calls, to be held against the exact result. ``chance`` is (times seen, calls), where it is not
    always so.
    """

    changed: str
    how: str = ""
    elements: int = 0
    compared: int = 0
    place: str = ""
    a: float = 0.0
    b: float = 0.0
    ulps: int = 0
    broken: bool = False
    sides: tuple[tuple[Arrays, Returned], ...] = ()
    chance: tuple[int, int] | None = None


@attrs.frozen
class Look:
    """What one look found: how many numbers were ``compared``, what differed, or why there is no such call."""

    compared: int = 0
    difference: Difference | None = None
    refused: str | None = None


NOTHING = Look()


@attrs.frozen
class Way:
    """One way to ask for a property.

    ranges(sizes)            the integers beside the sizes, or None where a call of these sizes has no such way
    look(sizes, numbers)     what a look with these integers shows
    chance                   whether the same look may show it one time and not another
    slow                     whether each look takes processes of its own, which have to load the function
    least                    the least size of a dimension for which the way makes sense; these are those it is about
    settled(sizes)           the sizes that are meant, where some of them depend on others
    """

    name: str
    ranges: Callable[[Sizes], Ranges | None]
    look: Callable[[Sizes, Numbers], Look]
    chance: bool = attrs.field(default=False, kw_only=True)
    slow: bool = attrs.field(default=False, kw_only=True)
    least: Mapping[str, int] = attrs.field(factory=dict, kw_only=True)
    settled: Callable[[Sizes], Sizes] = attrs.field(default=lambda sizes: sizes, kw_only=True)


@attrs.frozen
class Property:
    """``summary`` says what it is to keep it. ``ways(subject)`` are those in which it is asked of a subject, or a line
    that says why it is not. ``kept_by_refusing`` says that a function which takes no such call keeps it.
    """

    name: str
    summary: str
    ways: Callable[[Subject], Sequence[Way] | str]
    kept_by_refusing: bool = attrs.field(default=False, kw_only=True)


def held_against(
    changed: str,
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    sides: tuple[tuple[Arrays, Returned], ...] = (),
    *,
    zeros: bool = False,
) -> Look:
    """Whether two lists of results have the same bits; all NaN are one number, and with ``zeros`` both zeros are."""
    compared = sum(one.size for one in first)
    shapes = [[(one.shape, one.dtype.name) for one in side] for side in (first, second)]
    if shapes[0] != shapes[1]:
        said = " and ".join(", ".join(f"{name}{list(shape)}" for shape, name in side) or "nothing" for side in shapes)
        return Look(compared, Difference(changed, f"results have other shapes: {said}", broken=True, sides=sides))
    elements, place, a, b, ulps = 0, "", 0.0, 0.0, 0
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        differ = _other_bits(one, other, zeros)
        if not differ.any():
            continue
        if not elements:
            where = tuple(int(index) for index in np.argwhere(differ)[0]) if one.ndim else ()
            place = f"{list(where)}" + (f" of result {number + 1}" if len(first) > 1 else "")
            a, b = float(one[where]), float(other[where])
        elements += int(differ.sum())
        ulps = max(ulps, _distance(one[differ], other[differ]))
    if not elements:
        return Look(compared)
    return Look(compared, Difference(changed, "", elements, compared, place, a, b, ulps, sides=sides))


def _bits(array: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(array)
    return flat.view(f"u{flat.itemsize}").reshape(array.shape)


def _other_bits(one: np.ndarray, other: np.ndarray, zeros: bool) -> np.ndarray:
    differ = _bits(one) != _bits(other)
    if one.dtype.kind not in "iub" and differ.any():
        a, b = one.astype(np.float64), other.astype(np.float64)
        differ &= ~(np.isnan(a) & np.isnan(b))
        if zeros:
            differ &= ~((a == 0) & (b == 0))
    return np.asarray(differ)


def _distance(one: np.ndarray, other: np.ndarray) -> int:
    """The largest number of steps between numbers of the dtype, or the largest difference of integers."""
    if one.dtype.kind in "iub":
        return int(np.abs(one.astype(object) - other.astype(object)).max())
    top = 1 << (8 * one.itemsize - 1)
    ranks = []
    for array in (one, other):
        bits = _bits(array).astype(object)
        ranks.append(np.where(bits >= top, top - bits, bits))
    return int(np.abs(ranks[0] - ranks[1]).max())


def failed(changed: str, *sides: tuple[Arrays, Returned]) -> Look | None:
    """What is said where one of the calls has no result: it is refused, or it breaks; None where all have results."""
    for arrays, returned in sides:
        failure: Failure | None = returned.failure
        if failure is None:
            continue
        if failure.kind == "hung" and sum(one.size for one in arrays.values()) > _LARGE:
            return Look(refused=f"it takes too long: {failure.text}")
        if failure.kind in _BREAKS:
            return Look(0, Difference(changed, str(failure), broken=True))
        return Look(refused=failure.text)
    return None
