"""Evolution: a population of cases, changed by moves that know what tensors mean, of which the better half survives.

It is a (mu + lambda) strategy. Each round makes a batch of children from parents picked by rank, and changes each group
of rows by one to three moves. Moves are drawn in proportion to how often they have paid (probability matching, with a
floor so that none dies out). The round evaluates the batch and keeps the best distinct cases of parents and children.
The first population is structured (see diffuzz.cases.draws). A population that stands still is started anew. The best
cases of all engines are in ``objective.elites``, from which this engine borrows like the others.

While a screen evaluates one batch, the next is made from the cases that are known by then. So children are one
generation behind, and the device and the host work at the same time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise

import attrs
import numpy as np

from diffuzz.cases import draws
from diffuzz.cases.space import TensorSpec
from diffuzz.searching import moves
from diffuzz.searching.objective import Batch, Objective, Values
from diffuzz.searching.population import Population
from diffuzz.searching.state import Kept, kept_of

POPULATION = 128
GROUPS = 8
PATIENCE = 40
LEAST_SHARE = 0.25
# Share of a move's credit that remains after a generation.
MEMORY = 0.98
# Share of the partners, from whom moves borrow, that are taken from the best cases of all engines.
FROM_ELITES = 0.2


def rounds(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """One generation a round, for ever."""
    batch, values = objective.recalled("evolution")
    kept = objective.before.of("evolution")
    credit, idle = kept.note("credit", len(moves.moves(objective.space))), kept.note("idle", 1)
    while True:
        tribe = _Tribe(objective, rng)
        objective.keep("evolution", tribe.kept)
        if credit is not None and (credit > 0).all():
            tribe.credit = credit
        if idle is not None:
            tribe.idle = int(np.clip(idle[0], 0, PATIENCE))
        if values is None:
            values, batch = objective.refine(batch or _first(objective, rng))
        tribe.population.admit(batch, values)
        # The population of the search before goes on; after it there are others.
        batch, values, credit, idle = {}, None, None, None
        yield
        while len(tribe.population) and tribe.idle < PATIENCE:
            tribe.generation()
            yield
        tribe.finish()


def _first(objective: Objective, rng: np.random.Generator) -> Batch:
    """A population to begin with; half of them know the best cases of all engines."""
    batch = draws.structured(objective.space, rng, objective.rows)
    made = objective.problem.starts(rng, max(1, objective.rows // 8))
    if made is not None:
        batch = {name: np.concatenate([made[name], array]) for name, array in batch.items()}
    if len(objective.elites) and rng.random() < 0.5:
        batch = {name: np.concatenate([objective.elites.take(name), array]) for name, array in batch.items()}
    return batch


@attrs.frozen
class _Brood:
    """Children that are being evaluated: the values of their parents, and the moves that made each group of them."""

    finish: Callable[[], Values]
    parents: np.ndarray
    used: list[np.ndarray]


@attrs.define
class _Tribe:
    """A population with the credit of its moves, and the children that are on their way."""

    objective: Objective
    rng: np.random.Generator
    population: Population = attrs.field(factory=lambda: Population(POPULATION))
    idle: int = 0
    available: list[tuple[TensorSpec, Callable[[moves.Move], None]]] = attrs.field(init=False)
    credit: np.ndarray = attrs.field(init=False)
    _running: deque[_Brood] = attrs.field(init=False, factory=deque)
    _starts: np.ndarray = attrs.field(init=False)
    _groups: list[slice] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.available = moves.moves(self.objective.space)
        self.credit = np.ones(len(self.available))
        rows = self.objective.rows
        ends = np.linspace(0, rows, min(GROUPS, rows) + 1).astype(int)
        self._starts = ends[:-1]
        self._groups = [slice(int(a), int(b)) for a, b in pairwise(ends)]

    def kept(self) -> Kept:
        """What the next search goes on with."""
        names = [spec.name for spec in self.objective.space.tensors] if len(self.population) else []
        cases = {name: self.population.take(name) for name in names}
        return kept_of(cases, self.population.values, {"credit": self.credit, "idle": np.array([float(self.idle)])})

    def generation(self) -> None:
        """Make children, start to evaluate them, and learn from those before them."""
        self._running.append(self._breed())
        # The exact evaluation has no device to work meanwhile: its values are used at once.
        self.finish(behind=1 if self.objective.screened else 0)

    def finish(self, behind: int = 0) -> None:
        """Learn from all children but the last ``behind`` broods."""
        while len(self._running) > behind:
            self._learn(self._running.popleft())

    def _breed(self) -> _Brood:
        population, rng, rows = self.population, self.rng, self.objective.rows
        parents, partners = self._by_rank(rows), self._by_rank(rows)
        names = [spec.name for spec in self.objective.space.tensors]
        batch = {name: population.take(name, parents) for name in names}
        share = LEAST_SHARE / len(self.credit) + (1 - LEAST_SHARE) * self.credit / self.credit.sum()
        cumulative = np.cumsum(share)
        used = []
        for group, count in zip(self._groups, rng.integers(1, 4, len(self._groups)), strict=True):
            part = {name: array[group] for name, array in batch.items()}
            # Rounding may leave the sum of the shares a little below 1.
            chosen = np.minimum(np.searchsorted(cumulative, rng.random(count)), len(share) - 1)
            for index in chosen:
                spec, function = self.available[index]
                move = moves.Move(spec, self.objective.space, part, self._partner(partners[group]), rng)
                moves.apply(function, move)
            used.append(chosen)
        return _Brood(self.objective.start(batch), population.values[parents], used)

    def _partner(self, ranks: np.ndarray) -> Callable[[str], np.ndarray]:
        """Other cases to borrow a tensor from, for the few moves that do."""

        def borrow(name: str) -> np.ndarray:
            array = self.population.take(name, ranks)
            elites = self.objective.elites
            if len(elites):
                use = self.rng.random(len(ranks)) < FROM_ELITES
                array[use] = elites.take(name, self.rng.integers(0, len(elites), np.count_nonzero(use)))
            return array

        return borrow

    def _learn(self, brood: _Brood) -> None:
        values, batch = brood.finish()
        better = values > brood.parents * (1 + 1e-9)
        shares = np.add.reduceat(better, self._starts, dtype=float) / np.diff(self._starts, append=len(better))
        paid, times = np.zeros(len(self.credit)), np.zeros(len(self.credit))
        for share, chosen in zip(shares, brood.used, strict=True):
            paid[chosen] += share
            times[chosen] += 1
        self.credit = MEMORY * self.credit + paid / np.maximum(1, times)
        before = self.population.values[0]
        self.population.admit(batch, values)
        self.idle = 0 if self.population.values[0] > before * (1 + 1e-6) else self.idle + 1

    def _by_rank(self, rows: int) -> np.ndarray:
        """Ranks of a population; the best is picked about eight times as often as the median."""
        count = len(self.population)
        return np.minimum((count * self.rng.random(rows) ** 3).astype(np.int64), count - 1)
