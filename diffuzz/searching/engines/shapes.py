"""Smaller shapes: what an implementation does with lengths that no vector width divides, or that are below one.

Each round draws sizes for the dimensions that may be smaller than they are, and evaluates a structured batch (see
diffuzz.cases.draws) of each shape, with as many rows as cost no more than a call costs anyway. Most of the sizes are
dealt from a shuffled deck of the SMALL smallest, so that none of these is left out for long; others are powers of two,
one more or less than a power of two, or log-uniform. A sum of three terms has a sharper bound than one of three
hundred, and the tails of vector loops are code of their own.

This engine serves the exact evaluation of implementations only. Where a search is for the largest value of a formula,
the largest shape has it, and every shape would be compiled anew.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from diffuzz.cases import draws
from diffuzz.cases.space import Dim, Space
from diffuzz.searching.objective import LEAST_WORK_PER_CALL, Objective

SHAPES_PER_ROUND, COMPILED_PER_ROUND = 8, 2
LEAST_ROWS, MOST_ROWS = 4, 128
# Steps of a dimension that are dealt from a deck, and those that are dealt first.
SMALL, SMALLEST = 256, 32


def rounds(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """SHAPES_PER_ROUND batches a round, for ever, or COMPILED_PER_ROUND where each shape is compiled; ends at once
    where there is one shape, or a compiled screen.
    """
    dims = {dim.name: dim for spec in objective.space.tensors for dim in spec.shape}
    free = [dim for dim in dims.values() if not dim.fixed and dim.size > dim.step]
    if not free or objective.screened:
        return
    decks: dict[str, list[int]] = {dim.name: [] for dim in free}
    while True:
        for _ in range(COMPILED_PER_ROUND if objective.problem.compiles else SHAPES_PER_ROUND):
            space = objective.space.resized({dim.name: _size(dim, decks[dim.name], rng) for dim in free})
            objective.evaluate(draws.structured(space, rng, _rows(space, objective)))
        yield


def _rows(space: Space, objective: Objective) -> int:
    rows = LEAST_WORK_PER_CALL / (space.elements * objective.problem.cost)
    return int(np.clip(rows, LEAST_ROWS, MOST_ROWS))


def _size(dim: Dim, deck: list[int], rng: np.random.Generator) -> int:
    """A size of a dimension: the next of the deck, which is shuffled anew when it is empty; a power of two of steps,
    one less or more than that; or any, the small ones more often.
    """
    most, kind = dim.size // dim.step, rng.random()
    if kind < 5 / 8:
        if not deck:
            sizes = rng.permutation(min(most, SMALL)) + 1
            # From the end of the deck: the smallest, in a random order, then the others.
            deck += sizes[np.argsort(sizes <= SMALLEST, kind="stable")].tolist()
        steps = deck.pop()
    elif kind < 7 / 8:
        steps = (1 << int(rng.integers(0, most.bit_length()))) + int(rng.integers(-1, 2))
    else:
        steps = int(np.exp(rng.uniform(0, np.log(most + 1))))
    return int(np.clip(steps, 1, most)) * dim.step
