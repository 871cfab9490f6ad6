"""Search: engine -> confirm -> minimise -> judge.

    result = search(targets.get("softmax"), {"n": 7}, seconds=10, seed=0)
    result.verdict, result.value, result.bound, result.case

The clock and a deterministic amount of work bound a search together: WORK_PER_SECOND is what a slow core evaluates in a
second, so on most machines the work ends first and equal seeds give equal witnesses, bit for bit.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.cases import draws
from diffuzz.cases.case import Case
from diffuzz.judging.company import PLACES, Chance, Company, of_rows, standard
from diffuzz.judging.evidence import Judged
from diffuzz.judging.examined import ended, hung
from diffuzz.judging.opening import CandidateError
from diffuzz.judging.policies import explaining
from diffuzz.judging.problem import Measurement, Problem, open_problem
from diffuzz.judging.question import Question
from diffuzz.judging.verdict import Verdict, same
from diffuzz.minimising.minimise import PATIENCE, SpentError, minimise
from diffuzz.registry import one_line, place_of
from diffuzz.searching import engines
from diffuzz.searching.engines import EngineError
from diffuzz.searching.objective import (
    WORK_PER_SECOND,
    Budget,
    BudgetSpentError,
    Found,
    Objective,
    Unsteady,
)
from diffuzz.searching.reproduction import CALLS, FEW_CALLS, counted, in_company, shows, simpler_company
from diffuzz.searching.result import SearchResult
from diffuzz.searching.state import State
from diffuzz.targets.outcome import Arrays, Outcome
from diffuzz.targets.target import Target
from diffuzz.telling import Phase, tell

if TYPE_CHECKING:
    from diffuzz.models.rows import Rows

# Evaluations that end with a hang, of which each takes as long as the patience with it: then its case is simple enough.
MOST_HANGS = 5
# The same for rows that end a process, of which each starts two others: a second or two.
MOST_CRASHES = 40
# Seconds of work for minimising; of a function that is judged, what is left of the budget, within these.
MINIMISING, LEAST_MINIMISING = 3.0, 1.0
# Calls in which a witness must show the same, or else processes, where it shows it in their first call only.
STEADY, FRESH = 10, 4
# Share of its value that a row beside a case keeps for it, and a case whose value is left to chance.
LEAST_KEPT = 1e-6
# A search that judges a function ends this many seconds after its budget, whatever is left to simplify.
OVERTIME = 2.0
# Rows of the first, uncompiled evaluation.
FIRST_ROWS = 8
# Constructions of a target that are evaluated before anything is compiled.
FIRST_STARTS = 32


class NoValueError(ValueError):
    """A target of which no case has a value; one line."""


class MissingDependencyError(ImportError):
    """A requested engine or oracle needs a package that is not installed; the message says how to get it."""


def search(
    target: Target,
    given: Mapping[str, object] | None = None,
    question: Question | None = None,
    *,
    engine: str = "auto",
    seconds: float = 10.0,
    seed: int | None = None,
    threshold: float | None = None,
    keep: float | None = None,
    largest: bool = False,
    first: bool = False,
    minimise_best: bool = True,
    minimising: bool = True,
    without: Collection[str] = (),
    weights: Rows | None = None,
    warm_up: float | None = None,
    state: State | None = None,
    on_found: Callable[[Found], None] | None = None,
    on_smaller: Callable[[float], None] | None = None,
) -> SearchResult:
    """Search the space of a question for the largest value; see the module's docstring.

    Args:
        target: what is searched.
        given: parameters of the target, text or numbers; the others have their defaults.
        question: what is asked: the target's own claim if None, ``Judge("my_kernels.py:f")`` a user's function,
            ``Compare("apr", "ggml")`` two kernels.
        engine: one of ``diffuzz.searching.engines.names()``.
        seconds: budget.
        seed: random seed, an integer of at least 0; a random one, in the result, if None.
        threshold: T of the claim "value > T", finite; the question's default if None.
        keep: share of the value that the minimised witness must keep, 0 < keep <= 1; the target's own if None, 0.999
            of nearly all.
        largest: go on for the whole budget and look for the largest value, where implementations are judged: such a
            search else stops at its first value above the threshold, which shows all there is to show.
        first: stop there in a search of a target's own claim, too.
        minimise_best: make the best case simpler, too, where implementations are judged and it is no witness.
        minimising: make the best case simpler at all, and look for it in a fresh process; one that is searched on need
            not be.
        without: engines that the engine ``auto`` leaves alone, such as ``pbt``, which needs Hypothesis.
        weights: rows of a model (see diffuzz.models.rows) that the weights of all cases are taken from; then only the
            rest of a case is searched. Format and length follow from them.
        warm_up: seconds that a candidate which compiles may compile beside the budget; as many as the budget has if
            None. When they are over, and it has got a few, it gets no more new sizes.
        state: what an earlier search of the same question has left, its result's ``state``: this one goes on there.
        on_found: called with every improvement.
        on_smaller: called while the witness is minimised (see diffuzz.minimising.minimise).

    A candidate, or a library, that fails on a case (it crashes, hangs, takes all memory, raises, or returns something
    else than its signature says) is wrong there: the value is inf, and ``failure`` says how. One that failed, and on
    the same rows in a fresh process did not, is mentioned in ``passing``.

    What a function of whole batches does wrong only beside other rows is a case in its ``company``, and what it does
    wrong now and then a case with its ``chance``: how often it was seen in so many calls. A witness is measured in a
    fresh process before it counts. What is not had again there, or anywhere, keeps a state, or is rarer than was
    looked: ``unsteady`` says so. It is the result if nothing else is wrong and it was seen at least twice, but no
    entry, since it would not replay. An interrupt (Ctrl-C) ends a search, and what was found is kept.

    Raises:
        ValueError: seconds, seed, threshold, keep or warm_up out of range.
        ParameterError, UnknownNameError, EngineError, CandidateError, QuestionError, MissingDependencyError,
        MissingKernelsError, MissingArraysError, HandingError, NoValueError: one line each.
    """
    if keep is None:
        # What is no target is told so where it is opened.
        keep = float(getattr(target, "keep", 1.0))
    _check_arguments(seconds, seed, threshold, keep)
    if warm_up is not None and not (_is_number(warm_up) and 0 <= warm_up < math.inf):
        raise ValueError(f"warm_up={warm_up!r}: a number of seconds is needed")
    if first and largest:
        raise ValueError("first=True, largest=True: the first witness or the largest value; give one of them")
    engines.get(engine)
    seed = secrets.randbits(32) if seed is None else seed
    began = time.monotonic()
    tell(Phase("loading"))
    with _opened(target, given, question, threshold, weights) as problem:
        first = first or (problem.judges and not largest)
        enough = problem.threshold if first else None
        objective = Objective(
            problem,
            Budget(seconds, seconds * WORK_PER_SECOND, warm_up=seconds if warm_up is None else warm_up),
            on_found=on_found,
            enough=enough,
            engine=engine,
            without=frozenset(without),
            before=State() if state is None else state,
        )
        interrupted = _run(objective, engine, np.random.default_rng(seed))
        if not (objective.valued or problem.judges or interrupted or not objective.evaluations):
            raise NoValueError(
                f"target {target.name}: none of {objective.evaluations} cases has a value: they are not admissible, or "
                "their values are NaN or smaller than their noise; laws.check says which"
            )
        if objective.judged == 0 and objective.best is None and objective.unsteady is None and not interrupted:
            raise NoValueError(
                f"target {target.name}: nothing could be judged: in none of {objective.evaluations} cases does the "
                "arithmetic promise anything of the result (it overflows, is NaN, or divides by what may be zero)"
            )
        made = _witness(
            objective, keep, on_smaller, hurried=interrupted, minimise_best=minimise_best, minimising=minimising
        )
        leisurely = not (interrupted or made.interrupted) and made.company is None and made.chance is None
        tell(Phase("explaining"))
        policies = explaining(problem, made.case, made.measurement) if leisurely and made.case is not None else ()
        libraries = problem.environment()
    return SearchResult(
        problem=problem,
        engine=engine,
        seed=seed,
        budget_s=seconds,
        evaluations=objective.evaluations,
        seconds=time.monotonic() - began,
        stopped="interrupted" if interrupted else objective.stopped or "ideas",
        verdict=problem.verdict(made.measurement),
        measurement=made.measurement,
        case=made.case,
        history=objective.history,
        coverage=objective.coverage,
        libraries=libraries,
        first=first,
        default_threshold=threshold is None,
        company=made.company,
        chance=made.chance,
        unsteady=made.unsteady,
        interrupted=interrupted or made.interrupted,
        minimising_timed_out=made.timed_out,
        policies=policies,
        unminimised=made.failed,
        judged=objective.judged,
        state=_state(objective, made),
        kept=objective.kept,
        work_s=objective.work / max(WORK_PER_SECOND, 1.0),
    )


def _state(objective: Objective, made: _Witness) -> State:
    """What the next search begins with: of a function that is wrong with the witness as it is shown."""
    state, problem = objective.state, objective.problem
    shown = made.company is None and made.chance is None and made.unsteady is None
    return (
        attrs.evolve(state, best=made.case, value=made.measurement.value)
        if problem.judges and made.case is not None and shown
        else state
    )


def _opened(
    target: Target,
    given: Mapping[str, object] | None,
    question: Question | None,
    threshold: float | None,
    weights: Rows | None,
) -> Problem:
    if weights is None:
        return open_problem(target, given, question, threshold=threshold)
    from diffuzz.judging import holding

    problem = open_problem(target, holding.given_with(target, given, question, weights), question, threshold=threshold)
    try:
        return holding.held(problem, weights)
    except ValueError:
        problem.close()
        raise


def _check_arguments(seconds: float, seed: int | None, threshold: float | None, keep: float) -> None:
    if not _is_number(seconds) or not 0 < seconds < math.inf:
        raise ValueError(f"seconds={seconds!r}: a positive number is needed")
    if seed is not None and not (isinstance(seed, (int, np.integer)) and seed >= 0):
        raise ValueError(f"seed={seed!r}: an integer of at least 0 is needed")
    if threshold is not None and not (_is_number(threshold) and math.isfinite(threshold)):
        raise ValueError(f"threshold={threshold!r}: a finite number is needed")
    if not _is_number(keep) or not 0 < keep <= 1:
        raise ValueError(f"keep={keep!r}: a share of the value, 0 < keep <= 1, is needed")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating))


def _run(objective: Objective, engine: str, rng: np.random.Generator) -> bool:
    """Run an engine until the budget is spent; True if the user interrupted it."""
    try:
        tell(Phase("searching"))
        objective.begin_with(objective.before)
        if not objective.problem.target.engine:
            # First values at once, however long compiling takes.
            objective.for_engine("sampling").evaluate(draws.structured(objective.space, rng, FIRST_ROWS))
        if engine == "auto" and objective.problem.has_screen:
            # The constructions that the target knows, too: where they reach the bound there is nothing to compile, and
            # on a machine with other things to do compiling may take the whole budget. Other draws stay the same.
            made = objective.problem.starts(rng.spawn(1)[0], min(FIRST_STARTS, objective.rows))
            if made is not None:
                objective.for_engine("starts").evaluate(made)
        objective.stop_if_over()
        looked_at = objective.evaluations

        from diffuzz.searching.screen import compile_screen

        if objective.problem.has_screen:
            tell(Phase("compiling"))
        objective.use_screen(compile_screen(objective.problem, objective.rows))
        for _ in engines.started(engine, objective, rng):
            # An engine of somebody else may evaluate nothing for ever.
            objective.stop_if_over()
        if objective.evaluations == looked_at:
            name = objective.problem.target.name
            raise EngineError(f"this engine has nothing to work with in target {name}: choose another")
    except BudgetSpentError:
        return False
    except KeyboardInterrupt:
        return True
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("jax", "jaxlib", "hypothesis"):
            raise
        raise MissingDependencyError(
            f"a search needs the package {error.name}, which is not installed: pip install {error.name}"
        ) from error
    return False


@attrs.frozen
class _Witness:
    """The case that a search ends with, what it measures and how it is had again; how minimising ended: by the user, by
    the clock, or because something failed, which it says; and what did not come again.
    """

    case: Case | None
    measurement: Measurement
    company: Company | None = None
    chance: Chance | None = None
    unsteady: Unsteady | None = None
    interrupted: bool = False
    timed_out: bool = False
    failed: str | None = None


def _witness(
    objective: Objective,
    keep: float,
    on_smaller: Callable[[float], None] | None,
    hurried: bool,
    minimise_best: bool,
    minimising: bool,
) -> _Witness:
    """The best case, minimised, and what it measures in a fresh process, or else what was above the threshold, but was
    not had again.
    """
    problem, best, unsteady = objective.problem, objective.best, objective.unsteady
    wrong = best is not None and best.value - best.noise > problem.threshold
    if unsteady is not None and unsteady.seen > 1 and not wrong:
        # Results outside the bound that were really returned, more than once.
        lost = unsteady.found
        return _Witness(lost.case, Measurement(lost.value, lost.noise, problem.measure), unsteady=unsteady)
    if best is None:
        return _Witness(None, Measurement(0.0, 0.0, problem.measure), unsteady=unsteady)
    if not minimising or (problem.judges and not wrong and not minimise_best):
        return _Witness(
            best.case, problem.measured(best.case, company=best.company), best.company, best.chance, unsteady
        )
    seconds, patience = _minimising(objective, hurried)
    end = objective.seconds + patience
    try:
        simpler = _Simpler(problem, best, keep, seconds, lambda: end - objective.seconds, on_smaller)
        case, company = simpler.case()
        made = _Witness(case, NOTHING_MEASURED, company, best.chance, unsteady, simpler.interrupted, simpler.timed_out)
        if problem.steady or not wrong:
            return attrs.evolve(made, measurement=problem.measured(case, company=company))
        return _confirmed(problem, best, made, lambda: objective.seconds < end)
    except KeyboardInterrupt:
        # There is no time for a simpler one; the one that was found is still a witness.
        known = Measurement(best.value, best.noise, problem.measure)
        return _Witness(best.case, known, best.company, best.chance, unsteady, interrupted=True)
    except Exception as error:
        # A part of the user may raise on a case that only minimising tries. What was found is not lost by that.
        why = f"{place}: {one_line(error)}" if (place := place_of(error)) else one_line(error)
        known = Measurement(best.value, best.noise, problem.measure)
        return _Witness(best.case, known, best.company, best.chance, unsteady, failed=why)


NOTHING_MEASURED = Measurement(0.0, 0.0, "")


@attrs.define
class _Simpler:
    """Minimises what a search found: the case, in its company if it needs one, and then that company."""

    problem: Problem
    best: Found
    keep: float
    seconds: float
    left: Callable[[], float]
    on_smaller: Callable[[float], None] | None
    interrupted: bool = False
    timed_out: bool = False

    def case(self) -> tuple[Case, Company | None]:
        """The simplest case and company."""
        problem, best = self.problem, self.best
        company, chance, keep = best.company, best.chance, self.keep
        if chance is not None:
            if not chance.often:
                # Each trial would take too many calls.
                return best.case, company
            # Values by chance differ from call to call.
            keep = LEAST_KEPT
        evaluate = None
        if company is not None or chance is not None:
            evaluate = in_company(problem, company, chance)
        elif _only_beside_others(problem, best.case):
            # In one call rather than in all that a case is measured in, where that is enough.
            middle = _middle(problem, best.case)
            showing = shows(problem, problem.evaluate_beside(best.case.batch(), middle))[0]
            evaluate = in_company(problem, middle if showing else None, None)
        case = self._minimised(best.case, keep, evaluate)
        if company is None or chance is not None:
            return case, company
        return case, simpler_company(problem, case, company, lambda row, show: self._minimised(row, LEAST_KEPT, show))

    def _minimised(self, case: Case, keep: float, evaluate: Callable[[Arrays], Outcome] | None) -> Case:
        if self.left() <= 0 or self.interrupted:
            return case
        alike = failing_alike(self.problem, case, evaluate) if math.isinf(self.best.value) else evaluate
        made = minimise(
            self.problem,
            case,
            keep=keep,
            seconds=self.seconds,
            patience=self.left(),
            evaluate=alike,
            apart=evaluate is not None,
            on_smaller=self.on_smaller,
        )
        self.interrupted, self.timed_out = made.interrupted, self.timed_out or made.timed_out
        return made.case


def _only_beside_others(problem: Problem, case: Case) -> bool:
    """Whether a case that is evaluated alone has its value in the company that every case is given."""
    if problem.steady:
        return False
    found = problem.explain(case)
    return isinstance(found, Judged) and found.alone is not None and not found.alone > problem.threshold


def _confirmed(problem: Problem, best: Found, made: _Witness, goes_on: Callable[[], bool]) -> _Witness:
    """The witness as it is in a fresh process: the minimised case, or the one that was found, or one of them by chance;
    if neither shows anything there, that is said, and it is not to be saved.
    """
    pairs = [(made.case, made.company), (best.case, best.company)]
    options = [(case, company) for case, company in pairs[: 1 if pairs[0] == pairs[1] else 2] if case is not None]
    largest, calls = -math.inf, 0
    tell(Phase("reproducing"))
    try:
        for case, company in options:
            # Each in a process of its own: a cache that one option fills must not show for another.
            problem.afresh()
            steady, first, taken = _steadily(problem, case, company)
            largest, calls = max(largest, first.value), calls + taken
            if steady:
                return attrs.evolve(made, case=case, company=company, chance=None, measurement=first)
        # What seemed to show every time shows often, if it is chance, but perhaps beside other rows only.
        for case, company in options if best.chance else _beside(problem, options):
            problem.afresh()
            found = counted(problem, case, company, 2 * CALLS if best.chance else FEW_CALLS, goes_on)
            if found.chance is not None:
                shown = Measurement(found.value, found.noise, problem.measure, found.evidence)
                return attrs.evolve(made, case=case, company=company, chance=found.chance, measurement=shown)
            largest, calls = max(largest, found.value), calls + found.calls
    except CandidateError:
        # It left something behind with which it does not load any more.
        pass
    lost = Unsteady(best, largest, seen=2, calls=calls)
    return attrs.evolve(
        made,
        case=best.case,
        company=None,
        chance=None,
        measurement=Measurement(best.value, best.noise, problem.measure),
        unsteady=lost,
    )


def _steadily(problem: Problem, case: Case, company: Company | None) -> tuple[bool, Measurement, int]:
    """Whether a case shows the same in a fresh process again and again, what it shows, and the calls that this took."""
    first = problem.measured(case, company=company)
    if problem.verdict(first) is not Verdict.CONFIRMED:
        return False, first, 1
    # A hang is one for certain, and takes the whole timeout.
    if isinstance(first.evidence, Judged) and first.evidence.failure and first.evidence.failure.kind == "hung":
        return True, first, 1

    def again() -> bool:
        other = problem.measured(case, company=company, explained=False)
        return problem.verdict(other) is Verdict.CONFIRMED and same(other.value, first.value, problem.tolerance)

    # Each call after a crash starts another process.
    times = 1 if math.isinf(first.value) else STEADY
    if all(again() for _ in range(times)):
        return True, first, 1 + times
    # What is so in the first call only is so in that of every replay.
    for _ in range(FRESH):
        problem.afresh()
        if not again():
            return False, first, 1 + times
    return True, first, 1 + times


def _beside(problem: Problem, options: list[tuple[Case, Company | None]]) -> list[tuple[Case, Company | None]]:
    """Each option; of a case without company also one in the company that every case is measured in."""
    contract = problem.target.contract
    if contract is None or not contract.batched:
        return options
    return [*options, *((case, _middle(problem, case)) for case, company in options if company is None)]


def _middle(problem: Problem, case: Case) -> Company:
    """The company of the first batch that every case is measured in."""
    batch, (row,) = standard(problem.space, case.batch(), problem.scalars)[0], PLACES[0]
    return of_rows(batch, row, [i for i in range(len(next(iter(batch.values())))) if i != row])


def _minimising(objective: Objective, hurried: bool) -> tuple[float, float]:
    """(seconds of work for minimising, most seconds on the clock)."""
    budget, rest = objective.budget, math.inf
    seconds = LEAST_MINIMISING if hurried else MINIMISING
    if objective.problem.judges:
        # By the work, which is the same in every run.
        left = budget.seconds * (1 - objective.work / budget.work)
        seconds, rest = min(seconds, max(left, LEAST_MINIMISING)), budget.seconds + OVERTIME - objective.seconds
    return seconds, min(PATIENCE * seconds, rest)


def failing_alike(
    problem: Problem, case: Case, evaluate: Callable[[Arrays], Outcome] | None = None
) -> Callable[[Arrays], Outcome]:
    """The exact evaluation, or ``evaluate``, in which only cases that fail as ``case`` does have a value: a crash stays
    a crash.

    It raises SpentError, before evaluating, after MOST_HANGS or MOST_CRASHES.
    """
    measure = evaluate or problem.evaluate
    failures, hangs, crashes = measure(case.batch()).failures, 0, 0
    wanted = 0 if failures is None else int(failures[0])

    def evaluate_alike(arrays: Arrays) -> Outcome:
        nonlocal hangs, crashes
        if hangs >= MOST_HANGS or crashes >= MOST_CRASHES:
            raise SpentError
        outcome = measure(arrays)
        codes = np.zeros(len(outcome.value), np.int64) if outcome.failures is None else outcome.failures
        hangs += int(hung(codes).any())
        crashes += int(ended(codes).sum())
        return attrs.evolve(outcome, value=np.where(codes == wanted, outcome.value, np.nan))

    return evaluate_alike
