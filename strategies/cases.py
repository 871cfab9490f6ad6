"""Admissible cases of a space, whose tensors are drawn from the strategies of their kinds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from diffuzz import formats
from diffuzz.cases.case import Case
from diffuzz.cases.ranges import clip
from diffuzz.cases.space import Dim, Space, TensorSpec

from .activations import activations
from .logits import logits
from .perturbations import directions, signs_of
from .positions import positions
from .weights import blocks

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64


def cases(space: Space, *, smaller_shapes: bool = False) -> st.SearchStrategy[Case]:
    """Admissible cases of ``space``: each tensor is drawn by its kind, within its range.

    Sometimes activations take the signs of the weights that they are multiplied with (TensorSpec.against), or the
    opposite ones, and a direction those of the array that it perturbs. Shapes are those of batches; with
    ``smaller_shapes`` smaller admissible ones are drawn too. Shrinks towards the simplest array of each tensor.
    """
    if not smaller_shapes:
        return _with_sizes(space, {dim.name: dim.size for dim in space.dims})
    smaller = st.fixed_dictionaries({dim.name: _size(dim) for dim in space.dims})
    return smaller.flatmap(lambda sizes: _with_sizes(space, sizes))


def _size(dim: Dim) -> st.SearchStrategy[int]:
    if dim.fixed:
        return st.just(dim.size)
    return st.integers(dim.lowest // dim.step, dim.size // dim.step).map(lambda steps: steps * dim.step)


def _with_sizes(space: Space, sizes: dict[str, int]) -> st.SearchStrategy[Case]:
    tensors = {spec.name: _tensor(spec, [sizes[dim.name] for dim in spec.shape]) for spec in space.tensors}
    # +1 gives a tensor the signs of another, -1 the opposite ones; None leaves it as drawn.
    signed = {target: st.sampled_from([None, 1, -1]) for target in _sign_givers(space)}

    def together(arrays: dict[str, np.ndarray], signs: dict[str, int | None]) -> Case:
        for target, giver in _sign_givers(space).items():
            sign = signs[target]
            if sign is not None:
                arrays[target] = _with_signs(space, arrays, target, giver, sign)
        return Case(arrays)

    return st.builds(together, st.fixed_dictionaries(tensors), st.fixed_dictionaries(signed))


def _sign_givers(space: Space) -> dict[str, str]:
    """Tensors that may take the signs of another: the weights of activations, the array of a direction, by name."""
    names = {spec.name for spec in space.tensors}
    met = {spec.name: spec.against for spec in space.of_kind("activations") if spec.against in names}
    moved = {spec.name: spec.name.removesuffix("_direction") for spec in space.of_kind("direction")}
    return {name: giver for name, giver in (met | moved).items() if giver in names}


def _with_signs(
    space: Space, arrays: dict[str, np.ndarray], target: str, giver: str, sign: int
) -> Float32[np.ndarray, " ..."]:
    """The array ``target`` with the signs of ``giver`` times ``sign``; of weights those of the first row count."""
    spec, values = space[giver], arrays[giver]
    if spec.kind == "blocks":
        fmt = formats.get(spec.format or "")
        values = fmt.dequantize(values.reshape(-1, fmt.type_size)).reshape(-1)[: arrays[target].size]
    signs = sign * signs_of(values).reshape(arrays[target].shape)
    signed: Float32[np.ndarray, " ..."] = clip(space[target], (np.abs(arrays[target]) * signs)[None])[0]
    return signed


def _tensor(spec: TensorSpec, shape: list[int]) -> st.SearchStrategy[np.ndarray]:
    n = math.prod(shape)
    if spec.among is not None:
        arrays = spec.among.arrays
        return st.integers(0, len(arrays) - 1).map(lambda index: arrays[index])
    if spec.kind == "blocks":
        rows = math.prod(shape[:-1])
        drawn = blocks(spec.format or "", rows, shape[-1], largest_scale=spec.largest_scale)
        return drawn.map(lambda raw: raw.reshape(*shape[:-1], -1))
    if spec.kind == "positions":
        return positions(tuple(shape), low=int(spec.low), high=int(spec.high))
    if spec.kind == "tokens":
        listed = st.lists(st.integers(int(spec.low), int(spec.high)), min_size=n, max_size=n)
        return listed.map(lambda tokens: np.array(tokens, np.int32).reshape(shape))
    if spec.kind == "direction":
        return directions(n).map(lambda t: t.reshape(shape))
    if spec.kind == "gain":
        flat = _gains(n, spec.low, spec.high)
    elif spec.kind == "logits":
        flat = logits(n, max_abs=max(abs(spec.low), abs(spec.high)))
    else:
        flat = activations(n, max_abs=max(abs(spec.low), abs(spec.high)))
    return flat.map(lambda x: clip(spec, x.reshape(1, *shape))[0])


def _gains(n: int, low: float, high: float) -> st.SearchStrategy[Float64[np.ndarray, " n"]]:
    """One to three levels in [low, high], drawn by their logarithm, in runs or scattered."""

    def expand(levels: list[float], share: float, seed: int) -> Float64[np.ndarray, " n"]:
        rng = np.random.default_rng(seed)
        picked = np.where(rng.random(n) < share, rng.integers(0, len(levels), n), 0)
        drawn: Float64[np.ndarray, " n"] = np.array(levels)[np.sort(picked) if seed % 2 == 0 else picked]
        return drawn

    log = st.floats(math.log(low), math.log(high)).map(math.exp)
    level = st.one_of(st.sampled_from([high, low]), log)
    return st.builds(expand, st.lists(level, min_size=1, max_size=3), st.floats(0, 1), st.integers(0, 2**32 - 1))
