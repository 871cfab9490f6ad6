"""Simplifications: whole cases that the minimiser tries in the place of a case.

Of several proposals the best one is taken. Small changes that can be combined are in diffuzz.minimising.edits. Cases
are given as their parts (see diffuzz.cases.parts): arrays by name without a batch axis, never changed in place. Nothing
here evaluates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from diffuzz import formats
from diffuzz.cases.parts import Part, Values
from diffuzz.cases.space import Dim, Space
from diffuzz.minimising.simplicity import part_cost

# Beyond this many distinct numbers, levels are treated in clusters and not one by one.
MOST_LEVELS = 24
# Runs of a part up to which their lengths are tried one by one.
MOST_RESIZED = 8
# Combinations that ``simplest`` looks at: some milliseconds.
MOST_COMBINATIONS = 2**17


def _with(values: Values, name: str, flat: np.ndarray) -> Values:
    return {**values, name: flat.reshape(values[name].shape)}


def most_common(flat: np.ndarray, count: int = 1) -> np.ndarray:
    """The ``count`` commonest levels, the commonest first; of equally common ones the least."""
    levels, counts = np.unique(flat, return_counts=True)
    return levels[np.argsort(-counts, kind="stable")[:count]]


def defaults(part: Part, flat: np.ndarray) -> np.ndarray:
    """What many elements might as well be: the commonest two levels, 0, +-1, the ends of the range, the largest."""
    peak = float(np.abs(flat.astype(np.float64)).max())
    numbers = np.array([0.0, 1.0, -1.0, part.low, part.high, peak, -peak])
    return np.unique(np.concatenate([most_common(flat, 2), part.fit(numbers)]))


def roundings(part: Part, numbers: np.ndarray) -> list[np.ndarray]:
    """The numbers with few significant binary or decimal digits, and as integers; the simplest first."""
    wide = numbers.astype(np.float64)
    fraction, exponent = np.frexp(wide)
    rounded = []
    for bits in (1, 2, 3):
        # Either neighbour, not just the nearer one: a near tie survives on one side only.
        rounded += [np.ldexp(way(fraction * 2.0**bits), exponent - bits) for way in (np.floor, np.ceil)]
    order = np.floor(np.log10(np.where(wide != 0, np.abs(wide), 1.0)))
    for digits in (1, 2, 3):
        grid = 10.0 ** np.abs(order - (digits - 1))
        fine = order < digits - 1
        for way in (np.floor, np.ceil):
            rounded.append(np.where(fine, way(wide * grid) / grid, way(wide / grid) * grid))
    rounded += [np.floor(wide), np.ceil(wide)]
    rounded += [np.ldexp(np.rint(fraction * 2.0**bits), exponent - bits) for bits in (4, 5, 6, 8, 10, 12, 16)]
    return [part.fit(r) for r in rounded]


# Proposals: one part at a time


def constants(part: Part, values: Values) -> Iterator[Values]:
    """One number everywhere."""
    flat = values[part.name].reshape(-1)
    for level in defaults(part, flat):
        yield _with(values, part.name, np.full_like(flat, level))


def rounded(part: Part, values: Values) -> Iterator[Values]:
    """All numbers with fewer digits, or as multiples of a power-of-two fraction of the largest or of the range."""
    flat = values[part.name].reshape(-1)
    for numbers in roundings(part, flat):
        yield _with(values, part.name, numbers)
    wide = flat.astype(np.float64)
    for top in {float(np.abs(wide).max()), max(abs(part.low), abs(part.high))} - {0.0}:
        for halvings in range(10):
            step = top * 2.0**-halvings
            yield _with(values, part.name, part.fit(np.rint(wide / step) * step))


def scaled(part: Part, values: Values) -> Iterator[Values]:
    """All numbers times one factor: -1, powers of two, or what makes the largest or commonest 1 or the range's end."""
    flat = values[part.name].reshape(-1)
    wide = flat.astype(np.float64)
    peak, common = float(np.abs(wide).max()), abs(float(most_common(flat)[0]))
    factors = [-1.0] + [2.0**k for k in (-8, -4, -3, -2, -1, 1, 2, 3, 4, 8)]
    for size in {peak, common} - {0.0}:
        factors += [1 / size, part.high / size, 2.0 ** -np.floor(np.log2(size))]
    for factor in factors:
        if np.isfinite(factor):
            yield _with(values, part.name, part.fit(wide * factor))


