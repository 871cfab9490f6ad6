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

**A candidate** computes in the arithmetic that its parameters state, in one of five forms. Its error bound is derived
from them (see diffuzz.targets.derived), and is the largest of all:

    quotient     e^(z_i - m) / sum e^(z_k - m) with the maximum m
    base two     2^(t_i - t_m) / sum 2^(t_k - t_m) with t = z log2 e, rounded before the maximum is subtracted
    logarithm    e^(z_i - l) with l = m + log sum e^(z_k - m), or e^((z_i - m) - (l - m))
    both         2^(t_i - l log2 e)

The forms with t or l lose accuracy with the size of the logits, the others only with their distances. With ``masked`` a
logit at the low end of its range is given to the candidate as -inf. Its probability is 0; for a row in which all logits
are -inf nothing is promised. The same number, ``shift``, is added to all other logits of a row (and rounded to the
dtype): no probability depends on it, but a kernel whose running maximum begins at a finite number, or that writes a
finite number for a mask, does.

**Policy clamp-64**: e_i = exp(max(z_i - m, -64)), as in Paddle's softmax. The exponential of a distant logit, or of a
masked one, ends at e^-64 = 1.6e-28; n e^-64 is far below u, so only its own probability changes: max(e^-64 - e^-d_i, 0)
e^-L (1 + 2^-10) is added. An accurate kernel keeps this bound, too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from diffuzz.cases.ranges import clip, dtype_of, float32_range, has_infinity
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.kernels import Implementation, exact
from diffuzz.targets import derived, rows
from diffuzz.targets.amplification import Amplification
from diffuzz.targets.contract import Contract
from diffuzz.targets.derived import Arguments, Derived, unflushed
from diffuzz.targets.error_bounds import FLUSHED
from diffuzz.targets.lazily import lazily
from diffuzz.targets.outcome import Arrays, Bound
from diffuzz.targets.parameter import Parameter, Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Float64

    from diffuzz.formats.arrays import AnyArray as Array
    from diffuzz.targets.amplification import Evaluated

jnp = lazily("jax.numpy")

PARAMETERS = (
    Parameter("n", 7, "largest number of logits", low=2, high=65536),
    Parameter("max_abs", 10.0, "largest |z|", low=1e-3, high=1e4),
    Parameter("delta", 0.00077, "size of the perturbation, relative", low=1e-6, high=0.5),
    Parameter("perturbation", "l1", "model of the perturbation", choices=("l1", "componentwise")),
)
_LOG2_E = math.log2(math.e)
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
    *derived.ARITHMETIC,
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
    top, farthest = (min(end, derived.largest(p)) for end in (p["candidate_max_abs"], _FARTHEST))
    z = TensorSpec("z", kind="logits", shape=(rows.row(p),), low=-top, high=top, holds=p["dtype"])
    row = Dim("row", 1, fixed=True)
    shift = TensorSpec(
        "shift", kind="activations", shape=(row,), low=-farthest, high=farthest, holds=p["dtype"], absent=0.0
    )
    return Space((z, shift))


def _given(p: Params, arrays: Arrays) -> np.ndarray:
    """The logits that a candidate is called with."""
    z = np.asarray(arrays["z"])
    low = float32_range(candidate_space(p)["z"])[0]
    shifted = z + np.asarray(arrays["shift"])
    # A dtype without infinities has no masked logits.
    masked = p["masked"] and has_infinity(p["dtype"])
    given: np.ndarray = np.where(z <= low, np.float32(-np.inf), shifted) if masked else shifted
    return np.asarray(given.astype(dtype_of(p["dtype"])))


def quotient(z: Array, top: Array) -> Array:
    """``e^(z - max z) / sum e^(z - max z)`` of each row."""
    e = jnp.exp(z - jnp.max(z, axis=-1, keepdims=True))
    return e / jnp.sum(e, axis=-1, keepdims=True)


def base_two(z: Array, top: Array) -> Array:
    """The same with ``2^(t - top)``, t = z log2 e.

    ``top`` is the largest t. Its rounding is that of all differences, and so of no quotient: it comes as a number that
    is exact.
    """
    e = jnp.exp2(z * _LOG2_E - top)
    return e / jnp.sum(e, axis=-1, keepdims=True)


def by_logarithm(z: Array, top: Array) -> Array:
    """``e^(z - l)``, l the logarithm of the sum."""
    largest = jnp.max(z, axis=-1, keepdims=True)
    return jnp.exp(z - (largest + jnp.log(jnp.sum(jnp.exp(z - largest), axis=-1, keepdims=True))))


def by_distance(z: Array, top: Array) -> Array:
    """``e^((z - m) - (l - m))``."""
    away = z - jnp.max(z, axis=-1, keepdims=True)
    return jnp.exp(away - jnp.log(jnp.sum(jnp.exp(away), axis=-1, keepdims=True)))


def by_both(z: Array, top: Array) -> Array:
    """``2^(t - l log2 e)``."""
    t = z * _LOG2_E
    return jnp.exp2(t - (top + jnp.log2(jnp.sum(jnp.exp2(t - top), axis=-1, keepdims=True))))


def _arguments(p: Params, arrays: Arrays) -> Arguments:
    z = _given(p, arrays).astype(np.float64)
    return Arguments((z, z.max(axis=1, keepdims=True) * _LOG2_E))


def _allowance(p: Params, arrays: Arrays, derived_error: Float64[np.ndarray, "b n"]) -> Float64[np.ndarray, "b n"]:
    """The derived error, what underflows, and what the policy adds.

    An exponential or its quotient that is flushed costs FLUSHED, and not both: a quotient is no larger than that.
    Arguments of exponentials may be clamped at -87, for masked logits, too.
    """
    if p["flush"]:
        derived_error = derived_error + FLUSHED
    if p["policy"] not in _CLAMPS:
        return derived_error
    y = exact.soft_max(_given(p, arrays).astype(np.float64))
    most = np.exp(_CLAMPS[p["policy"]]) * y.max(axis=1, keepdims=True)
    return np.asarray(derived_error + np.maximum(most - y, 0.0) * (1 + 2.0**-10))


_DERIVED = Derived(
    lambda p: quotient, lambda p: (base_two, by_logarithm, by_distance, by_both), _arguments, of_batches=True
)


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
        signature="f(z: dtype[b, n]) -> dtype[b, n]",
        parameters=CONTRACT_PARAMETERS,
        space=candidate_space,
        call=lambda p, f, arrays: f(_given(p, arrays)),
        run=lambda p, arrays, kernels: _DERIVED.run(
            unflushed(p), arrays, kernels, lambda: kernels.soft_max(_given(p, arrays))
        ),
        kernels=lambda p: derived.implementations(p, ("apr", "exact", "gguf", "ggml", "ggml:avx2", "xla", "libggml")),
        allowance=lambda p, arrays: _allowance(p, arrays, _DERIVED.allowance(unflushed(p), arrays)),
        first_allowance=lambda p, arrays: _allowance(p, arrays, _DERIVED.first_allowance(unflushed(p), arrays)),
        results=_DERIVED.results,
        derived=_DERIVED,
    ),
)
