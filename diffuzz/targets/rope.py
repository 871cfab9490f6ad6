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

**A candidate** turns pairs in the arithmetic that its parameters state. Its error bound is derived from three forms
(see diffuzz.targets.derived) and is the largest of theirs: the frequency base^(-2 i / d) as a power, as an exponential
of -(2 i / d) ln base, and by the recurrence of ggml, theta_i = theta_(i-1) base^(-2/d). It grows with the position, as
the error of the angle does. Positions may be negative, because a cache that is shifted turns keys back. The candidate
is called with base * 10^j, j = -1..3 (the array base_exponent), but at least 1, which shows a function that ignores the
base and uses a constant.

What models add to it is given by keyword, and only where it is asked for:

    rotary_dim   only the first rotary_dim elements of a head are turned, with d = rotary_dim in the frequency
    factors      float32[d/2]: the frequency of pair i is divided by factors[i] (as the long and short factors of Phi)
    scaling      linear   frequencies are divided by factor
                 llama3   those of wavelengths above original / low_freq_factor are divided by factor, those below
                          original / high_freq_factor are not, and between them both are mixed
                 yarn     by NTK parts: the pairs that turn more than beta_fast times over the original context keep
                          their frequency, those that turn less than beta_slow times are divided by factor, between them
                          both are mixed linearly in i; the result is multiplied by attention_factor, which is
                          0.1 ln(factor) + 1 if it is 0 (Peng et al., arXiv 2309.00071, as transformers has it)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from diffuzz.cases.ranges import clip, dtype_of
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.kernels import Implementation, exact
from diffuzz.targets import derived, rows
from diffuzz.targets.amplification import Amplification
from diffuzz.targets.contract import Contract, Function, Scalar
from diffuzz.targets.derived import Arguments, Derived
from diffuzz.targets.lazily import lazily
from diffuzz.targets.outcome import Arrays, Bound
from diffuzz.targets.parameter import Parameter, ParameterError, Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from diffuzz.formats.arrays import AnyArray as Array
    from diffuzz.targets.amplification import Evaluated

