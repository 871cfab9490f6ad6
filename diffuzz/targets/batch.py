r"""Batch: does a batch of tokens amplify a drift that a single token does not show?

Each of ``tokens`` activations goes through the chain of matvecs of :mod:`diffuzz.targets.chain` on both paths.

Published (FFN-GGUF-013, M99, A4) for 7 tokens: the mean final drift is below that of the chain's single input, and the
ratio of the standard deviations of the two paths differs from 1 by tens of times as much. There are two measures:

``mean-rel-l2``   the mean over the tokens of the chain's drift; at most 2, because each drift is at most 2.

``std-ratio``     max(spread A, floor) / max(spread B, floor), or its inverse if that is larger. The spread of a path is
                  the standard deviation over the tokens, averaged over the 256 components. Without the floor the ratio
                  would be infinite if one path maps all tokens to the same point.

**Bound of the std-ratio.** Every final activation was divided by its own rms, so its rms is at most 1, up to rounding.
So the variances v_c of the components have sum_c v_c <= sum_c mean_t x_tc^2 = mean_t sum_c x_tc^2 <= 256, and by
Jensen's inequality the spread is mean_c sqrt(v_c) <= sqrt(mean_c v_c) <= 1. The ratio is at most max(1, floor) / floor.
Rounding: the squares are folded in float32, 256 terms and their products, so the rms is off by gamma_258 / 2 and three
more roundings (mean, root, quotient). Tokens that end below the 1e-9 are smaller still.

A case comes close to the bound if one path maps all tokens to one point and the other maps them to +u and -u (see the
chain). Seven tokens cannot be split evenly: 4 against 3 give a spread of sqrt(1 - 1/49) mean|u|, and the components of
u differ, with mean|u| = 0.95. So the known constructions reach 94 % of the bound (95 % with 8 tokens). Whether another
case exceeds them is open: the bound may be loose by that much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.targets import chain, distances, error_bounds, published
from diffuzz.targets.drift import Drift
from diffuzz.targets.outcome import Arrays, Bound, Outcome
from diffuzz.targets.parameter import Parameter, Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

PARAMETERS = (
    Parameter("tokens", 7, "number of tokens in the batch", low=2, high=64),
    *chain.PARAMETERS,
    Parameter(
        "objective",
        "std-ratio",
        "what is measured: std-ratio, or the mean drift of a token",
        choices=("std-ratio", "mean-rel-l2"),
    ),
    Parameter("floor", 1e-3, "smaller spreads count as this much in the std-ratio", low=1e-6, high=1.0),
)


def space(p: Params) -> Space:
    """The initial activations of all tokens, with max|x| >= max_abs / 2^20 over all of them."""
    top, shape = p["max_abs"], (Dim("tokens", p["tokens"], fixed=True), Dim("n", chain.N, fixed=True))
    return Space((TensorSpec("x", kind="activations", shape=shape, low=-top, high=top, smallest_peak=top * 2.0**-20),))


def _value(
    p: Params, a: Float[AnyArray, "b tokens 256"], b: Float[AnyArray, "b tokens 256"], xp: ArrayModule
) -> Float64[AnyArray, " b"]:
    """The value of the final activations of path A and path B."""
    if p["objective"] == "mean-rel-l2":
        return distances.symmetric_l2(a, b, xp).mean(axis=-1)
    ratio = distances.std_ratio(a, b, p["floor"], xp)
    return xp.maximum(ratio, 1 / ratio)


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """The value of each batch of tokens. The noise is the change of the value if path A is computed in float64."""
    x = arrays["x"]
    a, b, wide = (path.reshape(x.shape) for path in chain.paths(x.reshape(-1, chain.N), p["steps"]))
    value = _value(p, a, b, np)
    return Outcome(value, np.abs(_value(p, wide, b, np) - value))


def explain(p: Params, arrays: Arrays) -> dict[str, Float64[np.ndarray, " b"]]:
    """The published statistics: the mean drift of a token, and the ratio of the spreads of path A and path B."""
    x = arrays["x"]
    a, b, _ = (path.reshape(x.shape) for path in chain.paths(x.reshape(-1, chain.N), p["steps"]))
    return {"mean relative L2": distances.relative_l2(a, b).mean(axis=-1), "std ratio": distances.std_ratio(a, b)}


def screen(p: Params) -> Callable[[Arrays], Float64[AnyArray, " b"]]:
    """The same value with both paths in float64, as a function that JAX can trace."""
    from diffuzz.kernels import xla

    def value(arrays: Arrays) -> Float64[AnyArray, " b"]:
        x = arrays["x"]
        a, b = chain.screened_paths(x.reshape(-1, chain.N), p["steps"])
        return _value(p, a.reshape(x.shape), b.reshape(x.shape), xla.xp)

    return value


def starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Tokens that differ only in the side of the edges between codes that their elements are on.

    Path A maps all tokens to one point, and path B maps half of them (for ``mean-rel-l2``, all) to the opposite point.
    """
    turned, kept = chain.edge_activations(p["steps"], np.where(rng.random(count) < 0.5, 1.0, -1.0), rng)
    half = p["tokens"] // 2 if p["objective"] == "std-ratio" else p["tokens"]
    turns = rng.permuted(np.tile(np.arange(p["tokens"]) < half, (count, 1)), axis=1)
    x = np.where(turns[:, :, None], turned[:, None], kept[:, None])
    return {"x": (x * p["max_abs"] * 2.0 ** -rng.uniform(0, 4, (count, 1, 1))).astype(np.float32)}


def bound(p: Params) -> Bound:
    """The bound that the docstring of the module derives."""
    if p["objective"] == "mean-rel-l2":
        return Bound(2.0, "triangle inequality, token by token", rounding=1e-12)
    return Bound(
        1 / p["floor"], "rms of each activation is 1, so a spread is at most 1", rounding=error_bounds.gamma(264)
    )


TARGET = Target(
    name="batch",
    summary="a batch of tokens through a chain of matvecs, APR path against GGUF path: std-ratio or mean drift",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate, screen, explain=explain),
    measure=lambda p: (
        "spread over the tokens, path A / path B or its inverse"
        if p["objective"] == "std-ratio"
        else "mean over the tokens of ||A - B||_2 / max(||A||_2, ||B||_2)"
    ),
    bound=bound,
    claim="a batch of tokens amplifies the drift",
    threshold=lambda p: 5.0 if p["objective"] == "std-ratio" else p["steps"] * published.PUBLISHED_DRIFT,
    cost=16.0,
    starts=starts,
)
