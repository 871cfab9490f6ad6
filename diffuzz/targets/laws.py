"""Laws: what every target promises, as checks that anyone can run on a target of their own.

    from diffuzz.targets import laws

    laws.check(TARGET)                                          # all of them, at the default parameters
    laws.check(TARGET, params={"n": 4096}, seed=1)

    @pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
    def test_laws(law):
        law(TARGET)

A law looks at dozens or hundreds of cases: structured ones, uniform ones, and the target's own constructions. For a
target that breaks it, it raises AssertionError with one line: the law, the target, its parameters, and the case by its
place among those of the seed. A law says nothing where it cannot apply, without a screen or without a contract. Cases
that keep a bound do not prove it; the derivation in the target's docstring does.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import attrs
import numpy as np

from diffuzz import kernels
from diffuzz.cases import draws, encoding
from diffuzz.cases.case import Case, unstack
from diffuzz.cases.encoding import EncodingError
from diffuzz.cases.space import InadmissibleError, Space
from diffuzz.registry import one_line
from diffuzz.targets.amplification import Amplification
from diffuzz.targets.contract import Contract
from diffuzz.targets.outcome import Outcome
from diffuzz.targets.parameter import ParameterError, Params
from diffuzz.targets.target import LARGEST_TOLERANCE, Target

if TYPE_CHECKING:
    from jaxtyping import Bool

Batch = dict[str, np.ndarray]
# Something of a room above this one, loaded late (see _above): it has no type here.
Late: TypeAlias = Any
Starts = Callable[[np.random.Generator, int], Batch | None]

# Cases of each kind, where they are small; of large ones as many as have this many elements times the target's cost.
_MOST_ROWS, _LEAST_ROWS, _WORK = 16, 4, 2**18
# Times as many cases are held against a bound, in one batch.
_MORE = 8
# Share of the drawn rows that must be admissible. The draws keep to the ranges, so it is nearly all of them.
_ADMISSIBLE = 0.9
# A value may exceed the ceiling by the float64 rounding of the ceiling itself.
_ROUNDING = 1e-9
# How far a screen may be from the exact value: a share of it, and so many times its noise. The two paths of a drift are
# rounded to float32, once each, and a screen does not model that.
_AGREEMENT, _NOISES = 1e-6, 4.0
# Share of the drawn cases of a drift on which the screen must agree. On the others an element may lie so close to the
# edge between two codes that float32 rounding decides which one it gets.
_AGREEING = 0.75
# What minimising must keep of the value, and how long it may take, in seconds of work.
_KEEP, _SECONDS = 0.9, 0.1


class Law(Protocol):
    """A law; it raises AssertionError, one line, for a target that breaks it."""

    __name__: str

    def __call__(self, target: Target, params: Params | None = None, seed: int = 0) -> None: ...


def _above(module: str) -> Late:
    """A module of the rooms above this one.

    The laws are about a target in the hands of the rest of the house: of the problems that are opened on it, of
    screens, of the minimiser and of the corpus. All of these are written with targets, so the laws load them when they
    are run, and ``diffuzz.targets`` can be imported without them.
    """
    return importlib.import_module(f"diffuzz.{module}")


@attrs.frozen
class _Trial:
    """A law as it is applied to one target: its name, the target, the parameters that were given, and the seed."""

    law: str
    target: Target
    given: Params
    seed: int

    def demand(self, holds: object, what: str) -> None:
        """Raise AssertionError, one line that ends with ``what``, unless ``holds``."""
        if not holds:
            settings = ", ".join(f"{name}={value}" for name, value in self.given.items())
            line = f"law {self.law}: target {self.target.name}({settings}): {what}"
            raise AssertionError(" ".join(line.split()))

    def demand_all(self, holds: Bool[np.ndarray, " b"], kind: str, what: str, *numbers: np.ndarray) -> None:
        """Raise AssertionError for the first of the ``kind`` of cases that does not hold.

        ``what`` says why, with a place for the number that each of ``numbers`` [b] has for that case.
        """
        if not holds.all():
            row = int(np.argmin(holds))
            self.demand(False, f"{self.case(kind, row)}: {what.format(*(float(each[row]) for each in numbers))}")

    def case(self, kind: str, row: int) -> str:
        """How a message names a case."""
        return f"{kind} case {row} of seed {self.seed}"

    def claim(self) -> Late:
        """The problem of the target's own claim."""
        return _above("judging.problem").open_problem(self.target, self.given)

    def judge(self, contract: Contract, function: Callable[..., np.ndarray], name: str) -> Late:
        """The problem whether ``function(params, arrays)`` keeps the contract."""
        # Its results are packed already, where the contract has them so.
        called = attrs.evolve(contract, call=lambda params, f, arrays: function(params, arrays))
        question = _above("judging.question").Judge(function, name=name)
        return _above("judging.problem").open_problem(attrs.evolve(self.target, contract=called), self.given, question)

    def batches(self, space: Space, starts: Starts | None, times: int = 1) -> Iterator[tuple[str, Batch]]:
        """The cases of a space that the laws look at, by kind; those that are not admissible are left out.

        There are so many ``times`` more of them than a law that evaluates each case alone can look at.
        """
        rng, rows = np.random.default_rng(self.seed), times * self.rows(space)
        drawn: list[tuple[str, Batch | None]] = [
            ("structured", draws.structured(space, rng, rows)),
            ("uniform", draws.uniform(space, rng, rows)),
            ("constructed", None if starts is None else starts(rng, rows)),
        ]
        for kind, batch in drawn:
            if batch is not None and (good := _admitted(space, batch)).any():
                yield kind, {name: array[good] for name, array in batch.items()}

    def rows(self, space: Space) -> int:
        """How many cases of a kind there are."""
        return int(np.clip(_WORK / (space.elements * self.target.cost), _LEAST_ROWS, _MOST_ROWS))


