"""Candidates: a user's own function in the place of the implementation under test.

    with open_problem(targets.get("softmax"), {}, Judge("my_kernels.py:soft_max")) as problem: ...

The value of a case is how far the function leaves what its contract (``Target.contract``) allows:

    an a-priori error bound     max over elements of |f - exact| / allowance: more than 1 is wrong, in any order of sums
    a result fixed to the bit   number of elements that differ: more than 0 is wrong (both zeros are one number)

A NaN or an infinity where the exact result is a float32 number has the value inf, and so has a case on which the
function crashes, hangs, takes all memory, raises, or returns an array of another shape or dtype. Elements for which the
arithmetic promises nothing (overflow; an infinite allowance) are not judged, and on a row that has no others the
function may raise. It runs in a process of its own (see diffuzz.kernels.process.worker).

A function of whole batches may mix up their rows. In a search every case has others beside it; a case that is evaluated
alone is called alone and in two batches (see diffuzz.judging.company), and the worst of its results counts. So what was
found in a batch is found again where the case is measured, minimised or replayed, and does not depend on the batch it
came from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import registry, targets
from diffuzz.cases import domain
from diffuzz.cases.ranges import clip
from diffuzz.cases.space import Space
from diffuzz.escaping import escaped
from diffuzz.judging import company
from diffuzz.judging.calls import in_calls
from diffuzz.judging.evidence import Evidence, Judged, Wrong
from diffuzz.judging.examined import Examined, failure_code
from diffuzz.judging.question import Function, Judge
from diffuzz.kernels.process.channel import ResultError
from diffuzz.kernels.process.worker import Failure, Ran, ResourceError, Worker, WorkerError
from diffuzz.registry import located
from diffuzz.targets import distances
from diffuzz.targets.contract import Contract, Result, checked
from diffuzz.targets.outcome import Arrays, Outcome
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Shaped

# max_nmse_err in ggml's tests/test-backend-ops.cpp: of MUL_MAT and SOFT_MAX, and the default of other operations.
GGML_NMSE_LIMIT = {"matvec": 5e-4, "softmax": 1e-6}
GGML_DEFAULT_NMSE_LIMIT = 1e-7
# Relative error of value itself: float64 against allowances of some 2^-24, with room for its own constants.
RELATIVE_NOISE = 1e-6
_LARGEST = float(np.finfo(np.float32).max)
# What a request to the process of a candidate says: the target, parameters of the contract, whether it compiles, and
# what it returns for a case, where the contract says that.
Request = tuple[str, dict[str, int | float | bool | str], bool, tuple[Result, ...] | None]
# A new shape that takes longer than this, in seconds, and than so many calls of a shape that it knows, is compiled.
_COMPILING, _TIMES_SLOWER = 0.05, 8


class CandidateError(ValueError):
    """A candidate that cannot be loaded or called, or does not return an array of the right kind; one line."""


class UnloadableError(CandidateError):
    """A candidate whose file cannot be loaded here, or has no such function; one line."""


@attrs.define
class Candidate:
    """The function that ``FILE.py:FUNCTION`` names, in a process of its own; ``timeout`` is in seconds for one call.

    ``passing`` is a failure that did not happen again, and so is of no case. Raises CandidateError at once for a name
    that is none, or a file that is not there.
    """

    name: str
    timeout: float = attrs.field(default=10.0, kw_only=True)
    passing: Failure | None = attrs.field(init=False, default=None)
    # Whether it takes far longer for the first call of each shape; known after ``probe``.
    compiles: bool = attrs.field(init=False, default=False)
    _worker: Worker = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        check_name(self.name)
        argument = (self.name, registry.outside())
        self._worker = Worker(f"{__name__}:serve", argument, timeout=self.timeout)

    def __enter__(self) -> Candidate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        self._worker.close()

    def probe(self, target: Target, params: Params) -> None:
        """Call it once, with ones. Raises CandidateError if it cannot be called: it does not load, it raises, or it
        returns another shape or dtype than its signature says.
        """
        contract = contract_of(target)
        space = contract.space(params)
        batch = _ones(space, 1)
        given = space.filled(batch)
        with np.errstate(all="ignore"):
            ran = self.run(target.name, params, given, _like(contract, _right(contract, params, given)))
        failure = ran.failures.get(0)
        if failure is not None and failure.kind in ("raised", "garbage"):
            scalars = {one.array: f"{one.name} {one.of(params, batch)[0]:g}" for one in contract.scalars}
            shapes = ", ".join(
                scalars.get(name, f"{name} {array.dtype}{list(array.shape)}") for name, array in batch.items()
            )
            verb = "raises " if failure.kind == "raised" else ""
            hint = f"; {_hint(contract, params)}" if failure.kind == "raised" else ""
            raise CandidateError(
                f"candidate {self.name} {verb}{failure.text} (called with {shapes}; "
                f"its signature: {contract.signature}{hint})"
            )
        if failure is None:
            self.compiles = self._is_slow_with_new_shapes(target, params)

    def _is_slow_with_new_shapes(self, target: Target, params: Params) -> bool:
        """Whether two new shapes are slow, and are not when they come again."""
        contract = contract_of(target)
        space = contract.space(params)
        for count in (2, 3):
            shape = _ones(space, count) if contract.batched else _ones(_other(space, count), 1)
            batch = space.filled(shape)
            first = self._seconds(target, params, batch)
            if first < _COMPILING or first < _TIMES_SLOWER * self._seconds(target, params, batch):
                return False
        return True

    def _seconds(self, target: Target, params: Params, batch: Arrays) -> float:
        with np.errstate(all="ignore"):
            like = _like(contract_of(target), _right(contract_of(target), params, batch))
        began = time.monotonic()
        self.run(target.name, params, batch, like)
        return time.monotonic() - began

    def run(self, target: str, params: Params, arrays: Arrays, like: np.ndarray) -> Ran:
        """What it returned: a result like ``like``, with its elements where a row failed or was not run.

        Raises CandidateError if the file cannot be loaded.
        """
        request: Request = (
            target,
            dict(params),
            self.compiles,
            _expected(contract_of(targets.get(target)), params, arrays),
        )
        try:
            ran = self._worker.run(request, arrays, shape=like.shape[1:], dtype=str(like.dtype))
        except ResourceError as error:
            raise CandidateError(f"candidate {self.name}: {error}") from error
        except WorkerError as error:
            said = str(error).removeprefix(f"{CandidateError.__name__}: ")
            named = said if escaped(self.name) in said else f"candidate {self.name} while it is loaded: {said}"
            raise UnloadableError(named) from error
        self.passing = ran.passing or self.passing
        without = [*ran.failures, *ran.skipped]
        ran.result[without] = like[without]
        return ran


def serve(
    argument: tuple[str, tuple[tuple[str, str], ...]],
) -> Callable[[Request, dict[str, np.ndarray], np.ndarray], np.ndarray]:
    """What the process of a candidate does: load it, and call it for each batch as its contract says.

    ``argument`` is the candidate's name, and what its client has loaded from files (see diffuzz.registry).
    """
    name, outside = argument
    registry.adopt(outside)
    function = load(name)

    def answer(request: Request, arrays: dict[str, np.ndarray], out: np.ndarray) -> np.ndarray:
        target, params, compiled, expected = request
        # Fresh arrays: what a function keeps of one call must not change with the next.
        given = {key: np.array(array) for key, array in arrays.items()}
        with np.errstate(all="ignore"):
            return _call(contract_of(targets.get(target)), params, function, given, expected, compiled=compiled)

    return answer


def _call(
    contract: Contract,
    params: Params,
    function: Function,
    arrays: Arrays,
    expected: tuple[Result, ...] | None,
    *,
    compiled: bool,
) -> np.ndarray:
    """What a function returns for a batch, in calls of as many cases as it takes."""
    if expected is not None:
        function = checked(function, expected, batched=contract.batched)
    if contract.batched:
        function = in_calls(function, domain.batch(params), compiled=compiled)
    return contract.call(params, function, arrays)


def _expected(contract: Contract, params: Params, arrays: Arrays) -> tuple[Result, ...] | None:
    """What a function returns for each case of a batch, where the contract says that."""
    return None if contract.results is None else contract.results(params, arrays)


def _right(contract: Contract, params: Params, arrays: Arrays) -> np.ndarray:
    """What results are held against: those of the reference where they are fixed, or else the exact ones."""
    return np.asarray((contract.reference if contract.allowance is None else contract.exact)(params, arrays))


def _like(contract: Contract, known: np.ndarray) -> np.ndarray:
    """A result of the shape and the dtype that a function returns, or of what its results are packed into."""
    if contract.results is not None:
        return known
    return known.astype(np.float32) if known.dtype == np.float64 else known


def _hint(contract: Contract, params: Params) -> str:
    """What a user may have meant whose function refuses its first call."""
    choices = [f"--param {one.name}={params[one.name]}" for one in contract.parameters if one.options]
    names, sizes = contract.narrowable(params), [dim.name for dim in contract.space(params).free]
    example = f", such as --multiple {sizes[0]}=32" if sizes else ""
    asked = f"it was asked with {', '.join(choices)}; " if choices else ""
    return (
        f"{asked}if it takes only some of these, narrow {', '.join(names)} with --fix, --range or --multiple{example}"
    )


def _ones(space: Space, rows: int) -> dict[str, np.ndarray]:
    """A batch of ones, blocks of zeros."""
    return {
        spec.name: np.zeros((rows, *spec.array_shape()), np.uint8)
        if spec.kind == "blocks"
        else clip(spec, np.ones((rows, *spec.array_shape()))).astype(spec.dtype)
        for spec in space.tensors
        if spec.absent is None
    }


def _other(space: Space, steps: int) -> Space:
    """The space with another usual size of its last dimension, some steps above the least; itself if there is none."""
    dim = space.dims[-1]
    size = dim.lowest + steps * dim.step
    return space.resized({dim.name: size}) if dim.admits(size) else space


def check_name(specification: str) -> tuple[Path, str]:
    """The file and the function that ``FILE.py:FUNCTION`` names. Raises CandidateError: no such name, no such file."""
    file, colon, name = specification.rpartition(":")
    if not (colon and file and name.isidentifier()):
        raise CandidateError(f"candidate {specification!r}: FILE.py:FUNCTION is needed")
    path = Path(file)
    if not path.is_file():
        raise UnloadableError(f"candidate {specification}: there is no file {file}")
    if path.suffix != ".py":
        raise CandidateError(f"candidate {specification}: {file} is not a Python file (its name must end in .py)")
    return path, name


def load(specification: str) -> Function:
    """The function that ``FILE.py:FUNCTION`` names; the file is run (see diffuzz.registry.load_file).

    Raises CandidateError: no such file or function, or an exception while the file ran.
    """
    path, name = check_name(specification)
    try:
        module = registry.load_file(path, f"candidate {specification}")
    except registry.RegistryError as error:
        raise CandidateError(str(error)) from error
    function = getattr(module, name, None)
    if not callable(function):
        found_kind = "" if function is None else f", but the {type(function).__name__} of that name"
        raise CandidateError(f"candidate {specification}: {path} has no function {name}{found_kind}")
    found: Function = function
    return found


def opened(target: Target, params: Params, asked: Judge) -> Candidate | Function:
    """The process of the implementation that is judged, called once; a function of this process as it is.

    Raises CandidateError if it does not load, or fails on ones (see Candidate.probe).
    """
    if not isinstance(asked.implementation, str):
        return asked.implementation
    process = Candidate(asked.implementation, timeout=asked.timeout)
    try:
        process.probe(target, params)
    except BaseException:
        process.close()
        raise
    return process


def contract_of(target: Target) -> Contract:
    """The contract of a target. Raises CandidateError if it has none."""
    if target.contract is None:
        raise CandidateError(
            f"target {target.name} takes no candidate: its claim is about the arithmetic, not about one function"
        )
    return target.contract


@attrs.frozen
class _Results:
    """A batch, what the candidate made of it, the rows that failed, and what is ``known``: the exact result where the
    contract has an allowance, the reference's where the result is fixed.
    """

    contract: Contract
    params: Params
    arrays: Arrays
    candidate: Shaped[np.ndarray, "b ..."]
    known: Shaped[np.ndarray, "b ..."]
    failures: dict[int, Failure]
    skipped: frozenset[int]

    def ran(self, row: int) -> bool:
        """Whether the candidate has a result for a row."""
        return row not in self.failures and row not in self.skipped


@attrs.frozen
class Examination:
    """What evaluates batches for the question whether a function keeps its contract.

    ``examine`` calls a case that is evaluated alone beside other rows, too; see the module's docstring.
    ``repeated(arrays)`` gives a function that calls the same batch once more each time, and nothing beside it.
    """

    examine: Callable[[Arrays], Examined]
    repeated: Callable[[Arrays], Callable[[], Examined]]


def examination(target: Target, params: Params, function: Candidate | Function, name: str) -> Examination:
    """What evaluates batches for the question whether ``function`` keeps the contract of ``target``.

    A plain function, with ``name`` for messages, is called in this process: one that raises, or returns another shape
    or dtype than its signature says, makes the evaluation raise CandidateError.
    """
    contract = contract_of(target)
    space = contract.space(params)
    nmse_limit = GGML_NMSE_LIMIT.get(target.name, GGML_DEFAULT_NMSE_LIMIT)

    scalars = [scalar.array for scalar in contract.scalars]

    right = partial(_right, contract, params)

    def ran(arrays: Arrays, known: np.ndarray) -> _Results:
        like = _like(contract, known)
        if not isinstance(function, Candidate):
            result = _called(contract, params, function, name, arrays, like)
            return _Results(contract, params, arrays, result, known, {}, frozenset())
        done = function.run(target.name, params, arrays, like)
        failures, skipped = done.failures, done.skipped
        if any(failure.kind == "raised" for failure in failures.values()):
            promised = _promised(contract, params, arrays, like)
            refused = {row for row, each in failures.items() if each.kind == "raised" and not promised[row]}
            failures = {row: each for row, each in failures.items() if row not in refused}
            skipped = skipped | refused
        return _Results(contract, params, arrays, done.result, known, failures, skipped)

    def judged(arrays: Arrays) -> _Judged:
        return _judged(ran(arrays, right(arrays)))

    def examine(arrays: Arrays) -> Examined:
        whole = judged(arrays)
        outcome = whole.outcome
        explain: Callable[[float, int], Evidence] = lambda value, row: whole.evidence(row, value, nmse_limit)  # noqa: E731
        if len(outcome.value) > 1 or not contract.batched or np.isinf(outcome.value[0]):
            return Examined(outcome, explain)
        alone = worst = float(outcome.value[0])
        for batch, places in zip(company.standard(space, arrays, scalars), company.PLACES, strict=True):
            beside = judged(batch)
            of_case = np.nan_to_num(beside.outcome.value[list(places)], nan=-np.inf, posinf=np.inf)
            if of_case.max() > worst * (1 + RELATIVE_NOISE) or np.isnan(worst):
                worst = float(of_case.max())
                outcome, explain = _of_row(beside, places[int(of_case.argmax())], alone, nmse_limit)
        return Examined(outcome, explain)

    def repeated(arrays: Arrays) -> Callable[[], Examined]:
        known = right(arrays)
        first: list[tuple[bytes, Examined]] = []

        def again() -> Examined:
            results = ran(arrays, known)
            # Equal bits have equal values, which are not computed again: a fault by chance takes thousands of calls.
            bits = b"" if results.failures or results.skipped else results.candidate.tobytes()
            if first and bits and first[0][0] == bits:
                return first[0][1]
            whole = _judged(results)
            examined = Examined(whole.outcome, lambda value, row: whole.evidence(row, value, nmse_limit))
            if not first:
                first.append((bits, examined))
            return examined

        return again

    return Examination(examine, repeated)


def _of_row(
    beside: _Judged, row: int, alone: float, nmse_limit: float
) -> tuple[Outcome, Callable[[float, int], Evidence]]:
    """The outcome of one row of a batch, and its evidence, in which stands what it has ``alone``."""
    return beside.outcome.of_row(row), lambda value, _: attrs.evolve(
        beside.evidence(row, value, nmse_limit), alone=alone
    )


def _promised(contract: Contract, p: Params, arrays: Arrays, like: np.ndarray) -> Bool[np.ndarray, " b"]:
    """Rows of whose result the arithmetic promises anything. Of the others, an exception is as good as any."""
    if contract.allowance is not None:
        finite = np.isfinite(_flat(contract.allowance(p, arrays)))
        return np.asarray((finite & _judgeable(contract, _flat(contract.exact(p, arrays)))).any(axis=1))
    if contract.accepts is None:
        return np.ones(len(like), bool)
    # What takes two opposite results takes any.
    anything = [contract.accepts(p, arrays, np.full_like(like, bits)).reshape(len(like), -1) for bits in (0, 255)]
    return np.asarray(~(anything[0] & anything[1]).all(axis=1))


def _called(
    contract: Contract, p: Params, function: Function, name: str, arrays: Arrays, like: np.ndarray
) -> np.ndarray:
    given = {key: np.array(array) for key, array in arrays.items()}
    shapes = ", ".join(f"{key} {array.dtype}{list(array.shape)}" for key, array in given.items())
    try:
        result = np.array(_call(contract, p, function, given, _expected(contract, p, arrays), compiled=False))
    except ResultError as error:
        raise CandidateError(
            f"candidate {name} {error} (called with {shapes}; its signature: {contract.signature})"
        ) from error
    except (Exception, SystemExit) as error:
        raise CandidateError(f"candidate {name} raises {located(error)} (called with {shapes})") from error
    if result.shape != like.shape or result.dtype != like.dtype:
        raise CandidateError(
            f"candidate {name} returns {result.dtype}{list(result.shape)}, where {like.dtype}{list(like.shape)} is "
            f"needed (called with {shapes}; its signature: {contract.signature})"
        )
    return result


@attrs.frozen
class _Judged:
    """The values of a batch, and what makes the evidence of one of its rows from the same results."""

    outcome: Outcome
    evidence: Callable[[int, float, float], Judged]


def _judged(results: _Results) -> _Judged:
    return _fixed(results) if results.contract.allowance is None else _within_allowance(results)


def _outcome(results: _Results, value: Float64[np.ndarray, " b"], noise: Float64[np.ndarray, " b"]) -> Outcome:
    """A row that failed is wrong without end; one that was not run has no value."""
    if not results.failures and not results.skipped:
        return Outcome(value, noise)
    value, noise, failures = value.copy(), noise.copy(), np.zeros(len(value), np.int64)
    for row, failure in results.failures.items():
        value[row], noise[row], failures[row] = np.inf, 0.0, failure_code(failure)
    without = list(results.skipped)
    value[without], noise[without] = np.nan, 0.0
    return Outcome(value, noise, failures)


def _within_allowance(results: _Results) -> _Judged:
    contract, p, arrays = results.contract, results.params, results.arrays
    if contract.allowance is None:
        raise TypeError("a contract without an allowance has a fixed result")
    exact, candidate = _flat(results.known), _flat(_settled(results))
    allowance = _flat((contract.first_allowance or contract.allowance)(p, arrays))
    judgeable = _judgeable(contract, exact)
    promised = np.isfinite(allowance) & judgeable
    ratio = np.where(promised, _ratio(candidate, exact, allowance), 0.0)
    value = ratio.max(axis=1)
    if contract.first_allowance is not None and (beyond := np.flatnonzero(~(value <= 1))).size:
        # These rows may be right by another form of the formula, whose bounds take as long as the first again.
        allowance = allowance.copy()
        allowance[beyond] = _flat(contract.allowance(p, {name: array[beyond] for name, array in arrays.items()}))
        promised = np.isfinite(allowance) & judgeable
        ratio = np.where(promised, _ratio(candidate, exact, allowance), 0.0)
        value = ratio.max(axis=1)

    def evidence(row: int, shown: float, nmse_limit: float) -> Judged:
        one = slice(row, row + 1)
        # Only here, because the bits of a reference cost more than all the rest.
        reference = _flat(contract.reference(p, {name: array[one] for name, array in arrays.items()}))
        worst = int(ratio[row].argmax())
        ours = float(np.where(promised[one], _ratio(reference, exact[one], allowance[one]), 0.0).max())
        both = [np.where(promised, numbers, 0.0)[one] for numbers in (exact, candidate)]
        return Judged(
            element=worst,
            candidate=float(_flat(results.candidate)[row, worst]) if results.ran(row) else np.nan,
            exact=float(exact[row, worst]),
            reference=float(reference[0, worst]),
            allowance=float(allowance[row, worst]),
            reference_error=ours,
            nmse=_nmse(*both) if results.ran(row) else np.nan,
            nmse_limit=nmse_limit,
            failure=results.failures.get(row),
            wrong=_wrong(shown > 1, ours > 1),
        )

    outcome = _outcome(results, value, np.where(np.isfinite(value), RELATIVE_NOISE * value, 0.0))
    return _Judged(attrs.evolve(outcome, promised=promised.mean(axis=1)), evidence)


def _judgeable(contract: Contract, exact: Float64[np.ndarray, "b n"]) -> Bool[np.ndarray, "b n"]:
    """Which exact results a result can be held against: numbers of the dtype. The allowance of packed results is
    infinite for the others, and an infinity is exact where the function has one.
    """
    return np.asarray(~np.isnan(exact) if contract.results is not None else np.abs(exact) <= _LARGEST)


def _settled(results: _Results) -> np.ndarray:
    """What the candidate returned, with the exact result in the place of what is as good."""
    settled = results.contract.settled
    if settled is None:
        return results.candidate
    return settled(results.params, results.arrays, results.candidate)


def _ratio(
    result: Float64[np.ndarray, "b n"], exact: Float64[np.ndarray, "b n"], allowance: Float64[np.ndarray, "b n"]
) -> Float64[np.ndarray, "b n"]:
    """|result - exact| / allowance, element by element: 0 where they are equal, inf where the result is not finite.

    Not that of diffuzz.judging.pair: here a NaN is wrong whatever the exact result is.
    """
    ratio: Float64[np.ndarray, "b n"] = np.subtract(result, exact)
    np.abs(ratio, out=ratio)
    ratio /= allowance
    odd = ~np.isfinite(ratio)
    if odd.any():
        # 0 / 0, two equal infinities; or an error where none is allowed, an infinity, NaN.
        ratio[odd] = np.where(result[odd] == exact[odd], 0.0, np.inf)
    odd = ~np.isfinite(result) & (result != exact)
    if odd.any():
        # An infinity where anything is allowed.
        ratio[odd] = np.inf
    return ratio


def _nmse(exact: Float64[np.ndarray, "1 n"], result: Float[np.ndarray, "1 n"]) -> float:
    """NMSE of a row; inf where the result is not finite, which ggml's tests refuse as well."""
    return float(distances.nmse(exact, result)[0]) if np.isfinite(result).all() else np.inf


