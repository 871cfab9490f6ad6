"""Witness sizes: how small minimising makes a found case, compared with what people use instead.

    for table in compare([targets.get("softmax")], seconds=3, minimising=5, seed=0):
        print(table.target, {row.way: row.size for row in table.rows})

For each target one case is searched for and minimised in three ways. All of them must keep the same: an admissible
case, the share ``keep`` of its value, no more noise than diffuzz allows itself, and the verdict. The search and
diffuzz.minimise are bounded by work, as usual; the other ways have ``minimising`` seconds on the clock, or the time
that diffuzz took if that is longer.

    diffuzz     diffuzz.minimise
    ddmin       Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing Input, IEEE TSE 28 (2002), on the
                numbers of the case (of a block: on its fields). Each number is kept or reset to 0 (to 1, if 0 is not
                admissible), one test at a time
    hypothesis  the shrinker of Hypothesis. It is given the case as the failing example of a test that draws every
                number separately, as hypothesis.extra.numpy does: its example database replays the case, then it is
                shrunk. A case of more than 8 KiB of choices is too large for it

The sizes are those of diffuzz.minimising.simplicity.Size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import attrs
import numpy as np

from diffuzz import interruption
from diffuzz.cases import parts as case_parts
from diffuzz.cases.case import Case
from diffuzz.cases.space import Space
from diffuzz.judging.problem import Problem, open_problem
from diffuzz.minimising import simplicity
from diffuzz.minimising.minimise import NOISE, PATIENCE, minimise
from diffuzz.minimising.simplicity import Size
from diffuzz.searching import engines
from diffuzz.searching.objective import WORK_PER_SECOND, Budget, BudgetSpentError, Found, Objective
from diffuzz.searching.screen import compile_screen
from diffuzz.studies.witnesses import shrinking
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target
from diffuzz.telling import parts


@attrs.frozen
class Row:
    """The result of one way to minimise the case.

    ``share`` is the part of the found value that is left. ``finished`` is False if time or work ran out. ``problem``
    says why the way could not begin; it is None if it could.
    """

    way: str
    size: Size
    share: float = 1.0
    seconds: float = 0.0
    evaluations: int = 0
    finished: bool = True
    problem: str | None = None


@attrs.frozen
class Table:
    """The results for one target: the value that was found (0 if there was none), and a row for the found case and for
    each way to minimise it.
    """

    target: str
    params: Params
    measure: str
    value: float
    rows: tuple[Row, ...]


class _OverError(BaseException):
    """The time is up. It is no Exception, which Hypothesis would take for a failure."""


@attrs.define
class Referee:
    """Says whether cases show what ``found`` shows, and keeps the last one that did as ``best``.

    Raises _OverError after ``seconds``.
    """

    problem: Problem
    found: Found
    keep: float
    seconds: float
    evaluations: int = 0
    best: Case = attrs.field(init=False)
    _deadline: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.best = self.found.case
        self._deadline = time.monotonic() + self.seconds

    def __call__(self, case: Case) -> bool:
        """Whether the case keeps what has to be kept (see the docstring of the module)."""
        interruption.check()
        if time.monotonic() > self._deadline:
            raise _OverError
        if not self.problem.space.admits(case):
            return False
        value, noise = self.measured(case)
        self.evaluations += 1
        good = self._good(value, noise)
        if good:
            self.best = case
        return good

    def measured(self, case: Case) -> tuple[float, float]:
        """(value, noise) of the exact evaluation."""
        outcome = self.problem.evaluate(case.batch())
        return float(outcome.value[0]), float(outcome.noise[0])

    def _good(self, value: float, noise: float) -> bool:
        found = self.found
        if math.isinf(found.value):
            return value == found.value
        quiet = noise <= max(found.noise, NOISE * value)
        threshold = self.problem.threshold
        sure = value - noise > threshold or found.value - found.noise <= threshold
        return math.isfinite(value) and value >= self.keep * found.value and quiet and sure


def compare(
    chosen: Sequence[Target],
    given: Params | None = None,
    *,
    seconds: float,
    minimising: float,
    keep: float = 0.999,
    seed: int = 0,
    on_table: Callable[[Table], None] | None = None,
) -> list[Table]:
    """A table for each target. If the user interrupts, the finished tables are returned.

    Args:
        given: parameters, the same for all targets.
        seconds: budget of each search.
        minimising: seconds for each way to minimise (see the docstring of the module).
        keep: share of the value that has to be kept.
        seed: random seed of the searches.
        on_table: called with each table.

    Raises ParameterError before anything runs.
    """
    problems = [open_problem(target, given) for target in chosen]
    tables: list[Table] = []
    for problem in parts(problems, "targets", lambda problem: problem.target.name):
        try:
            table = one(problem, seconds=seconds, minimising=minimising, keep=keep, seed=seed)
        except KeyboardInterrupt:
            break
        tables.append(table)
        if on_table:
            on_table(table)
    return tables


def one(problem: Problem, *, seconds: float, minimising: float, keep: float, seed: int) -> Table:
    """The table of one problem: search it, and minimise the found case in every way."""
    best, space = _found(problem, seconds, seed), problem.space
    if best is None:
        return Table(problem.target.name, problem.params, problem.measure, 0.0, ())
    rows = [Row("found", simplicity.size_of(space, best.case), seconds=best.seconds, evaluations=best.evaluations)]
    started = time.monotonic()
    ours = minimise(problem, best.case, keep=keep, seconds=minimising)
    spent = time.monotonic() - started
    if ours.interrupted:
        raise KeyboardInterrupt
    size, share = simplicity.size_of(space, ours.case), _share(ours.value, best.value)
    rows.append(Row("diffuzz", size, share, spent, ours.evaluations, ours.finished))
    patience = max(minimising, spent)
    for way, peer in (("ddmin", _ddmin), ("hypothesis", shrinking.shrink)):
        referee = Referee(problem, best, keep, patience)
        started = time.monotonic()
        finished, why = True, None
        try:
            peer(space, best.case, referee)
        except _OverError:
            finished = False
        except shrinking.TooLargeError as error:
            why = str(error)
        spent = time.monotonic() - started
        share = _share(referee.measured(referee.best)[0], best.value)
        size = simplicity.size_of(space, referee.best)
        rows.append(Row(way, size, share, spent, referee.evaluations, finished, why))
    return Table(problem.target.name, problem.params, problem.measure, best.value, tuple(rows))


def _share(value: float, whole: float) -> float:
    return 1.0 if value == whole else value / whole


def _found(problem: Problem, seconds: float, seed: int) -> Found | None:
    """The best case of the search that ``search --engine auto`` makes; None if it finds none."""
    objective = Objective(problem, Budget(PATIENCE * seconds, seconds * WORK_PER_SECOND))
    objective.use_screen(compile_screen(problem, objective.rows))
    with suppress(BudgetSpentError):
        for _ in engines.get("auto")(objective, np.random.default_rng(seed)):
            pass
    return objective.best


def _ddmin(space: Space, case: Case, shows: Callable[[Case], bool]) -> None:
    """Apply ddmin to the numbers of ``case`` that are not at their defaults."""
    parts = case_parts.parts_of(space)
    values = case_parts.split(parts, case.batch())
    defaults = {part.name: part.fit(np.zeros(1) if part.low <= 0 else np.ones(1)) for part in parts}
    flat = np.concatenate([np.ravel(values[part.name] != defaults[part.name]) for part in parts])
    ends = np.cumsum([values[part.name].size for part in parts])[:-1]

    def fails(kept: np.ndarray) -> bool:
        keeps = np.zeros(len(flat), bool)
        keeps[kept] = True
        chosen = {
            part.name: np.where(where.reshape(values[part.name].shape), values[part.name], defaults[part.name])
            for part, where in zip(parts, np.split(keeps, ends), strict=True)
        }
        return shows(Case({name: array[0] for name, array in case_parts.join(parts, chosen).items()}))

    ddmin(np.flatnonzero(flat), fails)


def ddmin(items: np.ndarray, fails: Callable[[np.ndarray], bool]) -> np.ndarray:
    """The algorithm ddmin: a subset of ``items`` [n] that fails, of which no single element can be left out.

    ``fails(items)`` must be true; it is not tested.
    """
    if not len(items) or fails(items[:0]):
        return items[:0]
    pieces = 2
    while len(items) > 1:
        subsets = np.array_split(items, pieces)
        smaller = next((subset for subset in subsets if fails(subset)), None)
        if smaller is not None:
            items, pieces = smaller, 2
            continue
        # With two pieces the complements are the pieces themselves.
        complements = (np.setdiff1d(items, subset) for subset in subsets) if pieces > 2 else iter(())
        smaller = next((rest for rest in complements if fails(rest)), None)
        if smaller is not None:
            items, pieces = smaller, pieces - 1
        elif pieces < len(items):
            pieces = min(2 * pieces, len(items))
        else:
            break
    return items