def _law(check: Callable[[_Trial], None]) -> Law:
    """The law that ``check`` is, with its name and its sentence."""
    name = check.__name__

    def law(target: Target, params: Params | None = None, seed: int = 0) -> None:
        trial = _Trial(name, target, params or {}, seed)
        try:
            check(trial)
        except AssertionError:
            raise
        except Exception as error:
            if isinstance(error, ParameterError) and trial.given:
                # The mistake of a caller who gives what the target does not have.
                raise
            raise AssertionError(f"law {name}: target {target.name}: raises {one_line(error)}") from error

    law.__name__, law.__qualname__, law.__doc__ = name, name, check.__doc__
    return law


def _admitted(space: Space, batch: Batch) -> Bool[np.ndarray, " b"]:
    """Which rows of a batch are cases of the space, whatever else the batch may be."""
    rows = min((len(array) for array in batch.values()), default=0)
    if any(len(array) != rows for array in batch.values()):
        return np.zeros(rows, bool)
    wanted = {spec.name: (spec.dtype, (rows, *spec.array_shape())) for spec in space.tensors}
    if {name: (str(array.dtype), array.shape) for name, array in batch.items()} == wanted:
        return space.admissible(batch)
    return np.array([space.admits(unstack(batch, row)) for row in range(rows)], bool)


def _evaluated(problem: Late, batch: Batch) -> Outcome:
    """The outcome of a copy of the batch, so that no law depends on what an evaluation does to its inputs."""
    outcome: Outcome = problem.evaluate({name: array.copy() for name, array in batch.items()})
    return outcome


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays have the same bits."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _one_line(text: object) -> bool:
    """Whether it is text that is not empty, and that a terminal prints on one line."""
    return isinstance(text, str) and bool(text.strip()) and text.isprintable()


