"""Pairs: two implementations of one operation, held against each other and against what their arithmetic allows.

    with open_problem(targets.get("softmax"), {}, Compare("apr", "ggml")) as problem: ...

Both implementations get the same cases, those of the operation's contract (``Target.contract``), and the value is how
far apart they are, in terms of what rounding alone explains:

    an a-priori error bound     max over elements of |A - B| / (2 rounding): above 1 it is not rounding
    a result fixed to the bit   number of elements that differ (all NaN are one number, and so are both zeros)

An implementation that runs in a process of its own (libggml, a candidate) may fail on a case: it crashes, hangs, takes
all memory. Such a case has the value inf.

``rounding`` is the contract's bound of one implementation that does everything as stated and rounds in any order. What
is above 1 is either policy, both keeping their contract (the other rule for ties, activations quantised or not), or at
least one of them is outside its a-priori bound. So are bits that differ: policy where a choice explains them.
``Compared.agreement`` tells which. ``exact`` counts as an implementation that does not round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import kernels
from diffuzz.judging.candidate import Candidate
from diffuzz.judging.evidence import Compared, Elements
from diffuzz.judging.examination import RELATIVE_NOISE, unequal
from diffuzz.judging.examined import Examined, failure_code
from diffuzz.judging.question import CANDIDATE, QuestionError
from diffuzz.kernels.names import MissingKernelsError as MissingKernelsError
from diffuzz.kernels.process.worker import Failure, RowsFailedError
from diffuzz.registry import located
from diffuzz.targets.contract import Contract
from diffuzz.targets.outcome import Arrays, Outcome
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64, Shaped

_LARGEST = float(np.finfo(np.float32).max)
EXACT = "exact"
# Compiles its operations for each shape.
COMPILED = "xla"
# Cases of a batch that an implementation may fail on before the rest of the batch is left alone.
_MOST_FAILURES = 8


@attrs.frozen
class _Side:
    """What one implementation made of a batch: results, the rows that failed, and those that were not run."""

    result: Shaped[np.ndarray, "b ..."]
    failures: dict[int, Failure]
    skipped: frozenset[int]


# Results of a batch like those of the reference.
_Run = Callable[[Arrays, np.ndarray], _Side]


def implementations(target: Target, params: Params) -> tuple[str, ...]:
    """Names of the kernel modules that implement the target's operation; empty for one without a contract."""
    return () if target.contract is None else target.contract.kernels(params)


def contract_of(target: Target) -> Contract:
    """The contract of a target that compares kernels. Raises QuestionError if it has none."""
    if target.contract is None:
        raise QuestionError(f"target {target.name} compares no kernels: its claim is about the arithmetic")
    return target.contract


def check_known(target: Target, params: Params, name: str) -> None:
    """Raise QuestionError unless ``name`` is an implementation of the target's operation, or one from outside;
    MissingKernelsError, an ImportError, where it is not installed.
    """
    known = implementations(target, params)
    if kernels.base(name) not in known and not kernels.KernelName.parse(name).from_outside:
        raise QuestionError(f"target {target.name} has no kernels {name!r} here (it has {', '.join(known)})")
    if (remedy := kernels.missing(name)) is not None:
        raise MissingKernelsError(remedy)


def examination(
    target: Target, params: Params, names: tuple[str, str], candidate: Candidate | None
) -> Callable[[Arrays], Examined]:
    """What evaluates batches for the question how far the two implementations are apart.

    ``candidate`` is the process of the one that is called so. Raises ValueError: there is no such library.
    """
    contract = contract_of(target)
    first, second = (_side(target, params, name, candidate) for name in names)
    shares = max(sum(name != EXACT for name in names), 1)

    def examine(arrays: Arrays) -> Examined:
        like = np.asarray(contract.reference(params, arrays))
        one, other = first(arrays, like), second(arrays, like)
        if contract.allowance is None:
            return _differing(contract, params, arrays, one, other)
        return _apart(contract, params, arrays, one, other, shares)

    return examine


def _side(target: Target, params: Params, name: str, candidate: Candidate | None) -> _Run:
    contract = contract_of(target)
    if name == CANDIDATE:
        if candidate is None:
            raise QuestionError(f"kernels {CANDIDATE}: give --candidate, too")

        def called(arrays: Arrays, like: np.ndarray) -> _Side:
            ran = candidate.run(target.name, params, arrays, like)
            return _Side(ran.result, ran.failures, ran.skipped)

        return called
    module = kernels.get(name)

    def run(arrays: Arrays, like: np.ndarray) -> _Side:
        try:
            return _Side(_result(contract, params, arrays, module, name, like), {}, frozenset())
        except RowsFailedError:
            pass
        # An operation may have made several rows of a case: the case as a whole is what fails.
        result = like.copy()
        failures: dict[int, Failure] = {}
        for row in range(len(like)):
            if len(failures) >= _MOST_FAILURES:
                return _Side(result, failures, frozenset(range(row, len(like))))
            try:
                case = {key: array[row : row + 1] for key, array in arrays.items()}
                result[row] = contract.run(params, case, module)[0]
            except RowsFailedError as error:
                failures[row] = next(iter(error.ran.failures.values()))
        return _Side(result, failures, frozenset())

    return run


