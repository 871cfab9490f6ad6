"""Search: engine -> confirm -> minimise -> judge -> save.

    result = search(targets.get("softmax"), {"n": 7}, seconds=10, seed=0)
    result.verdict, result.value, result.bound, result.case

The clock and a deterministic amount of work bound a search together: WORK_PER_SECOND is what a slow core evaluates in a
second, so on most machines the work ends first and equal seeds give equal witnesses, bit for bit.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import shlex
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np

from diffuzz import corpus, engines, sampling, targets
from diffuzz.candidate import Candidate, CandidateError
from diffuzz.case import Case
from diffuzz.entry import Counterexample
from diffuzz.minimise import SpentError, minimise
from diffuzz.objective import Budget, BudgetSpentError, Found, Objective, Unsteady
from diffuzz.pair import PairError
from diffuzz.subject import Kernels, Subject, unlocated
from diffuzz.target import Arrays, Bound, Measurement, Outcome, Params, Target, evaluate
from diffuzz.verdict import Verdict, judge
from diffuzz.worker import KINDS

WORK_PER_SECOND = 2**24
# What measurements call the kind of a failure.
FAILURES = ("failure", "failure of A", "failure of B")
# Evaluations that end with a hang, of which each takes as long as the patience with it: then its case is simple enough.
MOST_HANGS = 5
# Rows of the first, uncompiled evaluation.
FIRST_ROWS = 8


class MissingDependencyError(ImportError):
    """A requested engine or oracle needs a package that is not installed; the message says how to get it."""


class EngineError(ValueError):
    """An engine that cannot search a target at all, such as gradients of a function of bytes."""


@attrs.frozen
class SearchResult:
    """What a search found out. ``case`` is None only if nothing admissible had a value above zero; ``seconds`` is all
    the time that it took, loading a candidate included.
    """

    target: Target
    params: Params
    engine: str
    seed: int
    budget_s: float
    evaluations: int
    seconds: float
    stopped: str
    limit: float
    bound: Bound | None
    verdict: Verdict
    measurement: Measurement
    case: Case | None
    history: tuple[Found, ...]
    candidate: str | None = None
    kernels: Kernels | None = None
    libraries: Mapping[str, str] = attrs.field(factory=dict)
    first: bool = False
    failure: str | None = None
    passing: str | None = None
    unsteady: Unsteady | None = None
    # By the user: the search, or only minimising.
    interrupted: bool = False

    @property
    def value(self) -> float:
        """The largest value found (of the minimised witness)."""
        return self.measurement.value

    @property
    def largest(self) -> float:
        """The largest value before minimising, which keeps nearly all of it (and sometimes finds more)."""
        return self.history[-1].value if self.history else 0.0

    @property
    def replays(self) -> bool:
        """Whether there is a case, and it has its value again when it is measured alone."""
        return self.case is not None and not (self.unsteady is not None and self.case is self.unsteady.found.case)

    @property
    def efficiency(self) -> float | None:
        """Share of the bound that the witness reaches, or None without a bound above zero."""
        if self.bound is None or not self.bound.value > 0:
            return None
        return self.value / self.bound.value


def search(
    target: Target,
    given: Mapping[str, Any] | None = None,
    *,
    engine: str = "auto",
    seconds: float = 10.0,
    seed: int | None = None,
    limit: float | None = None,
    keep: float = 0.999,
    first: bool = False,
    candidate: str | None = None,
    timeout: float = 10.0,
    kernels: Kernels | None = None,
    library: str | None = None,
    on_found: Callable[[Found], None] | None = None,
) -> SearchResult:
    """Search the space of ``target`` for the largest value; see the module's docstring.

    Args:
        given: parameters of the target, text or numbers; the others have their defaults.
        engine: one of ``diffuzz.engines.names()``.
        seconds: budget.
        seed: of everything random, an integer of at least 0; a random one, in the result, if None.
        limit: T of the claim "more than T", finite; the target's default if None.
        keep: share of the value that the minimised witness must keep, 0 < keep <= 1.
        first: stop at the first value above the limit, instead of looking for the largest.
        candidate: ``FILE.py:FUNCTION`` to test in the place of the implementation, in a process of its own.
        timeout: seconds that one call of the candidate may take.
        kernels: two implementations of the target's operation to compare (see diffuzz.pair).
        library: the folder or file that ``libggml`` stands for.
        on_found: called with every improvement.

    A candidate, or a library, that fails on a case (it crashes, hangs, takes all memory, raises, or returns something
    else than its signature says) is wrong there: the value is inf, and ``failure`` says how. One that failed, and on
    the same rows in a fresh process did not, is mentioned in ``passing``. A function that left its bound in a batch,
    and not again on that case alone, has a state, mixes up rows, or is left to chance: it is wrong, ``unsteady`` says
    so, and if nothing else is, that case is the result, but no entry, since it would not replay. An interrupt (Ctrl-C)
    ends a search, and what was found is kept.

    Raises:
        ValueError: seconds, seed, limit or keep out of range.
        ParameterError, UnknownEngineError, EngineError, CandidateError, PairError, MissingDependencyError,
        MissingKernelsError: one line each.
    """
    _check_arguments(seconds, seed, limit, keep)
    if library is not None and not any(name.startswith("libggml") for name in kernels or ()):
        raise PairError(f"library {library}: it stands for libggml, which is not one of the kernels; give --kernels")
    params = target.params(given)
    rounds = engines.get(engine)
    seed = secrets.randbits(32) if seed is None else seed
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        under_test = stack.enter_context(Candidate(candidate, timeout=timeout)) if candidate else None
        subject = Subject.of(target, params, candidate=under_test, kernels=kernels, library=library)
        target = subject.target
        limit = target.limit(params) if limit is None else limit
        objective = Objective(target, params, Budget(seconds, seconds * WORK_PER_SECOND), on_found=on_found)
        objective.enough = limit if first else None
        interrupted = _run(objective, rounds, np.random.default_rng(seed))
        case, measurement, hurried = _witness(objective, limit, keep, hurried=interrupted)
        libraries = subject.environment()
    failed = any(measurement.detail.get(name) for name in FAILURES)
    return SearchResult(
        target=target,
        params=params,
        engine=engine,
        seed=seed,
        budget_s=seconds,
        evaluations=objective.evaluations,
        seconds=time.monotonic() - began,
        stopped="interrupted" if interrupted else objective.stopped or "ideas",
        limit=limit,
        bound=objective.bound,
        verdict=judge(limit, measurement.value, measurement.noise, objective.bound),
        measurement=measurement,
        case=case,
        history=tuple(objective.history),
        candidate=candidate,
        kernels=None if subject.kernels is None else (unlocated(subject.kernels[0]), unlocated(subject.kernels[1])),
        libraries=libraries,
        first=first,
        failure=subject.failure if failed else None,
        passing=subject.passing,
        unsteady=objective.unsteady,
        interrupted=interrupted or hurried,
    )


def _check_arguments(seconds: float, seed: int | None, limit: float | None, keep: float) -> None:
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds={seconds!r}: a positive number is needed")
    if seed is not None and seed < 0:
        raise ValueError(f"seed={seed!r}: an integer of at least 0 is needed")
    if limit is not None and not math.isfinite(limit):
        raise ValueError(f"limit={limit!r}: a finite number is needed")
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep!r}: a share of the value, 0 < keep <= 1, is needed")


def _run(objective: Objective, rounds: engines.Rounds, rng: np.random.Generator) -> bool:
    """Run an engine until the budget is spent; True if the user interrupted it."""
    try:
        # A first value at once, however long compiling takes.
        objective.engine = "sampling"
        objective.evaluate(sampling.structured(objective.space, rng, FIRST_ROWS))
        looked_at = objective.evaluations

        from diffuzz.screen import compile_screen

        objective.screen = compile_screen(objective.target, objective.params, objective.rows)
        for _ in rounds(objective, rng):
            pass
        if objective.evaluations == looked_at:
            raise EngineError(f"this engine has nothing to work with in target {objective.target.name}: choose another")
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


def _witness(objective: Objective, limit: float, keep: float, hurried: bool) -> tuple[Case | None, Measurement, bool]:
    """The best case, minimised, and what it measures, or else what was above the limit once; True if the user
    interrupted that.
    """
    target, params = objective.target, objective.params
    best, unsteady = objective.best, objective.unsteady
    if unsteady is not None and unsteady.found.value > limit and not (best and best.value - best.noise > limit):
        found = unsteady.found
        return found.case, Measurement(found.value, found.noise, target.measure(params)), False
    if best is None:
        return None, Measurement(0.0, 0.0, target.measure(params)), False
    try:
        alike = _failing_alike(target, params, best.case) if math.isinf(best.value) else None
        seconds = 1.0 if hurried else 5.0
        made = minimise(target, params, best.case, keep=keep, limit=limit, seconds=seconds, evaluate=alike)
        return made.case, evaluate(target, params, made.case), made.interrupted
    except KeyboardInterrupt:
        # There is no time for a simpler one; the one that was found is still a witness.
        return best.case, Measurement(best.value, best.noise, target.measure(params)), True


def _failing_alike(target: Target, params: Params, case: Case) -> Callable[[Params, Arrays], Outcome]:
    """The exact evaluation, in which only cases that fail as ``case`` does have a value: a crash stays a crash.

    It raises SpentError, before evaluating, after MOST_HANGS.
    """
    measured = evaluate(target, params, case).detail
    kinds = {name: measured.get(name, 0.0) for name in FAILURES}

    hung, hangs = 1.0 + KINDS.index("hung"), 0

    def evaluate_alike(p: Params, arrays: Arrays) -> Outcome:
        nonlocal hangs
        if hangs >= MOST_HANGS:
            raise SpentError
        outcome = target.question.evaluate(p, arrays)
        alike = np.ones(len(outcome.value), bool)
        for name, kind in kinds.items():
            failed = np.asarray(outcome.detail.get(name, np.zeros(len(alike))))
            hangs += bool((failed == hung).any())
            alike &= failed == kind
        return attrs.evolve(outcome, value=np.where(alike, outcome.value, np.nan))

    return evaluate_alike


def command_of(result: SearchResult) -> str:
    """The command line that makes this search again."""
    words = ["python", "-m", "diffuzz", "search", "--target", result.target.name]
    for parameter in result.target.parameters:
        value = result.params[parameter.name]
        if value != parameter.default:
            words += ["--param", f"{parameter.name}={str(value).lower() if isinstance(value, bool) else value}"]
    budget = np.format_float_positional(result.budget_s, trim="-")
    words += ["--engine", result.engine, "--seed", str(result.seed), "--budget", f"{budget}s"]
    if result.limit != result.target.limit(result.params):
        words += ["--limit", f"{result.limit!r}"]
    if result.first:
        words.append("--first")
    if result.candidate is not None:
        words += ["--candidate", result.candidate]
    if result.kernels is not None:
        words += ["--kernels", ",".join(result.kernels)]
    return shlex.join(words)


def entry_of(result: SearchResult) -> Counterexample:
    """The corpus entry of a search that found something. Raises ValueError if it has no case that replays."""
    if result.case is None or not result.replays:
        raise ValueError("the search found no case that has its value again, so there is nothing to keep")
    found = {
        "engine": result.engine,
        "seed": result.seed,
        "evaluations": result.evaluations,
        "stopped by": result.stopped,
        "command": command_of(result),
    }
    if result.failure is not None:
        found["failure"] = result.failure
    return Counterexample(
        target=result.target.name,
        params=result.params,
        case=result.case,
        measure=result.measurement.measure,
        value=result.value,
        noise=result.measurement.noise,
        limit=result.limit,
        bound=None if result.bound is None else attrs.asdict(result.bound),
        verdict=result.verdict,
        tolerance=result.target.tolerance,
        found=found,
        environment=corpus.environment() | corpus.device() | dict(result.libraries),
        candidate=result.candidate,
        kernels=result.kernels,
    )


def minimised(
    entry: Counterexample,
    keep: float,
    seconds: float = 10.0,
    candidate: str | None = None,
    timeout: float = 10.0,
    library: str | None = None,
) -> Counterexample:
    """``entry`` with a simpler case of the same verdict and at least ``keep`` of the value; itself if there is none.

    Raises CandidateError for an entry that was found with a candidate, unless ``candidate`` names the function.
    """
    with contextlib.ExitStack() as stack:
        under_test = None
        if entry.candidate is not None:
            if candidate is None:
                raise CandidateError(f"the entry was found with a candidate: give --candidate {entry.candidate}")
            under_test = stack.enter_context(Candidate(candidate, timeout=timeout))
        target = Subject.of(
            targets.get(entry.target),
            entry.params,
            candidate=under_test,
            kernels=entry.kernels,
            library=library,
            recorded=True,
        ).target
        alike = _failing_alike(target, entry.params, entry.case) if math.isinf(entry.value) else None
        case = minimise(
            target, entry.params, entry.case, keep=keep, limit=entry.limit, seconds=seconds, evaluate=alike
        ).case
        if case == entry.case:
            return entry
        measured = evaluate(target, entry.params, case)
    bound = target.bound(entry.params)
    return attrs.evolve(
        entry,
        case=case,
        value=measured.value,
        noise=measured.noise,
        verdict=judge(entry.limit, measured.value, measured.noise, bound),
        environment=corpus.environment(),
    )
