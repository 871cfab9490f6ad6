"""Rules of ATen operations that read or write elements at places that a tensor of integers says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rules import indexing, scattering
from diffuzz.analysis.torch_graph.call import Call, Table, as_result, moved, spread
from diffuzz.analysis.walking import AnalysisError

# What an index that is off by this much at most may be is listed; beyond, it is anything.
_NEAR = 2


def _numbered(a: Estimate) -> np.ndarray:
    """The number of each element: what is read from it in the place of the values are places of the flattened array."""
    return np.arange(a.value.size).reshape(a.value.shape)


def _read(
    call: Call, a: Estimate, indices: Sequence[Estimate], pick: Callable[[np.ndarray, list[np.ndarray]], np.ndarray]
) -> Estimate:
    """`pick(a, indices)`, which only takes elements. Where an index is open, any element that it may mean."""
    numbers = _numbered(a)
    exact = [index.value for index in indices]
    result = indexing.take(a, pick(numbers, exact), None, 0)
    unsure = [place for place, index in enumerate(indices) if index.error is not None and index.error.any()]
    if not unsure:
        return result
    options = _options(indices[unsure[0]]) if len(unsure) == 1 else None
    if options is None:
        return indexing.anything_in(a, result, np.ones(result.value.shape, bool))
    others = []
    for option in options:
        inside = np.clip(option, -a.value.size, a.value.size - 1)
        others.append(_taken(a, numbers, [*exact[: unsure[0]], inside, *exact[unsure[0] + 1 :]], pick))
    if any(other is None for other in others):
        return indexing.anything_in(a, result, np.ones(result.value.shape, bool))
    return indexing.farthest_of(result, [other for other in others if other is not None])


def _taken(
    a: Estimate,
    numbers: np.ndarray,
    indices: list[np.ndarray],
    pick: Callable[[np.ndarray, list[np.ndarray]], np.ndarray],
) -> Estimate | None:
    try:
        return indexing.take(a, pick(numbers, indices), None, 0)
    except IndexError:
        return None


def _options(index: Estimate) -> list[np.ndarray] | None:
    listed = index.options()
    if listed is not None:
        return list(listed)
    error = index.errors()
    if not error.max() <= _NEAR:
        return None
    steps = range(-int(error.max()), int(error.max()) + 1)
    return [np.where(np.abs(step) <= error, index.value + step, index.value) for step in steps if step]


def _gather(call: Call, a: Estimate, axis: int, index: Estimate, **_: Any) -> Estimate:
    cut = tuple(
        slice(None) if k == axis % index.value.ndim else slice(size) for k, size in enumerate(index.value.shape)
    )
    return _read(call, a, [index], lambda x, indices: np.take_along_axis(x[cut], indices[0], axis))


def _embedding(call: Call, table: Estimate, index: Estimate, *_: Any) -> Estimate:
    return _read(call, table, [index], lambda x, indices: x[indices[0]])


def _picked(indices: Sequence[Estimate | None]) -> Callable[[np.ndarray, list[np.ndarray]], np.ndarray]:
    """Indexing with brackets; NumPy and torch put the axes of the result in the same places."""

    def pick(x: np.ndarray, given: list[np.ndarray]) -> np.ndarray:
        rest = iter(given)
        return x[tuple(slice(None) if index is None else next(rest) for index in indices)]

    return pick


def _index(call: Call, a: Estimate, indices: Sequence[Estimate | None]) -> Estimate:
    if any(index is not None and index.value.dtype == np.bool_ for index in indices):
        raise AnalysisError("picking by a mask gives a shape that depends on values: use torch.where")
    return _read(call, a, [index for index in indices if index is not None], _picked(indices))


def _index_put(
    call: Call, a: Estimate, indices: Sequence[Estimate | None], values: Estimate, accumulate: bool = False
) -> Estimate:
    given = [index for index in indices if index is not None]
    if any(index.value.dtype == np.bool_ and index.error is not None for index in given):
        raise AnalysisError("a mask that rounding may change says how many values are written: use torch.where")
    places = _picked(indices)(_numbered(a), [index.value for index in given])
    return _written(
        call, a, places, given, spread(as_result(call, values), places.shape), "add" if accumulate else "set"
    )


def _scatter(
    call: Call, a: Estimate, axis: int, index: Estimate, source: Any, *, reduce: str | None = None
) -> Estimate:
    given = as_result(call, source)
    if given.value.ndim:
        cut = tuple(slice(size) for size in index.value.shape)
        given = moved(given, lambda x: x[cut])
    # The index along its axis, and the place itself along the others.
    grid: list[Any] = list(np.indices(index.value.shape, sparse=True))
    if grid:
        grid[axis % len(grid)] = index.value
    places = np.asarray(_numbered(a)[tuple(grid)])
    combine = {None: "set", "sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min"}
    if reduce not in combine:
        raise AnalysisError(f"scatter with reduce={reduce} has no rule of error analysis")
    return _written(call, a, places, [index], spread(given, places.shape), combine[reduce])


def _scatter_add(call: Call, a: Estimate, axis: int, index: Estimate, source: Estimate) -> Estimate:
    return _scatter(call, a, axis, index, source, reduce="sum")


def _scatter_reduce(
    call: Call, a: Estimate, axis: int, index: Estimate, source: Estimate, reduce: str, *, include_self: bool = True
) -> Estimate:
    if not include_self:
        raise AnalysisError("scatter_reduce without include_self has no rule of error analysis")
    return _scatter(call, a, axis, index, source, reduce=reduce)


def _written(
    call: Call, a: Estimate, places: np.ndarray, indices: Sequence[Estimate], source: Estimate, combine: str
) -> Estimate:
    """The source at these places of the flattened array; where an index is open, nothing is certain any more."""
    unsure = any(index.error is not None and index.error.any() for index in indices)
    start = Estimate(places, np.full(places.shape, np.inf) if unsure else None)
    return scattering.scatter(call.rounding, a, start, source, lambda found: (found, None, None), combine)


INDEXING: Table = {
    "aten.gather": _gather,
    "aten.embedding": _embedding,
    "aten.index": _index,
    "aten.index_put": _index_put,
    "aten.scatter": _scatter,
    "aten.scatter_add": _scatter_add,
    "aten.scatter_reduce": _scatter_reduce,
}
