"""Reproduction: how a value that a case had once, among others in a batch, can be had again.

A function that mixes up the rows of a batch has it in the same batch every time: then the fewest neighbours that show
it are looked for, and become the case's company. One that is wrong by chance has it now and then: then the case is
called again and again, and how often it was seen is counted. What is never had again is not a witness: the function
keeps a state from one call to the next, or fails more rarely than was looked.

What is counted is always a value above the threshold, by the same a-priori bound as everywhere, so that a correct
function, for which no value is above it, shows nothing however often it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import interruption
from diffuzz.cases.case import Case, unstack
from diffuzz.judging.company import MOST_DIFFERENT, Chance, Company, of_rows, runs
from diffuzz.judging.evidence import NOTHING, Evidence
from diffuzz.judging.problem import Problem
from diffuzz.targets.outcome import Arrays, Outcome

if TYPE_CHECKING:
    from jaxtyping import Bool

# Calls of the same batch that tell what always shows in it from chance.
BATCHES = 3
# More calls of it, and of the case alone, in which chance may show, and after how many sightings its rate is known.
MORE_BATCHES, FEW_CALLS, CALLS, SIGHTINGS = 61, 250, 2000, 3
# Rows of a company that are made simpler one by one.
MOST_SIMPLIFIED = 2


@attrs.frozen
class Reproduced:
    """How a value is had again: in which company, and by what chance if not every time; neither if it is not.

    ``seen`` and ``calls`` count results outside the bound. ``value``, ``noise`` and ``evidence`` are those of the first
    of them, or the largest value if there was none.
    """

    seen: int
    calls: int
    value: float
    noise: float = 0.0
    evidence: Evidence = NOTHING
    company: Company | None = None
    chance: Chance | None = None

    @property
    def again(self) -> bool:
        """Whether it was had again."""
        return self.company is not None or self.chance is not None


@attrs.define
class _Counter:
    """Counts calls, and those with a value above the threshold."""

    problem: Problem
    seen: int = 0
    calls: int = 0
    value: float = -np.inf
    noise: float = 0.0
    evidence: Evidence = NOTHING

    def add(self, outcome: Outcome, explain: Callable[[], Evidence] = lambda: NOTHING) -> bool:
        """Whether the one value of an outcome is above the threshold; the first such value is kept."""
        value, noise = float(outcome.value[0]), float(outcome.noise[0])
        wrong = bool(shows(self.problem, outcome)[0])
        if not self.seen and (wrong or value > self.value):
            self.value, self.noise = value, noise
            self.evidence = explain() if wrong else NOTHING
        self.calls += 1
        self.seen += wrong
        return wrong

    def result(self, company: Company | None = None, chance: Chance | None = None) -> Reproduced:
        """What was counted."""
        return Reproduced(self.seen, self.calls, self.value, self.noise, self.evidence, company, chance)


def shows(problem: Problem, outcome: Outcome) -> Bool[np.ndarray, " b"]:
    """Which values of an outcome are above the threshold, beyond their noise."""
    return np.asarray(outcome.value - outcome.noise > problem.threshold)


def counted(
    problem: Problem, case: Case, company: Company | None, calls: int, goes_on: Callable[[], bool]
) -> Reproduced:
    """Call a case, quite alone or in its company, until it was seen outside the bound SIGHTINGS times, ``calls`` times
    at most, and while it ``goes_on``.
    """
    counter, once = _Counter(problem), problem.repeated(case, company)
    while counter.calls < calls and counter.seen < SIGHTINGS and (counter.calls == 0 or goes_on()):
        interruption.check()
        counter.add(*once())
    return counter.result(company, Chance(counter.seen, counter.calls)) if counter.seen else counter.result()


def reproduced(problem: Problem, batch: Arrays, row: int, goes_on: Callable[[], bool]) -> Reproduced:
    """How the value of a row of a batch, which the row did not have alone, is had again; see the module's docstring."""
    case = unstack(batch, row)
    # Rows with other scalar arguments were in other calls.
    together = np.ones(len(next(iter(batch.values()))), bool)
    for name in problem.scalars:
        together &= (batch[name] == batch[name][row]).reshape(len(together), -1).all(axis=1)
    every = [int(i) for i in np.flatnonzero(together) if i != row]
    counter, once = _Counter(problem), problem.repeated(case, of_rows(batch, row, every))
    for _ in range(BATCHES):
        counter.add(*once())
    if counter.seen == BATCHES and every:
        return _in_company(problem, case, batch, row, every, counter, goes_on)
    whole = of_rows(batch, row, every)
    tries: list[tuple[Company | None, int]] = [(None, FEW_CALLS), (whole, MORE_BATCHES), (None, CALLS)]
    for company, calls in tries:
        if company is not None and not 0 < company.different <= MOST_DIFFERENT:
            continue
        found = counted(problem, case, company, calls, goes_on)
        if found.again:
            return found
        counter.calls += found.calls
    return counter.result()


