"""Smaller shapes: what an implementation does with lengths that no vector width divides, or that are below one.

Each round draws sizes for the dimensions that may be smaller than they are, most of them one, a power of two or next to
one, and evaluates a structured batch (diffuzz.sampling) of each shape. A sum of three terms is held to a sharper bound
than one of three hundred, and tails are code of their own. It is for the exact evaluation of implementations only:
where a search is for the largest value of a formula, the largest shape has it, and every shape would be compiled anew.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from diffuzz import sampling
from diffuzz.objective import Objective
from diffuzz.space import Dim

SHAPES_PER_ROUND = 4
ROWS = 32


def rounds(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """SHAPES_PER_ROUND batches a round, for ever; ends at once where there is one shape, or a compiled screen."""
    dims = {dim.name: dim for spec in objective.space.tensors for dim in spec.shape}
    free = [dim for dim in dims.values() if not dim.fixed and dim.size > dim.step]
    if not free or objective.screen is not None:
        return
    while True:
        for _ in range(SHAPES_PER_ROUND):
            objective.engine = "shapes"
            space = objective.space.resized({dim.name: _size(dim, rng) for dim in free})
            objective.evaluate(sampling.structured(space, rng, min(ROWS, objective.rows)))
        yield


def _size(dim: Dim, rng: np.random.Generator) -> int:
    """A size of a dimension: one step, a power of two of them, one less or more than that, or any."""
    most = dim.size // dim.step
    near = (1 << int(rng.integers(0, most.bit_length()))) + int(rng.integers(-1, 2))
    steps = near if rng.random() < 0.75 else int(rng.integers(1, most + 1))
    return int(np.clip(steps, 1, most)) * dim.step
