"""The objective: the one door through which every evaluation of a search goes.

It counts evaluations, keeps the clock, remembers the best confirmed case and how it was reached, and shares promising
inputs between engines. An engine hands in batches; the batch is screened (by JAX, where the target can be), and every
row that promises more than the best is confirmed by the exact implementations before it counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import attrs
import numpy as np

from diffuzz.case import Case, unstack
from diffuzz.space import Space
from diffuzz.target import Bound, Drift, Outcome, Params, Target

Batch = dict[str, np.ndarray]

ELITES = 64
# Elements of one batch: 2 MiB of float64, which stays in a core's cache.
ELEMENTS_PER_BATCH = 2**18
# What a call costs however few rows it has: about a millisecond's worth of elements.
LEAST_WORK_PER_CALL = 2**15
# Rows of one batch that are confirmed at most; a screen that is right about the order needs one.
CONFIRMED_PER_BATCH = 4
# A value counts only if the float64 noise of its evaluation is below this share of it.
LARGEST_NOISE = 0.05
# Close enough to a proven limit to stop: nothing that matters is left to find.
ENOUGH = 1 - 1e-4


class BudgetSpentError(Exception):
    """Raised by Objective.evaluate once the budget is spent or the limit is reached; the best is kept."""


@attrs.frozen
class Found:
    """A confirmed case: its value, its noise, and which engine found it after how many evaluations and seconds."""

    case: Case
    value: float
    noise: float
    engine: str
    evaluations: int
    seconds: float


@attrs.frozen
class Budget:
    """Seconds on the clock and work in evaluated elements, whichever ends first.

    The work makes a search repeatable: two runs that end by work, or at the limit, make the same evaluations, however
    fast the machine happened to be.
    """

    seconds: float
    work: float = math.inf


@attrs.define
class Objective:
    """State of one search over ``target`` with ``params``; see the module's docstring.

    ``screen`` maps a batch to ``(values [b], batch)`` quickly, the batch with better perturbation directions where it
    knows some (see diffuzz.screen); without one the exact evaluation screens. ``on_found`` is called with each
    improvement. Engines set ``engine`` to their name while they work.
    """

    target: Target
    params: Params
    budget: Budget
    screen: Callable[[Batch], tuple[np.ndarray, Batch]] | None = None
    on_found: Callable[[Found], None] | None = None
    clock: Callable[[], float] = time.monotonic
    engine: str = ""
    evaluations: int = 0
    work: float = 0.0
    history: list[Found] = attrs.field(factory=list)
    stopped: str = ""
    space: Space = attrs.field(init=False)
    bound: Bound | None = attrs.field(init=False)
    elites: Batch = attrs.field(init=False, factory=dict)
    elite_values: np.ndarray = attrs.field(init=False, factory=lambda: np.empty(0))
    _started: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.space = self.target.space(self.params)
        self.bound = self.target.bound(self.params)
        self._started = self.clock()

    @property
    def best(self) -> Found | None:
        """The largest confirmed value so far."""
        return self.history[-1] if self.history else None

    @property
    def seconds(self) -> float:
        """Seconds since the search began."""
        return self.clock() - self._started

    @property
    def rows(self) -> int:
        """A good batch size: enough rows to amortise a call, few enough to stay in cache."""
        return int(np.clip(ELEMENTS_PER_BATCH / (self.space.elements * self.target.cost), 16, 1024))

    def evaluate(self, batch: Batch) -> np.ndarray:
        """Screened values of a batch, float64[b]; -inf for rows outside the space or without a value.

        Raises BudgetSpentError, before evaluating, once the search is over.
        """
        return self.refine(batch)[0]

    def refine(self, batch: Batch) -> tuple[np.ndarray, Batch]:
        """As ``evaluate``, and the batch with each row's perturbation replaced where a worse one is known."""
        self._stop_if_done()
        # Overflow and NaN are values like any other here; a row that has them does not count.
        with np.errstate(all="ignore"):
            return self._refine(batch)

    def _refine(self, batch: Batch) -> tuple[np.ndarray, Batch]:
        rows = len(next(iter(batch.values())))
        admissible = self.space.admissible(batch)
        if self.screen is None:
            batch = self._solved(batch)
            outcome = self.target.question.evaluate(self.params, batch)
            values = np.where(admissible, _clean(outcome), -np.inf)
            self._account(rows)
            self._record(batch, np.argsort(-values, kind="stable")[:1], outcome, admissible)
        else:
            raw, batch = self.screen(batch)
            values = np.where(admissible & ~np.isnan(raw), raw, -np.inf)
            self._account(rows)
            self._confirm(batch, values)
        self._remember(batch, values)
        return values, batch

    def _solved(self, batch: Batch) -> Batch:
        question = self.target.question
        if isinstance(question, Drift) and question.solve is not None:
            return question.solve(self.params, batch)
        return batch

    def _account(self, rows: int) -> None:
        self.evaluations += rows
        self.work += max(rows * self.space.elements * self.target.cost, LEAST_WORK_PER_CALL)

    def _confirm(self, batch: Batch, values: np.ndarray) -> None:
        threshold = self.best.value if self.best else 0.0
        order = np.argsort(-values, kind="stable")[:CONFIRMED_PER_BATCH]
        # A screen may be a little low, so a row that only just misses is worth an exact look, too.
        promising = order[values[order] > threshold * (1 - 1e-6)]
        if not promising.size:
            return
        chosen = {name: np.asarray(array)[promising] for name, array in batch.items()}
        outcome = self.target.question.evaluate(self.params, chosen)
        exact = _clean(outcome)
        # A row that the exact implementations do not confirm must not lead an engine on.
        values[promising] = exact
        self._record(chosen, np.argsort(-exact, kind="stable")[:1], outcome, np.ones(len(promising), bool))

    def _record(self, batch: Batch, rows: np.ndarray, outcome: Outcome, admissible: np.ndarray) -> None:
        exact = _clean(outcome)
        for row in rows:
            value = float(exact[row])
            if not admissible[row] or not value > (self.best.value if self.best else 0.0):
                continue
            found = Found(
                unstack(batch, int(row)), value, float(outcome.noise[row]), self.engine, self.evaluations, self.seconds
            )
            self.history.append(found)
            if self.on_found:
                self.on_found(found)

    def _remember(self, batch: Batch, values: np.ndarray) -> None:
        order = np.argsort(-values, kind="stable")[:ELITES]
        if self.elite_values.size == ELITES and not values[order[0]] > self.elite_values[-1]:
            return
        pool = {name: np.asarray(array)[order] for name, array in batch.items()}
        if self.elites:
            pool = {name: np.concatenate([self.elites[name], array]) for name, array in pool.items()}
        pooled = np.concatenate([self.elite_values, values[order]])
        # Equal values are nearly always equal cases: one of each is enough.
        _, first = np.unique(pooled, return_index=True)
        first = first[np.isfinite(pooled[first]) | (pooled[first] > 0)]
        keep = first[np.argsort(-pooled[first], kind="stable")][:ELITES]
        self.elites = {name: array[keep] for name, array in pool.items()}
        self.elite_values = pooled[keep]

    def _stop_if_done(self) -> None:
        if (self.best and self.bound and self.best.value >= ENOUGH * self.bound.value > 0) or (
            self.best and math.isinf(self.best.value)
        ):
            self.stopped = "limit"
        elif self.work >= self.budget.work:
            self.stopped = "work"
        elif self.seconds >= self.budget.seconds:
            self.stopped = "clock"
        else:
            return
        raise BudgetSpentError(self.stopped)


def _clean(outcome: Outcome) -> np.ndarray:
    """Values that count: known far better than they are large; others are -inf."""
    value = np.asarray(outcome.value, np.float64)
    counts = ~np.isnan(value) & ((outcome.noise <= LARGEST_NOISE * value) | np.isinf(value))
    return np.where(counts, value, -np.inf)
