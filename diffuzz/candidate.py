"""Candidates: a user's own function in the place of the implementation under test.

    with Candidate("my_kernels.py:soft_max") as candidate:
        target = with_candidate(targets.get("softmax"), params, candidate)

The result is a target like any other. Its value is how far the function leaves what its contract
(``Target.contract``) allows:

    an a-priori error bound     max over elements of |f - exact| / allowance: more than 1 is wrong, in any order of sums
    a result fixed to the bit   number of elements that differ: more than 0 is wrong (both zeros are one number)

A NaN or an infinity where the exact result is a float32 number has the value inf, and so has a case on which the
function crashes, hangs, takes all memory, raises, or returns an array of another shape or dtype. Elements for which the
arithmetic promises nothing (overflow; an infinite allowance) are not judged, and on a row that has no others the
function may raise. It runs in a process of its own (see diffuzz.worker).

A function of whole batches may mix up their rows. In a search every case has others beside it; a case that is evaluated
alone is called twice, alone and beside two other rows, and the worst of its results counts. So what was found in a
batch is found again where the case is measured, minimised or replayed, and does not depend on the batch it came from.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import attrs
import numpy as np

from diffuzz import measure, sampling, targets
from diffuzz.space import Space, TensorSpec
from diffuzz.target import Arrays, Contract, Drift, Outcome, Params, Target
from diffuzz.worker import KINDS, Failure, Worker, WorkerError
from diffuzz.working import one_line

# max_nmse_err in ggml's tests/test-backend-ops.cpp: of MUL_MAT and SOFT_MAX, and the default of other operations.
GGML_NMSE_LIMIT = {"matvec": 5e-4, "softmax": 1e-6}
GGML_DEFAULT_NMSE_LIMIT = 1e-7
# Relative error of value itself: float64 against allowances of some 2^-24, with room for its own constants.
_RELATIVE_NOISE = 1e-6
# Places of a case in the batch that _in_company makes.
_OWN = [1, 3]
_LARGEST = float(np.finfo(np.float32).max)

# How Candidate.run counts an exception.
RAISED = 1 + KINDS.index("raised")

Function = Callable[..., Any]
Named = Literal["candidate", "reference", "both"]


class CandidateError(ValueError):
    """A candidate that cannot be loaded or called, or does not return an array of the right kind; one line."""


@attrs.define
class Candidate:
    """The function that ``FILE.py:FUNCTION`` names, in a process of its own; ``timeout`` is in seconds for one call.

    ``failure`` is the last one of a case; ``passing`` one that did not happen again, and so is of no case. Raises
    CandidateError at once for a name that is none, or a file that is not there.
    """

    name: str
    timeout: float = attrs.field(default=10.0, kw_only=True)
    failure: Failure | None = attrs.field(init=False, default=None)
    passing: Failure | None = attrs.field(init=False, default=None)
    _worker: Worker = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        _file_and_function(self.name)
        self._worker = Worker("diffuzz.candidate:serve", self.name, timeout=self.timeout)

    def __enter__(self) -> Candidate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.close()

    def probe(self, target: Target, params: Params) -> None:
        """Call it once, with ones. Raises CandidateError if it cannot be called: it does not load, it raises, or it
        returns another shape or dtype than its signature says.
        """
        contract = contract_of(target)
        space = (contract.space or target.space)(params)
        batch = {
            spec.name: np.zeros((1, *spec.array_shape()), np.uint8)
            if spec.kind == "blocks"
            else sampling.clip(spec, np.ones((1, *spec.array_shape()))).astype(spec.dtype)
            for spec in space.tensors
        }
        with np.errstate(all="ignore"):
            self.run(target.name, params, batch, np.asarray(contract.reference(params, batch)))
        if self.failure is not None and self.failure.kind in ("raised", "garbage"):
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in batch.items())
            verb = "raises " if self.failure.kind == "raised" else ""
            raise CandidateError(
                f"candidate {self.name} {verb}{self.failure.text} (called with {shapes}; "
                f"its signature: {contract.signature})"
            )

    def run(self, target: str, params: Params, arrays: Arrays, like: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(result, failures): an array like ``like``, its elements where a row failed; and for each row 0 if it did
        not, 1 + the place of its kind in KINDS if it did, -1 if it was not run because too many others failed.

        Raises CandidateError if the file cannot be loaded.
        """
        try:
            ran = self._worker.run((target, dict(params)), arrays, shape=like.shape[1:], dtype=str(like.dtype))
        except WorkerError as error:
            said = str(error).removeprefix(f"{CandidateError.__name__}: ")
            named = said if self.name in said else f"candidate {self.name} while it is loaded: {said}"
            raise CandidateError(named) from error
        failures = np.zeros(len(like), np.int64)
        for row, failure in ran.failures.items():
            failures[row] = 1 + KINDS.index(failure.kind)
        failures[list(ran.skipped)] = -1
        self.failure = next(iter(ran.failures.values()), None)
        self.passing = ran.passing or self.passing
        ran.result[failures != 0] = like[failures != 0]
        return ran.result, failures


