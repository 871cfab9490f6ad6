"""Cases of a space: every tensor from the strategy of its kind, together admissible."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from diffuzz import formats
from diffuzz.case import Case
from diffuzz.sampling import clip
from diffuzz.space import Dim, Space, TensorSpec
from strategies.activations import activations
from strategies.logits import logits
from strategies.perturbations import directions, signs_of
from strategies.positions import positions
from strategies.weights import blocks


def cases(space: Space, *, smaller_shapes: bool = False) -> st.SearchStrategy[Case]:
    """Admissible cases of ``space``: each tensor by its kind, within its range.

    An activation that meets weights (TensorSpec.against) sometimes takes their signs, and the direction of a
    perturbation those of what it perturbs, or the opposite ones. Shapes are the largest ones; with ``smaller_shapes``
    also smaller admissible ones. Shrinks towards the simplest case of each tensor's strategy.
    """
    dims = {dim.name: dim for spec in space.tensors for dim in spec.shape}
    if not smaller_shapes:
        return _with_sizes(space, {name: dim.size for name, dim in dims.items()})
    smaller = st.fixed_dictionaries({name: _size(dim) for name, dim in dims.items()})
    return smaller.flatmap(lambda sizes: _with_sizes(space, sizes))


def _size(dim: Dim) -> st.SearchStrategy[int]:
    if dim.fixed:
        return st.just(dim.size)
    return st.integers(1, dim.size // dim.step).map(lambda steps: steps * dim.step)


def _with_sizes(space: Space, sizes: dict[str, int]) -> st.SearchStrategy[Case]:
    tensors = {spec.name: _tensor(spec, [sizes[dim.name] for dim in spec.shape]) for spec in space.tensors}
    # +1 and -1 give a tensor the signs of another, or the opposite ones; None leaves it as drawn.
    signed = {target: st.sampled_from([None, 1, -1]) for target in _sign_givers(space)}

    def together(arrays: dict[str, np.ndarray], signs: dict[str, int | None]) -> Case:
        for target, giver in _sign_givers(space).items():
            sign = signs[target]
            if sign is not None:
                arrays[target] = _with_signs(space, arrays, target, giver, sign)
        return Case(arrays)

    return st.builds(together, st.fixed_dictionaries(tensors), st.fixed_dictionaries(signed))


def _sign_givers(space: Space) -> dict[str, str]:
    """Names of the tensors whose signs may matter relative to another's: activation to weights, direction to input."""
    names = {spec.name for spec in space.tensors}
    met = {spec.name: spec.against for spec in space.of_kind("activations") if spec.against in names}
    moved = {spec.name: spec.name.removesuffix("_direction") for spec in space.of_kind("direction")}
    return {name: giver for name, giver in (met | moved).items() if giver in names}


def _with_signs(space: Space, arrays: dict[str, np.ndarray], target: str, giver: str, sign: int) -> np.ndarray:
    """The array ``target`` with the signs of ``giver`` (of the first row, where that is weights) times ``sign``."""
    spec, values = space[giver], arrays[giver]
    if spec.kind == "blocks":
        fmt = formats.get(spec.format or "")
        values = fmt.dequantize(values.reshape(-1, fmt.type_size)).reshape(-1)[: arrays[target].size]
    signs = sign * signs_of(values).reshape(arrays[target].shape)
    return clip(space[target], (np.abs(arrays[target]) * signs)[None])[0]


def _tensor(spec: TensorSpec, shape: list[int]) -> st.SearchStrategy[np.ndarray]:
    n = math.prod(shape)
    if spec.kind == "blocks":
        rows = math.prod(shape[:-1])
        drawn = blocks(spec.format or "", rows, shape[-1], largest_scale=spec.largest_scale)
        return drawn.map(lambda raw: raw.reshape(*shape[:-1], -1))
    if spec.kind == "positions":
        return positions(tuple(shape), low=int(spec.low), high=int(spec.high))
    if spec.kind == "direction":
        return directions(n).map(lambda t: t.reshape(shape))
    if spec.kind == "gain":
        flat = _gains(n, spec.low, spec.high)
    elif spec.kind == "logits":
        flat = logits(n, max_abs=max(abs(spec.low), abs(spec.high)))
    else:
        flat = activations(n, max_abs=max(abs(spec.low), abs(spec.high)))
    return flat.map(lambda x: clip(spec, x.reshape(1, *shape))[0])


def _gains(n: int, low: float, high: float) -> st.SearchStrategy[np.ndarray]:
    """One to three levels in [low, high], drawn by exponent, in runs or scattered by seed."""

    def expand(levels: list[float], share: float, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        picked = np.where(rng.random(n) < share, rng.integers(0, len(levels), n), 0)
        return np.array(levels)[np.sort(picked) if seed % 2 == 0 else picked]

    log = st.floats(math.log(low), math.log(high)).map(math.exp)
    level = st.one_of(st.sampled_from([high, low]), log)
    return st.builds(expand, st.lists(level, min_size=1, max_size=3), st.floats(0, 1), st.integers(0, 2**32 - 1))
