"""Minimise: a smaller and simpler case that shows the same.

    result = minimise(problem, case, keep=0.9)
    result.case, result.value, result.cost_before, result.cost

How simple a case is, diffuzz.minimising.simplicity says; what is tried is in the modules simplifications and edits.
Simplifications are evaluated many at a time by the problem's exact implementations, so what is kept is measured, never
assumed. The search is greedy and has no randomness: of each family of simplifications it takes the one with the least

    log(cost) + log(value) / log(keep)

among those that are admissible, lower the cost, keep the verdict and at least ``keep`` of the value, and goes on until
no family finds any. So value is spent only where it buys simplicity: the whole allowance for a cost lower by a factor
of e, a tenth of the allowance for a cost lower by a tenth. What rounding adds to a value beyond the proven bound counts
for nothing.

Edits are tried one by one, sorted by the harm that they do, and then taken together in prefixes of that order. This is
what delta debugging (Zeller and Hildebrandt, 2002) does by halving; a batch of prefixes has the answer in one step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import attrs
import numpy as np

from diffuzz import interruption
from diffuzz.cases import parts as case_parts
from diffuzz.cases.case import Case, unstack
from diffuzz.cases.parts import Part, Values
from diffuzz.cases.space import Space
from diffuzz.judging.problem import Problem
from diffuzz.minimising import edits, simplicity, simplifications
from diffuzz.minimising.edits import Edit
from diffuzz.targets.outcome import Arrays, Outcome
from diffuzz.telling import Phase, Smaller, tell

# A batch of 64 is where NumPy's overhead per call no longer matters; large cases are evaluated fewer at a time.
_ROWS = 64
_ELEMENTS_PER_BATCH = 2**19
# What is spent on the simplest cases there are, in elements: a few tenths of a second.
_SIMPLEST = 2**21
# Elements (times the target's cost) that are tried in a second by a typical core, and what a call costs at least.
_WORK_PER_SECOND = 2**25
_LEAST_WORK_PER_CALL = 2**14
# Times ``seconds`` on the clock, which ends what the work should have ended long before, on a machine with much else to
# do and for a target that costs five times what it says.
PATIENCE = 8.0
# Groups that a sequence is cut into, coarse to fine.
_GROUPS = (4, 16, 64, edits.MOST_EDITS)
# Merits that differ by less are the same: they are sums of a few rounded logarithms.
_SAME = 1e-9
# A case that costs less by no more than this reads the same: one more element or less in a long run.
_ALIKE = 1 / 20
# A value's noise may grow up to this share of the value.
NOISE = 0.01
# Powers of ``keep``, one stage for each: what can be had for next to no value is taken before any is spent.
_ALLOWANCES = (1 / 64, 1 / 8, 1)

# A case that would be an improvement, after its merit; None where there is none.
_Best = tuple[float, Case] | None
# What accepts an improvement of one sort, if there is one, and says whether it did.
_Family = Callable[["_State"], bool]


@attrs.frozen
class Minimised:
    """A minimised case, its value and noise, its cost before and after (see simplicity), and the evaluations.

    ``finished`` is False if the work or the time ran out before every simplification had been tried, or the user
    interrupted it; then ``interrupted`` is True. ``timed_out`` is True if the clock ended it: then another run may get
    further or less far.
    """

    case: Case
    value: float
    noise: float
    cost_before: float
    cost: float
    evaluations: int
    finished: bool
    interrupted: bool = False
    timed_out: bool = False


class SpentError(Exception):
    """The work or the time is spent, or what evaluates has had enough; what was accepted so far is the result."""


@attrs.frozen
class _Rule:
    """What a case must keep: the value, little noise, and the verdict; ``price`` weighs value against cost, and what
    exceeds ``enough`` is worth nothing.
    """

    value: float
    enough: float
    noise: float
    threshold: float | None
    price: float

    def admits(self, value: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """bool[rows]: what is good enough. An infinite value stays infinite, a finite one finite."""
        if math.isinf(self.value):
            return np.isposinf(value)
        good: np.ndarray = (value >= self.value) & (noise <= np.maximum(self.noise, NOISE * value)) & np.isfinite(value)
        return good if self.threshold is None else good & (value - noise > self.threshold)

    def merit(self, value: np.ndarray, cost: np.ndarray) -> np.ndarray:
        """Lower is better; inf for a value that is not positive or not a number."""
        if math.isinf(self.value):
            return np.where(np.isinf(value), np.log(cost), np.inf)
        usable = np.isfinite(value) & (value > 0)
        worth = np.log(np.minimum(np.where(usable, value, 1.0), self.enough))
        return np.where(usable, np.log(cost) - self.price * worth, np.inf)


@attrs.define
class _State:
    """The simplest case so far, as arrays and as parts, and everything that is needed to judge another."""

    space: Space
    evaluate: Callable[[Arrays], Outcome]
    rule: _Rule
    work: float
    deadline: float
    cost_per_element: float
    apart: bool
    rows: int
    arrays: Values
    parts: tuple[Part, ...]
    values: Values
    value: float
    noise: float
    cost: float
    part_costs: dict[str, float]
    on_smaller: Callable[[float], None] | None
    cost_before: float
    evaluations: int = 1
    version: int = 0
    # What the last call took on the clock.
    latest: float = 0.0
    timed_out: bool = False

    def measure(self, batch: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Values and noises of a batch: float64[rows] each, NaN for rows outside the space. Raises SpentError."""
        interruption.check()
        if self.work <= 0:
            raise SpentError
        started = time.monotonic()
        # A call that takes as long as the last one has to fit, too.
        if started + self.latest > self.deadline:
            self.timed_out = True
            raise SpentError
        elements = sum(array.size for array in batch.values())
        calls = len(next(iter(batch.values()))) if self.apart else 1
        self.work -= max(elements * self.cost_per_element, calls * _LEAST_WORK_PER_CALL)
        good = self.space.admissible(batch)
        value, noise = np.full(len(good), np.nan), np.full(len(good), np.nan)
        if good.any():
            outcome = self.evaluate({name: array[good] for name, array in batch.items()})
            value[good], noise[good] = outcome.value, outcome.noise
            self.evaluations += int(good.sum())
            self.latest = time.monotonic() - started
        return value, noise

    def batch(self, proposals: Sequence[Values]) -> tuple[Values, np.ndarray]:
        """Proposals as a batch of arrays, and the cost of each."""
        changed = {n for p in proposals for n in p if p[n] is not self.values[n]}
        touched = {part.tensor for part in self.parts if part.name in changed}
        values, cost = {}, np.full(len(proposals), self.cost)
        for part in self.parts:
            if part.tensor in touched:
                values[part.name] = np.stack([p[part.name] for p in proposals])
            if part.name in changed:
                cost += simplicity.part_cost(part, values[part.name]) - self.part_costs[part.name]
        joined = case_parts.join(self.parts, values)
        for name, array in self.arrays.items():
            if name not in joined:
                joined[name] = np.repeat(array[None], len(proposals), axis=0)
        return joined, cost

    @property
    def merit(self) -> float:
        """Merit of the present case."""
        return float(self.rule.merit(np.array(self.value), np.array(self.cost)))

    def improvement(self, best: _Best, batch: Values, cost: np.ndarray) -> _Best:
        """The better of ``best`` and the best improvement in a batch of cases with these costs."""
        cheaper = cost < self.cost - _ALIKE
        if not cheaper.any():
            return best
        batch, cost = {name: array[cheaper] for name, array in batch.items()}, cost[cheaper]
        return self._least(best, batch, cost, *self.measure(batch))

    def _least(self, best: _Best, batch: Values, cost: np.ndarray, value: np.ndarray, noise: np.ndarray) -> _Best:
        good = self.rule.admits(value, noise) & (cost < self.cost - _ALIKE)
        merit = np.where(good, self.rule.merit(value, cost), np.inf)
        index = int(np.argmin(merit))
        least = self.merit - _SAME if best is None else best[0]
        return (float(merit[index]), unstack(batch, index)) if merit[index] < least else best

    def accept(self, best: _Best) -> bool:
        """Make a case the present one if it is better when measured alone too: a value may depend on its batch."""
        if best is None or not self.space.admits(best[1]):
            return False
        case = best[1]
        value, noise = self.measure(case.batch())
        values, costs = _read(self.parts, case)
        cost = sum(costs.values())
        merit = float(self.rule.merit(value, np.array([cost]))[0])
        if not self.rule.admits(value, noise)[0] or cost >= self.cost - _ALIKE or merit >= self.merit - _SAME:
            return False
        self.arrays, self.values, self.part_costs = dict(case.arrays), values, costs
        self.value, self.noise, self.cost = float(value[0]), float(noise[0]), cost
        self.version += 1
        tell(Smaller(self.cost / self.cost_before, self.value))
        if self.on_smaller is not None:
            self.on_smaller(self.cost / self.cost_before)
        return True

    def choose(self, proposals: Iterator[Values]) -> bool:
        """Accept the best of some proposals of the present shape; False if none is an improvement."""
        best: _Best = None
        while chunk := list(islice(proposals, self.rows)):
            best = self.improvement(best, *self.batch(chunk))
        return self.accept(best)

    def combine(self, changes: Sequence[Edit]) -> bool:
        """Accept the best edit, or the best prefix of all edits by merit or by harm; False if none improves."""
        if not changes:
            return False
        best: _Best = None
        merits, values = [], []
        for start in range(0, len(changes), self.rows):
            batch, cost = self.batch([edit.apply(self.values) for edit in changes[start : start + self.rows]])
            value, noise = self.measure(batch)
            merits.append(self.rule.merit(value, cost))
            values.append(value)
            best = self._least(best, batch, cost, value, noise)
        chosen = _best_by_slot(changes, np.concatenate(merits))
        harm = -np.nan_to_num(np.concatenate(values), nan=-np.inf)
        for key in (np.concatenate(merits), harm):
            ordered = [changes[i] for i in chosen[np.argsort(key[chosen], kind="stable")]]
            prefixes = _prefixes(self.values, ordered)
            while chunk := list(islice(prefixes, self.rows)):
                best = self.improvement(best, *self.batch(chunk))
        return self.accept(best)