@_law
def parameters_are_parsed(trial: _Trial) -> None:
    """Each default is parsed to itself, as a value and as text, and an unknown parameter is refused in one line."""
    target = trial.target
    for parameter in target.declared:
        for text in (parameter.default, str(parameter.default)):
            try:
                parsed = parameter.parse(text)
            except ParameterError as error:
                trial.demand(False, f"the default of {parameter.name} is refused: {error}")
            alike = type(parsed) is type(parameter.default) and parsed == parameter.default
            trial.demand(alike, f"the default {text!r} of {parameter.name} is parsed to {parsed!r}")
    unknown = "no_such_parameter"
    for bind in (target.params, *(() if target.contract is None else (target.contract_params,))):
        try:
            bind({unknown: 1})
        except ParameterError as error:
            trial.demand(_one_line(str(error)), f"the refusal of an unknown parameter is not one line: {error!r}")
        else:
            trial.demand(False, f"the parameter {unknown!r} is accepted")


@_law
def texts_are_single_lines(trial: _Trial) -> None:
    """Name, summary, claim, measure, the reason of the bound, and the help of parameters are printable lines."""
    target, params = trial.target, trial.target.params(trial.given)
    texts = {"name": target.name, "summary": target.summary, "claim": target.claim, "measure": target.measure(params)}
    if (bound := target.bound(params)) is not None:
        texts["reason of the bound"] = bound.because
    if target.contract is not None:
        texts["signature"] = target.contract.signature
    texts |= {f"help of {parameter.name}": parameter.help for parameter in target.declared}
    for what, text in texts.items():
        trial.demand(_one_line(text), f"the {what} is {text!r}, where a printable line is needed")


@_law
def constants_are_in_range(trial: _Trial) -> None:
    """The threshold and the bound are finite, the tolerance is from 0 to 0.001, and the cost is positive."""
    target, params = trial.target, trial.target.params(trial.given)
    threshold, bound = target.threshold(params), target.bound(params)
    trial.demand(math.isfinite(threshold), f"the threshold is {threshold}")
    trial.demand(0 <= target.tolerance <= LARGEST_TOLERANCE, f"the tolerance is {target.tolerance}")
    trial.demand(0 < target.cost < math.inf, f"the cost is {target.cost}")
    if bound is not None:
        for what, number in (("value", bound.value), ("rounding", bound.rounding)):
            trial.demand(0 <= number < math.inf, f"the {what} of the bound is {number}")


@_law
def draws_are_admissible(trial: _Trial) -> None:
    """Drawn cases have the shapes and types of the space, and nearly all of them are admissible."""
    for what, space in _spaces(trial):
        rng, rows = np.random.default_rng(trial.seed), 4 * trial.rows(space)
        for kind, draw in (("structured", draws.structured), ("uniform", draws.uniform)):
            share = float(_admitted(space, draw(space, rng, rows)).mean())
            trial.demand(share >= _ADMISSIBLE, f"{share:.0%} of the {kind} cases are admissible in the space of {what}")


def _spaces(trial: _Trial) -> Iterator[tuple[str, Space]]:
    """The space of the claim and, where there is one, that of the contract."""
    target = trial.target
    yield "the claim", target.space(target.params(trial.given))
    if target.contract is not None:
        yield "the contract", target.contract.space(target.contract_params(trial.given))


@_law
def constructions_are_admissible(trial: _Trial) -> None:
    """Constructions are as many as were asked for, of the largest shapes of the space, and admissible."""
    target = trial.target
    made: list[tuple[Callable[..., Batch | None] | None, Params]] = [(target.starts, target.params(trial.given))]
    if target.contract is not None:
        made.append((target.contract.starts, target.contract_params(trial.given)))
    for (what, space), (starts, params) in zip(_spaces(trial), made, strict=True):
        if starts is None:
            continue
        for count in (1, 2, 5):
            batch = starts(params, np.random.default_rng(trial.seed), count) or {}
            shapes = {name: array.shape for name, array in batch.items()}
            wanted = {spec.name: (count, *spec.array_shape()) for spec in space.tensors}
            trial.demand(shapes == wanted, f"{count} constructions of {what} have {shapes}, where {wanted} is needed")
            for row in range(count):
                try:
                    space.check(unstack(batch, row))
                except (InadmissibleError, ValueError) as error:
                    trial.demand(False, f"construction {row} of {count} of {what}, seed {trial.seed}: {error}")


