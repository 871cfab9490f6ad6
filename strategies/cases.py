"""Cases of a space: every tensor from the strategy of its kind, together admissible."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from diffuzz.case import Case
from diffuzz.space import Dim, Space, TensorSpec
from strategies.activations import activations, bounded
from strategies.logits import logits
from strategies.perturbations import directions
from strategies.positions import positions
from strategies.weights import blocks


def cases(space: Space, *, smaller_shapes: bool = False) -> st.SearchStrategy[Case]:
    """Admissible cases of ``space``: each tensor by its kind, within its range.

    Shapes are the largest ones; with ``smaller_shapes`` also smaller admissible ones. Shrinks towards the simplest case
    of each tensor's strategy.
    """
    return _sizes(space, smaller_shapes).flatmap(lambda sizes: _with_sizes(space, sizes))


def _sizes(space: Space, smaller: bool) -> st.SearchStrategy[dict[str, int]]:
    dims = {dim.name: dim for spec in space.tensors for dim in spec.shape}
    if not smaller:
        return st.just({name: dim.size for name, dim in dims.items()})

    def size(dim: Dim) -> st.SearchStrategy[int]:
        if dim.fixed:
            return st.just(dim.size)
        return st.integers(1, dim.size // dim.step).map(lambda steps: steps * dim.step)

    return st.fixed_dictionaries({name: size(dim) for name, dim in dims.items()})


def _with_sizes(space: Space, sizes: dict[str, int]) -> st.SearchStrategy[Case]:
    tensors = {spec.name: _tensor(spec, [sizes[dim.name] for dim in spec.shape]) for spec in space.tensors}
    return st.fixed_dictionaries(tensors).map(Case)


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
    if spec.kind == "logits":
        flat = logits(n, max_abs=max(abs(spec.low), abs(spec.high)))
    elif spec.kind == "gain":
        return _gains(n, spec.low, spec.high).map(lambda w: w.reshape(shape))
    else:
        top = max(abs(spec.low), abs(spec.high))
        flat = activations(n, max_abs=top, smallest_peak=min(spec.smallest_peak, top))
    return flat.map(lambda x: bounded(x, spec.low, spec.high, spec.smallest_peak).reshape(shape))


def _gains(n: int, low: float, high: float) -> st.SearchStrategy[np.ndarray]:
    """One to three levels in [low, high], drawn by exponent, in runs or scattered by seed."""

    def expand(levels: list[float], share: float, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        picked = np.where(rng.random(n) < share, rng.integers(0, len(levels), n), 0)
        return bounded(np.array(levels)[np.sort(picked) if seed % 2 == 0 else picked], low, high)

    log = st.floats(math.log(low), math.log(high)).map(math.exp)
    level = st.one_of(st.sampled_from([high, low]), log)
    return st.builds(expand, st.lists(level, min_size=1, max_size=3), st.floats(0, 1), st.integers(0, 2**32 - 1))
