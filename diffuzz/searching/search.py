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
from collections.abc import Callable, Mapping

import attrs
import numpy as np

from diffuzz.cases import draws
from diffuzz.cases.case import Case
from diffuzz.judging.examined import hung
from diffuzz.judging.problem import Measurement, Problem, open_problem
from diffuzz.judging.question import Question
from diffuzz.minimising.minimise import SpentError, minimise
from diffuzz.searching import engines
from diffuzz.searching.engines import EngineError
from diffuzz.searching.objective import Budget, BudgetSpentError, Found, Objective
from diffuzz.searching.result import SearchResult
from diffuzz.targets.outcome import Arrays, Outcome
from diffuzz.targets.target import Target

WORK_PER_SECOND = 2**24
# Evaluations that end with a hang, of which each takes as long as the patience with it: then its case is simple enough.
MOST_HANGS = 5
# Rows of the first, uncompiled evaluation.
FIRST_ROWS = 8


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
    keep: float = 0.999,
    first: bool = False,
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
        keep: share of the value that the minimised witness must keep, 0 < keep <= 1.
        first: stop at the first value above the threshold, instead of looking for the largest.
        on_found: called with every improvement.
        on_smaller: called while the witness is minimised (see diffuzz.minimising.minimise).

    A candidate, or a library, that fails on a case (it crashes, hangs, takes all memory, raises, or returns something
    else than its signature says) is wrong there: the value is inf, and ``failure`` says how. One that failed, and on
    the same rows in a fresh process did not, is mentioned in ``passing``. A function that left its bound in a batch,
    and not again on that case alone, has a state, mixes up rows, or is left to chance: it is wrong, ``unsteady`` says
    so, and if nothing else is, that case is the result, but no entry, since it would not replay. An interrupt (Ctrl-C)
    ends a search, and what was found is kept.

    Raises:
        ValueError: seconds, seed, threshold or keep out of range.
        ParameterError, UnknownNameError, EngineError, CandidateError, QuestionError, MissingDependencyError,
        MissingKernelsError, NoValueError: one line each.
    """
    _check_arguments(seconds, seed, threshold, keep)
    engines.get(engine)
    seed = secrets.randbits(32) if seed is None else seed
    began = time.monotonic()
    with open_problem(target, given, question, threshold=threshold) as problem:
        enough = problem.threshold if first else None
        objective = Objective(
            problem, Budget(seconds, seconds * WORK_PER_SECOND), on_found=on_found, enough=enough, engine=engine
        )
        interrupted = _run(objective, engine, np.random.default_rng(seed))
        if not (objective.valued or problem.judges or interrupted or not objective.evaluations):
            raise NoValueError(
                f"target {target.name}: none of {objective.evaluations} cases has a value: they are not admissible, or "
                "their values are NaN or smaller than their noise; laws.check says which"
            )
        case, measurement, hurried = _witness(objective, keep, on_smaller, hurried=interrupted)
        libraries = problem.environment()
    return SearchResult(
        problem=problem,
        engine=engine,
        seed=seed,
        budget_s=seconds,
        evaluations=objective.evaluations,
        seconds=time.monotonic() - began,
        stopped="interrupted" if interrupted else objective.stopped or "ideas",
        verdict=problem.verdict(measurement),
        measurement=measurement,
        case=case,
        history=objective.history,
        libraries=libraries,
        first=first,
        default_threshold=threshold is None,
        unsteady=objective.unsteady,
        interrupted=interrupted or hurried,
    )


def _check_arguments(seconds: float, seed: int | None, threshold: float | None, keep: float) -> None:
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds={seconds!r}: a positive number is needed")
    if seed is not None and seed < 0:
        raise ValueError(f"seed={seed!r}: an integer of at least 0 is needed")
    if threshold is not None and not math.isfinite(threshold):
        raise ValueError(f"threshold={threshold!r}: a finite number is needed")
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep!r}: a share of the value, 0 < keep <= 1, is needed")


def _run(objective: Objective, engine: str, rng: np.random.Generator) -> bool:
    """Run an engine until the budget is spent; True if the user interrupted it."""
    try:
        # A first value at once, however long compiling takes.
        objective.for_engine("sampling").evaluate(draws.structured(objective.space, rng, FIRST_ROWS))
        looked_at = objective.evaluations

        from diffuzz.searching.screen import compile_screen

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


def _witness(
    objective: Objective, keep: float, on_smaller: Callable[[float], None] | None, hurried: bool
) -> tuple[Case | None, Measurement, bool]:
    """The best case, minimised, and what it measures, or else what was above the threshold once; True if the user
    interrupted that.
    """
    problem, best, unsteady = objective.problem, objective.best, objective.unsteady
    threshold = problem.threshold
    if unsteady is not None and unsteady.found.value > threshold and not (best and best.value - best.noise > threshold):
        found = unsteady.found
        return found.case, Measurement(found.value, found.noise, problem.measure), False
    if best is None:
        return None, Measurement(0.0, 0.0, problem.measure), False
    try:
        alike = failing_alike(problem, best.case) if math.isinf(best.value) else None
        seconds = 1.0 if hurried else 5.0
        made = minimise(problem, best.case, keep=keep, seconds=seconds, evaluate=alike, on_smaller=on_smaller)
        return made.case, problem.measured(made.case), made.interrupted
    except KeyboardInterrupt:
        # There is no time for a simpler one; the one that was found is still a witness.
        return best.case, Measurement(best.value, best.noise, problem.measure), True


def failing_alike(problem: Problem, case: Case) -> Callable[[Arrays], Outcome]:
    """The exact evaluation, in which only cases that fail as ``case`` does have a value: a crash stays a crash.

    It raises SpentError, before evaluating, after MOST_HANGS.
    """
    failures, hangs = problem.evaluate(case.batch()).failures, 0
    wanted = 0 if failures is None else int(failures[0])

    def evaluate_alike(arrays: Arrays) -> Outcome:
        nonlocal hangs
        if hangs >= MOST_HANGS:
            raise SpentError
        outcome = problem.evaluate(arrays)
        codes = np.zeros(len(outcome.value), np.int64) if outcome.failures is None else outcome.failures
        hangs += int(hung(codes).any())
        return attrs.evolve(outcome, value=np.where(codes == wanted, outcome.value, np.nan))

    return evaluate_alike