@_law
def values_are_numbers(trial: _Trial) -> None:
    """Values are finite and not negative, one for each case of a batch."""
    _are_numbers(trial, "value", lambda outcome: outcome.value)


@_law
def noise_is_a_number(trial: _Trial) -> None:
    """The noise of a value is finite and not negative, one for each case of a batch."""
    _are_numbers(trial, "noise", lambda outcome: outcome.noise)


def _are_numbers(trial: _Trial, what: str, of: Callable[[Outcome], np.ndarray]) -> None:
    problem = trial.claim()
    for kind, batch in trial.batches(problem.space, problem.starts):
        numbers = np.asarray(of(_evaluated(problem, batch)))
        rows = len(next(iter(batch.values())))
        trial.demand(numbers.shape == (rows,), f"the {what} of {rows} {kind} cases has the shape {numbers.shape}")
        trial.demand_all(np.isfinite(numbers) & (numbers >= 0), kind, f"the {what} is {{!r}}", numbers)


@_law
def bound_is_never_exceeded(trial: _Trial) -> None:
    """No value exceeds the ceiling of the bound by more than its noise, with the perturbations that are solved, too."""
    problem = trial.claim()
    if problem.bound is None:
        return
    ceiling = problem.bound.ceiling
    for kind, batch in trial.batches(problem.space, problem.starts, _MORE):
        for arrays in (batch, problem.solve({name: array.copy() for name, array in batch.items()})):
            outcome = _evaluated(problem, arrays)
            above = outcome.value - outcome.noise > ceiling * (1 + _ROUNDING)
            trial.demand_all(~above, kind, f"the value is {{:.9g}}, above the ceiling {ceiling:.9g}", outcome.value)


@_law
def evaluation_repeats(trial: _Trial) -> None:
    """A batch that is evaluated again has the same bits again, and evaluating it leaves its arrays as they were."""
    problem = trial.claim()
    for kind, batch in trial.batches(problem.space, problem.starts):
        arrays = {name: array.copy() for name, array in batch.items()}
        first = problem.evaluate(arrays)
        for name, array in arrays.items():
            trial.demand(_same(array, batch[name]), f"evaluating {kind} cases of seed {trial.seed} changes {name}")
        again = problem.evaluate(arrays)
        alike = _same(first.value, again.value) and _same(first.noise, again.noise)
        trial.demand(alike, f"{kind} cases of seed {trial.seed} have other values when they are evaluated again")


@_law
def rows_are_independent(trial: _Trial) -> None:
    """A case has the same bits in a batch as it has alone."""
    problem = trial.claim()
    for kind, batch in trial.batches(problem.space, problem.starts):
        together = _evaluated(problem, batch)
        for row in range(len(together.value)):
            alone = _evaluated(problem, {name: array[row : row + 1] for name, array in batch.items()})
            for what, one, all_ in (("value", alone.value, together.value), ("noise", alone.noise, together.noise)):
                trial.demand(
                    _same(np.asarray(one)[:1], np.asarray(all_)[row : row + 1]),
                    f"{trial.case(kind, row)}: the {what} is {one[0]!r} alone and {all_[row]!r} in a batch",
                )


