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
alone is called twice, alone and beside two other rows, and the worst of its results counts. So what was found in a
batch is found again where the case is measured, minimised or replayed, and does not depend on the batch it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import registry, targets
from diffuzz.cases.ranges import clip
from diffuzz.cases.space import Space, TensorSpec
from diffuzz.judging.evidence import Evidence, Judged, Wrong
from diffuzz.judging.examined import Examined, failure_code
from diffuzz.judging.question import Function, Judge
from diffuzz.kernels.process.worker import Failure, Ran, Worker, WorkerError
from diffuzz.registry import one_line
from diffuzz.targets import distances
from diffuzz.targets.contract import Contract
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
# Places of a case in the batch that _in_company makes.
_OWN = [1, 3]
_LARGEST = float(np.finfo(np.float32).max)
# What a request to the process of a candidate says: the target, and the parameters of its contract.
Request = tuple[str, dict[str, int | float | bool | str]]


class CandidateError(ValueError):
    """A candidate that cannot be loaded or called, or does not return an array of the right kind; one line."""


@attrs.define
class Candidate:
    """The function that ``FILE.py:FUNCTION`` names, in a process of its own; ``timeout`` is in seconds for one call.

    ``passing`` is a failure that did not happen again, and so is of no case. Raises CandidateError at once for a name
    that is none, or a file that is not there.
    """

    name: str
    timeout: float = attrs.field(default=10.0, kw_only=True)
    passing: Failure | None = attrs.field(init=False, default=None)
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
        batch = {
            spec.name: np.zeros((1, *spec.array_shape()), np.uint8)
            if spec.kind == "blocks"
            else clip(spec, np.ones((1, *spec.array_shape()))).astype(spec.dtype)
            for spec in contract.space(params).tensors
        }
        with np.errstate(all="ignore"):
            ran = self.run(target.name, params, batch, np.asarray(contract.reference(params, batch)))
        failure = ran.failures.get(0)
        if failure is not None and failure.kind in ("raised", "garbage"):
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in batch.items())
            verb = "raises " if failure.kind == "raised" else ""
            raise CandidateError(
                f"candidate {self.name} {verb}{failure.text} (called with {shapes}; "
                f"its signature: {contract.signature})"
            )

    def run(self, target: str, params: Params, arrays: Arrays, like: np.ndarray) -> Ran:
        """What it returned: a result like ``like``, with its elements where a row failed or was not run.

        Raises CandidateError if the file cannot be loaded.
        """
        request: Request = (target, dict(params))
        try:
            ran = self._worker.run(request, arrays, shape=like.shape[1:], dtype=str(like.dtype))
        except WorkerError as error:
            said = str(error).removeprefix(f"{CandidateError.__name__}: ")
            named = said if self.name in said else f"candidate {self.name} while it is loaded: {said}"
            raise CandidateError(named) from error
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
        target, params = request
        with np.errstate(all="ignore"):
            return contract_of(targets.get(target)).call(params, function, arrays)

    return answer


def check_name(specification: str) -> tuple[Path, str]:
    """The file and the function that ``FILE.py:FUNCTION`` names. Raises CandidateError: no such name, no such file."""
    file, colon, name = specification.rpartition(":")
    if not (colon and file and name.isidentifier()):
        raise CandidateError(f"candidate {specification!r}: FILE.py:FUNCTION is needed")
    path = Path(file)
    if not path.is_file():
        raise CandidateError(f"candidate {specification}: there is no file {file}")
    if path.suffix != ".py":
        raise CandidateError(f"candidate {specification}: {file} is not a Python file (its name must end in .py)")
    return path, name