def serve(name: str) -> Callable[[tuple[str, Params], dict[str, np.ndarray], np.ndarray], np.ndarray]:
    """What the process of a candidate does: load it, and call it for each batch as its contract says."""
    function = load(name)

    def answer(request: tuple[str, Params], arrays: dict[str, np.ndarray], out: np.ndarray) -> np.ndarray:
        target, params = request
        with np.errstate(all="ignore"):
            return contract_of(targets.get(target)).call(params, function, arrays)

    return answer


def _file_and_function(specification: str) -> tuple[Path, str]:
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
    path, name = _file_and_function(specification)
    module_name = f"diffuzz_candidate_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    if module_spec is None or module_spec.loader is None:
        raise CandidateError(f"candidate {specification}: {path} cannot be imported")
    module = importlib.util.module_from_spec(module_spec)
    folder = str(path.resolve().parent)
    sys.modules[module_name] = module
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise CandidateError(f"candidate {specification}: {path} fails to load: {one_line(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        kind = "no function" if function is None else f"a {type(function).__name__}, not a function,"
        raise CandidateError(f"candidate {specification}: {path} has {kind} {name}")
    result: Function = function
    return result


def with_candidate(target: Target, params: Params, function: Candidate | Function, name: str | None = None) -> Target:
    """``target`` asking whether a candidate keeps its contract; see the module's docstring. It is called once, to see
    whether it can be called at all.

    A plain function, with ``name`` for messages, is called in this process: one that raises, or returns another shape
    or dtype than its signature says, makes the evaluation raise CandidateError. Raises CandidateError if the target
    takes no candidate, or if the
    candidate does not load, or fails on ones (see Candidate.probe).
    """
    contract = contract_of(target)
    if isinstance(function, Candidate):
        function.probe(target, params)
    exact_bits = contract.allowance is None
    judged = _differing if exact_bits else _beyond_allowance
    nmse_limit = GGML_NMSE_LIMIT.get(target.name, GGML_DEFAULT_NMSE_LIMIT)
    called = function.name if isinstance(function, Candidate) else name or "candidate"
    space = contract.space or target.space

    def judge_batch(p: Params, arrays: Arrays) -> Outcome:
        with np.errstate(all="ignore"):
            reference = np.asarray(contract.reference(p, arrays))
            if not isinstance(function, Candidate):
                result = _called(contract, p, function, called, arrays, reference)
                return judged(contract, p, arrays, result, reference, nmse_limit)
            result, failures = function.run(target.name, p, arrays, reference)
            if (refused := failures == RAISED).any():
                failures = np.where(refused & ~_promised(contract, p, arrays, reference), -1, failures)
            return _with_failures(judged(contract, p, arrays, result, reference, nmse_limit), failures)

    def evaluate(p: Params, arrays: Arrays) -> Outcome:
        alone = judge_batch(p, arrays)
        if len(alone.value) > 1 or not contract.batched or np.isinf(alone.value[0]):
            return alone
        beside = judge_batch(p, _in_company(space(p), arrays, contract.scalars))
        row = int(np.argmax(np.nan_to_num(beside.value[_OWN], nan=-np.inf, posinf=np.inf)))
        if not beside.value[_OWN][row] > alone.value[0]:
            return alone
        outcome = _row(beside, _OWN[row])
        return attrs.evolve(outcome, detail={**outcome.detail, "alone": alone.value})

    return attrs.evolve(
        target,
        summary=f"{called} against the contract of {target.name}",
        space=space,
        question=Drift(evaluate, steady=False),
        measure=lambda p: (
            "elements that differ from the fixed result" if exact_bits else "max |f - exact| / a-priori bound"
        ),
        bound=lambda p: None,
        claim=f"{called} is wrong",
        limit=lambda p: 0.0 if exact_bits else 1.0,
        tolerance=0.0 if exact_bits else _RELATIVE_NOISE,
        starts=contract.starts if contract.space else target.starts,
    )


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


def _row(outcome: Outcome, row: int) -> Outcome:
    one = slice(row, row + 1)
    return Outcome(outcome.value[one], outcome.noise[one], {name: v[one] for name, v in outcome.detail.items()})


def contract_of(target: Target) -> Contract:
    if target.contract is None:
        raise CandidateError(
            f"target {target.name} takes no candidate: its claim is about the arithmetic, not about one function"
        )
    return target.contract


def _promised(contract: Contract, p: Params, arrays: Arrays, like: np.ndarray) -> np.ndarray:
    """bool[b]: rows of whose result the arithmetic promises anything. Of the others, an exception is as good as any."""
    if contract.allowance is not None:
        finite = np.isfinite(_flat(contract.allowance(p, arrays)))
        return np.asarray((finite & (np.abs(_flat(contract.exact(p, arrays))) <= _LARGEST)).any(axis=1))
    if contract.accepts is None:
        return np.ones(len(like), bool)
    # What takes two opposite results takes any.
    anything = [contract.accepts(p, arrays, np.full_like(like, bits)).reshape(len(like), -1) for bits in (0, 255)]
    return ~(anything[0] & anything[1]).all(axis=1)


def _with_failures(outcome: Outcome, failures: np.ndarray) -> Outcome:
    """A row that failed is wrong without end; one that was not run has no value. ``failure`` says which kind."""
    if not failures.any():
        return outcome
    value = np.where(failures > 0, np.inf, np.where(failures < 0, np.nan, outcome.value))
    noise = np.where(failures == 0, outcome.noise, 0.0)
    detail = {"failure": failures.astype(np.float64)} | {
        key: np.where(failures == 0, values, np.nan) if key in ("candidate", "nmse") else values
        for key, values in outcome.detail.items()
    }
    return Outcome(value, noise, detail)


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


def _beyond_allowance(
    contract: Contract, p: Params, arrays: Arrays, result: np.ndarray, reference: np.ndarray, nmse_limit: float
) -> Outcome:
    if contract.exact is None or contract.allowance is None:
        raise TypeError("a contract with an allowance needs the exact result")
    exact = _flat(contract.exact(p, arrays))
    allowance = _flat(contract.allowance(p, arrays))
    result, reference = _flat(result), _flat(reference)
    promised = np.isfinite(allowance) & (np.abs(exact) <= _LARGEST)
    ratio = np.where(promised, _ratio(result, exact, allowance), 0.0)
    ours = np.where(promised, _ratio(reference, exact, allowance), 0.0)
    value, worst = ratio.max(axis=1), ratio.argmax(axis=1)
    row = np.arange(len(value))
    detail = {
        "worst element": worst.astype(np.float64),
        "candidate": result[row, worst],
        "exact": exact[row, worst],
        "reference": reference[row, worst],
        "allowance": allowance[row, worst],
        "reference error / a-priori bound": ours.max(axis=1),
        "nmse": _nmse(np.where(promised, exact, 0.0), np.where(promised, result, 0.0)),
        "ggml nmse limit": np.full(len(value), nmse_limit),
    }
    return Outcome(value, np.where(np.isfinite(value), _RELATIVE_NOISE * value, 0.0), detail)


def _ratio(result: np.ndarray, exact: np.ndarray, allowance: np.ndarray) -> np.ndarray:
    """|result - exact| / allowance, element by element; inf where the result is not finite."""
    error = np.abs(result - exact)
    return np.where(np.isfinite(result), np.where(error > 0, error / allowance, 0.0), np.inf)


def _nmse(exact: np.ndarray, result: np.ndarray) -> np.ndarray:
    """NMSE by row; inf where the result is not finite, which ggml's tests refuse as well."""
    finite = np.isfinite(result)
    return np.where(finite.all(axis=1), measure.nmse(exact, np.where(finite, result, 0.0)), np.inf)


def _differing(
    contract: Contract, p: Params, arrays: Arrays, result: np.ndarray, reference: np.ndarray, nmse_limit: float
) -> Outcome:
    # A third voice, where there is one: the exact result, rounded once.
    truth = contract.exact(p, arrays) if "exact" in contract.kernels(p) else reference
    wrong = ~contract.accepts(p, arrays, result) if contract.accepts is not None else _unequal(result, truth)
    ours, numbers = _flat(_unequal(reference, truth)), reference.dtype == np.float32
    wrong, result, reference, truth = wrong.reshape(len(wrong), -1), _flat(result), _flat(reference), _flat(truth)
    count, row = wrong.sum(axis=1).astype(np.float64), np.arange(len(wrong))
    first = np.where(wrong.any(axis=1), wrong.argmax(axis=1), ours.argmax(axis=1))
    detail = {"first element": first.astype(np.float64)}
    if truth is not reference and numbers:
        detail["exact"] = truth[row, first]
    detail |= {
        "candidate": result[row, first],
        "reference": reference[row, first],
        "elements of the reference that differ": ours.sum(axis=1),
    }
    if numbers:
        detail |= {"nmse": _nmse(truth, result), "ggml nmse limit": np.full(len(count), nmse_limit)}
    return Outcome(count, np.zeros(len(count)), detail)


def _unequal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether numbers differ; both zeros are one number, and so is every NaN."""
    return np.asarray((a != b) & ~(np.isnan(a) & np.isnan(b)))


def named(detail: Mapping[str, float], value: float, limit: float) -> Named | None:
    """Which implementation a case shows to be wrong: the candidate, diffuzz's own reference, both, or none of them."""
    ours = (
        detail.get("reference error / a-priori bound", 0.0) > 1
        or detail.get("elements of the reference that differ", 0.0) > 0
    )
    if value > limit:
        return "both" if ours else "candidate"
    return "reference" if ours else None


def _flat(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).reshape(len(array), -1).astype(np.float64)