def _read(parts: tuple[Part, ...], case: Case) -> tuple[Values, dict[str, float]]:
    """The parts of one case, without a batch axis, and the cost of each."""
    batched = case_parts.split(parts, case.batch())
    costs = {part.name: float(simplicity.part_cost(part, batched[part.name])[0]) for part in parts}
    return {name: array[0] for name, array in batched.items()}, costs


def _best_by_slot(changes: Sequence[Edit], merits: np.ndarray) -> np.ndarray:
    """Indices of the edit with the least merit for each slot."""
    chosen: dict[object, int] = {}
    for index, edit in enumerate(changes):
        other = chosen.get(edit.slot)
        if other is None or merits[index] < merits[other]:
            chosen[edit.slot] = index
    return np.array(list(chosen.values()))


def _prefixes(values: Values, changes: Sequence[Edit]) -> Iterator[Values]:
    """The first 2, 3, ... changes applied: some 30 lengths, denser where few or nearly all are applied."""
    total = len(changes)
    lengths = {round(total * share) for share in np.linspace(0, 1, 17)}
    lengths |= {length for power in range(total.bit_length()) for length in (1 << power, total - (1 << power))}
    for length, edit in enumerate(changes, 1):
        values = edit.apply(values)
        if length > 1 and length in lengths:
            yield values