def signs(part: Part, values: Values) -> Iterator[Values]:
    """The sign of each number, times one magnitude; small ones 0 or not."""
    flat = values[part.name].reshape(-1)
    wide = flat.astype(np.float64)
    sizes = np.abs(wide)
    peak = sizes.max()
    for magnitude in {1.0, float(peak), float(np.median(sizes)), part.high}:
        yield _with(values, part.name, part.fit(np.where(wide >= 0, magnitude, -magnitude)))
        for halvings in (1, 2, 4, 7, 10):
            yield _with(
                values, part.name, part.fit(np.where(sizes > peak * 2.0**-halvings, np.sign(wide), 0.0) * magnitude)
            )


def clustered(part: Part, values: Values) -> Iterator[Values]:
    """Few levels: the sorted numbers cut at the widest gaps or into equal shares, each cluster one of its members."""
    flat = values[part.name].reshape(-1)
    levels, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    wide = levels.astype(np.float64)
    # Signed logarithm, so that gaps among small numbers count as much as among large ones.
    smallest = np.abs(wide[wide != 0]).min(initial=1.0)
    warped = np.sign(wide) * (1 + np.log2(np.maximum(np.abs(wide), smallest) / smallest))
    for count in (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32):
        if count >= len(levels):
            return
        shares = np.searchsorted(np.cumsum(counts), np.arange(1, count) * len(flat) / count) + 1
        gaps = [np.sort(np.argsort(-np.diff(measure), kind="stable")[: count - 1]) + 1 for measure in (wide, warped)]
        for cuts in (*gaps, shares):
            cluster = np.searchsorted(np.unique(cuts), np.arange(len(levels)), side="right")
            for representative in _representatives(levels, counts, cluster):
                yield _with(values, part.name, representative[cluster][inverse])


def _representatives(levels: np.ndarray, counts: np.ndarray, cluster: np.ndarray) -> Iterator[np.ndarray]:
    """A member for each cluster of sorted levels: the commonest, the middle one, the smallest and the largest."""
    groups = range(int(cluster.max()) + 1)
    for key in (
        -counts,
        np.abs(np.arange(len(levels)) - _middle(cluster)),
        np.abs(levels.astype(float)),
        -np.abs(levels.astype(float)),
    ):
        order = np.lexsort((key, cluster))
        yield levels[order[np.searchsorted(cluster[order], groups)]]


def _middle(cluster: np.ndarray) -> np.ndarray:
    index = np.arange(len(cluster))
    sums = np.bincount(cluster, weights=index) / np.bincount(cluster)
    return np.asarray(sums[cluster])


