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

**A candidate** computes y = x / s in the arithmetic that its parameters state; its error bound is derived from the
formula (see diffuzz.targets.derived). The candidate is called with eps * 10^j, j = -3..3 (the array eps_exponent),
which shows a function that ignores eps and uses a constant.

**Policy eps-outside**: y = x / s with s = sqrt(||x||^2 / n) + eps, another function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.cases.ranges import dtype_of
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.kernels import Implementation
from diffuzz.targets import derived, rows
from diffuzz.targets.amplification import Amplification
from diffuzz.targets.contract import Contract, Function, Scalar
from diffuzz.targets.derived import Arguments, Derived
from diffuzz.targets.lazily import lazily
from diffuzz.targets.outcome import Arrays, Bound
from diffuzz.targets.parameter import Parameter, ParameterError, Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Float64

    from diffuzz.formats.arrays import AnyArray as Array
    from diffuzz.targets.amplification import Evaluated

jnp = lazily("jax.numpy")

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
CONTRACT_PARAMETERS = (
    EPS,
    rows.LENGTH,
    rows.largest("x", low=1e-30, high=1e30),
    rows.TAIL,
    POLICY,
    *derived.ARITHMETIC,
)


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
    top = min(p["candidate_max_abs"], derived.largest(p))
    x = TensorSpec("x", kind="activations", shape=(rows.row(p),), low=-top, high=top, holds=p["dtype"])
    return Space((x, TensorSpec("eps_exponent", kind="positions", shape=(Dim("row", 1, fixed=True),), low=-3, high=3)))


# The eps of each row.
_EPS = Scalar("eps_exponent", "eps", lambda p, exponents: p["eps"] * 10.0 ** exponents.astype(np.float64))


def _call(p: Params, f: Function, arrays: Arrays) -> np.ndarray:
    """The result of a function, which is called once for each eps in the batch."""
    x = np.asarray(arrays["x"]).astype(dtype_of(p["dtype"]))
    return rows.by_value(_EPS.of(p, arrays), lambda eps, rows: f(x[rows], eps), x)


def inside(x: Array, eps: Array) -> Array:
    """``x / sqrt(mean(x^2) + eps)`` of each row."""
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)


def outside(x: Array, eps: Array) -> Array:
    """``x / (sqrt(mean(x^2)) + eps)``."""
    return x / (jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True)) + eps)


_DERIVED = Derived(
    lambda p: outside if p["policy"] == "eps-outside" else inside,
    lambda p: (),
    lambda p, arrays: Arguments(
        (np.asarray(arrays["x"], np.float64), _EPS.of(p, arrays)[:, None]), constants=frozenset({1})
    ),
    of_batches=True,
)


def _kernels(p: Params) -> tuple[str, ...]:
    # None of them adds eps outside of the root.
    if p["policy"] == "eps-outside":
        return ("exact",)
    return derived.implementations(p, ("apr", "exact", "gguf", "ggml", "xla", "libggml"))


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
        signature="f(x: dtype[b, n], eps: float) -> dtype[b, n]",
        parameters=CONTRACT_PARAMETERS,
        space=candidate_space,
        call=_call,
        run=lambda p, arrays, kernels: _DERIVED.run(p, arrays, kernels, lambda: _call(p, kernels.rms_norm, arrays)),
        scalars=(_EPS,),
        kernels=_kernels,
        allowance=_DERIVED.allowance,
        results=_DERIVED.results,
        derived=_DERIVED,
    ),
)
