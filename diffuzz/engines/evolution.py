"""Evolution: a population of cases, changed by moves that know what tensors mean, the better half surviving.

A (mu + lambda) strategy: each round makes a batch of children from parents picked by rank, each group of rows by one to
three moves drawn in proportion to how often they have paid (probability matching, with a floor so that none dies out),
evaluates it, and keeps the best distinct cases of parents and children. The first population is structured
(diffuzz.sampling). A population that stands still is started anew; the best are in ``objective.elites``, from which it,
like other engines, borrows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from diffuzz import moves, sampling
from diffuzz.objective import Batch, Objective
from diffuzz.space import TensorSpec

POPULATION = 128
GROUPS = 8
PATIENCE = 40
LEAST_SHARE = 0.25


def rounds(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """One generation a round, for ever."""
    available = moves.moves(objective.space)
    while True:
        credit = np.ones(len(available))
        objective.engine = "evolution"
        population, values = _first(objective, rng)
        yield
        idle = 0
        while idle < PATIENCE:
            objective.engine = "evolution"
            before = values[0]
            population, values = _generation(objective, rng, available, credit, population, values)
            idle = 0 if values[0] > before * (1 + 1e-6) else idle + 1
            yield


def _first(objective: Objective, rng: np.random.Generator) -> tuple[Batch, np.ndarray]:
    batch = sampling.structured(objective.space, rng, objective.rows)
    if objective.target.starts is not None:
        made = objective.target.starts(objective.params, rng, max(1, objective.rows // 8))
        batch = {name: np.concatenate([made[name], array]) for name, array in batch.items()}
    if objective.elites and rng.random() < 0.5:
        batch = {name: np.concatenate([objective.elites[name], array]) for name, array in batch.items()}
    values, batch = objective.refine(batch)
    return _survivors(batch, values)


def _generation(
    objective: Objective,
    rng: np.random.Generator,
    available: list[tuple[TensorSpec, Callable[[moves.Move], np.ndarray]]],
    credit: np.ndarray,
    population: Batch,
    values: np.ndarray,
) -> tuple[Batch, np.ndarray]:
    rows = objective.rows
    parents = _by_rank(rng, len(values), rows)
    partners = _by_rank(rng, len(values), rows)
    batch = {name: array[parents] for name, array in population.items()}
    partner = {name: array[partners] for name, array in population.items()}
    if objective.elites:
        borrowed = rng.integers(0, len(objective.elite_values), rows)
        use = rng.random(rows) < 0.2
        for name, array in partner.items():
            array[use] = objective.elites[name][borrowed[use]]
    share = LEAST_SHARE / len(credit) + (1 - LEAST_SHARE) * credit / credit.sum()
    used = np.zeros((rows, len(available)), bool)
    for group in np.array_split(np.arange(rows), min(GROUPS, rows)):
        part = {name: array[group] for name, array in batch.items()}
        other = {name: array[group] for name, array in partner.items()}
        for index in rng.choice(len(available), rng.integers(1, 4), p=share / share.sum()):
            spec, function = available[index]
            part = moves.apply(function, moves.Move(spec, objective.space, part, other, rng))
            used[group, index] = True
        for name, array in part.items():
            batch[name][group] = array
    children, batch = objective.refine(batch)
    better = children > values[parents] * (1 + 1e-9)
    credit *= 0.98
    credit += (used & better[:, None]).sum(axis=0) / np.maximum(1, used.sum(axis=0))
    return _survivors(
        {name: np.concatenate([population[name], array]) for name, array in batch.items()},
        np.concatenate([values, children]),
    )


def _by_rank(rng: np.random.Generator, count: int, rows: int) -> np.ndarray:
    """Indices into a population sorted best first; the best is picked about eight times as often as the median."""
    return np.minimum((count * rng.random(rows) ** 3).astype(np.int64), count - 1)


def _survivors(batch: Batch, values: np.ndarray) -> tuple[Batch, np.ndarray]:
    """The best cases of distinct values, best first; at least one."""
    _, first = np.unique(values, return_index=True)
    keep = first[::-1][:POPULATION]
    return {name: array[keep] for name, array in batch.items()}, values[keep]
