"""Updates of an array at given places. Additions to one place may come in any order, and of several writes any may be
the last.
"""

from __future__ import annotations

import numpy as np

from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.rounding import Rounding, distance
from diffuzz.analysis.rules.indexing import Places, other_starts


def scatter(
    rounding: Rounding, a: Estimate, start: Estimate, updates: Estimate, places: Places, combine: str
) -> Estimate:
    """a with the updates written (``set``), added, multiplied, or taken the smaller or larger of, at the starts. Where
    an open start may lead, nothing is certain but what may be written there. Additions to one place may come in any
    order.
    """
    found, valid, _ = places(start.value)
    targets = np.broadcast_to(found, updates.value.shape).reshape(-1)
    inside = np.ones(targets.shape, bool) if valid is None else np.broadcast_to(valid, updates.value.shape).reshape(-1)
    if combine == "add" and a.value.dtype == np.float64:
        result = _scatter_add(rounding, a, updates, targets, inside)
    else:
        result = _scatter(rounding, a, updates, targets, inside, combine)
    if start.error is None or not start.errors().any():
        return result
    return _with_open_starts(result, a, start, updates, places, combine)


def _with_open_starts(
    result: Estimate, a: Estimate, start: Estimate, updates: Estimate, places: Places, combine: str
) -> Estimate:
    """``result``, which has every update where it belongs, with what open starts may change."""
    value, shape = result.value.reshape(-1), updates.value.shape
    all_of_it = Estimate(result.value, np.full(result.value.shape, np.inf))
    ways = other_starts(start, updates.value.size)
    if ways is None:
        return all_of_it
    found, valid, _ = places(start.value)
    first = np.broadcast_to(found, shape).reshape(-1)
    written = np.ones(first.shape, bool) if valid is None else np.broadcast_to(valid, shape).reshape(-1)
    reached = []
    unsure = np.zeros(first.shape, bool)
    for way in ways:
        there, good, _ = places(way)
        target = np.broadcast_to(there, shape).reshape(-1)
        inside = np.ones(target.shape, bool) if good is None else np.broadcast_to(good, shape).reshape(-1)
        moved_away = (target != first) | (inside != written)
        unsure |= moved_away
        reached.append((target, moved_away & inside))
    reached.append((first, unsure & written))
    error = np.array(result.errors(), np.float64).reshape(-1)
    if combine != "set":
        for target, inside in reached:
            error[target[inside]] = np.inf
        return Estimate(result.value, error.reshape(result.value.shape))
    new = np.ascontiguousarray(updates.value).reshape(-1).astype(np.float64)
    own = np.ascontiguousarray(updates.errors()).reshape(-1)
    certain = np.zeros(value.shape, bool)
    certain[first[written & ~unsure]] = True
    exact = value.astype(np.float64)
    kept = distance(a.value.reshape(-1).astype(np.float64), exact) + np.ascontiguousarray(a.errors()).reshape(-1)
    for target, inside in reached:
        where = target[inside]
        np.maximum.at(error, where, distance(new[inside], exact[where]) + own[inside])
        error[where] = np.maximum(error[where], np.where(certain[where], 0.0, kept[where]))
    return Estimate(result.value, error.reshape(result.value.shape), nonnegative=result.nonnegative)