def outliers(part: Part, values: Values) -> Iterator[Values]:
    """The few numbers farthest from the commonest kept, all others one level."""
    flat = values[part.name].reshape(-1)
    wide = flat.astype(np.float64)
    order = np.argsort(-np.abs(wide), kind="stable")
    for kept in (1, 2, 4, 8, 16, 32, 64):
        if kept >= len(flat):
            return
        rest = order[kept:]
        for level in {0.0, float(most_common(flat[rest])[0]), float(np.sort(flat[rest])[len(rest) // 2])}:
            changed = flat.copy()
            changed[rest] = part.fit(np.array(level))
            yield _with(values, part.name, changed)


def arranged(part: Part, values: Values) -> Iterator[Values]:
    """The numbers of one part sorted, whatever the other parts are."""
    flat = np.sort(values[part.name].reshape(-1))
    yield _with(values, part.name, flat)
    yield _with(values, part.name, flat[::-1])


def paired(part: Part, values: Values) -> Iterator[Values]:
    """Two levels both exchanged for simple numbers at once, as their ratio may be all that counts."""
    flat = values[part.name].reshape(-1)
    levels = np.unique(flat)
    if len(levels) != 2:
        return
    simple = np.array([0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 3, part.high])
    for low, high in itertools.permutations(np.unique(part.fit(np.concatenate([simple, -simple]))), 2):
        yield _with(values, part.name, np.where(flat == levels[0], low, high))


def resized(part: Part, values: Values) -> Iterator[Values]:
    """One run of a few grown or shrunk at the cost of its neighbour: to one element, to a half or a quarter."""
    flat = values[part.name].reshape(-1)
    bounds = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [len(flat)]])
    if len(bounds) > MOST_RESIZED + 1:
        return
    for start, bound, end in zip(bounds, bounds[1:], bounds[2:], strict=False):
        places = {start + 1, end - 1, *(start + (end - start) * quarter // 4 for quarter in (1, 2, 3))}
        for place in sorted(places - {start, bound, end}):
            changed = flat.copy()
            changed[start:place], changed[place:end] = flat[start], flat[bound]
            yield _with(values, part.name, changed)


ONE_PART = (constants, rounded, clustered, signs, outliers, scaled, arranged, paired, resized)


# Proposals: several parts together


def simplest(parts: Sequence[Part], values: Values, count: int) -> Iterator[Values]:
    """The simplest cases there are, whatever the present one is: each part as it is, or at most two levels and runs.

    The ``count`` cheapest combinations, the cheapest first.
    """
    for tops in (2, 1):
        options = [[values[part.name], *_fillings(part, values[part.name], tops)] for part in parts]
        if math.prod(len(choices) for choices in options) <= MOST_COMBINATIONS:
            break
    else:
        return
    total = np.zeros(1)
    for part, choices in zip(parts, options, strict=True):
        total = (total[:, None] + part_cost(part, np.stack(choices))).reshape(-1)
    for index in np.argsort(total, kind="stable")[:count]:
        choice = np.unravel_index(index, [len(choices) for choices in options])
        yield {part.name: choices[i] for part, choices, i in zip(parts, options, choice, strict=True)}


def _fillings(part: Part, present: np.ndarray, tops: int) -> list[np.ndarray]:
    """One level, or two: one of them once, or half and half. Of 0, +-1 and, if ``tops`` is 2, +-high."""
    n = present.size
    if part.format is not None:
        # Blocks have many parts: only what is constant.
        return [np.full_like(present, level) for level in np.unique(part.fit(np.array([0.0, 1.0, part.high])))]
    if part.low > 0:
        pairs = [(part.low, part.high)]
    else:
        sizes = np.unique(part.fit(np.array([1.0, part.high])))[:tops].tolist()
        pairs = [(size, float(part.fit(np.array(other)))) for size in sizes for other in (-size, 0.0)]
    rows = {(0, level, level) for pair in pairs for level in pair}
    for a, b in pairs:
        if a != b and n > 1:
            rows |= {(1, a, b), (1, b, a), (n // 2, a, b)}
    return [
        np.where(np.arange(n) < length, a, b).astype(part.dtype).reshape(present.shape) for length, a, b in sorted(rows)
    ]


def aligned(parts: Sequence[Part], values: Values) -> Iterator[Values]:
    """One part made constant wherever another is, or its sign, up to a factor."""
    for leader, follower in itertools.permutations(parts, 2):
        lead, flat = values[leader.name].reshape(-1), values[follower.name].reshape(-1)
        if lead.size != flat.size or lead.size == 1:
            continue
        sizes = np.abs(flat.astype(np.float64))
        for magnitude in {1.0, float(sizes.max()), float(np.median(sizes))}:
            pattern = np.where(lead >= 0, magnitude, -magnitude)
            yield _with(values, follower.name, follower.fit(pattern))
            yield _with(values, follower.name, follower.fit(-pattern))
        levels, group = np.unique(lead, return_inverse=True)
        if len(levels) > MOST_LEVELS:
            continue
        group = group.reshape(-1)
        for pick in (most_common, lambda x: np.sort(x)[len(x) // 2 : len(x) // 2 + 1]):
            chosen = np.concatenate([pick(flat[group == g]) for g in range(len(levels))])
            yield _with(values, follower.name, chosen[group])


def dims_of(parts: Sequence[Part], values: Values) -> dict[str, int]:
    """Dimensions along which elements can be permuted: name -> size."""
    found: dict[str, int] = {}
    for part in parts:
        for dim, size in zip(part.dims, values[part.name].shape, strict=True):
            if dim is not None and size > 1:
                found[dim] = size
    return found


def reindexed(parts: Sequence[Part], values: Values, dim: str, source: np.ndarray) -> Values:
    """Every part with ``dim`` indexed along it by ``source``."""
    changed = dict(values)
    for part in parts:
        for axis, name in enumerate(part.dims):
            if name == dim:
                changed[part.name] = np.take(changed[part.name], source, axis=axis)
    return changed


def columns_of(parts: Sequence[Part], values: Values, dim: str) -> np.ndarray:
    """What the parts hold along ``dim``, as float64[rows, size]; of a part with other axes, every slice is a row."""
    rows = []
    for part in parts:
        for axis, name in enumerate(part.dims):
            if name == dim:
                moved = np.moveaxis(values[part.name], axis, -1)
                rows.append(moved.reshape(-1, moved.shape[-1]).astype(np.float64))
    return np.concatenate(rows)


def sorted_together(parts: Sequence[Part], values: Values) -> Iterator[Values]:
    """All parts permuted alike, so that equal elements of some of them come together."""
    for dim in dims_of(parts, values):
        keys = columns_of(parts, values, dim)[:4]
        keys = np.concatenate([keys, np.abs(keys[:2])])
        orders = {
            tuple(np.lexsort((*(sign * keys[i] for i in reversed(rest)), sign * keys[first])))
            for sign in (1, -1)
            for first in range(len(keys))
            for rest in ([i for i in range(len(keys)) if i != first],)
        }
        for order in sorted(orders):
            yield reindexed(parts, values, dim, np.array(order))


# Shapes


def shorter(space: Space, arrays: Values) -> Iterator[list[Values]]:
    """Cases with fewer elements along one dimension, as lists of equal shapes, the smallest first.

    The first, the last, evenly spaced, the largest and the smallest elements are kept, in steps that the dimension and
    its block formats allow. Of tokens, any one is left out, too.
    """
    for dim in space.dims:
        unit = _unit(space, dim)
        count = _size(space, arrays, dim.name) // unit
        if dim.fixed or count < 2:
            continue
        # The magnitude of each unit in the first plain array along the dimension says which are large.
        sizes = _magnitudes(space, arrays, dim.name).reshape(count, unit).max(axis=1)
        order = np.argsort(-sizes, kind="stable")
        halves = {count >> shift for shift in range(1, count.bit_length())}
        for kept in sorted(halves | {count - count // 4, count - count // 8, count - 1} - {count}):
            if not dim.admits(kept * unit):
                continue
            selections = [
                np.arange(kept),
                np.arange(count - kept, count),
                np.arange(kept) * count // kept,
                np.sort(order[:kept]),
                np.sort(order[-kept:]),
                np.sort(np.concatenate([order[:1], order[count - kept + 1 :]])),
            ]
            if kept == count - 1 and any(dim in spec.shape for spec in space.of_kind("tokens")):
                selections += [np.delete(np.arange(count), place) for place in range(count)]
            yield [_selected(space, arrays, dim.name, unit, chosen) for chosen in np.unique(selections, axis=0)]


def _unit(space: Space, dim: Dim) -> int:
    """The least number of consecutive elements that can be left out: whole steps, and whole blocks."""
    blocks = [formats.get(s.format or "").block_size for s in space.of_kind("blocks") if s.shape[-1].name == dim.name]
    return math.lcm(dim.step, *blocks)


def _size(space: Space, arrays: Values, dim: str) -> int:
    return next(size for s in space.tensors for name, size in s.sizes(arrays[s.name]).items() if name == dim)


def _magnitudes(space: Space, arrays: Values, dim: str) -> np.ndarray:
    for spec in space.tensors:
        for axis, along in enumerate(spec.shape):
            if along.name == dim and not (spec.kind == "blocks" and axis == len(spec.shape) - 1):
                moved = np.moveaxis(np.abs(arrays[spec.name].astype(np.float64)), axis, 0)
                return np.asarray(moved.reshape(len(moved), -1).max(axis=1))
    return np.zeros(_size(space, arrays, dim))


def _selected(space: Space, arrays: Values, dim: str, unit: int, chosen: np.ndarray) -> Values:
    """The arrays with only the ``chosen`` units of ``unit`` elements along ``dim``."""
    changed = {}
    for spec in space.tensors:
        array = arrays[spec.name]
        for axis, along in enumerate(spec.shape):
            if along.name != dim:
                continue
            width = unit
            if spec.kind == "blocks" and axis == len(spec.shape) - 1:
                fmt = formats.get(spec.format or "")
                width = unit // fmt.block_size * fmt.type_size
            index = (chosen[:, None] * width + np.arange(width)).reshape(-1)
            array = np.take(array, index, axis=axis)
        changed[spec.name] = array
    return changed
