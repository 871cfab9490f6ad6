"""Pairs: two implementations of one operation, held against each other and against what their arithmetic allows.

    target = with_pair(targets.get("softmax"), params, "apr", "ggml")

The result is a target like any other. Both implementations get the same cases, those of the operation's contract
(``Target.contract``), and the value is how far apart they are, in terms of what rounding alone explains:

    an a-priori error bound     max over elements of |A - B| / (2 rounding): above 1 it is not rounding
    a result fixed to the bit   number of elements whose bits differ (all NaN are one number)

An implementation that runs in a process of its own (libggml, a candidate) may fail on a case: it crashes, hangs, takes
all memory. Such a case has the value inf.

``rounding`` is the contract's bound of one implementation that does everything as stated and rounds in any order. What
is above 1 is either policy, both keeping their contract (the other rule for ties, activations quantised or not), or at
least one of them is outside its a-priori bound. So are bits that differ: policy where a choice explains them.
``agreement`` tells which. ``exact`` counts as an implementation that does not round.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np

from diffuzz import kernels
from diffuzz.candidate import Candidate
from diffuzz.target import Arrays, Contract, Drift, Outcome, Params, Target
from diffuzz.worker import KINDS, Failure, RowsFailedError

# Relative error of value itself: float64 against allowances of some 2^-24, with room for its own constants.
_RELATIVE_NOISE = 1e-6
_LARGEST = float(np.finfo(np.float32).max)
EXACT = "exact"
CANDIDATE = "candidate"
# Compiles its operations for each shape.
COMPILED = "xla"
# Cases of a batch that an implementation may fail on before the rest of the batch is left alone.
_MOST_FAILURES = 8

# Results of a batch like those of the reference, and for each row 0, 1 + the place of a failure in KINDS, or -1 where
# it was not run.
_Side = Callable[[Params, Arrays, np.ndarray], tuple[np.ndarray, np.ndarray]]


class PairError(ValueError):
    """Two implementations that cannot be compared, one line."""


class Agreement(enum.Enum):
    """How two implementations agree, as far as a search has seen."""

    BITS = "to the bit"
    ROUNDING = "to rounding"
    POLICY = "by policy"
    OUTSIDE = "not at all"


def implementations(target: Target, params: Params) -> tuple[str, ...]:
    """Names of the kernel modules that implement the target's operation; empty for one without a contract."""
    return () if target.contract is None else target.contract.kernels(params)


def with_pair(
    target: Target,
    params: Params,
    a: str,
    b: str,
    *,
    candidate: Candidate | None = None,
    on_failure: Callable[[str, Failure], None] | None = None,
) -> Target:
    """``target`` asking how far apart the implementations ``a`` and ``b`` are; see the module's docstring.

    One of them may be ``"candidate"``, and ``libggml@PATH`` is the library in another folder. ``on_failure`` is told
    which implementation failed, and how. Raises PairError: the target compares no implementations, or has none of that
    name. ImportError: one that is not installed.
    """
    contract = target.contract
    known = implementations(target, params)
    if contract is None or not known:
        raise PairError(f"target {target.name} compares no kernels: its claim is about the arithmetic")
    fixed = contract.allowance is None
    first, second = (_side(target, params, name, candidate, on_failure) for name in (a, b))
    shares = (a != EXACT) + (b != EXACT)

    def evaluate(p: Params, arrays: Arrays) -> Outcome:
        with np.errstate(all="ignore"):
            like = np.asarray(contract.reference(p, arrays))
            (one, failed), (other, failed_too) = first(p, arrays, like), second(p, arrays, like)
            apart = (
                _differing(contract, p, arrays, one, other)
                if fixed
                else _apart(contract, p, arrays, one, other, max(shares, 1))
            )
        return _with_failures(apart, failed, failed_too)

    return attrs.evolve(
        target,
        summary=f"{a} against {b}: {target.name}",
        space=contract.space or target.space,
        question=Drift(evaluate, steady=CANDIDATE not in (a, b)),
        measure=lambda p: "elements whose bits differ" if fixed else "max |A - B| / what rounding allows",
        bound=lambda p: None,
        claim=f"{a} and {b} differ" + ("" if fixed else " by more than rounding"),
        limit=lambda p: 0.0 if fixed else 1.0,
        tolerance=0.0 if fixed else _RELATIVE_NOISE,
        starts=contract.starts if contract.space else target.starts,
        compiles=COMPILED in (a, b),
    )