def load(specification: str) -> Function:
    """The function that ``FILE.py:FUNCTION`` names; the file is run, with its folder importable.

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
    """A batch, what the candidate and the reference made of it, and the rows that failed."""

    contract: Contract
    params: Params
    arrays: Arrays
    candidate: Shaped[np.ndarray, "b ..."]
    reference: Shaped[np.ndarray, "b ..."]
    failures: dict[int, Failure]
    skipped: frozenset[int]

    def ran(self, row: int) -> bool:
        """Whether the candidate has a result for a row."""
        return row not in self.failures and row not in self.skipped


def examination(
    target: Target, params: Params, function: Candidate | Function, name: str
) -> Callable[[Arrays], Examined]:
    """What evaluates batches for the question whether ``function`` keeps the contract of ``target``.

    A plain function, with ``name`` for messages, is called in this process: one that raises, or returns another shape
    or dtype than its signature says, makes the evaluation raise CandidateError. A case that is evaluated alone is
    called beside other rows, too; see the module's docstring.
    """
    contract = contract_of(target)
    space = contract.space(params)
    nmse_limit = GGML_NMSE_LIMIT.get(target.name, GGML_DEFAULT_NMSE_LIMIT)

    def ran(arrays: Arrays) -> _Results:
        reference = np.asarray(contract.reference(params, arrays))
        if not isinstance(function, Candidate):
            result = _called(contract, params, function, name, arrays, reference)
            return _Results(contract, params, arrays, result, reference, {}, frozenset())
        done = function.run(target.name, params, arrays, reference)
        failures, skipped = done.failures, done.skipped
        if any(failure.kind == "raised" for failure in failures.values()):
            promised = _promised(contract, params, arrays, reference)
            refused = {row for row, each in failures.items() if each.kind == "raised" and not promised[row]}
            failures = {row: each for row, each in failures.items() if row not in refused}
            skipped = skipped | refused
        return _Results(contract, params, arrays, done.result, reference, failures, skipped)

    def examine(arrays: Arrays) -> Examined:
        results = ran(arrays)
        judged = _judged(results)
        outcome = judged.outcome
        explain: Callable[[float], Evidence] = lambda value: judged.evidence(0, value, nmse_limit)  # noqa: E731
        if len(outcome.value) > 1 or not contract.batched or np.isinf(outcome.value[0]):
            return Examined(outcome, explain)
        company = _judged(ran(_in_company(space, arrays, contract.scalars)))
        beside = company.outcome
        row = _OWN[int(np.argmax(np.nan_to_num(beside.value[_OWN], nan=-np.inf, posinf=np.inf)))]
        alone = float(outcome.value[0])
        if not beside.value[row] > alone:
            return Examined(outcome, explain)
        one = slice(row, row + 1)
        failures = None if beside.failures is None else beside.failures[one]
        return Examined(
            Outcome(beside.value[one], beside.noise[one], failures),
            lambda value: attrs.evolve(company.evidence(row, value, nmse_limit), alone=alone),
        )

    return examine


def _in_company(space: Space, arrays: Arrays, scalars: Collection[str]) -> dict[str, np.ndarray]:
    """Four rows: of the largest numbers there are, the case, of the least, the case. Integers, and so blocks, are 0
    beside it, and scalar arguments are the case's own, so that all rows are in one call.
    """

    def beside(spec: TensorSpec, array: np.ndarray) -> np.ndarray:
        if spec.name in scalars:
            return np.repeat(array, 4, axis=0)
        ends = (spec.high, spec.low) if array.dtype.kind == "f" else (0, 0)
        return np.concatenate([np.full_like(array, ends[0]), array, np.full_like(array, ends[1]), array])

    return {name: beside(space[name], array) for name, array in arrays.items()}


def _promised(contract: Contract, p: Params, arrays: Arrays, like: np.ndarray) -> Bool[np.ndarray, " b"]:
    """Rows of whose result the arithmetic promises anything. Of the others, an exception is as good as any."""
    if contract.allowance is not None:
        finite = np.isfinite(_flat(contract.allowance(p, arrays)))
        return np.asarray((finite & (np.abs(_flat(contract.exact(p, arrays))) <= _LARGEST)).any(axis=1))
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
        result = np.asarray(contract.call(p, function, given))
    except (Exception, SystemExit) as error:
        raise CandidateError(f"candidate {name} raises {one_line(error)} (called with {shapes})") from error
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
    exact, allowance = _flat(contract.exact(p, arrays)), _flat(contract.allowance(p, arrays))
    candidate = _flat(results.candidate)
    promised = np.isfinite(allowance) & (np.abs(exact) <= _LARGEST)
    ratio = np.where(promised, _ratio(candidate, exact, allowance), 0.0)
    value = ratio.max(axis=1)

    def evidence(row: int, shown: float, nmse_limit: float) -> Judged:
        reference, worst = _flat(results.reference), int(ratio[row].argmax())
        ours = float(np.where(promised, _ratio(reference, exact, allowance), 0.0)[row].max())
        both = [np.where(promised, numbers, 0.0)[row : row + 1] for numbers in (exact, candidate)]
        return Judged(
            element=worst,
            candidate=float(candidate[row, worst]) if results.ran(row) else np.nan,
            exact=float(exact[row, worst]),
            reference=float(reference[row, worst]),
            allowance=float(allowance[row, worst]),
            reference_error=ours,
            nmse=_nmse(*both) if results.ran(row) else np.nan,
            nmse_limit=nmse_limit,
            failure=results.failures.get(row),
            wrong=_wrong(shown > 1, ours > 1),
        )

    return _Judged(_outcome(results, value, np.where(np.isfinite(value), RELATIVE_NOISE * value, 0.0)), evidence)


def _ratio(
    result: Float64[np.ndarray, "b n"], exact: Float64[np.ndarray, "b n"], allowance: Float64[np.ndarray, "b n"]
) -> Float64[np.ndarray, "b n"]:
    """|result - exact| / allowance, element by element; inf where the result is not finite.

    Not that of diffuzz.judging.pair: here a NaN is wrong whatever the exact result is.
    """
    error = np.abs(result - exact)
    return np.where(np.isfinite(result), np.where(error > 0, error / allowance, 0.0), np.inf)


def _nmse(exact: Float64[np.ndarray, "1 n"], result: Float[np.ndarray, "1 n"]) -> float:
    """NMSE of a row; inf where the result is not finite, which ggml's tests refuse as well."""
    return float(distances.nmse(exact, result)[0]) if np.isfinite(result).all() else np.inf