jnp = lazily("jax.numpy")

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
    Parameter("rotary_dim", 0, "how many elements of a head are turned, even; 0: all", low=0, high=65536, later=True),
    Parameter("factors", False, "true: frequencies are divided by an array of factors", later=True),
    Parameter(
        "scaling",
        "none",
        "none | linear: frequencies divided by factor | llama3: the low ones | yarn: by parts, times a factor",
        choices=("none", "linear", "llama3", "yarn"),
        later=True,
    ),
    Parameter("factor", 8.0, "by how much a context is extended", low=1.0, high=1e3, later=True),
    Parameter("original_context", 8192, "positions of the original context", low=1, high=2**24, later=True),
    Parameter("low_freq_factor", 1.0, "of llama3", low=1e-3, high=1e3, later=True),
    Parameter("high_freq_factor", 4.0, "of llama3, above low_freq_factor", low=1e-3, high=1e3, later=True),
    Parameter("beta_fast", 32.0, "of yarn", low=1e-3, high=1e4, later=True),
    Parameter("beta_slow", 1.0, "of yarn, below beta_fast", low=1e-3, high=1e4, later=True),
    Parameter("attention_factor", 0.0, "of yarn; 0: 0.1 ln(factor) + 1", low=0.0, high=1e3, later=True),
    *derived.ARITHMETIC,
)
# The arguments of each scaling, which are given by keyword.
_SCALINGS: dict[str, tuple[str, ...]] = {
    "none": (),
    "linear": ("factor",),
    "llama3": ("factor", "original_context", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_context", "beta_fast", "beta_slow", "attention_factor"),
}
# Factors of frequencies that models have are between 1 and 64 or so.
_FACTORS = (1.0, 64.0)
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
    """x of a few heads, its position, which may be negative, the exponent of the power of ten that multiplies the base,
    and the factors of frequencies, where they are asked for. Raises ParameterError for what does not fit together.
    """
    top, farthest = min(p["candidate_max_abs"], derived.largest(p)), p["candidate_max_position"]
    token, most = Dim("token", 1, fixed=True), _even("candidate_head_dim", p)
    least = _even("rotary_dim", p) or 2
    if least > most:
        raise ParameterError(f"rotary_dim={least} is above candidate_head_dim={most}")
    if p["scaling"] == "llama3" and not p["low_freq_factor"] < p["high_freq_factor"]:
        raise ParameterError("low_freq_factor must be below high_freq_factor")
    if p["scaling"] == "yarn" and not p["beta_slow"] < p["beta_fast"]:
        raise ParameterError("beta_slow must be below beta_fast")
    head_dim = Dim("head_dim", most, fixed=True)
    if p["tail"] and least < most:
        usual = max(min(most, _USUAL_HEAD_DIM), least)
        head_dim = Dim("head_dim", usual, step=2, least=least, largest=most)
    heads = Dim("heads", _HEADS, largest=_MOST_HEADS)
    x = TensorSpec("x", kind="activations", shape=(heads, head_dim), low=-top, high=top, holds=p["dtype"])
    positions = TensorSpec("positions", kind="positions", shape=(token,), low=-farthest, high=farthest)
    specs = [x, positions, TensorSpec("base_exponent", kind="positions", shape=(token,), low=-1, high=3)]
    if p["factors"]:
        specs.append(TensorSpec("factors", kind="gain", shape=(head_dim,), low=_FACTORS[0], high=_FACTORS[1]))
    return Space(tuple(specs))


# The base of each row.
_BASE = Scalar(
    "base_exponent", "base", lambda p, exponents: np.maximum(p["base"] * 10.0 ** exponents.astype(np.float64), 1.0)
)


def _turned(p: Params, arrays: Arrays) -> int:
    """How many elements of a head are turned."""
    return int(p["rotary_dim"] or np.shape(arrays["x"])[-1])


def _call(p: Params, f: Function, arrays: Arrays) -> np.ndarray:
    """The packed result of a function, which is called once for each base in the batch, and for each row that has
    factors of its own.
    """
    x, positions = np.asarray(arrays["x"]).astype(dtype_of(p["dtype"])), np.asarray(arrays["positions"])[:, 0]
    named = {name: p[name] for name in _SCALINGS[p["scaling"]]}
    named |= {"scaling": p["scaling"]} if p["scaling"] != "none" else {}
    named |= {"rotary_dim": p["rotary_dim"]} if p["rotary_dim"] else {}
    bases, like = _BASE.of(p, arrays), x.reshape(len(x), -1)
    if not p["factors"]:
        return rows.by_value(bases, lambda base, rows: f(x[rows], positions[rows], base, p["mode"], **named), like)
    factors = np.asarray(arrays["factors"])[:, : _turned(p, arrays) // 2]

    def of_row(row: float, rows: np.ndarray) -> np.ndarray:
        own = int(row)
        return f(x[rows], positions[rows], float(bases[own]), p["mode"], factors=np.array(factors[own]), **named)

    return rows.by_value(np.arange(len(x), dtype=np.float64), of_row, like)


def _by(frequencies: Callable[[int, Array], Array], p: Params) -> Callable[[Array, Array, Array, Array], Array]:
    """RoPE of x [heads, d] at one position with these frequencies of the pairs, scaled as the parameters say."""

    def rope(x: Array, position: Array, base: Array, factors: Array) -> Array:
        d = p["rotary_dim"] or x.shape[-1]
        frequency = frequencies(d, base)
        if p["factors"]:
            frequency = frequency / factors[: d // 2]
        frequency, factor = _scaled(p, d, base, frequency)
        angle = position * frequency
        cos, sin = jnp.cos(angle) * factor, jnp.sin(angle) * factor
        turned, kept = x[:, :d], x[:, d:]
        if p["mode"] == "norm":
            first, second = turned[:, 0::2], turned[:, 1::2]
            pairs = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis=-1)
            done = pairs.reshape(turned.shape)
        else:
            first, second = turned[:, : d // 2], turned[:, d // 2 :]
            done = jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
        return jnp.concatenate([done, kept], axis=-1)

    return rope


def _scaled(p: Params, d: int, base: Array, frequency: Array) -> tuple[Array, float]:
    """The frequencies that a longer context has, and the factor of sine and cosine."""
    slow = frequency / p["factor"]
    if p["scaling"] == "linear":
        return slow, 1.0
    if p["scaling"] == "llama3":
        turns = p["original_context"] * frequency / (2 * math.pi)
        mixed = (turns - p["low_freq_factor"]) / (p["high_freq_factor"] - p["low_freq_factor"])
        share = jnp.clip(mixed, 0.0, 1.0)
        return (1 - share) * slow + share * frequency, 1.0
    if p["scaling"] == "yarn":

        def pair(turns: float) -> Array:
            return d * math.log(p["original_context"] / (turns * 2 * math.pi)) / (2 * jnp.log(base))

        low = jnp.maximum(jnp.floor(pair(p["beta_fast"])), 0)
        high = jnp.minimum(jnp.ceil(pair(p["beta_slow"])), d - 1)
        width = jnp.where(high == low, 0.001, high - low)
        share = 1 - jnp.clip((jnp.arange(d // 2) - low) / width, 0.0, 1.0)
        return (1 - share) * slow + share * frequency, p["attention_factor"] or 0.1 * math.log(p["factor"]) + 1
    return frequency, 1.0


def by_power(d: int, base: Array) -> Array:
    """``base^(-2 i / d)``."""
    return base ** (-2.0 * jnp.arange(d // 2) / d)


def by_exponential(d: int, base: Array) -> Array:
    """``exp(-(2 i / d) ln base)``."""
    return jnp.exp(-2.0 * jnp.arange(d // 2) / d * jnp.log(base))


def by_recurrence(d: int, base: Array) -> Array:
    """``theta_i = theta_(i-1) base^(-2/d)``, as ggml has it."""
    ratio = base ** (-2.0 / d)
    return jnp.cumprod(jnp.concatenate([jnp.ones(1), jnp.broadcast_to(ratio, (d // 2 - 1,))]))


@lru_cache(maxsize=64)
def _references(settings: tuple[tuple[str, object], ...]) -> tuple[derived.Reference, ...]:
    """The forms with these parameters: the same functions each time, so that they are traced once."""
    return tuple(_by(form, dict(settings)) for form in (by_power, by_exponential, by_recurrence))


def _settings(p: Params) -> tuple[tuple[str, object], ...]:
    names = ("mode", "rotary_dim", "factors", "scaling", *_SCALINGS[p["scaling"]], "factor")
    return tuple((name, p[name]) for name in dict.fromkeys(names))


def _arguments(p: Params, arrays: Arrays) -> Arguments:
    x, base = np.asarray(arrays["x"], np.float64), _BASE.of(p, arrays)
    factors = np.asarray(arrays["factors"], np.float64) if p["factors"] else np.ones((len(x), 1))
    return Arguments((x, np.asarray(arrays["positions"])[:, 0], base, factors), constants=frozenset({2, 3}))


_DERIVED = Derived(lambda p: _references(_settings(p))[0], lambda p: _references(_settings(p))[1:], _arguments)


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


def _flattened(rope: Function) -> Function:
    """A kernel whose result has one row of numbers for each case."""
    return lambda x, *others: rope(x, *others).reshape(len(x), -1)


def _plain(p: Params) -> bool:
    """Whether heads are turned as a whole, with the frequencies of the base."""
    return not (p["rotary_dim"] or p["factors"] or p["scaling"] != "none")


def _run(p: Params, arrays: Arrays, kernels: Implementation) -> np.ndarray:
    return _DERIVED.run(p, arrays, kernels, (lambda: _call(p, _flattened(kernels.rope), arrays)) if _plain(p) else None)


def _kernels(p: Params) -> tuple[str, ...]:
    if not _plain(p):
        return ("exact", "xla")
    return derived.implementations(p, ("apr", "exact", "ggml", "ggml:zen", "xla", "libggml"))


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
        signature="f(x: dtype[b, heads, head_dim], positions: int32[b], base: float, mode: str) -> dtype like x",
        parameters=CONTRACT_PARAMETERS,
        space=candidate_space,
        call=_call,
        run=_run,
        scalars=(_BASE,),
        kernels=_kernels,
        allowance=_DERIVED.allowance,
        first_allowance=_DERIVED.first_allowance,
        results=_DERIVED.results,
        derived=_DERIVED,
    ),
)
