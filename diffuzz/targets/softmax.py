r"""Softmax: does saturation amplify a small drift of the logits?

    p_i = e^{z_i} / sum_k e^{z_k}

Published (FFN-GGUF-011): 0.0113x on one input. The measure is ||p' - p||_1 (||p||_1 is 1) divided by the relative drift
of z.

**Lemma.** Let c_i = z'_i - z_i and osc = max c - min c. Then ||p' - p||_1 <= 2 tanh(osc / 4) <= osc / 2. Proof: let A
be the set of the indices where p' > p, and P = p(A), P' = p'(A), so that ||p' - p||_1 = 2 (P' - P). From p'_i
proportional to p_i e^{c_i}, P' / (1 - P') <= e^osc P / (1 - P): in log-odds L of P, P' - P <= S(L + osc) - S(L) with
S the logistic function, and that is largest where it is symmetric, L = -osc/2: S(osc/2) - S(-osc/2) = tanh(osc/4).

**l1** (drift = ||dz||_1 / ||z||_1, the published measure). osc <= ||dz||_1 (at most two elements make it up), so
||dp||_1 <= ||dz||_1 / 2, for finite moves too, and the amplification is at most ||z||_1 / 2 <= n max_abs / 2. Two
logits tied at +max_abs, the others at -max_abs, and a move of one of the two come arbitrarily close.

If max_abs is so small that no probability reaches 1/2, the bound is lower. On the way from z to z' the L1 norm of
the Jacobian is max_j 2 p_j (1 - p_j) = 2 S'(L), L the log-odds of p_j. After the part s of D = ||dz||_1 no gap
between logits exceeds 2 max_abs + s, so L <= L0 + s with L0 = 2 max_abs - log(n - 1), and with h(L) = 2 S'(min(L, 0))

    ||dp||_1 <= integral of h(L0 + s) over s = 0..D = 2 (S(min(L0 + D, 0)) - S(L0)) + max(L0 + D, 0) / 2     (L0 <= 0).

Its mean over D grows with D <= delta n max_abs. One logit at +max_abs that moves up, with
the others at -max_abs, reaches it. (Between these two regimes, for max_abs of about 1/2 to 2, a probability of exactly
1/2 needs logits that are not at +-max_abs, and the bound is not quite reached: 98.9 % for n = 7, max_abs = 1.)

**componentwise** (dz_i = +-delta |z_i|, drift = delta). osc <= 2 delta max_abs, so the amplification is at most 2
tanh(delta max_abs / 2) / delta <= max_abs: half of the probability on logits at +max_abs that move up, and half on
logits at +max_abs that move down, reach it.

A long move ends on the flat part of tanh, so the direction of a move may be shorter than 1, and the drift is measured
rather than assumed.

**A candidate** computes in float32, in one of four forms. u = 2^-24, m is the maximum, d_i = m - z_i, l the logarithm
of sum e^z and L = l - m >= 0. Arguments of exponentials may have an absolute error, X_i, and an exponential itself is
good to 4 ULP (8 u). An error that all arguments of a row share cancels.

    quotient     e_i = exp(z_i - m), p_i = e_i / sum e. The difference is rounded once, and a function that takes
                 2^(x log2 e) rounds x log2 e and its constant, too:
                     X_i = 3 u d_i
    base two     e_i = 2^(t_i - t_m) with t = z log2 e, rounded before the maximum is subtracted. The roundings of t_i,
                 of the constant and of the difference; that of t_m is shared:
                     X_i = u |z_i| + 2 u d_i

    Let F_i = (1 + 8 u) e^X_i. The sum of e has a relative error of at most S, from its terms, its additions in any
    order and what underflows, with 1 / (1 + S) = sum_j p_j (1 - X_j) / (1 + 8 u) - gamma_n - n FLUSHED, since 1 / F_j
    is at least (1 - X_j) / (1 + 8 u); the quotient adds 3 u (division, or reciprocal and product):
                     |p^_i - p_i| <= p_i (F_i (1 + 3 u) (1 + S) - 1) + FLUSHED

    logarithm    p_i = exp(z_i - l), or exp((z_i - m) - L). The logarithm of the sum carries S and is itself good to 4
                 ULP (8 u L); then either m + L is rounded (u |l|), or z_i - m is (u d_i); the difference d_i + L is
                 rounded, and so is its product with log2 e, and the constant:
                     Y_i = log(1 + S) + 8 u L + u max(|l|, d_i) + 3 u (d_i + L)
    both         p_i = 2^(t_i - l log2 e), the logarithm of base two:
                     Y_i = log(1 + S) + 8 u L + u max(|l|, d_i) + u (d_i + L) + u |z_i| + u d_i
                 with S of base two, and in these two forms
                     |p^_i - p_i| <= p_i ((1 + 8 u) e^Y_i - 1) + FLUSHED

The allowance is the largest of these four; terms of second order are below the noise of a judged value. The forms with
|z| or |l| lose accuracy with the size of the logits, others
only with their distances. FLUSHED is the rule of :mod:`diffuzz.targets.error_bounds` for what underflows: e_i, whose
quotient is below it, too, or the result. With ``masked`` a logit at the low end of its range is given to the candidate
as -inf. Its probability is 0; for a row in which all logits are -inf nothing is promised. The same number, ``shift``,
is added to all other logits of a row (in float32): no probability depends on it, but a kernel whose running maximum
begins at a finite number, or that writes a finite number for a mask, does.

**Policy clamp-64**: e_i = exp(max(z_i - m, -64)), as in Paddle's softmax. The exponential of a distant logit, or of a
masked one, ends at e^-64 = 1.6e-28; n e^-64 is far below u, so only its own probability changes: max(e^-64 - e^-d_i, 0)
e^-L (1 + 2^-10) is added. An accurate kernel keeps this bound, too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from diffuzz.cases.ranges import clip, float32_range
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.kernels import Implementation, exact
from diffuzz.targets import rows
from diffuzz.targets.amplification import Amplification
from diffuzz.targets.contract import Contract
from diffuzz.targets.error_bounds import FLUSHED, UNIT, gamma
from diffuzz.targets.outcome import Arrays, Bound
from diffuzz.targets.parameter import Parameter, Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64

    from diffuzz.targets.amplification import Evaluated

PARAMETERS = (
    Parameter("n", 7, "largest number of logits", low=2, high=65536),
    Parameter("max_abs", 10.0, "largest |z|", low=1e-3, high=1e4),
    Parameter("delta", 0.00077, "size of the perturbation, relative", low=1e-6, high=0.5),
    Parameter("perturbation", "l1", "model of the perturbation", choices=("l1", "componentwise")),
)
# The largest amount that is added to all logits of a row: beyond -1e4 and -5e4, which kernels take for minus infinity.
_FARTHEST = 1e6
# Where the arguments of exponentials end.
_CLAMPS = {"clamp-64": -64.0}
CONTRACT_PARAMETERS = (
    rows.LENGTH,
    rows.largest("z", 120.0, high=1e4),
    Parameter("masked", True, "true: a logit at -candidate_max_abs is given to a candidate as -inf, a masked logit"),
    rows.TAIL,
    Parameter(
        "policy",
        "exact",
        "exact: the exponential of every logit | clamp-64: arguments of exp below -64 may count as -64",
        choices=("exact", *_CLAMPS),
        later=True,
    ),
)

# Relative rounding of value and bound, both computed in float64.
_FLOAT64 = 1e-9


def space(p: Params) -> Space:
    """The logits (max|z| >= max_abs / 2^20: a zero vector has no relative drift) and the direction of their move."""
    n, top = Dim("n", p["n"]), p["max_abs"]
    z = TensorSpec("z", kind="logits", shape=(n,), low=-top, high=top, smallest_peak=top * 2.0**-20)
    direction = TensorSpec("z_direction", kind="direction", shape=(n,), low=-1.0, high=1.0, smallest_peak=2.0**-20)
    return Space((z, direction))


def function(p: Params, arrays: Arrays, kernels: Implementation) -> Evaluated:
    """The probabilities, their sum, and the magnitude of their rounding: 1 + the mean distance to the largest logit."""
    z = arrays["z"].astype(float)
    y = kernels.soft_max(z)
    total = y.sum(axis=1)
    return y, total, 1.0 + (y * (z.max(axis=1, keepdims=True) - z)).sum(axis=1)


def bound(p: Params) -> Bound:
    """The bound that the docstring of the module derives."""
    n, top, delta = p["n"], p["max_abs"], p["delta"]
    if p["perturbation"] == "componentwise":
        value, because = 2 * math.tanh(delta * top / 2) / delta, "TV <= tanh(osc/4): 2 tanh(delta max_abs / 2) / delta"
        return Bound(value, because, rounding=_FLOAT64)
    odds, move = 2 * top - math.log(n - 1), delta * n * top
    if odds >= 0:
        return Bound(n * top / 2, "TV <= tanh(osc/4) <= ||dz||_1 / 4: n max_abs / 2", rounding=_FLOAT64)
    # S(b) - S(a) = sinh((b - a) / 2) / (2 cosh(a / 2) cosh(b / 2)), without cancellation.
    end = min(odds + move, 0.0)
    output = math.sinh((end - odds) / 2) / math.cosh(odds / 2) / math.cosh(end / 2) + max(odds + move, 0.0) / 2
    because = "||J||_1 <= 2 p (1 - p), log-odds of p <= 2 max_abs - log(n - 1) + ||dz||_1"
    return Bound(output / delta, because, rounding=_FLOAT64)


def starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Logits at the ends of their range. l1: one or two at the top, one of which moves, and the others at the bottom.
    componentwise: two halves near the top that move in opposite directions.
    """
    n, top, spec = p["n"], p["max_abs"], space(p)["z"]
    order = rng.permuted(np.tile(np.arange(n), (count, 1)), axis=1)
    if p["perturbation"] == "componentwise":
        # The half that moves up starts as far below the other as it ends above it.
        rising = order < n // 2
        z = np.where(rising, top / (1 + p["delta"] / 2) * (1 - p["delta"] / 2), top)
        # If n is odd, the one logit that is left would unbalance the halves; at the bottom it does so least.
        z = np.where((order == n - 1) & (n % 2 == 1), -top, z)
        return {"z": clip(spec, z), "z_direction": np.where(rising, 1.0, -1.0).astype(np.float32)}
    tied = rng.integers(1, 3, (count, 1))
    # A move short enough for the straight part of the curve and long enough to be above float64 noise, or all of delta.
    short = min(1.0, max(2.0**-20, 0.01 / (p["delta"] * n * top)))
    length = np.where(rng.random((count, 1)) < 0.5, short, 1.0)
    sign = np.where(rng.random((count, 1)) < 0.5, 1.0, -1.0)
    z = np.where(order < tied, top, -top)
    return {"z": clip(spec, z), "z_direction": np.where(order == 0, sign * length, 0.0).astype(np.float32)}


