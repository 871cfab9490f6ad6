"""Edits: small changes of a case that can be combined.

The minimiser tries each alone, sorts them by the harm they do, and takes as many together as the value allows. Cases
are given as their parts (see diffuzz.cases.parts), never changed in place. Nothing here evaluates.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence

import attrs
import numpy as np

from diffuzz.cases.parts import Part, Values
from diffuzz.minimising.simplifications import MOST_LEVELS, columns_of, defaults, most_common, reindexed, roundings

# Edits that a family proposes at a time; longer lists are grouped.
MOST_EDITS = 128


@attrs.frozen
class Edit:
    """A change of part of a case. Edits with the same ``slot`` are alternatives: at most one of them is applied."""

    slot: Hashable
    apply: Callable[[Values], Values]


def _assign(name: str, where: np.ndarray, level: float | np.generic) -> Callable[[Values], Values]:
    """Set the elements ``where`` (flat indices) of a part to one number."""

    def apply(values: Values) -> Values:
        changed = values[name].copy()
        changed.reshape(-1)[where] = level
        return {**values, name: changed}

    return apply


def _runs(flat: np.ndarray) -> np.ndarray:
    """Boundaries of the runs: 0, the starts of all others, n."""
    return np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [len(flat)]])


def level_edits(part: Part, values: Values) -> list[Edit]:
    """Each level to a simpler number, a neighbouring level, its negative, or a power-of-two fraction of the largest."""
    flat = values[part.name].reshape(-1)
    levels = np.unique(flat)
    if len(levels) > MOST_LEVELS:
        return []
    rounded = roundings(part, levels)
    peak = np.abs(levels.astype(np.float64)).max()
    fractions = part.fit(np.outer([1, -1], peak * 2.0 ** -np.arange(1, 11)).reshape(-1))
    common = np.concatenate([defaults(part, flat), fractions])
    edits = []
    for index, level in enumerate(levels):
        neighbours = levels if len(levels) <= 6 else levels[max(0, index - 1) : index + 2]
        options = np.concatenate(
            [[r[index] for r in rounded], common, neighbours, part.fit(-levels[index : index + 1].astype(float))]
        )
        where = np.flatnonzero(flat == level)
        edits += [Edit(index, _assign(part.name, where, new)) for new in np.unique(options) if new != level]
    return edits


def run_edits(part: Part, values: Values, count: int) -> list[Edit]:
    """``count`` groups of whole runs; each becomes the level to its left or right, or its own commonest level."""
    flat = values[part.name].reshape(-1)
    bounds = _runs(flat)
    runs = len(bounds) - 1
    if runs < 2:
        return []
    edits = []
    for group in np.array_split(np.arange(runs), min(runs, count)):
        start, end = bounds[group[0]], bounds[group[-1] + 1]
        options = {float(most_common(flat[start:end])[0])} if len(group) > 1 else set()
        options |= {float(flat[place]) for place in (start - 1, end) if 0 <= place < len(flat)}
        where = np.arange(start, end)
        edits += [Edit(int(start), _assign(part.name, where, part.dtype.type(level))) for level in sorted(options)]
    return edits


def element_edits(part: Part, values: Values, level: float | np.generic) -> list[Edit]:
    """Elements, the nearest to ``level`` first, to that level; in groups where there are many."""
    flat = values[part.name].reshape(-1)
    distance = np.abs(flat.astype(np.float64) - float(level))
    order = np.argsort(distance, kind="stable")
    order = order[distance[order] > 0]
    groups = np.array_split(order, min(len(order), MOST_EDITS)) if len(order) else []
    return [Edit(index, _assign(part.name, where, level)) for index, where in enumerate(groups)]


def column_edits(parts: Sequence[Part], values: Values, dim: str) -> list[list[Edit]]:
    """Elements of all parts at once, along one dimension: some indices become copies of another index.

    Lists of edits: runs of equal indices become their neighbour; kinds of equal indices another kind; single indices
    the commonest kind, the one with the largest or the smallest element.
    """

    def copy(where: np.ndarray, index: int) -> Callable[[Values], Values]:
        def apply(now: Values) -> Values:
            source = np.arange(size)
            source[where] = index
            return reindexed(parts, now, dim, source)

        return apply

    columns = columns_of(parts, values, dim)
    size = columns.shape[1]
    _, first, kind, counts = np.unique(columns, axis=1, return_index=True, return_inverse=True, return_counts=True)
    kind = kind.reshape(-1)
    lists: list[list[Edit]] = [[]]
    bounds = _runs(kind)
    for group in np.array_split(np.arange(len(bounds) - 1), min(len(bounds) - 1, MOST_EDITS)):
        start, end = bounds[group[0]], bounds[group[-1] + 1]
        for place in (start - 1, end):
            if 0 <= place < size:
                lists[0].append(Edit(int(start), copy(np.arange(start, end), int(place))))
    if len(first) <= MOST_LEVELS:
        pairs = itertools.permutations(range(len(first)), 2)
        lists.append([Edit(a, copy(np.flatnonzero(kind == a), int(first[b]))) for a, b in pairs])
        return lists
    sizes = np.abs(columns[0])
    for target in {
        int(first[np.argmax(counts)]),
        int(np.argmax(sizes)),
        int(np.argmin(sizes)),
        int(np.argsort(sizes)[size // 2]),
    }:
        order = np.argsort(np.abs(columns - columns[:, [target]]).sum(axis=0), kind="stable")
        order = order[kind[order] != kind[target]]
        groups = np.array_split(order, min(len(order), MOST_EDITS))
        lists.append([Edit(index, copy(where, target)) for index, where in enumerate(groups)])
    return lists