def _scatter_add(
    rounding: Rounding, a: Estimate, updates: Estimate, targets: np.ndarray, inside: np.ndarray
) -> Estimate:
    where = targets[inside]

    def added(base: np.ndarray, new: np.ndarray) -> np.ndarray:
        result = np.array(base, np.float64)
        np.add.at(result.reshape(-1), where, new.reshape(-1)[inside])
        return result

    value = added(a.value, updates.value)
    count = np.bincount(where, minlength=value.size).reshape(value.shape).astype(np.float64)

    def terms() -> np.ndarray:
        most = int(count.max(initial=0))
        rows = np.zeros((value.size, most + 1))
        rows[:, 0] = a.value.reshape(-1)
        order = np.argsort(where, kind="stable")
        ordered = where[order]
        nth = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
        rows[ordered, 1 + nth] = updates.value.reshape(-1)[inside][order]
        return rows.reshape(*value.shape, most + 1)

    return rounding.total(
        value,
        lambda: None if a.error is None and updates.error is None else added(a.errors(), updates.errors()),
        additions=count,
        products=0,
        roundings=count,
        whole=lambda: bool((a.value == np.rint(a.value)).all() and (updates.value == np.rint(updates.value)).all()),
        magnitude=lambda: added(np.abs(a.value) + a.errors(), np.abs(updates.value) + updates.errors()),
        terms=terms,
        operands=(a, updates),
        nonnegative=a.nonnegative and updates.nonnegative,
    )


def _scatter(
    rounding: Rounding, a: Estimate, updates: Estimate, targets: np.ndarray, inside: np.ndarray, combine: str
) -> Estimate:
    where = targets[inside]
    value = np.array(a.value)
    flat = value.reshape(-1)
    new = np.ascontiguousarray(updates.value).reshape(-1)[inside]
    if combine == "set":
        flat[where] = new
        if a.error is None and updates.error is None and len(np.unique(where)) == len(where):
            return Estimate(value, nonnegative=a.nonnegative and updates.nonnegative)
        error = np.array(a.errors())
        line = error.reshape(-1)
        own = np.ascontiguousarray(updates.errors()).reshape(-1)[inside]
        line[where] = 0.0
        # Where several updates meet, any of them may be the last.
        np.maximum.at(line, where, distance(new.astype(np.float64), flat[where].astype(np.float64)) + own)
        return Estimate(value, error, nonnegative=a.nonnegative and updates.nonnegative)
    operation = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}[combine]
    operation.at(flat, where, new)
    if a.error is None and updates.error is None and (combine in ("min", "max") or value.dtype != np.float64):
        return Estimate(value)
    if combine in ("min", "max"):
        nonnegative = a.nonnegative and (combine == "max" or updates.nonnegative)
        ends = []
        for base, update in ((a.lowest(), updates.lowest()), (a.highest(), updates.highest())):
            end = np.array(base)
            operation.at(end.reshape(-1), where, np.ascontiguousarray(update).reshape(-1)[inside])
            ends.append(end)
        reach = np.maximum(np.abs(ends[0] - value), np.abs(ends[1] - value))
        return Estimate(value, np.where(np.isnan(reach), np.inf, reach), nonnegative=nonnegative)
    if value.dtype != np.float64:
        touched = np.zeros(flat.shape, bool)
        touched[where] = True
        return Estimate(value, np.where(touched.reshape(value.shape), np.inf, a.errors()))
    # A product of several factors: each may be off by its error, and each multiplication is rounded.
    own = np.ascontiguousarray(np.abs(updates.value) + updates.errors()).reshape(-1)[inside]
    reach = np.abs(a.value) + a.errors()
    count = np.bincount(where, minlength=value.size).reshape(value.shape)

    def multiplied(base: np.ndarray, factors: np.ndarray) -> np.ndarray:
        result = np.array(base)
        np.multiply.at(result.reshape(-1), where, factors)
        return result

    def propagate() -> np.ndarray:
        error: np.ndarray = rounding.lost_in_product(
            multiplied(reach, own) - multiplied(np.abs(a.value), np.abs(new)),
            value,
            multiplied(np.maximum(reach, 1.0), np.maximum(own, 1.0)),
            multiplied(np.minimum(reach, 1.0), np.minimum(own, 1.0)),
            int(count.max(initial=0)) + 1,
        )
        return error

    several = rounding.result(value, propagate, roundings=float(count.max(initial=1.0)))
    return Estimate(value, np.where(count > 0, several.errors(), a.errors()))