def _result(
    contract: Contract, params: Params, arrays: Arrays, module: object, name: str, like: np.ndarray
) -> np.ndarray:
    """The result of a kernel module. Raises QuestionError where one from outside raises, or returns something else."""
    if not kernels.KernelName.parse(name).from_outside:
        return np.asarray(contract.run(params, arrays, module))
    try:
        # It may work in place: the arrays are those of the case, which the other side gets, too.
        result = np.asarray(contract.run(params, {key: np.array(array) for key, array in arrays.items()}, module))
    except AttributeError as error:
        if error.obj is not module:
            raise
        raise QuestionError(f"kernels {name}: no {error.name} there, which this target compares") from error
    except Exception as error:
        shapes = ", ".join(f"{key} {array.dtype}{list(array.shape)}" for key, array in arrays.items())
        raise QuestionError(f"kernels {name}: raises {located(error)} (called with {shapes})") from error
    if result.shape != like.shape or result.dtype.kind != like.dtype.kind:
        returned, wanted = (f"{each.dtype}{list(each.shape)}" for each in (result, like))
        raise QuestionError(f"kernels {name}: returns {returned}, where {wanted} is needed")
    return result


def _outcome(value: Float64[np.ndarray, " b"], noise: Float64[np.ndarray, " b"], one: _Side, other: _Side) -> Outcome:
    """A case on which either failed is apart without end; one that either was not run on has no value."""
    if not (one.failures or other.failures or one.skipped or other.skipped):
        return Outcome(value, noise)
    value, noise = value.copy(), noise.copy()
    failures: Int64[np.ndarray, " b"] = np.zeros(len(value), np.int64)
    without = list(one.skipped | other.skipped)
    value[without], noise[without] = np.nan, 0.0
    for row in {*one.failures, *other.failures}:
        value[row], noise[row] = np.inf, 0.0
        failures[row] = failure_code(one.failures.get(row), other.failures.get(row))
    return Outcome(value, noise, failures)


def _differing(contract: Contract, p: Params, arrays: Arrays, one: _Side, other: _Side) -> Examined:
    a, b = one.result, other.result
    differ = unequal(a, b).reshape(len(a), -1)
    count = differ.sum(axis=1).astype(np.float64)

    def explain(value: float, row: int) -> Compared:
        first, unexplained, exact = int(differ[row].argmax()), None, None
        if EXACT in contract.kernels(p):
            exact = float(_flat(contract.exact(p, arrays))[row, first])
        # What a choice explains, or else what a candidate may return.
        right = contract.allows or contract.accepts
        if right is not None:
            outside = [~right(p, arrays, result).reshape(differ.shape)[row] for result in (a, b)]
            unexplained = (float(outside[0].sum()), float(outside[1].sum()))
        return Compared(
            element=first,
            a=float(a.reshape(differ.shape)[row, first]),
            b=float(b.reshape(differ.shape)[row, first]),
            exact=exact,
            unexplained=unexplained,
            failures=(one.failures.get(row), other.failures.get(row)),
            elements=Elements(None, _sides(one, other, row, _flat(a), _flat(b)), None, differ[row].astype(np.float64)),
        )

    return Examined(_outcome(count, np.zeros(len(count)), one, other), explain)


def _apart(contract: Contract, p: Params, arrays: Arrays, one: _Side, other: _Side, shares: int) -> Examined:
    if contract.allowance is None:
        raise TypeError("a contract without an allowance has fixed results")
    exact = _flat(contract.run(p, arrays, kernels.get(EXACT)))
    allowance = _flat(contract.allowance(p, arrays))
    rounding = allowance if contract.rounding is None else _flat(contract.rounding(p, arrays))
    a, b = _flat(one.result), _flat(other.result)
    if contract.settled is not None:
        a, b = (_flat(contract.settled(p, arrays, side.result)) for side in (one, other))
    promised = np.isfinite(allowance) & ((np.abs(exact) <= _LARGEST) if contract.results is None else ~np.isnan(exact))
    ratio = np.where(promised, _ratio(a, b, shares * rounding), 0.0)
    value = ratio.max(axis=1)

    def explain(value: float, row: int) -> Compared:
        worst = int(ratio[row].argmax())
        errors = [np.where(promised, _ratio(side, exact, allowance), 0.0)[row].max() for side in (a, b)]
        return Compared(
            element=worst,
            a=float(a[row, worst]),
            b=float(b[row, worst]),
            exact=float(exact[row, worst]),
            rounding=float(rounding[row, worst]),
            errors=(float(errors[0]), float(errors[1])),
            failures=(one.failures.get(row), other.failures.get(row)),
            elements=Elements(
                exact=exact[row],
                sides=_sides(one, other, row, a, b),
                allowed=np.where(promised[row], shares * rounding[row], np.inf),
                ratio=ratio[row],
            ),
        )

    outcome = _outcome(value, np.where(np.isfinite(value), RELATIVE_NOISE * value, 0.0), one, other)
    return Examined(attrs.evolve(outcome, promised=promised.mean(axis=1)), explain)


def _sides(
    one: _Side, other: _Side, row: int, a: Float64[np.ndarray, "b n"], b: Float64[np.ndarray, "b n"]
) -> dict[str, Float64[np.ndarray, " n"]]:
    """What each of the two that did not fail gave of a row."""
    return {name: result[row] for name, side, result in (("A", one, a), ("B", other, b)) if row not in side.failures}


def _ratio(
    a: Float64[np.ndarray, "b n"], b: Float64[np.ndarray, "b n"], allowed: Float64[np.ndarray, "b n"]
) -> Float64[np.ndarray, "b n"]:
    """|a - b| / allowed, element by element: 0 for equal numbers and two NaN, inf where only one is finite.

    Not that of diffuzz.judging.examination: two implementations may agree on a NaN.
    """
    error = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.where(np.isfinite(a) & np.isfinite(b), error / allowed, np.inf))


def _flat(array: np.ndarray) -> Float64[np.ndarray, "b n"]:
    return np.asarray(array).reshape(len(array), -1).astype(np.float64)