def _fixed(results: _Results) -> _Judged:
    contract, p, arrays = results.contract, results.params, results.arrays
    # A third voice, where there is one: the exact result, rounded once.
    has_exact = "exact" in contract.kernels(p)
    truth = contract.exact(p, arrays) if has_exact else results.known
    wrong = (
        ~contract.accepts(p, arrays, results.candidate)
        if contract.accepts is not None
        else unequal(results.candidate, truth)
    )
    wrong = wrong.reshape(len(wrong), -1)
    count = wrong.sum(axis=1).astype(np.float64)

    def evidence(row: int, shown: float, nmse_limit: float) -> Judged:
        ours, numbers = _flat(unequal(results.known, truth))[row], results.known.dtype == np.float32
        first = int((wrong[row] if wrong[row].any() else ours).argmax())
        candidate, reference, exact = (_flat(each)[row] for each in (results.candidate, results.known, truth))
        differing = float(ours.sum())
        nmse = _nmse(exact[None], candidate[None]) if numbers else None
        return Judged(
            element=first,
            exact=float(exact[first]) if has_exact and numbers else None,
            candidate=float(candidate[first]) if results.ran(row) else np.nan,
            reference=float(reference[first]),
            reference_error=differing,
            nmse=nmse if results.ran(row) or nmse is None else np.nan,
            nmse_limit=nmse_limit if numbers else None,
            failure=results.failures.get(row),
            wrong=_wrong(shown > 0, differing > 0),
        )

    return _Judged(_outcome(results, count, np.zeros(len(count))), evidence)


def unequal(a: np.ndarray, b: np.ndarray) -> Bool[np.ndarray, ...]:
    """Whether numbers differ; both zeros are one number, and so is every NaN."""
    return np.asarray((a != b) & ~(np.isnan(a) & np.isnan(b)))


def _wrong(candidate: bool, reference: bool) -> Wrong | None:
    """Which implementation a case shows to be wrong: the candidate, diffuzz's own reference, both, or none of them."""
    if candidate:
        return "both" if reference else "candidate"
    return "reference" if reference else None


def _flat(array: np.ndarray) -> Float64[np.ndarray, "b n"]:
    return np.asarray(array).reshape(len(array), -1).astype(np.float64)
