"""Problems: a question, opened on a target and its parameters.

    with open_problem(targets.get("softmax"), {"n": 7}) as problem:                      # the target's own claim
    with open_problem(target, {}, Judge("my_kernels.py:soft_max")) as problem:           # a user's function
    with open_problem(target, {}, Compare("apr", "ggml")) as problem:                    # two kernels

Everything that works on one, the objective, the engines, the minimiser, replay and records, has it from here, and the
parameters are bound once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

import attrs
import numpy as np

from diffuzz import kernels
from diffuzz.cases import domain
from diffuzz.cases.case import Case
from diffuzz.cases.space import Dim, Space
from diffuzz.formats.arrays import AnyArray
from diffuzz.judging import candidate, examination, pair
from diffuzz.judging.company import Company
from diffuzz.judging.evidence import NOTHING, Evidence, Terms
from diffuzz.judging.examined import Examined
from diffuzz.judging.question import CANDIDATE, Claim, Compare, Function, Judge, Question, QuestionError
from diffuzz.judging.verdict import Verdict, judge
from diffuzz.targets.amplification import Amplification
from diffuzz.targets.drift import Drift
from diffuzz.targets.outcome import Arrays, Bound, Outcome
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Float64

    from diffuzz.models.rows import Rows

# A traceable function of a batch of JAX arrays: its values.
Screen: TypeAlias = "Callable[[Arrays], Float64[AnyArray, ' b']]"


@attrs.frozen
class Measurement:
    """The value of one case, its numerical noise, its measure in words, and what the case shows."""

    value: float
    noise: float
    measure: str
    evidence: Evidence = NOTHING


@attrs.frozen
class Problem:
    """What is searched, minimised, replayed and recorded: ``question`` of ``target``, with ``params`` bound.

    space       the admissible cases
    measure     what a value measures, in words
    claim       what is claimed of it, in words: that it exceeds ``threshold``
    bound       what it never exceeds, where that is proven
    tolerance   relative difference within which a replay on another machine has the same value
    cost        work of one evaluation in operations per element of the case, relative to a norm's
    steady      False where a value may depend on the other rows of its batch, or on chance, as that of a user's
                function may: then it counts once the row alone has it
    compiles    whether each new shape is compiled, so that engines look at few
    weights     the rows of a model that the weights of all cases are taken from (see diffuzz.judging.holding)
    batch       how many cases one call of the implementations that are judged may get; None if they get one at a time
    """

    target: Target
    params: Params
    question: Question
    space: Space
    measure: str
    claim: str
    threshold: float
    bound: Bound | None
    tolerance: float
    cost: float
    steady: bool
    compiles: bool
    _examine: Callable[[Arrays], Examined]
    _screen: Callable[[], Screen | None] | None = None
    _solve: Callable[[Arrays], dict[str, np.ndarray]] | None = None
    _starts: Callable[[np.random.Generator, int, Mapping[str, int]], dict[str, np.ndarray] | None] | None = None
    candidate: candidate.Candidate | None = None
    batch: Dim | None = None
    _repeated: Callable[[Arrays], Callable[[], Examined]] | None = None
    weights: Rows | None = None

    def __enter__(self) -> Problem:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process of a candidate, if there is one; another evaluation starts a fresh one."""
        if self.candidate is not None:
            self.candidate.close()

    def afresh(self) -> None:
        """Start the process of a candidate again and call it once, as a replay does. Raises CandidateError."""
        self.close()
        if self.candidate is not None:
            self.candidate.probe(self.target, self.params)

    @property
    def judges(self) -> bool:
        """Whether implementations are held against a contract, and there is no bound to come close to."""
        return not isinstance(self.question, Claim)

    @property
    def amplification(self) -> Amplification | None:
        """The question of the target, where values are amplifications: then perturbations can be solved for."""
        asked = self.target.question
        return asked if isinstance(self.question, Claim) and isinstance(asked, Amplification) else None

    def evaluate(self, arrays: Arrays) -> Outcome:
        """Values of a batch, by the exact implementations."""
        # Overflow and NaN are values like any other here.
        with np.errstate(all="ignore"):
            return self._examine(self.space.filled(arrays)).outcome

    def measured(self, case: Case, *, company: Company | None = None, explained: bool = True) -> Measurement:
        """The value of one case, in its ``company`` if it needs any, and, if it is to be ``explained``, what it shows.

        Raises InadmissibleError if the case is not in the space, ValueError if the company does not fit it.
        """
        self.space.check(case)
        batch, row = self.beside(self.space.filled(case.batch()), company)
        with np.errstate(all="ignore"):
            examined = self._examine(batch)
            outcome = examined.outcome
            value = float(outcome.value[row])
            evidence = examined.explain(value, row) if explained else NOTHING
            return Measurement(value, float(outcome.noise[row]), self.measure, evidence)

    def beside(self, case: Arrays, company: Company | None) -> tuple[Arrays, int]:
        """The one ``case`` of a batch in its company, and its row there."""
        if company is None:
            return case, 0
        return company.completed(self.space).around(self.space.filled(case), self.scalars), len(company.before)

    @property
    def scalars(self) -> tuple[str, ...]:
        """Arrays that stand for a scalar argument of a judged function."""
        contract = self.target.contract if self.judges else None
        return () if contract is None else tuple(scalar.array for scalar in contract.scalars)

    def evaluate_beside(self, arrays: Arrays, company: Company | None) -> Outcome:
        """Values of the cases of a batch, each in a call of its own, with its company."""
        outcomes = []
        for i in range(len(next(iter(arrays.values())))):
            batch, row = self.beside({name: array[i : i + 1] for name, array in arrays.items()}, company)
            outcomes.append(self.evaluate(batch).of_row(row))
        return _joined(outcomes)

    def repeated(self, case: Case, company: Company | None) -> Callable[[], tuple[Outcome, Callable[[], Evidence]]]:
        """A function that calls the case in its company, or quite alone, once more each time: the outcome of its row,
        and what makes its evidence. A result that comes again costs no more than the call.
        """
        batch, row = self.beside(self.space.filled(case.batch()), company)
        again = partial(self._examine, batch) if self._repeated is None else self._repeated(batch)

        def once() -> tuple[Outcome, Callable[[], Evidence]]:
            with np.errstate(all="ignore"):
                examined = again()
                outcome = examined.outcome.of_row(row)
                return outcome, lambda: examined.explain(float(outcome.value[0]), row)

        return once

    def explain(self, case: Case) -> Evidence:
        """What one case shows. Raises InadmissibleError if the case is not in the space."""
        return self.measured(case).evidence

    def screen(self) -> Screen | None:
        """A JAX-traceable function ``arrays -> value [b]`` of the same measure, for engines only; None if there is
        none. Raises ImportError without jax.
        """
        return None if self._screen is None else self._screen()

    @property
    def has_screen(self) -> bool:
        """Whether there may be a screen, without a look at jax."""
        return self._screen is not None

    def solve(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The batch with perturbations replaced by the worst ones that the target knows."""
        return dict(arrays) if self._solve is None else self._solve(arrays)

    def starts(
        self, rng: np.random.Generator, count: int, sizes: Mapping[str, int] | None = None
    ) -> dict[str, np.ndarray] | None:
        """A batch of constructions that are known to be bad, whose dimensions have these ``sizes`` instead of the usual
        ones; None if there are none, or none within a domain that was restricted.
        """
        made = None if self._starts is None else self._starts(rng, count, sizes or {})
        shapes = {spec.name: spec.array_shape() for spec in self.space.resized(sizes or {}).tensors}
        fit = made is not None and all(array.shape[1:] == shapes[name] for name, array in made.items())
        return made if fit else None

    def verdict(self, measurement: Measurement) -> Verdict:
        """What a measured case says about the claim."""
        return judge(self.threshold, measurement.value, measurement.noise, self.bound)

    @property
    def passing(self) -> str | None:
        """A failure of the candidate that did not come again."""
        return None if self.candidate is None or self.candidate.passing is None else str(self.candidate.passing)

    @property
    def skips(self) -> tuple[int, str | None]:
        """How many cases the candidate said are not for it, and why it said so the last time."""
        if self.candidate is None or not self.candidate.skips:
            return 0, None
        return self.candidate.skips, self.candidate.skipping

    @property
    def judge(self) -> Judge | None:
        """The function that takes part, if one does."""
        asked = self.question
        return asked.candidate if isinstance(asked, Compare) else asked if isinstance(asked, Judge) else None

    @property
    def warm_ups(self) -> Sequence[float]:
        """The seconds of each call of a candidate that compiles in which a shape was new to it."""
        return () if self.candidate is None else self.candidate.warm_ups

    def environment(self) -> dict[str, str]:
        """Version, compiler and CPU features of each library that takes part, from the library itself."""
        found = {}
        for name in self.question.kernels if isinstance(self.question, Compare) else ():
            if kernels.KernelName.parse(name).is_library:
                about = kernels.get(name).about()
                taken = Path(about["library"]).name
                found[kernels.unlocated(name)] = "; ".join(
                    (f"{taken} {about['version']}", about["compiler"], about["features"])
                )
        return found

    def under(self, changes: Mapping[str, object]) -> Problem:
        """The same question about the same function, which is not opened again, with ``changes`` of the parameters.

        Raises TypeError unless the question judges a function; ParameterError.
        """
        if not isinstance(self.question, Judge):
            raise TypeError(f"question={self.question!r}: a function is judged under other parameters, nothing else is")
        if self.candidate is None and isinstance(self.question.implementation, str):
            raise TypeError(f"{self.question.implementation} has no process")
        function = self.candidate or candidate.opened(self.target, self.params, self.question)
        params = self.target.contract_params({**self.params, **changes})
        return _judged(self.target, params, self.question, function)

    def without_starts(self) -> Problem:
        """The same, without the constructions that the target knows."""
        return attrs.evolve(self, starts=None)


def _joined(outcomes: list[Outcome]) -> Outcome:
    value, noise = (np.concatenate([getattr(each, name) for each in outcomes]) for name in ("value", "noise"))
    if all(each.failures is None for each in outcomes):
        return Outcome(value, noise)
    codes = [np.zeros(len(each.value), np.int64) if each.failures is None else each.failures for each in outcomes]
    return Outcome(value, noise, np.concatenate(codes))


def open_problem(
    target: Target,
    given: Mapping[str, object] | None = None,
    question: Question | None = None,
    *,
    threshold: float | None = None,
) -> Problem:
    """``question`` (the target's own claim, if it is None) opened on ``target`` with the ``given`` parameters, text or
    numbers, the others at their defaults. ``threshold`` is the T of the claim, by default the question's own.

    A function that is judged is called once, to see whether it can be called at all. Raises, one line each:
    ParameterError; CandidateError (it does not load, or fails on ones); QuestionError (the target has no contract, or
    compares no kernels of these names); MissingKernelsError (one that is not installed); HandingError (arrays that a
    function cannot be called with), MissingArraysError (of what is not here).
    """
    if not isinstance(target, Target):
        raise TypeError(f"target={target!r}: a Target is needed, such as targets.get('softmax')")
    asked = question or Claim()
    if isinstance(asked, Claim):
        opened = _claim(target, target.params(given))
    elif isinstance(asked, Judge):
        opened = _judge(target, given, asked)
    else:
        opened = _compare(target, given, asked)
    return opened if threshold is None else attrs.evolve(opened, threshold=threshold)


def _claim(target: Target, params: Params) -> Problem:
    asked = target.question

    def examine(arrays: Arrays) -> Examined:
        def explain(value: float, row: int) -> Terms:
            return Terms({name: float(numbers[row]) for name, numbers in asked.explain(params, arrays).items()})

        return Examined(asked.evaluate(params, arrays), explain)

    screen, starts = asked.screen, target.starts
    bound, threshold = target.bound(params), target.threshold(params)
    if not isinstance(bound, Bound | None):
        raise QuestionError(f"target {target.name}: its bound is a {type(bound).__name__}, a Bound or None is needed")
    if not isinstance(threshold, int | float):
        raise QuestionError(f"target {target.name}: its threshold is a {type(threshold).__name__}, no number")
    space = target.space(params)
    if isinstance(asked, Amplification):
        _check_inputs(target, asked.inputs(params), space)
    solve = asked.solve if isinstance(asked, Drift) else None
    return Problem(
        target=target,
        params=params,
        question=Claim(),
        space=space,
        measure=target.measure(params),
        claim=target.claim,
        threshold=threshold,
        bound=bound,
        tolerance=target.tolerance,
        cost=target.cost,
        steady=True,
        compiles=False,
        examine=examine,
        screen=None if screen is None else lambda: screen(params),
        solve=None if solve is None else lambda arrays: solve(params, arrays),
        starts=None if starts is None else lambda rng, count, sizes: starts(params, rng, count),
    )


def _check_inputs(target: Target, names: tuple[str, ...], space: Space) -> None:
    """Raise QuestionError, one line, unless what moves is in the space, and the direction of each move."""
    there_are = [spec.name for spec in space.tensors]
    for name in names:
        for needed in (name, f"{name}_direction"):
            if needed not in there_are:
                raise QuestionError(
                    f"target {target.name}: its space has {', '.join(there_are)}, but not {needed}: an input NAME that "
                    "moves, moves along an array NAME_direction of kind direction"
                )


def _judge(target: Target, given: Mapping[str, object] | None, asked: Judge) -> Problem:
    candidate.contract_of(target)
    params = target.contract_params(given)
    return _judged(target, params, asked, candidate.opened(target, params, asked))


def _judged(target: Target, params: Params, asked: Judge, function: candidate.Candidate | Function) -> Problem:
    contract = candidate.contract_of(target)
    examined = examination.examination(target, params, function, asked.name)
    fixed = contract.allowance is None
    return _of_contract(
        target,
        params,
        asked,
        examined.examine,
        repeated=examined.repeated,
        measure="elements that differ from the fixed result" if fixed else "max |f - exact| / a-priori bound",
        claim=f"{asked.name} is wrong",
        steady=False,
        compiles=isinstance(function, candidate.Candidate) and function.compiles,
        process=function if isinstance(function, candidate.Candidate) else None,
    )


def _compare(target: Target, given: Mapping[str, object] | None, asked: Compare) -> Problem:
    if asked.candidate is not None and CANDIDATE not in (asked.a, asked.b):
        raise QuestionError(f"kernels {asked.a},{asked.b}: name {CANDIDATE} as one of them, or give no --candidate")
    contract = pair.contract_of(target)
    params = target.contract_params(given)
    if CANDIDATE in (asked.a, asked.b) and asked.candidate is None:
        raise QuestionError(f"kernels {CANDIDATE}: give --candidate, too")
    for name in asked.kernels:
        if name != CANDIDATE:
            pair.check_known(target, params, name)
    process = None if asked.candidate is None else candidate.opened(target, params, asked.candidate)
    if process is not None and not isinstance(process, candidate.Candidate):
        raise QuestionError(f"kernels {CANDIDATE}: a function as FILE.py:FUNCTION is needed, for a process of its own")
    examine = pair.examination(target, params, asked.kernels, process)
    fixed = contract.allowance is None
    a, b = asked.kernels
    return _of_contract(
        target,
        params,
        asked,
        examine,
        measure="elements whose bits differ" if fixed else "max |A - B| / what rounding allows",
        claim=f"{a} and {b} differ" + ("" if fixed else " by more than rounding"),
        steady=CANDIDATE not in (a, b),
        compiles=pair.COMPILED in (a, b) or (process is not None and process.compiles),
        process=process,
    )


def _of_contract(
    target: Target,
    params: Params,
    asked: Judge | Compare,
    examine: Callable[[Arrays], Examined],
    *,
    measure: str,
    claim: str,
    steady: bool,
    process: candidate.Candidate | None,
    compiles: bool = False,
    repeated: Callable[[Arrays], Callable[[], Examined]] | None = None,
) -> Problem:
    contract = candidate.contract_of(target)
    starts, fixed = contract.starts, contract.allowance is None
    return Problem(
        target=target,
        params=params,
        question=asked,
        space=contract.space(params),
        measure=measure,
        claim=claim,
        threshold=0.0 if fixed else 1.0,
        bound=None,
        tolerance=0.0 if fixed else examination.RELATIVE_NOISE,
        cost=target.cost,
        steady=steady,
        compiles=compiles,
        examine=examine,
        starts=None
        if starts is None
        else lambda rng, count, sizes: starts(
            dict(params) | {f"fix:{name}": size for name, size in sizes.items()}, rng, count
        ),
        candidate=process,
        batch=domain.batch(params) if contract.batched else None,
        repeated=repeated,
    )


def evaluate(target: Target, given: Mapping[str, object], case: Case) -> Measurement:
    """The value of one case of the target's own question, by the exact implementations, and what it is made of.

    Raises ParameterError; InadmissibleError if the case is not in the target's space.
    """
    return open_problem(target, given).measured(case)