def candidate_space(p: Params) -> Space:
    """The logits, up to candidate_max_abs in magnitude, and what is added to all of them."""
    top = p["candidate_max_abs"]
    z = TensorSpec("z", kind="logits", shape=(rows.row(p),), low=-top, high=top)
    row = Dim("row", 1, fixed=True)
    shift = TensorSpec("shift", kind="activations", shape=(row,), low=-_FARTHEST, high=_FARTHEST, absent=0.0)
    return Space((z, shift))


def _given(p: Params, arrays: Arrays) -> Float32[np.ndarray, "b n"]:
    """The logits that a candidate is called with."""
    z = np.asarray(arrays["z"])
    low = float32_range(candidate_space(p)["z"])[0]
    shifted = z + np.asarray(arrays["shift"])
    return np.where(z <= low, np.float32(-np.inf), shifted) if p["masked"] else shifted


def allowance(p: Params, arrays: Arrays) -> Float64[np.ndarray, "b n"]:
    """The a-priori error bound that the docstring of the module derives."""
    z = _given(p, arrays).astype(np.float64)
    y, u, n = exact.soft_max(z), UNIT, z.shape[1]
    # A masked logit has no weight: exp(-inf) is 0 in any form.
    masked, top = ~np.isfinite(z), z.max(axis=1, keepdims=True)
    away, size = np.where(masked, 0.0, u * (top - z)), np.where(masked, 0.0, u * np.abs(z))
    # The largest probability is e^-L.
    most = y.max(axis=1, keepdims=True)
    log = -np.log(most)
    # u max(|l|, d_i), and the part of both logarithms that does not depend on i.
    joined, rest = np.maximum(u * np.abs(top + log), away), 9 * u * log
    quotient = np.log1p(3 * u)
    exponents = []
    for scaled, more in ((3 * away, 2 * u * log), (size + 2 * away, 0.0)):
        mean = np.einsum("bn,bn->b", y, scaled)[:, None]
        total = (1 - mean) / (1 + 8 * u) - gamma(n) - n * FLUSHED
        exponents.append(scaled + np.maximum(joined + (rest + more), quotient) - np.log(total))
    error = y * np.expm1(np.maximum(*exponents) + np.log1p(8 * u)) + FLUSHED
    if p["policy"] in _CLAMPS:
        error += np.maximum(np.exp(_CLAMPS[p["policy"]]) * most - y, 0.0) * (1 + 2.0**-10)
    return np.asarray(error)


TARGET = Target(
    name="softmax",
    summary="softmax: L1 drift of the probabilities over relative drift of the logits",
    parameters=PARAMETERS,
    space=space,
    question=Amplification(function, inputs=lambda p: ("z",), norm=1),
    measure=lambda p: f"(||dp||_1/||p||_1) / ({p['perturbation']} drift of z)",
    bound=bound,
    claim="softmax amplifies a drift of its logits",
    threshold=lambda p: 5.0,
    tolerance=1e-9,
    starts=starts,
    contract=Contract(
        signature="f(z: float32[b, n]) -> float32[b, n]",
        parameters=CONTRACT_PARAMETERS,
        space=candidate_space,
        call=lambda p, f, arrays: f(_given(p, arrays)),
        run=lambda p, arrays, kernels: kernels.soft_max(_given(p, arrays)),
        kernels=lambda p: ("apr", "exact", "gguf", "ggml", "ggml:avx2", "xla", "libggml"),
        allowance=allowance,
    ),
)
