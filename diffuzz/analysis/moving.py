"""Primitives of JAX that move elements: their parameters, as the rules of indexing want them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffuzz.analysis import places
from diffuzz.analysis.estimate import Estimate, of_options
from diffuzz.analysis.rounding import Rounding
from diffuzz.analysis.rules import indexing, scattering
from diffuzz.analysis.rules.indexing import moved

Entry = Callable[..., "Estimate | list[Estimate]"]


def _pad(rounding: Rounding, params: dict[str, Any], a: Estimate, fill: Estimate) -> Estimate:
    result = indexing.pad(a, fill.value.item(), params["padding_config"])
    if fill.error is None:
        return result
    around = indexing.pad(Estimate(np.zeros(a.value.shape)), float(fill.error), params["padding_config"])
    return Estimate(result.value, result.errors() + around.value)


def _split(rounding: Rounding, params: dict[str, Any], a: Estimate) -> list[Estimate]:
    ends = np.cumsum(params["sizes"])
    axis = params["axis"]
    before = (slice(None),) * axis
    return [
        indexing.part(a, (*before, slice(end - size, end))) for end, size in zip(ends, params["sizes"], strict=True)
    ]


def _gather(rounding: Rounding, params: dict[str, Any], a: Estimate, start: Estimate) -> Estimate:
    numbers = params["dimension_numbers"]
    where = places.of_slices(
        a.value.shape,
        params["slice_sizes"],
        numbers.start_index_map,
        numbers.collapsed_slice_dims,
        numbers.operand_batching_dims,
        numbers.start_indices_batching_dims,
        clip=not _drops(params["mode"]),
        fill=places.fill_value(a.value.dtype, params.get("fill_value")),
    )
    return indexing.gather(rounding, a, start, places.moved_windows(where, numbers.offset_dims))


def _scatter(combine: str) -> Entry:
    def entry(rounding: Rounding, params: dict[str, Any], a: Estimate, start: Estimate, updates: Estimate) -> Estimate:
        numbers = params["dimension_numbers"]
        batched = numbers.operand_batching_dims
        dropped = numbers.inserted_window_dims
        window = iter(numbers.update_window_dims)
        size = [
            1 if axis in dropped or axis in batched else updates.value.shape[next(window)]
            for axis in range(a.value.ndim)
        ]
        where = places.of_slices(
            a.value.shape,
            size,
            numbers.scatter_dims_to_operand_dims,
            dropped,
            batched,
            numbers.scatter_indices_batching_dims,
            clip=not _drops(params["mode"]),
            fill=0,
        )
        placed = places.moved_windows(where, numbers.update_window_dims)
        return scattering.scatter(rounding, a, start, updates, placed, combine)

    return entry


def _scatter_less(
    rounding: Rounding, params: dict[str, Any], a: Estimate, start: Estimate, updates: Estimate
) -> Estimate:
    less = Estimate(-updates.value, updates.error)
    result = _scatter("add")(rounding, params, a, start, less)
    assert isinstance(result, Estimate)
    return result


def _dynamic_slice(rounding: Rounding, params: dict[str, Any], a: Estimate, *starts: Estimate) -> Estimate:
    return indexing.gather(rounding, a, _vector(rounding, starts), _block(a, params["slice_sizes"]))


def _dynamic_update_slice(
    rounding: Rounding, params: dict[str, Any], a: Estimate, update: Estimate, *starts: Estimate
) -> Estimate:
    where = _block(a, update.value.shape)
    return scattering.scatter(rounding, a, _vector(rounding, starts), update, where, "set")


def _block(a: Estimate, size: Any) -> indexing.Places:
    axes = range(a.value.ndim)
    return places.of_slices(a.value.shape, size, list(axes), [], [], [], clip=True, fill=0)


def _vector(rounding: Rounding, starts: tuple[Estimate, ...]) -> Estimate:
    """Starts that are numbers of their own as one vector; negative ones count from the end in jax.numpy, not here."""
    if not starts:
        return Estimate(np.zeros(0, np.int64))
    vector = indexing.concatenate(
        rounding, [moved(each, lambda x: np.reshape(x, 1).astype(np.int64)) for each in starts], 0
    )
    options = [each.options() for each in starts]
    open_ones = [place for place, each in enumerate(starts) if each.error is not None and each.errors().any()]
    if len(open_ones) != 1 or options[open_ones[0]] is None:
        return vector
    place = open_ones[0]
    chosen = options[place]
    assert chosen is not None
    listed = np.repeat(vector.value[None], len(chosen), axis=0)
    listed[:, place] = chosen.reshape(-1)
    return of_options(listed, vector.value)


def _drops(mode: Any) -> bool:
    """Whether elements out of bounds are filled or dropped, rather than moved inside."""
    return "FILL_OR_DROP" in str(getattr(mode, "name", mode))


def _reshape(rounding: Rounding, params: dict[str, Any], a: Estimate, *_: Estimate) -> Estimate:
    # A convolution that is mapped over a batch reads its axes in another order first.
    order = params["dimensions"]
    ordered = a if order is None else indexing.transpose(rounding, a, order)
    return indexing.reshape(rounding, ordered, params["new_sizes"])


ENTRIES: dict[str, Entry] = {
    "broadcast_in_dim": lambda rounding, params, a, *_: indexing.broadcast_in_dim(
        rounding, a, params["shape"], params["broadcast_dimensions"]
    ),
    "reshape": _reshape,
    "squeeze": lambda rounding, params, a: moved(a, lambda x: np.squeeze(x, tuple(params["dimensions"]))),
    "expand_dims": lambda rounding, params, a: moved(a, lambda x: np.expand_dims(x, params["dimensions"])),
    "transpose": lambda rounding, params, a: indexing.transpose(rounding, a, params["permutation"]),
    "slice": lambda rounding, params, a: indexing.slice_(
        rounding, a, params["start_indices"], params["limit_indices"], params["strides"]
    ),
    "rev": lambda rounding, params, a: indexing.reverse(rounding, a, params["dimensions"]),
    "stack": lambda rounding, params, *parts: indexing.stack(parts, params["axis"]),
    "unstack": lambda rounding, params, a: indexing.unstack(a, params["axis"]),
    "concatenate": lambda rounding, params, *parts: indexing.concatenate(rounding, parts, params["dimension"]),
    "tile": lambda rounding, params, a: moved(a, lambda x: np.tile(x, params["reps"])),
    "broadcast_to": lambda rounding, params, a, *_: moved(a, lambda x: np.broadcast_to(x, params["shape"])),
    "pad": _pad,
    "split": _split,
    "gather": _gather,
    "scatter": _scatter("set"),
    "scatter-add": _scatter("add"),
    "scatter-sub": _scatter_less,
    "scatter-mul": _scatter("mul"),
    "scatter-min": _scatter("min"),
    "scatter_min": _scatter("min"),
    "scatter-max": _scatter("max"),
    "scatter_max": _scatter("max"),
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
}
