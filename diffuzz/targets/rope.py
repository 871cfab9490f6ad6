r"""RoPE: does a difference of phase amplify a small drift of q, or of q and k, in the score q.k?

    s = (R_m q) . (R_n k) / sqrt d        R_m turns pair i by m base^(-2 i / d); m, n the positions

Published (FFN-GGUF-012): 1.00x for one input, whose q was only scaled, so that no other result was possible.

R_m is orthogonal: a rotated vector has the same length and the same drift as the vector (the bound 1 is always
reached). So the score is the interesting result. Let N = ||q|| ||k|| / sqrt d, c = |s| / N (the cosine of the angle
between the rotated vectors) and f the floor.

    normalised score   (floor = 0)   |s' - s| / N           over the drift of q, or the larger drift of q and k
    relative score     (floor > 0)   |s' - s| / max(|s|, f N)

The relative error of a score near zero is meaningless: smaller scores count as f N, and the bound depends on f.

**q moves.** |s' - s| = |(R_m dq) . (R_n k)| / sqrt d <= (||dq|| / ||q||) N, and a componentwise drift d has ||dq|| <=
d ||q||. So the normalised score amplifies by at most 1, the relative one by at most 1/f. Reached where q is
orthogonal to k after the rotation and moves towards it: for example k constant, q = +-k in halves, positions equal.

**q and k move**, each by a drift of at most delta. With unit vectors a = R_m q / ||q||, b = R_n k / ||k|| and moves
delta u, delta v of length at most delta: |s' - s| / N = delta |u.b + a.v + delta u.v|. For fixed v the best u is the
direction of b + delta v, so the maximum is delta times G = max_v ||b + delta v|| + a.v. It is attained in the plane
of a and b, and symmetric: v turned from a towards b by some angle phi, u from b towards a. With theta the angle
between a and b, cos theta = c (if s' - s is negative, turn b and v round),

    G = 2 cos phi + delta cos(theta - 2 phi) = 2 cos phi + delta (c cos 2phi + sin theta sin 2phi)
      <= 2 cos phi (1 + delta sin phi) + delta c <= 2 + delta^2 + delta c,

the last step by (1 - x^2/2)(2 + 2 delta x) <= 2 + 2 delta x - x^2 <= 2 + delta^2 with x = sin phi >= 0. Also G <= 2 +
delta. So the normalised score has the bound 2 + delta (reached at c = 1). The relative one has G(c) / max(c, f): G
grows with c, by less than delta per unit of c, while G >= 2 > delta c, so the quotient is largest at c = f, and the
bound is (2 + min(delta, delta^2 + delta f)) / f. A smaller drift than delta only lowers G.

**A candidate** works in float32. The frequency base^(-2 i / d) may come from a power (the exponent is rounded:
relative error 2 u (2 i / d) ln base, the power itself 4 u) or from the recurrence of ggml, theta_i = theta_(i-1)
base^(-2/d) (i rounded products of a number with relative error 2 u + u (2/d) ln base); the angle is rounded twice
more. So the angle A_i is off by alpha_i = |A_i| u (2 (2 i / d) ln base + 4 i + 8), which turns the pair r = (x0, x1)
by at most alpha_i ||r||. Sine and cosine are good to 2 ULP of 1 (4 u), each product and the sum is rounded, or fused:

    |y^ - y| <= min(alpha_i, 2) ||r|| + 8 u (|x0| + |x1|) + 3 FLUSHED

The last term is for two products (or the elements that they are made of) and a sum that underflow (see
:mod:`diffuzz.targets.error_bounds`). The allowance grows with the position, as the
error of the float32 angle does. Positions may be negative, because a cache that is shifted turns keys back. The
candidate is called with base * 10^j, j = -1..3 (the array base_exponent), but at least 1, which shows a function that
ignores the base and uses a constant.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from diffuzz.cases.ranges import clip
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.kernels import Implementation, exact
from diffuzz.targets import rows
from diffuzz.targets.amplification import Amplification
from diffuzz.targets.contract import Contract, Function, Scalar
from diffuzz.targets.error_bounds import FLUSHED, UNIT
from diffuzz.targets.outcome import Arrays, Bound
from diffuzz.targets.parameter import Parameter, ParameterError, Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Float64

    from diffuzz.targets.amplification import Evaluated

# Heads in most cases of a candidate: kernels take four at a time, and one is left over. Models have up to 128.
_HEADS, _MOST_HEADS = 5, 129
_USUAL_HEAD_DIM = 128

BASE = Parameter("base", 10000.0, "base of the frequencies", low=1.0, high=1e9)
MODE = Parameter("mode", "neox", "neox: pairs (i, i + d/2); norm: pairs (2i, 2i + 1)", choices=("neox", "norm"))
PARAMETERS = (
    Parameter("head_dim", 64, "length d of q and k, even", low=2, high=65536),
    BASE,
    MODE,
    Parameter("max_position", 4096, "largest position", low=0, high=2**24),
    Parameter("max_abs", 8.0, "largest |q| and |k|", low=1e-6, high=1e6),
    Parameter("perturb", "q", "what moves: q, or q and k", choices=("q", "qk")),
    Parameter("floor", 1e-3, "smaller |s| count as floor ||q|| ||k|| / sqrt d; 0: normalised score", low=0.0, high=1.0),
    Parameter("delta", 0.00077, "size of the perturbation, relative", low=1e-6, high=0.5),
    Parameter("perturbation", "componentwise", "model of the perturbation", choices=("componentwise", "normwise")),
)
CONTRACT_PARAMETERS = (
    BASE,
    MODE,
    Parameter("candidate_max_position", 2**20, "largest |position| that a candidate is called with", low=0, high=2**24),
    Parameter(
        "candidate_head_dim",
        1024,
        f"largest head_dim that a candidate is called with, most often {_USUAL_HEAD_DIM}, even",
        low=2,
        high=65536,
    ),
    rows.largest("x"),
    Parameter(
        "tail",
        True,
        "true: a candidate is called with every even head_dim up to candidate_head_dim; false: only with that",
    ),
)
# Relative rounding of value and bound, both computed in float64.
_FLOAT64 = 1e-9


def space(p: Params) -> Space:
    """q and k (neither zero), their positions, and the directions of what moves."""
    d, top = _head_dim(p), p["max_abs"]
    names = inputs(p)
    vectors = [
        TensorSpec(name, kind="activations", shape=(d,), low=-top, high=top, smallest_peak=top * 2.0**-20)
        for name in ("q", "k")
    ]
    directions = [
        TensorSpec(f"{name}_direction", kind="direction", shape=(d,), low=-1.0, high=1.0, smallest_peak=2.0**-10)
        for name in names
    ]
    return Space((*vectors, _positions(Dim("pair", 2, fixed=True), p["max_position"]), *directions))


def inputs(p: Params) -> tuple[str, ...]:
    """Names of the arrays that move."""
    return ("q", "k") if p["perturb"] == "qk" else ("q",)


def function(p: Params, arrays: Arrays, kernels: Implementation) -> Evaluated:
    """The score [b, 1], the number that its drift is relative to, and the size N of its terms."""
    xp, root = kernels.xp, math.sqrt(p["head_dim"])
    q, k = arrays["q"].astype(float), arrays["k"].astype(float)
    turned_q = kernels.rope(q[:, None, :], arrays["positions"][:, 0], p["base"], p["mode"])[:, 0, :]
    turned_k = kernels.rope(k[:, None, :], arrays["positions"][:, 1], p["base"], p["mode"])[:, 0, :]
    score = (turned_q * turned_k).sum(axis=1) / root
    size = xp.sqrt((q * q).sum(axis=1) * (k * k).sum(axis=1)) / root
    scale = xp.maximum(xp.abs(score), p["floor"] * size) if p["floor"] else size
    return score[:, None], scale, size


def bound(p: Params) -> Bound:
    """The bound that the docstring of the module derives."""
    floor, delta, both = p["floor"], p["delta"], p["perturb"] == "qk"
    if not floor:
        value, because = (2 + delta, "bilinear: 2 + delta") if both else (1.0, "bilinear: ||dq|| ||k|| / (||q|| ||k||)")
    elif both:
        value = (2 + min(delta, delta**2 + delta * floor)) / floor
        because = "bilinear: (2 + min(delta, delta^2 + delta floor)) / floor"
    else:
        value, because = 1 / floor, "bilinear: 1 / floor"
    return Bound(value, because, rounding=_FLOAT64)


def starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """k with pairs of equal length, and q orthogonal to it after the rotation: k as seen from the position of q, with
    half of it negated (with floor=0, none). Each of them moves towards the other.
    """
    d, top = p["head_dim"], p["max_abs"]
    scale = 2.0 ** -rng.integers(1, 8, (count, 1))
    positions = rng.integers(0, p["max_position"] + 1, (count, 2)).astype(np.int32)
    if d % 4 or p["mode"] != "neox":
        # With an odd number of pairs, halves of equal weight need both signs within each pair.
        positions[:, 1] = positions[:, 0]
    k = np.where(rng.random((count, d)) < 0.5, 1.0, -1.0) * top * scale
    gap = positions[:, 1] - positions[:, 0]
    seen = exact.rope(k[:, None, :], gap, p["base"], p["mode"])[:, 0, :]
    if p["floor"]:
        flip = np.where(np.arange(d) % 2 == 0, 1.0, -1.0)
    else:
        flip = np.ones(d)
    vectors = {"q": seen * flip, "k": k}
    arrays = {name: clip(space(p)[name], vector) for name, vector in vectors.items()} | {"positions": positions}
    towards = {"q": seen, "k": exact.rope((seen * flip)[:, None, :], -gap, p["base"], p["mode"])[:, 0, :]}
    for name in inputs(p):
        peak = 1.0 if p["perturbation"] == "componentwise" else np.abs(towards[name]).max(axis=1, keepdims=True)
        shape = np.sign(towards[name]) if p["perturbation"] == "componentwise" else towards[name] / peak
        arrays[f"{name}_direction"] = shape.astype(np.float32)
    return arrays


def candidate_space(p: Params) -> Space:
    """x of a few heads, its position, which may be negative, and the exponent of the power of ten that multiplies the
    base.
    """
    top, farthest, token = p["candidate_max_abs"], p["candidate_max_position"], Dim("token", 1, fixed=True)
    most = _even("candidate_head_dim", p)
    head_dim = Dim("head_dim", most, fixed=True)
    if p["tail"]:
        head_dim = Dim("head_dim", min(most, _USUAL_HEAD_DIM), step=2, largest=most)
    heads = Dim("heads", _HEADS, largest=_MOST_HEADS)
    x = TensorSpec("x", kind="activations", shape=(heads, head_dim), low=-top, high=top)
    positions = TensorSpec("positions", kind="positions", shape=(token,), low=-farthest, high=farthest)
    return Space((x, positions, TensorSpec("base_exponent", kind="positions", shape=(token,), low=-1, high=3)))


# The base of each row.
_BASE = Scalar(
    "base_exponent", "base", lambda p, exponents: np.maximum(p["base"] * 10.0 ** exponents.astype(np.float64), 1.0)
)


def _call(p: Params, f: Function, arrays: Arrays) -> np.ndarray:
    """The result of a function, which is called once for each base in the batch."""
    x, positions = arrays["x"], arrays["positions"][:, 0]
    return rows.by_value(_BASE.of(p, arrays), lambda base, rows: f(x[rows], positions[rows], base, p["mode"]), x)


def allowance(p: Params, arrays: Arrays) -> Float64[np.ndarray, "b heads d"]:
    """The a-priori error bound that the docstring of the module derives."""
    x, base, u = np.abs(arrays["x"].astype(np.float64)), _BASE.of(p, arrays)[:, None], UNIT
    d = x.shape[-1]
    i = np.arange(d // 2)
    angle = np.abs(arrays["positions"].astype(np.float64)) * base ** (-2.0 * i / d)
    turn = np.minimum(angle * u * (2 * (2 * i / d) * np.log(base) + 4 * i + 8), 2.0)
    if p["mode"] == "norm":
        x0, x1 = x[..., 0::2], x[..., 1::2]
    else:
        x0, x1 = x[..., : d // 2], x[..., d // 2 :]
    error: Float64[np.ndarray, "b heads pairs"] = turn[:, None, :] * np.hypot(x0, x1) + 8 * u * (x0 + x1) + 3 * FLUSHED
    return np.repeat(error, 2, axis=-1) if p["mode"] == "norm" else np.concatenate([error, error], axis=-1)


def _even(name: str, p: Params) -> int:
    """The head_dim in the parameter ``name``. Raises ParameterError if it is odd."""
    if p[name] % 2:
        raise ParameterError(f"parameter {name}={p[name]}: an even number is needed, because RoPE turns pairs")
    return int(p[name])


def _head_dim(p: Params) -> Dim:
    return Dim("head_dim", _even("head_dim", p), fixed=True)


def _positions(dim: Dim, largest: int) -> TensorSpec:
    return TensorSpec("positions", kind="positions", shape=(dim,), low=0, high=largest)


def _measure(p: Params) -> str:
    output = "|ds| / max(|s|, floor ||q|| ||k||/sqrt d)" if p["floor"] else "|ds| / (||q|| ||k||/sqrt d)"
    return f"({output}) / ({p['perturbation']} drift of {'q, or of k if larger' if p['perturb'] == 'qk' else 'q'})"


TARGET = Target(
    name="rope",
    summary="RoPE: drift of the score q.k over drift of q, or of q and k",
    parameters=PARAMETERS,
    space=space,
    question=Amplification(function, inputs=inputs, norm=2),
    measure=_measure,
    bound=bound,
    claim="RoPE amplifies a drift of q and k in the attention score",
    threshold=lambda p: 5.0,
    tolerance=1e-9,
    starts=starts,
    contract=Contract(
        signature="f(x: float32[b, heads, head_dim], positions: int32[b], base: float, mode: str) -> float32 like x",
        parameters=CONTRACT_PARAMETERS,
        space=candidate_space,
        call=_call,
        run=lambda p, arrays, kernels: np.asarray(_call(p, kernels.rope, arrays)),
        scalars=(_BASE,),
        kernels=lambda p: ("apr", "exact", "ggml", "ggml:zen", "xla", "libggml"),
        allowance=allowance,
    ),
)
