r"""RMSNorm: does the reciprocal square root amplify a small drift of its input?

    y_i = w_i x_i / s(x),   s(x) = sqrt(||x||^2 / n + eps),   w = 1 without a gain

Published (FFN-GGUF-015): 1.0000x on one input. The measure is ||y' - y||_2 / ||y||_2 divided by the relative drift of
x.

**Without gain.** Append sqrt(n eps) as one more coordinate: X = (x, sqrt(n eps)), so that s(x) = ||X|| / sqrt(n), and y
is sqrt(n) times the first n coordinates of X / ||X||. The last coordinate does not move, so ||X' - X|| = ||x' - x|| = d
||x||, and with D = d ||x|| / ||X|| <= d the relative move of X is D. Dunkl and Williams (1964) give ||X/||X|| -
X'/||X'|| || <= 2 ||X - X'|| / (||X|| + ||X'||) in any inner-product space, hence at most D / (1 - D/2). The sharp form
is elementary: X' lies in a ball of radius D ||X|| around X, whose tangent cone has the half angle arcsin D, so the two
unit vectors are at most the chord 2 sin(arcsin(D) / 2) apart. Therefore

    ||y' - y|| / ||y|| <= (||X|| / ||x||) 2 sin(arcsin(D) / 2),      amplification <= 2 sin(arcsin(D) / 2) / D,

which grows with D, and D <= d <= delta for both perturbation models. So the bound is 2 sin(arcsin(delta) / 2) / delta =
1 + delta^2 / 8 + ..., for finite perturbations. To first order it is 1, because a projection cannot stretch.

**With a gain, normwise.** y = W u with u the vector above: ||W (u' - u)|| <= max w ||u' - u|| and ||W u|| >= min w
||u||, so the bound is max w / min w times the one above. A case comes close if all of ||x|| is where w is least and the
move is where w is greatest.

**With a gain, componentwise.** Every element moves by exactly s_i delta |x_i| (s_i = +-1), so x'_i = (1 + t_i delta)
x_i with t_i = +-1 and

    y'_i / y_i - 1 = c(t_i),   c(t) = (1 + t delta) / r - 1,   r = s(x') / s(x).

The squared output drift is the mean of c(t_i)^2 with weights w_i^2 x_i^2. Let a be the share of ||x||^2 where t = +1.
For a given a and r the mean is largest when w is max w on the sign with the larger c^2 and min w on the other (a mean
of two numbers). What is left to choose is a and the share e of n eps in ||X||^2: r^2 = 1 + (1 - e)(2 delta (2a - 1) +
delta^2). Each c^2 is convex in 1/r, and 1/r is monotone in e, so the maximum is at e = 1, where the value is delta^2,
or at e = 0. At e = 0 only a is left; the bound is the maximum over a, found by a grid in log(a / (1 - a)) that is
refined eight times. To first order, with R = max w / min w, the squared amplification is 4 a (1 - a) (R^2 (1 - a) + a)
/ (R^2 a + 1 - a), which is 1.9972^2 at R = 1000 and tends to 4.

**A candidate** computes y = x / s in float32, in any form and any order of the sum. Let v = ||x||^2 / n + eps.
Products, additions, the division by n (or product with a rounded 1/n), the rounding of eps and its addition are n + 4
roundings at most, all of numbers >= 0. Squares may underflow, and so may their mean, eps and v: with FLUSHED (see
:mod:`diffuzz.targets.error_bounds`) the computed v^ lies in [v (1 - gamma) - 4 FLUSHED, v (1 + gamma) + 4 FLUSHED] with
gamma = gamma_(n+4). Root, quotient or reciprocal (a refined reciprocal root is good to 2 ULP), and product add 6 u:

    |y^ - y| <= |x| max over both ends of |v^ ^(-1/2) (1 +- 6 u) - v^(-1/2)| + FLUSHED (v^(-1/2) + 1)

where the last terms are for an x or y that is flushed to 0. If ||x||^2 may overflow, or the lower end is not positive,
float32 promises nothing, and the allowance is infinite. The candidate is called with eps * 10^j, j = -3..3 (the array
eps_exponent), which shows a function that ignores eps and uses a constant.

**Policy eps-outside**: y = x / s with s = sqrt(||x||^2 / n) + eps, another function. Let v = ||x||^2 / n, which has the
same error as above. Its root is good to 2 ULP (4 u), eps and the sum are rounded once each, and eps may be flushed.
So s^ lies between sqrt(v^) (1 - 6 u) + eps (1 - 3 u) - FLUSHED and the same with the other signs. A reciprocal to 1 ULP
and a product add 4 u:

    |y^ - y| <= |x| max over both ends of |(1 +- 4 u) / s^ - 1 / s| + FLUSHED (1 / s + 1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.kernels import Implementation, exact
from diffuzz.targets import rows
from diffuzz.targets.amplification import Amplification
from diffuzz.targets.contract import Contract, Function, Scalar
from diffuzz.targets.error_bounds import FLUSHED, UNIT, gamma
from diffuzz.targets.outcome import Arrays, Bound
from diffuzz.targets.parameter import Parameter, ParameterError, Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64

    from diffuzz.targets.amplification import Evaluated

EPS = Parameter("eps", 1e-6, "number added to the mean square", low=0.0, high=1e6)
PARAMETERS = (
    Parameter("n", 256, "largest length of the vector", low=2, high=65536),
    Parameter("max_abs", 16.0, "largest |x|", low=1e-30, high=1e30),
    EPS,
    Parameter("delta", 0.00077, "size of the perturbation, relative", low=1e-6, high=0.5),
    Parameter("perturbation", "componentwise", "model of the perturbation", choices=("componentwise", "normwise")),
    Parameter("gain", False, "true: search a gain w as well; false: w = 1"),
    Parameter("gain_min", 0.01, "least gain", low=1e-6, high=1e6),
    Parameter("gain_max", 10.0, "greatest gain", low=1e-6, high=1e6),
)
POLICY = Parameter(
    "policy",
    "exact",
    "exact: eps is added to the mean square | eps-outside: to its root, another function",
    choices=("exact", "eps-outside"),
    later=True,
)
CONTRACT_PARAMETERS = (EPS, rows.LENGTH, rows.largest("x", low=1e-30, high=1e30), rows.TAIL, POLICY)


def space(p: Params) -> Space:
    """x with max|x| >= max_abs / 2^20 (a zero vector has no relative drift), the direction of its move, and the gain.

    Raises ParameterError if gain_min is above gain_max.
    """
    if p["gain_min"] > p["gain_max"]:
        raise ParameterError(f"gain_min={p['gain_min']:g} is above gain_max={p['gain_max']:g}")
    n, top = Dim("n", p["n"]), p["max_abs"]
    x = TensorSpec("x", kind="activations", shape=(n,), low=-top, high=top, smallest_peak=top * 2.0**-20)
    direction = TensorSpec("x_direction", kind="direction", shape=(n,), low=-1.0, high=1.0, smallest_peak=2.0**-10)
    gain = TensorSpec("gain", kind="gain", shape=(n,), low=p["gain_min"], high=p["gain_max"])
    return Space((x, direction, gain) if p["gain"] else (x, direction))


def function(p: Params, arrays: Arrays, kernels: Implementation) -> Evaluated:
    """RMSNorm y, the scale ||y||_2 and the magnitude ||y||_2."""
    y = kernels.rms_norm(arrays["x"].astype(float), p["eps"])
    if p["gain"]:
        y = y * arrays["gain"].astype(float)
    length = kernels.xp.sqrt((y * y).sum(axis=1))
    return y, length, length


def bound(p: Params) -> Bound:
    """The bound that the docstring of the module derives."""
    delta, ratio = p["delta"], p["gain_max"] / p["gain_min"]
    # 2 sin(arcsin(d)/2) / d in a form that does not cancel for small d. The factor covers float64 rounding.
    chord = float(np.sqrt(2 / (1 + np.sqrt(1 - delta**2)))) * (1 + 1e-9)
    if not p["gain"]:
        return Bound(chord, "unit vectors of (x, sqrt(n eps)) are a chord apart: 2 sin(arcsin(delta)/2) / delta")
    if p["perturbation"] == "normwise":
        return Bound(ratio * chord, "max w / min w times the chord 2 sin(arcsin(delta)/2) / delta")
    return Bound(
        _componentwise_bound(ratio, delta), "two signs, two gains: maximum over the share of the positive sign"
    )


def _componentwise_bound(ratio: float, delta: float) -> float:
    """The bound with a gain for componentwise moves; ``ratio`` is max w / min w."""

    def squared(share: Float64[np.ndarray, " k"], sign: float) -> Float64[np.ndarray, " k"]:
        # The larger gain is on the share of ||x||^2 that moves by sign * delta.
        r = np.sqrt(1 + 2 * sign * delta * (2 * share - 1) + delta**2)
        heavy, light = (1 + sign * delta) / r - 1, (1 - sign * delta) / r - 1
        weight = share * ratio**2
        return np.asarray((weight * heavy**2 + (1 - share) * light**2) / (weight + 1 - share) / delta**2)

    best = 1.0
    for sign in (1.0, -1.0):
        # The log-odds of the share. The function has a single maximum within two steps of the best point of each grid.
        low, high = -40.0, 40.0
        for _ in range(8):
            odds = np.linspace(low, high, 4001)
            values = squared(1 / (1 + np.exp(-odds)), sign)
            peak, step = odds[np.argmax(values)], odds[1] - odds[0]
            low, high = peak - 2 * step, peak + 2 * step
            best = max(best, float(values.max()))
    return float(np.sqrt(best) * (1 + 1e-9))


def candidate_space(p: Params) -> Space:
    """x, which may be 0, and the exponent of the power of ten that multiplies eps."""
    top = p["candidate_max_abs"]
    x = TensorSpec("x", kind="activations", shape=(rows.row(p),), low=-top, high=top)
    return Space((x, TensorSpec("eps_exponent", kind="positions", shape=(Dim("row", 1, fixed=True),), low=-3, high=3)))


# The eps of each row.
_EPS = Scalar("eps_exponent", "eps", lambda p, exponents: p["eps"] * 10.0 ** exponents.astype(np.float64))


def _call(p: Params, f: Function, arrays: Arrays) -> np.ndarray:
    """The result of a function, which is called once for each eps in the batch."""
    x = arrays["x"]
    return rows.by_value(_EPS.of(p, arrays), lambda eps, rows: f(x[rows], eps), x)


def _run(p: Params, arrays: Arrays, kernels: Implementation) -> Float[np.ndarray, "b n"]:
    """The result of an implementation. With policy=eps-outside the exact result is that of the other function."""
    other = p["policy"] == "eps-outside" and kernels is exact
    return np.asarray(_call(p, _outside if other else kernels.rms_norm, arrays))


def _outside(x: Float32[np.ndarray, "b n"], eps: float) -> Float64[np.ndarray, "b n"]:
    """``x / (sqrt(mean(x^2)) + eps)`` in float64."""
    wide = x.astype(np.float64)
    return np.asarray(wide / (np.sqrt((wide * wide).mean(axis=1, keepdims=True)) + eps))


def allowance(p: Params, arrays: Arrays) -> Float64[np.ndarray, "b n"]:
    """The a-priori error bound that the docstring of the module derives; infinite where nothing is promised."""
    x, u, eps = np.abs(arrays["x"].astype(np.float64)), UNIT, _EPS.of(p, arrays)
    n, outside = x.shape[1], p["policy"] == "eps-outside"
    square = (x * x).sum(axis=1)
    v = square / n + (0 if outside else eps)
    relative = gamma(n + 4)
    least, most = np.maximum(v * (1 - relative) - 4 * FLUSHED, 0.0), v * (1 + relative) + 4 * FLUSHED
    if outside:
        s, after = np.sqrt(v) + eps, 4 * u
        low = np.sqrt(least) * (1 - 6 * u) + eps * (1 - 3 * u) - FLUSHED
        high = np.sqrt(most) * (1 + 6 * u) + eps * (1 + 3 * u) + FLUSHED
    else:
        s, low, high, after = np.sqrt(v), np.sqrt(least), np.sqrt(most), 6 * u
    certain = (low > 0) & (square * (1 + relative) < np.finfo(np.float32).max)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = 1 / s
        spread = np.maximum((1 + after) / np.where(certain, low, 1.0) - root, root - (1 - after) / high)
        return np.where(certain[:, None], x * spread[:, None] + (FLUSHED * (root + 1))[:, None], np.inf)


def _kernels(p: Params) -> tuple[str, ...]:
    # None of them adds eps outside of the root.
    if p["policy"] == "eps-outside":
        return ("exact",)
    return ("apr", "exact", "gguf", "ggml", "xla", "libggml")


TARGET = Target(
    name="rmsnorm",
    summary="RMSNorm: L2 drift of the output over drift of the input, with or without a searched gain",
    parameters=PARAMETERS,
    space=space,
    question=Amplification(function, inputs=lambda p: ("x",), norm=2),
    measure=lambda p: f"(||dy||_2/||y||_2) / ({p['perturbation']} drift of x)",
    bound=bound,
    claim="RMSNorm amplifies a drift of its input",
    threshold=lambda p: 5.0,
    tolerance=1e-9,
    contract=Contract(
        signature="f(x: float32[b, n], eps: float) -> float32[b, n]",
        parameters=CONTRACT_PARAMETERS,
        space=candidate_space,
        call=_call,
        run=_run,
        scalars=(_EPS,),
        kernels=_kernels,
        allowance=allowance,
    ),
)
