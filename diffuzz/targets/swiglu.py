r"""SwiGLU: does the gate amplify a small drift of its inputs?

    y_i = silu(g_i) u_i,   silu(x) = x S(x),   S(x) = 1 / (1 + e^-x)

No claim was published about it. The measure is ||y' - y||_2 / ||y||_2 divided by the componentwise drift delta of the
gate g (and of up, u): every element moves by exactly +-delta times itself. The relative condition number of silu at x
is 1 + x (1 - S(x)): at most 1.279 for x > 0, but |x| - 1 far out on the negative side, where silu(x) is nearly x e^x
and a relative drift is an absolute drift of the exponent.

**Gate.** y_i'/y_i - 1 = r(x, t) with x = g_i, t = +-1 and r(x, t) = (1 + t delta) S(x + t delta x) / S(x) - 1 (an
element with g_i = 0 or u_i = 0 has y_i = y'_i = 0). If |r| <= R for all |x| <= M = max_abs then ||dy|| <= R ||y||,
and the bound is R / delta. For x = -a < 0:

    t = -1 (towards 0)    r = (1 - delta) (1 + e^a) / (1 + e^(a (1 - delta))) - 1
    t = +1 (away)         r = (1 + delta) (1 + e^a) / (1 + e^(a (1 + delta))) - 1

The logarithm of the first quotient has the derivative S(a) - (1 - delta) S(a (1 - delta)) > 0, that of the second
S(a) - (1 + delta) S(a (1 + delta)) < 0, because S grows. So both r are monotone in a, with r = -delta and +delta at a
= 0: |r| is at most delta or |r| at a = M. For x > 0: log (S(x(1+t delta)) / S(x)) is the integral of x S(-x tau) over
tau from 1 to 1 + t delta, and s S(-s) = s / (1 + e^s) <= K, where K is its value at the smaller of M (1 + delta) and
1.27846..., the root of s = 1 + e^-s (K = 0.27846...). So 1 + r lies between (1 + t delta) and (1 + t delta)^(1 + K),
and |r| <= (1 + delta)^(1 + K) - 1 by convexity. R is the largest of these. It is reached by all the gates at -M,
moved towards 0: about M - 1, and more for a large delta (R grows like e^(M delta)).

**Gate and up.** 1 + r gets the factor 1 + delta or 1 - delta, whichever makes |r| larger; the bound is about M.

**A candidate** computes in the arithmetic that its parameters state; its error bound is derived from g S(g) u with
e^-|g|, or with 2^(-|g| log2 e) (see diffuzz.targets.derived). In the far tail, where e^-g leaves the range of the dtype
or its argument is clamped, the result is of the size of what underflows: FLUSHED (1 + |g|) (1 + |u|) is added.

**Policies.** Some kernels give up the relative accuracy of the negative tail for speed. They are judged by what they
can keep, and an accurate kernel keeps that, too.

    tanh        S(g) as (1 + tanh(g/2)) / 2, which cancels for g < -10: one more form
    clamp-18    S(g) as p(x) / q(x) + 1/2 with x = g clamped to +-18, as ONNX Runtime's logistic function has it: the
                quotient cancels as the tangent does, with an error of the same size (3.7 u as measured over 2 million
                numbers), and below -18 the sigmoid stays S(-18) = 0.26 u. |g u| (S(max(g, -18)) - S(g)) is added.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from diffuzz.cases.ranges import clip, dtype_of
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.kernels import Implementation
from diffuzz.targets import derived, perturbations, rows
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
    Parameter("n", 256, "largest length of gate and up", low=1, high=65536),
    Parameter("max_abs", 16.0, "largest |gate| and |up|", low=1e-3, high=80.0),
    Parameter("inputs", "gate", "what moves: gate, or gate and up", choices=("gate", "both")),
    Parameter("delta", 0.00077, "size of the perturbation, relative", low=1e-6, high=0.5),
    Parameter("perturbation", "componentwise", "model of the perturbation", choices=("componentwise",)),
)
# Where the sigmoid of a policy stops falling.
_CLAMPS = {"clamp-18": -18.0}
POLICY = Parameter(
    "policy",
    "exact",
    "exact: accurate in its negative tail | tanh: a sigmoid that cancels there, as (1 + tanh(gate/2)) / 2 does | "
    "clamp-18: such a sigmoid of gate clamped to +-18",
    choices=("exact", "tanh", *_CLAMPS),
    later=True,
)
CONTRACT_PARAMETERS = (rows.LENGTH, rows.largest("gate| and |up"), rows.TAIL, POLICY, *derived.ARITHMETIC)
# The s at which s / (1 + e^s) is largest: the root of s = 1 + e^-s.
_STEEPEST = 1.2784645427610738
# Relative rounding of value and bound, both computed in float64.
_FLOAT64 = 1e-9


def space(p: Params) -> Space:
    """gate and up (neither of them zero), and the directions of those that move."""
    n, top = Dim("n", p["n"]), p["max_abs"]
    tensors = [
        TensorSpec(name, kind="activations", shape=(n,), low=-top, high=top, smallest_peak=top * 2.0**-20)
        for name in ("gate", "up")
    ]
    tensors += [
        TensorSpec(f"{name}_direction", kind="direction", shape=(n,), low=-1.0, high=1.0, smallest_peak=2.0**-10)
        for name in inputs(p)
    ]
    return Space(tuple(tensors))


def inputs(p: Params) -> tuple[str, ...]:
    """Names of the arrays that move."""
    return ("gate", "up") if p["inputs"] == "both" else ("gate",)


def function(p: Params, arrays: Arrays, kernels: Implementation) -> Evaluated:
    """SwiGLU y, the scale ||y||_2 and the magnitude ||y||_2."""
    y = kernels.swiglu(arrays["gate"].astype(float), arrays["up"].astype(float))
    length = perturbations.norm(y, 2, kernels.xp)
    return y, length, length


def bound(p: Params) -> Bound:
    """The bound that the docstring of the module derives."""
    delta, top = p["delta"], p["max_abs"]
    more, less = (1 + delta, 1 - delta) if p["inputs"] == "both" else (1.0, 1.0)
    s = min(_STEEPEST, top * (1 + delta))
    positive = more * (1 + delta) ** (1 + s / (1 + math.exp(s))) - 1
    towards = more * (1 - delta) * math.exp(_softplus(top) - _softplus(top * (1 - delta))) - 1
    away = 1 - less * (1 + delta) * math.exp(_softplus(top) - _softplus(top * (1 + delta)))
    value = max(positive, towards, away) / delta
    where = "x > 0" if positive >= value * delta else f"x = -{top:g}"
    return Bound(value, f"|silu(x')u'/(silu(x)u) - 1| / delta, largest at {where}", rounding=_FLOAT64)


def starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Gates that are all equal: -max_abs, moved towards 0 or away from it, or the steepest point of silu for x > 0. The
    elements of up are all equal too.
    """
    shape, top = (count, p["n"]), p["max_abs"]
    level = np.choose(rng.choice(3, (count, 1), p=[0.5, 0.2, 0.3]), [-top, -top, min(_STEEPEST, top)])
    down = (level < 0) & (rng.random((count, 1)) < 0.8)
    up = top * 2.0 ** -rng.integers(0, 8, (count, 1))
    batch = {
        "gate": np.broadcast_to(level, shape),
        "up": np.broadcast_to(up, shape),
        "gate_direction": np.broadcast_to(np.where(down, 1.0, np.sign(level)), shape),
    }
    if p["inputs"] == "both":
        batch["up_direction"] = np.broadcast_to(np.where(down | (level > 0), 1.0, -1.0), shape)
    return {spec.name: clip(spec, batch[spec.name]) for spec in space(p).tensors}