@_law
def screen_agrees(trial: _Trial) -> None:
    """The screen has the values of the exact evaluation, within its noise and the rounding of the bound."""
    problem = trial.claim()
    if not problem.has_screen:
        return
    start = None
    for kind, batch in trial.batches(problem.space, problem.starts):
        if start is None:
            start = _above("searching.screen").compile_screen(problem, trial.rows(problem.space))
        if start is None:
            return
        screened, refined = start(batch)()
        exact = _evaluated(problem, refined)
        rounding = 0.0 if problem.bound is None else problem.bound.value * problem.bound.rounding
        allowed = _AGREEMENT * np.abs(exact.value) + _NOISES * exact.noise + rounding
        # Whether a value is a number at all is another law's question.
        agrees = (np.abs(screened - exact.value) <= allowed) | np.isnan(exact.value)
        if kind != "constructed" and not isinstance(trial.target.question, Amplification):
            agrees = np.full(len(agrees), True) if agrees.mean() >= _AGREEING else agrees
        trial.demand_all(agrees, kind, "the screen has {:.9g}, the value is {:.9g}", screened, exact.value)


@_law
def cases_survive_encoding(trial: _Trial) -> None:
    """Each array of a case is decoded from its text with the same bits."""
    for what, space in _spaces(trial):
        for kind, batch in trial.batches(space, None):
            for name, array in batch.items():
                try:
                    again = encoding.decode(encoding.encode(array[0]))
                except EncodingError as error:
                    trial.demand(False, f"{trial.case(kind, 0)} of {what}: {name} is not decoded: {error}")
                alike = _same(again, array[0])
                trial.demand(alike, f"{trial.case(kind, 0)} of {what}: {name} is decoded to other bits")


@_law
def entries_survive_the_corpus(trial: _Trial) -> None:
    """An entry of the corpus, of the claim or of a judged function, is read back from its text as it was.

    A corpus knows targets by name: the law is about those that are installed, or were loaded with ``targets.load``.
    """
    registry = _above("targets").REGISTRY
    target = trial.target
    if not registry.known(target.name) or registry.get(target.name) is not target:
        return
    problems: list[tuple[Late, str | None]] = [(trial.claim(), None)]
    if target.contract is not None:
        problems.append((trial.judge(target.contract, target.contract.reference, "the reference"), "kernels.py:f"))
    for problem, candidate in problems:
        for kind, batch in trial.batches(problem.space, problem.starts):
            entry = _entry(problem, unstack(batch, 0), candidate)
            if not math.isnan(entry.value):
                _survives(trial, entry, trial.case(kind, 0))


def _entry(problem: Late, case: Case, candidate: str | None) -> Late:
    """An entry of the corpus as a search would make it of this case."""
    measured = problem.measured(case)
    return _above("corpus.entry").Counterexample(
        target=problem.target.name,
        params=problem.params,
        case=case,
        measure=measured.measure,
        value=measured.value,
        noise=measured.noise,
        threshold=problem.threshold,
        bound=problem.bound,
        verdict=problem.verdict(measured),
        tolerance=problem.tolerance,
        found={"engine": "laws", "seed": 0, "evaluations": 1, "command": "none"},
        environment=_above("corpus.environment").environment(),
        candidate=candidate,
    )


def _survives(trial: _Trial, entry: Late, case: str) -> None:
    module = _above("corpus.entry")
    try:
        again = module.loads(module.dumps(entry), entry.digest[:12])
    except (ValueError, ImportError) as error:
        trial.demand(False, f"{case}: its entry is not read back: {error}")
    trial.demand(again == entry, f"{case}: its entry is read back as another one")


