"""The objective: the one door through which every evaluation of a search goes.

It counts evaluations, keeps the clock, remembers the best confirmed case and how it was reached, and shares promising
inputs between engines. An engine hands in batches; the batch is screened (by JAX, where the target can be), and every
row that promises more than the best is confirmed by the exact implementations before it counts.

A screen runs on its device while the engine makes the next batch: ``start`` hands a batch in and returns a function
that waits for its values. What is found when depends on this order alone, never on how long anything took.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import attrs
import numpy as np

from diffuzz import interruption
from diffuzz.cases.case import Case, unstack
from diffuzz.cases.domain import LARGEST_BATCH
from diffuzz.cases.space import Space
from diffuzz.judging.calls import lengths
from diffuzz.judging.company import Chance, Company
from diffuzz.judging.problem import Problem
from diffuzz.searching.coverage import Coverage
from diffuzz.searching.population import Population
from diffuzz.searching.reproduction import reproduced
from diffuzz.searching.state import Kept, State, kept_of
from diffuzz.targets.outcome import Bound, Outcome
from diffuzz.telling import Phase, Standing, listened, tell

Batch = dict[str, np.ndarray]
Values = tuple[np.ndarray, Batch]
# Starts to evaluate a batch, and returns what waits for its values.
Screen = Callable[[Batch], Callable[[], Values]]

# Share of the budget that one call may take, and rows of a batch that tell how long that is.
LONGEST_CALL, MANY_ROWS = 0.25, 64
# What a slow core evaluates in a second, in elements.
WORK_PER_SECOND = 2**24
ELITES = 64
# Elements of one batch: 2 MiB of float64, which stays in a core's cache.
ELEMENTS_PER_BATCH = 2**17
# The cost from which on a row takes long by itself: no call has to be amortised.
LONG = 2.0**16
# What a call costs however few rows it has: about a millisecond's worth of elements.
LEAST_WORK_PER_CALL = 2**15
# Rows of one batch that are confirmed at most.
CONFIRMED_PER_BATCH = 4
# A screen that says no more of the best case than this share too much is right about the order of others.
AGREEMENT = 1e-6
# A row promises more than the best if it is above it by this share: more than the float64 noise of a screen.
LEAST_GAIN = 1e-9
# A value counts only if the float64 noise of its evaluation is below this share of it.
LARGEST_NOISE = 0.05
# A value that a case has again up to this share, relative: then others have theirs, too.
SAME_AGAIN = 1e-9
# A value that a row alone has up to this share is the one that it had in its batch, summed in another order.
SAME = 0.01
# Values that did not come again and are looked for, of which each may take thousands of calls.
MOST_TRIES = 3
# Shapes for which a candidate may compile beside the budget however long that takes.
LEAST_SHAPES = 4
# Close enough to a proven bound to stop: nothing that matters is left to find.
ENOUGH = 1 - 1e-4


class BudgetSpentError(Exception):
    """Raised by Objective.evaluate once the budget is spent or the bound is reached; the best is kept."""


@attrs.frozen
class Found:
    """A confirmed case: its value, its noise, and which engine found it after how many evaluations and seconds."""

    case: Case
    value: float
    noise: float
    engine: str
    evaluations: int
    seconds: float
    # How a judged case has its value again, where it is not had alone, or not every time.
    company: Company | None = None
    chance: Chance | None = None


@attrs.frozen
class Unsteady:
    """A value that a case had once, and did not have again: ``again`` is what it had when it was evaluated alone.

    ``seen`` counts the results outside the bound that did not come again, in the whole search, and ``calls`` those in
    which they were looked for.
    """

    found: Found
    again: float
    seen: int = 1
    calls: int = 1


@attrs.frozen
class Budget:
    """Seconds on the clock and work in evaluated elements, whichever ends first; and seconds beside those for calls in
    which a candidate compiles, by default as many (of LEAST_SHAPES of them any).

    The work makes a search repeatable: two runs that end by work, or at the bound, make the same evaluations, however
    fast the machine happened to be.
    """

    seconds: float
    work: float = math.inf
    warm_up: float = attrs.field(kw_only=True)

    @warm_up.default
    def _as_many(self) -> float:
        return self.seconds


@attrs.define
class _Progress:
    """What a search has done and found so far, shared by the objectives of all its engines."""

    started: float
    screen: Screen | None
    # For how many shapes a candidate had compiled before the search began.
    warmed: int = 0
    elites: Population = attrs.field(factory=lambda: Population(ELITES))
    evaluations: int = 0
    # Rows that have a value: admissible, a number, and known far better than it is large.
    valued: int = 0
    # Rows that were judged, and how many they are by the share of their numbers that anything was promised of.
    judged_rows: int = 0
    judged: float = 0.0
    work: float = 0.0
    history: list[Found] = attrs.field(factory=list)
    unsteady: Unsteady | None = None
    # Calls of which a value was lost, the evaluations up to the last of them, and how often it was tried to have one
    # again.
    lost: int = 0
    lost_after: int = -1
    tries: int = 0
    stopped: str = ""
    # Whether the screen has given values: its first call compiles it.
    screened: bool = False
    running: list[Callable[[], Values]] = attrs.field(factory=list)
    # What the screen said of the best case.
    promised: float = math.nan
    # The sizes of each dimension that were evaluated, and numbers of cases in a call, where implementations are judged.
    sizes: dict[str, set[int]] = attrs.field(factory=dict)
    # The least seconds that a row has taken, in a batch of MANY_ROWS.
    quickest: float = 0.0
    swept: bool = False
    # The sizes of each dimension that the engine of shapes has dealt, in the searches before, too.
    dealt: dict[str, set[int]] = attrs.field(factory=dict)
    # What the best case of the search before has in this one.
    kept: float | None = None
    # What gives what each engine keeps for the next search.
    keeping: dict[str, Callable[[], Kept]] = attrs.field(factory=dict)


@attrs.frozen
class Objective:
    """The objective of a search over ``problem``, as the engine ``engine`` has it; see the module's docstring.

    ``screen`` starts to evaluate a batch and returns a function that waits for ``(values float64[b], batch)``, the
    batch with better perturbation directions where it knows some (see diffuzz.searching.screen); without one the exact
    evaluation screens. ``on_found`` is called with each improvement. A value above ``enough``, beyond its noise, ends
    the search. Engines that run others leave those ``without`` alone. ``before`` is what an earlier search left.
    """

    problem: Problem
    budget: Budget
    screen_to_begin_with: Screen | None = attrs.field(default=None, alias="screen")
    on_found: Callable[[Found], None] | None = None
    clock: Callable[[], float] = time.monotonic
    enough: float | None = None
    engine: str = ""
    without: frozenset[str] = frozenset()
    before: State = attrs.field(factory=State)
    _progress: _Progress = attrs.field()
    _shapes: dict[str, tuple[int, ...]] = attrs.field()

    @_progress.default
    def _begin(self) -> _Progress:
        dealt = {name: set(sizes) for name, sizes in self.before.dealt.items()}
        return _Progress(self.clock(), self.screen_to_begin_with, len(self.problem.warm_ups), dealt=dealt)

    @_shapes.default
    def _full_shapes(self) -> dict[str, tuple[int, ...]]:
        return {spec.name: spec.array_shape() for spec in self.space.tensors}

    def for_engine(self, name: str) -> Objective:
        """The same search, in which what is found from now on is credited to the engine ``name``."""
        return attrs.evolve(self, engine=name)

    def charge(self, work: float, evaluations: int = 0) -> None:
        """Count work, in evaluated elements, and evaluations that an engine does beside those it asks for here."""
        self._progress.work += work
        self._progress.evaluations += evaluations

    def use_screen(self, screen: Screen | None) -> None:
        """Screen batches with ``screen`` from now on."""
        self._progress.screen = screen
        if screen is None:
            tell(Phase("searching"))

    @property
    def space(self) -> Space:
        """The space of the problem."""
        return self.problem.space

    @property
    def bound(self) -> Bound | None:
        """The proven bound of the problem."""
        return self.problem.bound

    @property
    def screened(self) -> bool:
        """Whether batches are screened, by something that is compiled for one shape."""
        return self._progress.screen is not None

    @property
    def evaluations(self) -> int:
        """Rows that were evaluated so far."""
        return self._progress.evaluations

    @property
    def valued(self) -> int:
        """How many of them had a value."""
        return self._progress.valued

    @property
    def judged(self) -> float | None:
        """The share of the numbers of all cases of which the arithmetic promises anything; None where all are fixed."""
        progress = self._progress
        return progress.judged / progress.judged_rows if progress.judged_rows else None

    @property
    def work(self) -> float:
        """The work so far, in evaluated elements."""
        return self._progress.work

    @property
    def elites(self) -> Population:
        """The best cases of the full shape of all batches."""
        return self._progress.elites

    @property
    def history(self) -> tuple[Found, ...]:
        """Every improvement, in order."""
        return tuple(self._progress.history)

    @property
    def most_rows(self) -> int:
        """How many rows a call may have to end within LONGEST_CALL of the budget, as far as is known."""
        most = LONGEST_CALL * self.budget.seconds / max(self._progress.quickest, 1e-9)
        return int(min(most, LARGEST_BATCH))

    @property
    def coverage(self) -> Coverage:
        """The sizes that were evaluated."""
        return Coverage({name: frozenset(found) for name, found in self._progress.sizes.items()})

    @property
    def dealt(self) -> Mapping[str, set[int]]:
        """The sizes of each dimension that were dealt with, in the searches before, too; ``deal`` adds to them."""
        return self._progress.dealt

    def deal(self, name: str, size: int) -> None:
        """Remember that the size of a dimension is dealt with."""
        self._progress.dealt.setdefault(name, set()).add(size)

    def keep(self, engine: str, kept: Callable[[], Kept]) -> None:
        """What gives, at the end of this search, what an engine keeps for the next."""
        self._progress.keeping[engine] = kept

    @property
    def state(self) -> State:
        """What the next search begins with."""
        elites, best = self.elites, self.best
        names = [spec.name for spec in self.space.tensors] if len(elites) else []
        return State(
            None if best is None else best.case,
            0.0 if best is None else best.value,
            {name: frozenset(sizes) for name, sizes in self.dealt.items()},
            {"elites": kept_of({name: elites.take(name) for name in names}, elites.values)}
            | {engine: kept() for engine, kept in self._progress.keeping.items()},
            self.before.searches + 1,
        )

    @property
    def kept(self) -> float | None:
        """What the best case of the search before has in this one; -inf for no value, None if there is no such case."""
        return self._progress.kept

    def begin_with(self, state: State) -> None:
        """Evaluate the best case that an earlier search has left, and the others, if it has another value now."""
        kept = self.for_engine("kept")
        if (best := state.best_of(self.space)) is not None:
            self._progress.kept = float(kept.evaluate(best.batch())[0])
        batch, values = self.recalled("elites")
        if values is not None:
            self.elites.admit(batch, values)
        elif batch:
            kept.evaluate(batch)

    def recalled(self, engine: str) -> tuple[Batch, np.ndarray | None]:
        """The cases that an engine has kept, and their values, if those of the best case have not changed."""
        found = self.before.of(engine).recalled(self.space)
        if found is None:
            return {}, None
        now, then = self._progress.kept, self.before.value
        same = now is not None and (now == then or abs(now - then) <= SAME_AGAIN * abs(then))
        return found if same else (found[0], None)

    @property
    def swept(self) -> bool:
        """Whether every size that is worth a look was looked at."""
        return self._progress.swept

    def has_swept(self) -> None:
        """Every size that is worth a look was looked at."""
        self._progress.swept = True

    @property
    def unsteady(self) -> Unsteady | None:
        """The largest value that did not come again, where values may depend on chance or on the batch."""
        return self._progress.unsteady

    @property
    def stopped(self) -> str:
        """Why the search is over: witness, bound reached, work or clock; empty while it is not."""
        return self._progress.stopped

    @property
    def best(self) -> Found | None:
        """The largest confirmed value so far."""
        return self._progress.history[-1] if self._progress.history else None

    @property
    def seconds(self) -> float:
        """Seconds since the search began, without those in which a candidate compiled, as far as there are for that."""
        return self.clock() - self._progress.started - min(self._warmed, self._most_warm_up)

    @property
    def warm(self) -> bool:
        """Whether no more time is left in which a candidate may compile: then new shapes cost time of the search."""
        return self.problem.compiles and 0 < self._most_warm_up <= self._warmed

    @property
    def _warmed(self) -> float:
        return sum(self.problem.warm_ups[self._progress.warmed :])

    @property
    def _most_warm_up(self) -> float:
        """Of whatever compiles slowly a few shapes are looked at all the same."""
        return max(self.budget.warm_up, sum(self.problem.warm_ups[self._progress.warmed :][:LEAST_SHAPES]))

    @property
    def rows(self) -> int:
        """A good batch size: enough rows to amortise a call, few enough to stay in cache; of rows that take long by
        themselves, such as a run of a model, as many as take a second.
        """
        rows = int(np.clip(ELEMENTS_PER_BATCH / self.space.elements, 16, 1024))
        if self.problem.cost < LONG:
            return rows
        return max(1, min(rows, int(WORK_PER_SECOND / (self.space.elements * self.problem.cost))))

    def evaluate(self, batch: Batch) -> np.ndarray:
        """Screened values of a batch, float64[b]; -inf for rows outside the space or without a value.

        Raises BudgetSpentError, before evaluating, once the search is over.
        """
        return self.refine(batch)[0]

    def refine(self, batch: Batch) -> Values:
        """As ``evaluate``, and the batch with each row's perturbation replaced where a worse one is known."""
        return self.start(batch)()

    def start(self, batch: Batch) -> Callable[[], Values]:
        """Begin to evaluate a batch, which must not be written to any more; the function that is returned waits for
        what ``refine`` returns, and is to be called once.

        Raises as ``stop_if_over`` does, before evaluating.
        """
        self.stop_if_over()
        batch = self.space.filled(batch)
        progress, rows = self._progress, len(next(iter(batch.values())))
        # A screen is compiled for batches of ``rows``, and fills up smaller ones.
        filled = -(-rows // self.rows) * self.rows / max(rows, 1) if progress.screen else 1.0
        size = sum(array.size for array in batch.values())
        self.charge(max(size * filled * self.problem.cost, LEAST_WORK_PER_CALL), rows)
        if self.problem.judges:
            self._cover(batch, rows)
        if self.problem.compiles:
            # Other scalar arguments would be compiled, too.
            batch = self.in_one_call(batch)
        self._tell()
        # Overflow and NaN are values like any other here; a row that has them does not count.
        with np.errstate(all="ignore"):
            running = progress.screen(batch) if progress.screen else None
            admissible = self.space.admissible(batch)

        def finish() -> Values:
            progress.running.remove(finish)
            with np.errstate(all="ignore"):
                if running is None:
                    values, refined = self._exact(batch, admissible)
                else:
                    screened, refined = running()
                    if not progress.screened:
                        progress.screened = True
                        tell(Phase("searching"))
                    counts = admissible & self._still_admissible(batch, refined) & ~np.isnan(screened)
                    values = np.where(counts, screened, -np.inf)
                    self._confirm(refined, values)
            progress.valued += int(np.count_nonzero(values > -np.inf))
            if all(array.shape[1:] == self._shapes[name] for name, array in refined.items()):
                progress.elites.admit(refined, values)
            return values, refined

        progress.running.append(finish)
        return finish

    def _tell(self) -> None:
        """Tell where the search stands, if anybody listens."""
        if not listened():
            return
        best, seconds = self.best, self.seconds
        tell(
            Standing(
                spent=max(seconds / max(self.budget.seconds, 1e-9), self.work / max(self.budget.work, 1e-9)),
                seconds=self.budget.seconds - seconds,
                evaluations=self.evaluations,
                value=None if best is None else best.value,
                engine="" if best is None else best.engine,
                threshold=self.problem.threshold,
                bound=None if self.bound is None else self.bound.value,
                judges=self.problem.judges,
            )
        )

    def in_one_call(self, batch: Batch) -> Batch:
        """The batch with the scalar arguments of its first row, so that one call gets all rows."""
        names = self.problem.scalars
        return {
            name: np.repeat(array[:1], len(array), axis=0) if name in names else array for name, array in batch.items()
        }

    def _cover(self, batch: Batch, rows: int) -> None:
        progress = self._progress
        if self.problem.batch is not None:
            # Of what compiles, in the calls that are made: they are filled up.
            made = lengths(rows, self.problem.batch, compiled=True) if self.problem.compiles else (rows,)
            progress.sizes.setdefault(self.problem.batch.name, set()).update(made)
        for spec in self.space.tensors:
            for name, size in spec.sizes(batch[spec.name][0]).items():
                progress.sizes.setdefault(name, set()).add(size)

    def _exact(self, batch: Batch, admissible: np.ndarray) -> Values:
        solved = self.problem.solve(batch)
        began = self.seconds
        outcome = self.problem.evaluate(solved)
        if outcome.promised is not None:
            self._progress.judged_rows += len(outcome.promised)
            self._progress.judged += float(outcome.promised.sum())
        self._time(len(admissible), self.seconds - began)
        values = np.where(admissible & self._still_admissible(batch, solved), _clean(outcome), -np.inf)
        self._record(solved, values, outcome)
        return values, solved

    def _time(self, rows: int, seconds: float) -> None:
        """Remember what a row takes at least, so that a function that is slow is not called with tens of thousands."""
        if self.problem.judges and rows >= MANY_ROWS:
            quickest = self._progress.quickest
            self._progress.quickest = min(quickest or math.inf, seconds / rows)

    def _still_admissible(self, batch: Batch, refined: Batch) -> np.ndarray:
        """Which rows of the arrays that were replaced are in the space: what evaluates a batch is not believed either,
        because a case outside can be neither minimised nor saved.
        """
        changed = {name: np.asarray(array) for name, array in refined.items() if array is not batch[name]}
        if not changed:
            return np.ones(len(next(iter(batch.values()))), bool)
        return Space(tuple(spec for spec in self.space.tensors if spec.name in changed)).admissible(changed)

    def _confirm(self, batch: Batch, values: np.ndarray) -> None:
        """Evaluate the best rows exactly while they promise more than is known, and correct their values."""
        order = np.argsort(-values, kind="stable")[:CONFIRMED_PER_BATCH]
        # The first row alone: where the screen is right about it, the others promise no more.
        for rows in (order[:1], order[1:]):
            best = self.best.value if self.best else 0.0
            # Against what the screen said of the best, where it did not say too much: ties with it promise nothing.
            promised = self._progress.promised
            least = promised if promised <= best * (1 + AGREEMENT) else best
            promising = rows[values[rows] > least * (1 + LEAST_GAIN)]
            if not promising.size:
                return
            chosen = {name: np.asarray(array)[promising] for name, array in batch.items()}
            outcome = self.problem.evaluate(chosen)
            screened, exact = values[promising], _clean(outcome)
            # A row that the exact implementations do not confirm must not lead an engine on.
            values[promising] = exact
            if self._record(chosen, exact, outcome):
                self._progress.promised = float(screened[np.argmax(exact)])

    def _record(self, batch: Batch, values: np.ndarray, outcome: Outcome) -> bool:
        """Whether the best row is a new best case, which is kept; a row that alone has less does not count."""
        for _ in range(CONFIRMED_PER_BATCH):
            row = int(np.argmax(values))
            value, noise = float(values[row]), float(outcome.noise[row])
            if not value > (self.best.value if self.best else 0.0):
                return False
            found = Found(unstack(batch, row), value, noise, self.engine, self.evaluations, self.seconds)
            again = self._alone(found, batch, row)
            if again is not None:
                self._progress.history.append(again)
                self._tell()
                if self.on_found:
                    self.on_found(again)
                return True
            values[row] = -np.inf
        # None of these had its value again: it would be the same with the others.
        values[values > (self.best.value if self.best else 0.0)] = -np.inf
        return False

    def _alone(self, found: Found, batch: Batch, row: int) -> Found | None:
        """What was found, with the value that it has without the rest of its batch; None where that is no new best.

        A value above the threshold that did not come again is looked for (see diffuzz.searching.reproduction), or else
        remembered: below it, a sum in another order is no news.
        """
        problem, threshold = self.problem, self.problem.threshold
        if problem.steady:
            return found
        outcome = problem.evaluate(found.case.batch())
        value, noise = float(_clean(outcome)[0]), float(outcome.noise[0])
        if found.value - found.noise > threshold and not value >= found.value * (1 - SAME):
            again = None if value - noise > threshold else self._reproduced(found, float(outcome.value[0]), batch, row)
            if again is not None:
                found, value, noise = again, again.value, again.noise
            elif not value - noise > threshold:
                return None
        if not value > (self.best.value if self.best else 0.0):
            return None
        return attrs.evolve(found, value=value, noise=noise)

    def _reproduced(self, found: Found, alone: float, batch: Batch, row: int) -> Found | None:
        """What was found, and how it is had again; None, and it is remembered, if it is not."""
        progress, seen, calls = self._progress, 0, 1
        # One call is seen once, however many of its rows are wrong.
        if another := progress.lost_after != self.evaluations:
            progress.lost_after = self.evaluations
            progress.lost += 1
        if another and progress.tries < MOST_TRIES:
            progress.tries += 1
            tell(Phase("reproducing"))
            made = reproduced(self.problem, batch, row, lambda: self.seconds < self.budget.seconds)
            tell(Phase("searching"))
            # The exact result, which is most of the work of an evaluation, is computed once.
            self.charge(made.calls * LEAST_WORK_PER_CALL / 4)
            if made.again:
                return attrs.evolve(found, value=made.value, noise=made.noise, company=made.company, chance=made.chance)
            seen, calls = made.seen, calls + made.calls
        known = progress.unsteady
        progress.lost += seen
        if known is None or found.value > known.found.value:
            known = Unsteady(found, alone, calls=0 if known is None else known.calls)
        progress.unsteady = attrs.evolve(known, seen=progress.lost, calls=known.calls + calls)
        return None

    def stop_if_over(self) -> None:
        """Raise BudgetSpentError once the search is over; batches that run then still count. An interrupt is raised
        here, too (see diffuzz.interruption).
        """
        reason = self._over()
        if not reason:
            interruption.check()
            return
        self._progress.stopped = reason
        for finish in tuple(self._progress.running):
            finish()
        raise BudgetSpentError(reason)

    def _over(self) -> str:
        """Why the search is over, or nothing."""
        best = self.best
        if best and self.enough is not None and best.value - best.noise > self.enough:
            return "witness"
        if best and ((self.bound and best.value >= ENOUGH * self.bound.value > 0) or math.isinf(best.value)):
            return "bound reached"
        if self.work >= self.budget.work:
            return "work"
        return "clock" if self.seconds >= self.budget.seconds else ""


def _clean(outcome: Outcome) -> np.ndarray:
    """Values that count: known far better than they are large; others are -inf."""
    value = np.asarray(outcome.value, np.float64)
    counts = ~np.isnan(value) & ((outcome.noise <= LARGEST_NOISE * value) | np.isinf(value))
    return np.where(counts, value, -np.inf)