def _fixed(results: _Results) -> _Judged:
    contract, p, arrays = results.contract, results.params, results.arrays
    # A third voice, where there is one: the exact result, rounded once.
    has_exact = "exact" in contract.kernels(p)
    truth = contract.exact(p, arrays) if has_exact else results.reference
    wrong = (
        ~contract.accepts(p, arrays, results.candidate)
        if contract.accepts is not None
        else _unequal(results.candidate, truth)
    )
    wrong = wrong.reshape(len(wrong), -1)
    count = wrong.sum(axis=1).astype(np.float64)

    def evidence(row: int, shown: float, nmse_limit: float) -> Judged:
        ours, numbers = _flat(_unequal(results.reference, truth))[row], results.reference.dtype == np.float32
        first = int((wrong[row] if wrong[row].any() else ours).argmax())
        candidate, reference, exact = (_flat(each)[row] for each in (results.candidate, results.reference, truth))
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


def _unequal(a: np.ndarray, b: np.ndarray) -> Bool[np.ndarray, ...]:
    """Whether numbers differ; both zeros are one number, and so is every NaN."""
    return np.asarray((a != b) & ~(np.isnan(a) & np.isnan(b)))


def _wrong(candidate: bool, reference: bool) -> Wrong | None:
    """Which implementation a case shows to be wrong: the candidate, diffuzz's own reference, both, or none of them."""
    if candidate:
        return "both" if reference else "candidate"
    return "reference" if reference else None


def _flat(array: np.ndarray) -> Float64[np.ndarray, "b n"]:
    return np.asarray(array).reshape(len(array), -1).astype(np.float64)