def candidate_space(p: Params) -> Space:
    """gate and up, with magnitudes up to candidate_max_abs."""
    n, top = rows.row(p), min(p["candidate_max_abs"], derived.largest(p))
    return Space(
        tuple(
            TensorSpec(name, kind="activations", shape=(n,), low=-top, high=top, holds=p["dtype"])
            for name in ("gate", "up")
        )
    )


def by_exponential(gate: Array, up: Array) -> Array:
    """``gate S(gate) up`` with ``e = e^-|gate|``, which does not overflow."""
    return _by(jnp.exp(-jnp.abs(gate)), gate, up)


def base_two(gate: Array, up: Array) -> Array:
    """The same with ``e = 2^(-|gate| log2 e)``, whose argument is rounded."""
    return _by(jnp.exp2(-jnp.abs(gate) * math.log2(math.e)), gate, up)


def _by(e: Array, gate: Array, up: Array) -> Array:
    return gate * (jnp.where(gate >= 0, 1.0, e) / (1 + e)) * up


def by_tangent(gate: Array, up: Array) -> Array:
    """``gate (1 + tanh(gate / 2)) / 2 up``."""
    return gate * ((1 + jnp.tanh(gate / 2)) / 2) * up


def _more(p: Params, arrays: Arrays) -> Float64[np.ndarray, "b n"]:
    """What a form that is derived does not have: arguments of exp that are clamped, and sigmoids that end."""
    gate, up = (np.asarray(arrays[name], np.float64) for name in ("gate", "up"))
    size = np.abs(gate)
    more: Float64[np.ndarray, "b n"] = (FLUSHED if p["flush"] else 0.0) * (1 + size) * (1 + np.abs(up))
    if p["policy"] in _CLAMPS:
        kept, e = np.exp(_CLAMPS[p["policy"]]), np.exp(-size)
        more += size * np.abs(up) * np.maximum(kept / (1 + kept) - np.where(gate < 0, e / (1 + e), 1.0), 0.0)
    return more