def _side(
    target: Target,
    params: Params,
    name: str,
    candidate: Candidate | None,
    on_failure: Callable[[str, Failure], None] | None,
) -> _Side:
    known, contract = implementations(target, params), target.contract
    if contract is None:
        raise TypeError("a target without a contract has no implementations")
    if name == CANDIDATE:
        if candidate is None:
            raise PairError("kernels candidate: give --candidate FILE.py:FUNCTION, too")
        candidate.probe(target, params)

        def called(p: Params, arrays: Arrays, like: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            result, failures = candidate.run(target.name, p, arrays, like)
            if candidate.failure is not None and on_failure is not None:
                on_failure(candidate.name, candidate.failure)
            return result, failures

        return called
    if name.partition("@")[0] not in known:
        raise PairError(f"target {target.name} has no kernels {name!r} here (it has {', '.join(known)})")
    if (remedy := kernels.missing(name)) is not None:
        raise ImportError(remedy)
    module = kernels.get(name)

    def run(p: Params, arrays: Arrays, like: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        failures = np.zeros(len(like), np.int64)
        try:
            return np.asarray(contract.run(p, arrays, module)), failures
        except RowsFailedError:
            pass
        # An operation may have made several rows of a case: the case as a whole is what fails.
        result = like.copy()
        for row in range(len(like)):
            if np.count_nonzero(failures) >= _MOST_FAILURES:
                failures[row:] = -1
                break
            try:
                case = {key: array[row : row + 1] for key, array in arrays.items()}
                result[row] = contract.run(p, case, module)[0]
            except RowsFailedError as error:
                failure = next(iter(error.ran.failures.values()))
                failures[row] = 1 + KINDS.index(failure.kind)
                if on_failure is not None:
                    on_failure(name, failure)
        return result, failures

    return run


def _with_failures(outcome: Outcome, one: np.ndarray, other: np.ndarray) -> Outcome:
    if not (one.any() or other.any()):
        return outcome
    failed, skipped = (one > 0) | (other > 0), (one < 0) | (other < 0)
    value = np.where(failed, np.inf, np.where(skipped, np.nan, outcome.value))
    noise = np.where(failed | skipped, 0.0, outcome.noise)
    codes: dict[str, Any] = {"failure of A": one.astype(np.float64), "failure of B": other.astype(np.float64)}
    return Outcome(value, noise, dict(outcome.detail) | codes)


def agreement(value: float, detail: Mapping[str, float]) -> Agreement:
    """What the largest value of a search, and the numbers it is made of, say of the two implementations."""
    if value == 0:
        return Agreement.BITS
    if detail.get("failure of A") or detail.get("failure of B"):
        return Agreement.OUTSIDE
    if "rounding" not in detail:
        unexplained = [detail.get(f"elements of {side} that no choice explains", np.inf) for side in ("A", "B")]
        return Agreement.POLICY if max(unexplained) == 0 else Agreement.OUTSIDE
    if value <= 1:
        return Agreement.ROUNDING
    worst = max(detail["A error / a-priori bound"], detail["B error / a-priori bound"])
    return Agreement.POLICY if worst <= 1 else Agreement.OUTSIDE


def _differing(contract: Contract, p: Params, arrays: Arrays, one: np.ndarray, other: np.ndarray) -> Outcome:
    differ = one != other
    if one.dtype == np.float32:
        bits = one.view(np.uint32) != other.view(np.uint32)
        differ = bits & ~(np.isnan(one) & np.isnan(other))
    differ = differ.reshape(len(differ), -1)
    count, first = differ.sum(axis=1).astype(np.float64), differ.argmax(axis=1)
    row = np.arange(len(count))
    detail = {
        "first element": first.astype(np.float64),
        "A": one.reshape(differ.shape)[row, first].astype(np.float64),
        "B": other.reshape(differ.shape)[row, first].astype(np.float64),
    }
    if contract.allows is not None:
        for side, result in (("A", one), ("B", other)):
            outside = ~contract.allows(p, arrays, result).reshape(differ.shape)
            detail[f"elements of {side} that no choice explains"] = outside.sum(axis=1).astype(np.float64)
    return Outcome(count, np.zeros(len(count)), detail)


def _apart(contract: Contract, p: Params, arrays: Arrays, one: np.ndarray, other: np.ndarray, shares: int) -> Outcome:
    if contract.allowance is None:
        raise TypeError("a contract without an allowance has fixed results")
    exact = _flat(contract.run(p, arrays, kernels.get(EXACT)))
    allowance = _flat(contract.allowance(p, arrays))
    rounding = allowance if contract.rounding is None else _flat(contract.rounding(p, arrays))
    a, b = _flat(one), _flat(other)
    promised = np.isfinite(allowance) & (np.abs(exact) <= _LARGEST)
    ratio = np.where(promised, _ratio(a, b, shares * rounding), 0.0)
    value, worst = ratio.max(axis=1), ratio.argmax(axis=1)
    row = np.arange(len(value))
    detail = {
        "worst element": worst.astype(np.float64),
        "A": a[row, worst],
        "B": b[row, worst],
        "exact": exact[row, worst],
        "rounding": rounding[row, worst],
        "A error / a-priori bound": np.where(promised, _ratio(a, exact, allowance), 0.0).max(axis=1),
        "B error / a-priori bound": np.where(promised, _ratio(b, exact, allowance), 0.0).max(axis=1),
    }
    return Outcome(value, np.where(np.isfinite(value), _RELATIVE_NOISE * value, 0.0), detail)


def _ratio(a: np.ndarray, b: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """|a - b| / allowed, element by element: 0 for equal numbers and two NaN, inf where only one is finite."""
    error = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.where(np.isfinite(a) & np.isfinite(b), error / allowed, np.inf))


def _flat(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).reshape(len(array), -1).astype(np.float64)
