r"""RMSNorm: does the reciprocal square root amplify a small drift of its input?

    y_i = w_i x_i / s(x),   s(x) = sqrt(||x||^2 / n + eps),   w = 1 without a gain

Published (FFN-GGUF-015): 1.0000x on one input. Measure: ||y' - y||_2 / ||y||_2 over the relative drift of x.

**Without gain.** Append sqrt(n eps) as one more coordinate: X = (x, sqrt(n eps)), so that s(x) = ||X|| / sqrt(n), and y
is sqrt(n) times the first n coordinates of X / ||X||. The last coordinate does not move, so ||X' - X|| = ||x' - x|| = d
||x||, and with D = d ||x|| / ||X|| <= d the relative move of X is D. Dunkl and Williams (1964) give ||X/||X|| -
X'/||X'|| || <= 2 ||X - X'|| / (||X|| + ||X'||) in any inner-product space, hence at most D / (1 - D/2). The sharp form
is elementary: X' lies in a ball of radius D ||X|| around X, whose tangent cone has the half angle arcsin D, so the two
unit vectors are at most the chord 2 sin(arcsin(D) / 2) apart. Therefore

    ||y' - y|| / ||y|| <= (||X|| / ||x||) 2 sin(arcsin(D) / 2),      amplification <= 2 sin(arcsin(D) / 2) / D,

which grows with D, and D <= d <= delta for both perturbation models: the limit is 2 sin(arcsin(delta) / 2) / delta = 1
+ delta^2 / 8 + ..., for finite perturbations. To first order it is 1: a projection cannot stretch.

**With a gain, normwise.** y = W u with u the vector above: ||W (u' - u)|| <= max w ||u' - u|| and ||W u|| >= min w
||u||, so the limit is max w / min w times the one above. It is approached by all the mass where w is least and a move
where w is greatest.

**With a gain, componentwise.** Every element moves by exactly s_i delta |x_i| (s_i = +-1), so x'_i = (1 + t_i delta)
x_i with t_i = +-1 and

    y'_i / y_i - 1 = c(t_i),   c(t) = (1 + t delta) / r - 1,   r = s(x') / s(x).

The squared output drift is the mean of c(t_i)^2 with weights w_i^2 x_i^2. Let a be the share of ||x||^2 where t = +1.
For a given a and r the mean is largest when w is max w on the sign with the larger c^2 and min w on the other (a mean
of two numbers). It remains to choose a and the share e of n eps in ||X||^2: r^2 = 1 + (1 - e)(2 delta (2a - 1) +
delta^2). Each c^2 is convex in 1/r, and 1/r is monotone in e, so the maximum is at e = 1, where the value is delta^2,
or at e = 0. At e = 0 one number a is left; the bound is the maximum over it (by a grid in log(a / (1 - a)), refined
eight times). To first order, with R = max w / min w, the squared amplification is 4 a (1 - a) (R^2 (1 - a) + a) / (R^2
a + 1 - a), which is 1.9972^2 at R = 1000 and tends to 4.

**A candidate** computes y = x / s in float32, in any form and any order of the sum. Let v = ||x||^2 / n + eps.
Products, additions, the division by n (or product with a rounded 1/n), the rounding of eps and its addition are n + 4
roundings at most, all of numbers >= 0, and squares below 2^-126 may underflow or be flushed: the computed v^ lies in
[v (1 - gamma) - 2^-125, v (1 + gamma) + 2^-125] with gamma = gamma_(n+4). Root, quotient or reciprocal (a refined
reciprocal root is good to 2 ULP), and product add 6 u:

    |y^ - y| <= |x| max over both ends of |v^ ^(-1/2) (1 +- 6 u) - v^(-1/2)| + 2^-126 v^(-1/2) + 2^-125

(the last terms for a flushed x or y). Where ||x||^2 may overflow, or the lower end is not positive, float32 promises
nothing: the allowance is infinite. The candidate is called with eps * 10^j, j = -3..3 (the array eps_exponent), so that
a constant in its place shows.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from diffuzz import calls
from diffuzz.errors import UNIT, gamma
from diffuzz.space import Dim, Space, TensorSpec
from diffuzz.target import Amplification, Arrays, Bound, Contract, Parameter, ParameterError, Params, Target

PARAMETERS = (
    Parameter("n", 256, "largest length of the vector", low=2, high=65536),
    Parameter("max_abs", 16.0, "largest |x|", low=1e-30, high=1e30),
    Parameter("eps", 1e-6, "added to the mean square", low=0.0, high=1e6),
    Parameter("delta", 0.00077, "size of the perturbation, relative", low=1e-6, high=0.5),
    Parameter("perturbation", "componentwise", "model of the perturbation", choices=("componentwise", "normwise")),
    Parameter("gain", False, "search a gain w as well"),
    Parameter("gain_min", 0.01, "least gain", low=1e-6, high=1e6),
    Parameter("gain_max", 10.0, "greatest gain", low=1e-6, high=1e6),
    calls.LENGTH,
    calls.largest("x", low=1e-30, high=1e30),
    calls.TAIL,
)


def space(p: Params) -> Space:
    """x with max|x| >= max_abs / 2^20 (a zero vector has no relative drift), the direction of its move, the gain."""
    if p["gain_min"] > p["gain_max"]:
        raise ParameterError(f"gain_min={p['gain_min']:g} is above gain_max={p['gain_max']:g}")
    n, top = Dim("n", p["n"]), p["max_abs"]
    x = TensorSpec("x", kind="activations", shape=(n,), low=-top, high=top, smallest_peak=top * 2.0**-20)
    direction = TensorSpec("x_direction", kind="direction", shape=(n,), low=-1.0, high=1.0, smallest_peak=2.0**-10)
    gain = TensorSpec("gain", kind="gain", shape=(n,), low=p["gain_min"], high=p["gain_max"])
    return Space((x, direction, gain) if p["gain"] else (x, direction))


def function(p: Params, arrays: Arrays, kernels: ModuleType) -> tuple[Any, Any, Any]:
    """RMSNorm, the norm of its result, and the size of its terms (the same)."""
    y = kernels.rms_norm(arrays["x"].astype(float), p["eps"])
    if p["gain"]:
        y = y * arrays["gain"].astype(float)
    length = kernels.xp.sqrt((y * y).sum(axis=1))
    return y, length, length


def bound(p: Params) -> Bound:
    """The limits derived above."""
    delta, ratio = p["delta"], p["gain_max"] / p["gain_min"]
    # 2 sin(arcsin(d)/2) / d without the cancellation of small d; the float64 rounding of the evaluation is added.
    chord = float(np.sqrt(2 / (1 + np.sqrt(1 - delta**2)))) * (1 + 1e-9)
    if not p["gain"]:
        return Bound(chord, "unit vectors of (x, sqrt(n eps)) are a chord apart: 2 sin(arcsin(delta)/2) / delta")
    if p["perturbation"] == "normwise":
        return Bound(ratio * chord, "max w / min w times the chord 2 sin(arcsin(delta)/2) / delta")
    return Bound(
        _componentwise_limit(ratio, delta), "two signs, two gains: maximum over the share of the positive sign"
    )


def _componentwise_limit(ratio: float, delta: float) -> float:
    def squared(share: np.ndarray, sign: float) -> np.ndarray:
        # The larger gain sits on the share that moves by sign * delta.
        r = np.sqrt(1 + 2 * sign * delta * (2 * share - 1) + delta**2)
        heavy, light = (1 + sign * delta) / r - 1, (1 - sign * delta) / r - 1
        weight = share * ratio**2
        return (weight * heavy**2 + (1 - share) * light**2) / (weight + 1 - share) / delta**2

    best = 1.0
    for sign in (1.0, -1.0):
        low, high = -40.0, 40.0  # log-odds of the share; the function has one maximum in each span of the grid's best
        for _ in range(8):
            odds = np.linspace(low, high, 4001)
            values = squared(1 / (1 + np.exp(-odds)), sign)
            peak, step = odds[np.argmax(values)], odds[1] - odds[0]
            low, high = peak - 2 * step, peak + 2 * step
            best = max(best, float(values.max()))
    return float(np.sqrt(best) * (1 + 1e-9))


def candidate_space(p: Params) -> Space:
    """x, zero too, and the power of ten that multiplies eps."""
    top = p["candidate_max_abs"]
    x = TensorSpec("x", kind="activations", shape=(calls.row(p),), low=-top, high=top)
    return Space((x, TensorSpec("eps_exponent", kind="positions", shape=(Dim("row", 1, fixed=True),), low=-3, high=3)))


def _eps(p: Params, arrays: Arrays) -> np.ndarray:
    """float64[b]: the eps of each row."""
    return p["eps"] * 10.0 ** arrays["eps_exponent"][:, 0].astype(np.float64)


def _call(p: Params, f: Callable[..., Any], arrays: Arrays) -> Any:
    """One call of the candidate for each eps in the batch."""
    x = arrays["x"]
    return calls.by_value(_eps(p, arrays), lambda eps, rows: f(x[rows], eps), x)


def _run(p: Params, arrays: Arrays, kernels: Any) -> np.ndarray:
    """The operation by a kernel module, one call for each eps in the batch."""
    return np.asarray(_call(p, kernels.rms_norm, arrays))


def allowance(p: Params, arrays: Arrays) -> np.ndarray:
    """The a-priori error bound derived above, float64[b, n]."""
    x, u = np.abs(arrays["x"].astype(np.float64)), UNIT
    n = x.shape[1]
    square = (x * x).sum(axis=1)
    v = square / n + _eps(p, arrays)
    relative = gamma(n + 4)
    low, high = v * (1 - relative) - 2.0**-125, v * (1 + relative) + 2.0**-125
    certain = (low > 0) & (square * (1 + relative) < np.finfo(np.float32).max)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = 1 / np.sqrt(v)
        spread = np.maximum(
            (1 + 6 * u) / np.sqrt(np.where(certain, low, 1.0)) - root, root - (1 - 6 * u) / np.sqrt(high)
        )
        return np.where(certain[:, None], x * spread[:, None] + (2.0**-126 * root + 2.0**-125)[:, None], np.inf)


TARGET = Target(
    name="rmsnorm",
    summary="RMSNorm: L2 drift out over drift in, without or with a searched gain",
    parameters=PARAMETERS,
    space=space,
    question=Amplification(function, inputs=lambda p: ("x",), norm=2),
    measure=lambda p: f"(||dy||_2/||y||_2) / ({p['perturbation']} drift of x)",
    bound=bound,
    claim="RMSNorm amplifies a drift of its input",
    limit=lambda p: 5.0,
    tolerance=1e-9,
    contract=Contract(
        signature="f(x: float32[b, n], eps: float) -> float32[b, n]",
        call=_call,
        run=_run,
        scalars=("eps_exponent",),
        kernels=lambda p: ("apr", "exact", "gguf", "ggml", "xla", "libggml"),
        allowance=allowance,
        space=candidate_space,
    ),
)