def _in_company(
    problem: Problem,
    case: Case,
    batch: Arrays,
    row: int,
    every: list[int],
    counter: _Counter,
    goes_on: Callable[[], bool],
) -> Reproduced:
    """The fewest and simplest neighbours beside which a case has its value; none kept if too many are needed.

    A function may be wrong from some row of a batch on, or in batches of some size, whatever is in the other rows: so
    these are all alike at first, like the case or one of its neighbours, and the fewest of them are looked for.
    """

    def showing(company: Company) -> bool:
        interruption.check()
        return counter.add(problem.evaluate_beside(case.batch(), company))

    before, after = sum(i < row for i in every), sum(i > row for i in every)
    ends = [every[0], *every[max(before - 1, 0) : before + 1], every[-1]]
    kinds = [case, *(unstack(batch, i) for i in dict.fromkeys(ends))]
    company = next(filter(None, (_alike(kind, before, after, showing) for kind in kinds if goes_on())), None)
    if company is None:
        chosen = fewest(every, lambda rows: goes_on() and showing(of_rows(batch, row, rows)))
        company = of_rows(batch, row, chosen)
    if company.different > MOST_DIFFERENT or not showing(company):
        return counter.result()
    measured = problem.measured(case, company=company)
    return Reproduced(counter.seen, counter.calls, measured.value, measured.noise, measured.evidence, company)


def _alike(kind: Case, before: int, after: int, showing: Callable[[Company], bool]) -> Company | None:
    """The fewest rows of one kind, of so many before and after a case, beside which it shows; None if none do."""

    def beside(before: int, after: int) -> Company:
        return Company((kind,) * before, (kind,) * after)

    sides = [(before, 0), (0, after), (before, after)]
    found = next((side for side in sides if side != (0, 0) and showing(beside(*side))), None)
    if found is None:
        return None
    for place in (0, 1):
        fewer, enough = -1, found[place]
        while enough - fewer > 1:
            middle = (fewer + enough) // 2
            tried = (middle, found[1]) if place == 0 else (found[0], middle)
            if tried != (0, 0) and showing(beside(*tried)):
                enough = middle
            else:
                fewer = middle
        found = (enough, found[1]) if place == 0 else (found[0], enough)
    return beside(*found)


def fewest(rows: list[int], show: Callable[[list[int]], bool]) -> list[int]:
    """As few of the rows as still show it, by leaving out ever smaller groups (delta debugging); all if none can go.

    Ends alone, and neighbours, are tried first: they are what kernels mix up.
    """
    for simple in ([rows[0]], [rows[-1]]):
        if show(simple):
            return simple
    size = max(len(rows) // 2, 1)
    while size:
        start = 0
        while start < len(rows):
            fewer = rows[:start] + rows[start + size :]
            if fewer and show(fewer):
                rows = fewer
            else:
                start += size
        size //= 2
    return rows


def in_company(problem: Problem, company: Company | None, chance: Chance | None) -> Callable[[Arrays], Outcome]:
    """What evaluates batches for minimising such a case: each row in its company, as often as its chance needs."""
    calls = 1 if chance is None else chance.patience

    def evaluate(arrays: Arrays) -> Outcome:
        outcome = problem.evaluate_beside(arrays, company)
        for _ in range(calls - 1):
            if shows(problem, outcome).all():
                break
            other = problem.evaluate_beside(arrays, company)
            larger = other.value > outcome.value
            codes = [np.zeros(len(larger), np.int64) if o.failures is None else o.failures for o in (other, outcome)]
            outcome = Outcome(
                np.where(larger, other.value, outcome.value),
                np.where(larger, other.noise, outcome.noise),
                np.where(larger, *codes) if any(o.failures is not None for o in (other, outcome)) else None,
            )
        return outcome

    return evaluate


def simpler_company(
    problem: Problem, case: Case, company: Company, minimise_row: Callable[[Case, Callable[[Arrays], Outcome]], Case]
) -> Company:
    """The company, cut to the shapes of the case, with simpler rows beside which the case still shows its value.

    ``minimise_row(row, evaluate)`` makes one row simpler, where the value of a row is what the case has beside it.
    """
    fitted = company.fitted(case, problem.scalars)
    sides = [runs(side) for side in (fitted.before, fitted.after)]
    counts, place = [count for side in sides for count, _ in side], len(sides[0])
    rows = [row for side in sides for _, row in side]

    def arranged(rows: list[Case]) -> Company:
        whole = [(row,) * count for count, row in zip(counts, rows, strict=True)]
        return Company(sum(whole[:place], ()), sum(whole[place:], ()))

    def showing(rows: list[Case]) -> bool:
        return bool(shows(problem, problem.evaluate_beside(case.batch(), arranged(rows)))[0])

    plain = Case({name: np.zeros_like(array) for name, array in case.arrays.items()})
    if problem.space.admits(plain) and showing([plain] * len(rows)):
        return arranged([plain] * len(rows))
    for index, row in enumerate(rows[:MOST_SIMPLIFIED]):

        def evaluate(arrays: Arrays, index: int = index) -> Outcome:
            count = len(next(iter(arrays.values())))
            value, noise = np.full(count, np.nan), np.zeros(count)
            for i in range(count):
                other = unstack(arrays, i)
                if all(other[name].shape == case[name].shape for name in case.arrays):
                    beside = arranged([*rows[:index], other, *rows[index + 1 :]])
                    outcome = problem.evaluate_beside(case.batch(), beside)
                    value[i], noise[i] = outcome.value[0], outcome.noise[0]
            return Outcome(value, noise)

        rows[index] = minimise_row(row, evaluate)
    return arranged(rows)