@_law
def minimising_keeps_the_witness(trial: _Trial) -> None:
    """A minimised case is admissible, has the value that is reported, and keeps the verdict and 90 % of the value."""
    problem = trial.claim()
    for kind, batch in trial.batches(problem.space, problem.starts):
        if kind == "uniform":
            continue
        value = np.asarray(_evaluated(problem, batch).value)
        row = int(np.argmax(np.where(np.isfinite(value), value, -np.inf)))
        before = problem.measured(unstack(batch, row))
        if not 0 < before.value < math.inf:
            continue
        result = _above("minimising.minimise").minimise(problem, unstack(batch, row), keep=_KEEP, seconds=_SECONDS)
        case = trial.case(kind, row)
        try:
            after = problem.measured(result.case)
        except InadmissibleError as error:
            trial.demand(False, f"{case}: its minimised case is not admissible: {error}")
        trial.demand(
            (after.value, after.noise) == (result.value, result.noise),
            f"{case}: minimised it is said to have {result.value!r}, and has {after.value!r}",
        )
        trial.demand(
            after.value >= _KEEP * before.value,
            f"{case}: minimised it has {after.value:.9g}, less than {_KEEP:g} of {before.value:.9g}",
        )
        lost = before.value - before.noise > problem.threshold >= after.value - after.noise
        trial.demand(not lost, f"{case}: minimised it does not confirm the claim any more")


@_law
def contract_holds_for_its_own(trial: _Trial) -> None:
    """The reference, and the exact result rounded once to float32, are never judged wrong."""
    contract = trial.target.contract
    if contract is None:
        return
    params = trial.target.contract_params(trial.given)
    functions: dict[str, Callable[..., np.ndarray]] = {"the reference": contract.reference}
    if contract.allowance is not None or "exact" in contract.kernels(params):
        functions["the exact result"] = lambda p, arrays: (
            contract.exact(p, arrays) if contract.results is not None else contract.exact(p, arrays).astype(np.float32)
        )
    for name, function in functions.items():
        problem = trial.judge(contract, lambda p, arrays, run=function: np.asarray(run(p, arrays)), name)
        for kind, batch in trial.batches(problem.space, problem.starts):
            outcome = _evaluated(problem, batch)
            within = outcome.value - outcome.noise <= problem.threshold
            trial.demand_all(within, kind, f"{name} has the value {{:.9g}}, above {problem.threshold:g}", outcome.value)


@_law
def kernels_have_the_contract(trial: _Trial) -> None:
    """Each kernel of the contract that runs in this process gives results of the reference's shape and type.

    ``exact`` may give float64. Kernels whose package is not installed are left out.
    """
    contract = trial.target.contract
    if contract is None:
        return
    params = trial.target.contract_params(trial.given)
    space = contract.space(params)
    batch = next(iter(trial.batches(space, None)), None)
    if batch is None:
        return
    arrays: Mapping[str, np.ndarray] = {name: array[:2] for name, array in batch[1].items()}
    with np.errstate(all="ignore"):
        wanted = np.asarray(contract.reference(params, arrays))
        for name in contract.kernels(params):
            if kernels.KernelName.parse(name).is_library or kernels.missing(name) is not None:
                continue
            result = np.asarray(contract.run(params, arrays, kernels.get(name)))
            types = (wanted.dtype, np.dtype(np.float64)) if name == "exact" else (wanted.dtype,)
            trial.demand(
                result.shape == wanted.shape and result.dtype in types,
                f"kernels {name} give {result.dtype}{list(result.shape)}, "
                f"where {wanted.dtype}{list(wanted.shape)} is needed",
            )


LAWS: tuple[Law, ...] = (
    parameters_are_parsed,
    texts_are_single_lines,
    constants_are_in_range,
    draws_are_admissible,
    constructions_are_admissible,
    values_are_numbers,
    noise_is_a_number,
    bound_is_never_exceeded,
    evaluation_repeats,
    rows_are_independent,
    screen_agrees,
    cases_survive_encoding,
    entries_survive_the_corpus,
    minimising_keeps_the_witness,
    contract_holds_for_its_own,
    kernels_have_the_contract,
)


def check(target: Target, *, params: Params | None = None, seed: int = 0) -> None:
    """Check all laws on a target with these parameters (text or numbers; the others have their defaults).

    ``seed`` chooses the cases. Raises AssertionError, one line, for the first law that the target breaks, and
    ParameterError for parameters that it does not have.
    """
    for law in LAWS:
        law(target, params, seed)