_DERIVED = Derived(
    lambda p: by_exponential,
    lambda p: (base_two,) if p["policy"] == "exact" else (base_two, by_tangent),
    lambda p, arrays: Arguments(tuple(np.asarray(arrays[name], np.float64) for name in ("gate", "up"))),
    of_batches=True,
)


def _softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


TARGET = Target(
    name="swiglu",
    summary="SwiGLU: L2 drift of the output over componentwise drift of gate, or of gate and up",
    parameters=PARAMETERS,
    space=space,
    question=Amplification(function, inputs=inputs, norm=2),
    measure=lambda p: (
        f"(||dy||_2/||y||_2) / (componentwise drift of {'gate and up' if p['inputs'] == 'both' else 'gate'})"
    ),
    bound=bound,
    claim="SwiGLU amplifies a drift of its inputs",
    threshold=lambda p: 5.0,
    tolerance=1e-9,
    starts=starts,
    contract=Contract(
        signature="f(gate: dtype[b, n], up: dtype[b, n]) -> dtype[b, n]",
        parameters=CONTRACT_PARAMETERS,
        space=candidate_space,
        call=lambda p, f, arrays: f(
            *(np.asarray(arrays[name]).astype(dtype_of(p["dtype"])) for name in ("gate", "up"))
        ),
        run=lambda p, arrays, kernels: _DERIVED.run(
            unflushed(p), arrays, kernels, lambda: kernels.swiglu(arrays["gate"], arrays["up"])
        ),
        kernels=lambda p: derived.implementations(p, ("apr", "exact", "ggml", "ggml:avx2", "xla", "libggml")),
        allowance=lambda p, arrays: _DERIVED.allowance(unflushed(p), arrays) + _more(p, arrays),
        first_allowance=lambda p, arrays: _DERIVED.first_allowance(unflushed(p), arrays) + _more(p, arrays),
        results=_DERIVED.results,
        derived=_DERIVED,
    ),
)
