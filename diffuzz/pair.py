"""Pairs: two implementations of one operation, held against each other and against what their arithmetic allows.

    target = with_pair(targets.get("softmax"), params, "apr", "ggml")

The result is a target like any other. Both implementations get the same cases, those of the operation's contract
(``Target.contract``), and the value is how far apart they are, in terms of what rounding alone explains:

    an a-priori error bound     max over elements of |A - B| / (2 rounding): above 1 it is not rounding
    a result fixed to the bit   number of elements whose bits differ (all NaN are one number)

``rounding`` is the contract's bound of one implementation that does everything as stated and rounds in any order. What
is above 1 is either policy, both keeping their contract (the other rule for ties, activations quantised or not), or at
least one of them is outside its a-priori bound. ``agreement`` tells which. ``exact`` counts as an implementation that
does not round.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attrs
import numpy as np

from diffuzz import kernels
from diffuzz.target import Arrays, Contract, Drift, Outcome, Params, Target

# Relative error of value itself: float64 against allowances of some 2^-24, with room for its own constants.
_RELATIVE_NOISE = 1e-6
_LARGEST = float(np.finfo(np.float32).max)
EXACT = "exact"


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


def with_pair(target: Target, params: Params, a: str, b: str) -> Target:
    """``target`` asking how far apart the implementations ``a`` and ``b`` are; see the module's docstring.

    Raises PairError: the target compares no implementations, or has none of that name. ImportError: one that is not
    installed.
    """
    contract = target.contract
    known = implementations(target, params)
    if contract is None or not known:
        raise PairError(f"target {target.name} compares no kernels: its claim is about the arithmetic")
    for name in (a, b):
        if name not in known:
            raise PairError(f"target {target.name} has no kernels {name!r} here (it has {', '.join(known)})")
    fixed = contract.allowance is None
    first, second = kernels.get(a), kernels.get(b)
    shares = (a != EXACT) + (b != EXACT)

    def evaluate(p: Params, arrays: Arrays) -> Outcome:
        with np.errstate(all="ignore"):
            one, other = contract.run(p, arrays, first), contract.run(p, arrays, second)
            if fixed:
                return _differing(one, other)
            return _apart(contract, p, arrays, one, other, max(shares, 1))

    return attrs.evolve(
        target,
        summary=f"{a} against {b}: {target.name}",
        space=contract.space or target.space,
        question=Drift(evaluate),
        measure=lambda p: "elements whose bits differ" if fixed else "max |A - B| / what rounding allows",
        bound=lambda p: None,
        claim=f"{a} and {b} differ by more than rounding",
        limit=lambda p: 0.0 if fixed else 1.0,
        tolerance=0.0 if fixed else _RELATIVE_NOISE,
        starts=contract.starts if contract.space else target.starts,
    )


def agreement(value: float, detail: Mapping[str, float]) -> Agreement:
    """What the largest value of a search, and the numbers it is made of, say of the two implementations."""
    if value == 0:
        return Agreement.BITS
    if "rounding" not in detail:
        return Agreement.OUTSIDE
    if value <= 1:
        return Agreement.ROUNDING
    worst = max(detail["A error / a-priori bound"], detail["B error / a-priori bound"])
    return Agreement.POLICY if worst <= 1 else Agreement.OUTSIDE


def _differing(one: np.ndarray, other: np.ndarray) -> Outcome:
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