def _shapes(state: _State) -> bool:
    """Accept the best smaller shape."""
    best: _Best = None
    for alternatives in simplifications.shorter(state.space, state.arrays):
        batch = {name: np.stack([a[name] for a in alternatives]) for name in state.arrays}
        values = case_parts.split(state.parts, batch)
        cost = sum((simplicity.part_cost(part, values[part.name]) for part in state.parts), np.zeros(len(alternatives)))
        best = state.improvement(best, batch, cost)
    return state.accept(best)


def _columns(state: _State) -> bool:
    """Accept the best of the edits that change all parts alike, one dimension after the other."""
    return any(
        state.combine(alternatives)
        for dim in simplifications.dims_of(state.parts, state.values)
        for alternatives in edits.column_edits(state.parts, state.values, dim)
    )


def _proposals(propose: Callable[[Part, Values], Iterator[Values]], part: Part) -> _Family:
    """Accept the best of the proposals for one part."""
    return lambda state: state.choose(propose(part, state.values))


def _levels(part: Part) -> _Family:
    """Accept the best of the edits of a part's levels."""
    return lambda state: state.combine(edits.level_edits(part, state.values))


def _runs(part: Part, count: int) -> _Family:
    """Accept the best of the edits of a part's runs, in ``count`` groups."""
    return lambda state: state.combine(edits.run_edits(part, state.values, count))


def _elements(part: Part) -> _Family:
    """Accept the best way to set elements of a part to one of its default levels."""
    return lambda state: any(
        state.combine(edits.element_edits(part, state.values, level))
        for level in simplifications.defaults(part, state.values[part.name].reshape(-1))
    )


