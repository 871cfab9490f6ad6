"""The error bounds that were derived by hand before they followed from the references: what the derived ones are held
against. Where underflow counts for little, derived / hand-derived lies between the ends that ``ENDS`` says, and why.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases import draws
from diffuzz.kernels import exact
from diffuzz.targets.error_bounds import FLUSHED, UNIT, gamma
from diffuzz.targets.outcome import Arrays

U = UNIT


def softmax(arrays: Arrays, flushed: float) -> np.ndarray:
    """|p^_i - p_i| <= p_i (F_i (1 + 3 u) (1 + S) - 1) + flushed for a quotient, F_i = (1 + 8 u) e^X_i, S from the sum;
    p_i ((1 + 8 u) e^Y_i - 1) + flushed where the logarithm of the sum is subtracted; the larger of both, with the
    arguments of exponentials off by 3 u d_i, or by u |z_i| + 2 u d_i in base two (d_i the distance from the maximum).
    """
    z = arrays["z"].astype(np.float64)
    y, n, top = exact.soft_max(z), z.shape[1], z.max(axis=1, keepdims=True)
    away, size = U * (top - z), U * np.abs(z)
    log = -np.log(y.max(axis=1, keepdims=True))
    joined, rest, quotient = np.maximum(U * np.abs(top + log), away), 9 * U * log, np.log1p(3 * U)
    exponents = []
    for scaled, more in ((3 * away, 2 * U * log), (size + 2 * away, 0.0)):
        mean = (y * scaled).sum(axis=1, keepdims=True)
        total = (1 - mean) / (1 + 8 * U) - gamma(n) - n * flushed
        exponents.append(scaled + np.maximum(joined + (rest + more), quotient) - np.log(total))
    return np.asarray(y * np.expm1(np.maximum(*exponents) + np.log1p(8 * U)) + flushed)


def rmsnorm(arrays: Arrays, flushed: float) -> np.ndarray:
    """|y^ - y| <= |x| max over both ends of |v^ ^(-1/2) (1 +- 6 u) - v^(-1/2)| + flushed (v^(-1/2) + 1), where the mean
    square v has n + 4 roundings.
    """
    x = np.abs(arrays["x"].astype(np.float64))
    n, square = x.shape[1], (x * x).sum(axis=1)
    v = square / n + 1e-6 * 10.0 ** arrays["eps_exponent"][:, 0]
    least, most = np.maximum(v * (1 - gamma(n + 4)) - 4 * flushed, 0.0), v * (1 + gamma(n + 4)) + 4 * flushed
    root, low, high = 1 / np.sqrt(v), np.sqrt(least), np.sqrt(most)
    certain = (low > 0) & (square * (1 + gamma(n + 4)) < np.finfo(np.float32).max)
    spread = np.maximum((1 + 6 * U) / np.where(certain, low, 1.0) - root, root - (1 - 6 * U) / high)
    return np.where(certain[:, None], x * spread[:, None] + (flushed * (root + 1))[:, None], np.inf)


def swiglu(arrays: Arrays, flushed: float) -> np.ndarray:
    """|y^ - y| <= |y| ((1 + 8 u) / (1 - S(-g) (8 u + 3 u |g|)) - 1) + flushed (1 + |g|) (1 + |u|)."""
    gate, up = arrays["gate"].astype(np.float64), arrays["up"].astype(np.float64)
    size = np.abs(gate)
    e = np.exp(-size)
    share = np.where(gate >= 0, e, 1.0) / (1 + e)
    relative = np.minimum(share * (8 * U + 3 * U * size), 0.5)
    rounding = np.abs(exact.swiglu(gate, up)) * ((1 + 8 * U) / (1 - relative) - 1)
    return np.asarray(rounding + flushed * (1 + size) * (1 + np.abs(up)))


# Ends of derived / hand-derived.
ENDS = {
    # Below 1: by hand, the sum may be off by the largest error of a term, and by all of S where a probability is 1.
    # Above: a quotient has 2.5 ULP (reciprocal and product) in the place of 1.5, 1 + e is a rounding of its own, and
    # 2^t may be e^(t log 2), whose argument is rounded.
    "softmax": (0.55, 1.65),
    # Below 1: by hand, the n roundings of the sum count in full where eps is all of the mean square.
    # Above: a root has 2.5 ULP and a quotient 2.5, where a reciprocal root has 3 in all.
    "rmsnorm": (0.005, 1.5),
    # Below 1: by hand, log2 e is off by half a unit in its last place; in float32 it is off by 0.22.
    # Above: e in e / (1 + e) is taken to err apart from itself.
    "swiglu": (0.4, 1.7),
}
HAND: dict[str, Callable[[Arrays, float], np.ndarray]] = {"softmax": softmax, "rmsnorm": rmsnorm, "swiglu": swiglu}


@pytest.mark.parametrize("name", HAND)
def test_derived_bounds_are_as_sharp_as_those_of_experts(name: str) -> None:
    """Row by row and element by element, and typically within a fifth of one another."""
    contract = targets.get(name).contract
    assert contract is not None
    assert contract.allowance is not None
    params = targets.get(name).contract_params({"masked": False} if name == "softmax" else {})
    rng, ratios = np.random.default_rng(0), []
    for n in (1, 2, 7, 64, 1000):
        space = contract.space(params).resized({"n": n})
        for draw in (draws.structured, draws.scattered):
            batch = draw(space, rng, 100)
            if name == "softmax":
                batch["shift"][...] = 0
            with np.errstate(all="ignore"):
                hand, rounding = (HAND[name](batch, flushed) for flushed in (FLUSHED, 0.0))
                derived = np.asarray(contract.allowance(params, batch))
            promised = np.isfinite(hand) & (hand > 0)
            np.testing.assert_array_equal(np.isfinite(derived), np.isfinite(hand))
            counts = promised & (rounding > 0.999 * hand)
            ratios.append((derived[counts] / hand[counts]).ravel())
    together = np.concatenate(ratios)
    low, high = ENDS[name]
    assert low <= together.min()
    assert together.max() <= high
    assert 0.8 <= np.median(together) <= 1.2