def _families(parts: Sequence[Part]) -> list[_Family]:
    """All families, in the order in which they are tried: what changes most comes first. Names are only left out."""
    if all(part.names for part in parts):
        return [_shapes]
    return [
        _shapes,
        *(_proposals(propose, part) for part in parts for propose in simplifications.ONE_PART),
        lambda state: state.choose(simplifications.aligned(state.parts, state.values)),
        lambda state: state.choose(simplifications.sorted_together(state.parts, state.values)),
        _columns,
        *(_runs(part, count) for count in _GROUPS for part in parts),
        *(_levels(part) for part in parts),
        *(_elements(part) for part in parts),
    ]


def _to_fixpoint(state: _State) -> None:
    """Try all families over and over until none has an improvement on the case that the last one left."""
    families = _families(state.parts)
    tried = [-1] * len(families)
    while any(version != state.version for version in tried):
        for index, family in enumerate(families):
            while tried[index] != state.version:
                tried[index] = state.version
                family(state)


def minimise(
    problem: Problem,
    case: Case,
    *,
    keep: float = 0.9,
    seconds: float = 5.0,
    patience: float | None = None,
    evaluate: Callable[[Arrays], Outcome] | None = None,
    apart: bool = False,
    on_smaller: Callable[[float], None] | None = None,
) -> Minimised:
    """A simpler admissible case with the same verdict on the problem's claim and at least ``keep`` of the value.

    Args:
        problem: whose case it is.
        case: a case of its space.
        keep: least share of the value to keep, 0 < keep <= 1.
        seconds: how much to try at most, as the work of so many seconds on a typical core; so equal cases give equal
            results.
        patience: seconds on the clock that end it, too, eight times ``seconds`` if None: only then does the result
            depend on the machine, and ``timed_out`` says so.
        evaluate: exact evaluation of a batch, in the place of the problem's own; it may raise SpentError to end it.
        apart: whether that makes a call for each case, and not one for a batch, which counts as so much more work.
        on_smaller: called with the cost of each simpler case that is accepted, as a share of the first one's.

    Returns:
        The result; after an interrupt, what there is by then. Its case is the given one if there is nothing simpler, or
        if its value is not positive (or NaN). An infinite value stays infinite, a finite one finite.

    Raises:
        InadmissibleError: the case is not in the space.
        ValueError: keep or seconds out of range.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep!r}: a share of the value, 0 < keep <= 1, is needed")
    if not seconds > 0:
        raise ValueError(f"seconds={seconds!r}: a positive number is needed")
    tell(Phase("minimising"))
    deadline = time.monotonic() + (PATIENCE * seconds if patience is None else patience)
    space = problem.space
    space.check(case)
    case = space.completed(case.arrays)
    measure = evaluate or problem.evaluate
    outcome = measure(case.batch())
    value, noise = float(outcome.value[0]), float(outcome.noise[0])
    parts = case_parts.parts_of(space)
    values, costs = _read(parts, case)
    cost = sum(costs.values())
    bound = problem.bound
    rule = _Rule(
        value=value * keep,
        enough=math.inf if bound is None or value > bound.ceiling else bound.value,
        noise=noise,
        threshold=problem.threshold if value - noise > problem.threshold else None,
        price=-1 / math.log(keep) if keep < 1 else 0.0,
    )
    work = sum(array.size for array in case.arrays.values()) * problem.cost
    state = _State(
        space=space,
        evaluate=measure,
        rule=rule,
        work=seconds * _WORK_PER_SECOND,
        deadline=deadline,
        cost_per_element=problem.cost,
        apart=apart,
        rows=int(np.clip(_ELEMENTS_PER_BATCH / work, 4, _ROWS)),
        arrays=dict(case.arrays),
        parts=parts,
        values=values,
        value=value,
        noise=noise,
        cost=cost,
        part_costs=costs,
        on_smaller=on_smaller,
        cost_before=cost,
    )
    finished, interrupted = True, False
    if value > 0:
        try:
            for allowance in _ALLOWANCES:
                state.rule = attrs.evolve(rule, value=value * keep**allowance)
                if not all(part.names for part in state.parts):
                    state.choose(simplifications.simplest(state.parts, state.values, int(_SIMPLEST / work)))
                _to_fixpoint(state)
        except SpentError:
            finished = False
        except KeyboardInterrupt:
            finished, interrupted = False, True
    # The very arrays that were given, where nothing changed.
    best = Case(state.arrays) if state.version else case
    return Minimised(
        best, state.value, state.noise, cost, state.cost, state.evaluations, finished, interrupted, state.timed_out
    )
