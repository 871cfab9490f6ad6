r"""Batch: does a batch of tokens amplify a drift that a single token does not show?

Each of ``tokens`` activations goes through the chain of matvecs of :mod:`diffuzz.targets.chain` on both paths.

Published (FFN-GGUF-013, M99, A4), 7 tokens: the mean final drift is below that of the chain's one input, and the ratio
of the standard deviations of the two paths is off by tens of times as much. Two measures decide:

``mean-rel-l2``   the mean over the tokens of the chain's drift, at most 2 as each of them is.

``std-ratio``     max(spread A, floor) / max(spread B, floor) or its inverse, whichever is larger. The spread of a path
                  is the mean over the 256 components of the standard deviation over the tokens; without the floor,
                  tokens that a path maps to one point would give infinity.

**Limit of the std-ratio.** Every final activation has rms at most 1, up to rounding: it was divided by its own. So the
variances v_c of the components have sum_c v_c <= sum_c mean_t x_tc^2 = mean_t sum_c x_tc^2 <= 256, and the spread, by
Jensen, is mean_c sqrt(v_c) <= sqrt(mean_c v_c) <= 1. The ratio is at most max(1, floor) / floor. Rounding: the squares
are folded in float32, 256 terms and their products, so the rms is off by gamma_258 / 2 and three more roundings (mean,
root, quotient); tokens that end below the 1e-9 are smaller still.

The limit is approached where one path takes all tokens to one point and the other spreads them to +u and -u (see the
chain). Seven tokens cannot be split evenly: 4 against 3 give a spread of sqrt(1 - 1/49) mean|u|, and the components of
u are not all alike, mean|u| = 0.95: so the known constructions end at 94 % of the limit (8 tokens: 95 %). Whether
anything exceeds them is open: the limit may be loose by that much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffuzz import errors, measure, published
from diffuzz.space import Dim, Space, TensorSpec
from diffuzz.target import Arrays, Bound, Drift, Outcome, Parameter, Params, Target
from diffuzz.targets import chain

PARAMETERS = (
    Parameter("tokens", 7, "number of tokens", low=2, high=64),
    *chain.PARAMETERS,
    Parameter("objective", "std-ratio", "what is measured", choices=("std-ratio", "mean-rel-l2")),
    Parameter("floor", 1e-3, "least spread in the std-ratio", low=1e-6, high=1.0),
)


def space(p: Params) -> Space:
    """The initial activations of all tokens; together they reach max_abs / 2^20."""
    top, shape = p["max_abs"], (Dim("tokens", p["tokens"], fixed=True), Dim("n", chain.N, fixed=True))
    return Space((TensorSpec("x", kind="activations", shape=shape, low=-top, high=top, smallest_peak=top * 2.0**-20),))


def _value(p: Params, a: Any, b: Any, xp: Any) -> Any:
    """[b] from the final activations [b, tokens, 256]."""
    if p["objective"] == "mean-rel-l2":
        return measure.symmetric_l2(a, b, xp).mean(axis=-1)
    ratio = measure.std_ratio(a, b, p["floor"], xp)
    return xp.maximum(ratio, 1 / ratio)


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """Value of the two paths; noise is what it changes by when path A is taken in float64."""
    x = arrays["x"]
    a, b, wide = (path.reshape(x.shape) for path in chain.paths(x.reshape(-1, chain.N), p["steps"]))
    value = _value(p, a, b, np)
    detail = {
        "mean relative L2": measure.relative_l2(a, b).mean(axis=-1),
        "std ratio": measure.std_ratio(a, b),
    }
    return Outcome(value, np.abs(_value(p, wide, b, np) - value), detail)


def screen(p: Params) -> Callable[[Arrays], Any]:
    """The same in float64, as a JAX-traceable function."""
    from diffuzz.kernels import xla

    def value(arrays: Arrays) -> Any:
        x = arrays["x"]
        a, b = chain.screened_paths(x.reshape(-1, chain.N), p["steps"])
        return _value(p, a.reshape(x.shape), b.reshape(x.shape), xla.xp)

    return value


def starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Tokens that differ by the side of the edges between codes alone: path A takes them to one point, path B half of
    them to the other.

    For ``mean-rel-l2`` all of them turn round.
    """
    turned, kept = chain.edge_activations(p["steps"], np.where(rng.random(count) < 0.5, 1.0, -1.0), rng)
    half = p["tokens"] // 2 if p["objective"] == "std-ratio" else p["tokens"]
    turns = rng.permuted(np.tile(np.arange(p["tokens"]) < half, (count, 1)), axis=1)
    x = np.where(turns[:, :, None], turned[:, None], kept[:, None])
    return {"x": (x * p["max_abs"] * 2.0 ** -rng.uniform(0, 4, (count, 1, 1))).astype(np.float32)}


def bound(p: Params) -> Bound:
    """The limits derived above."""
    if p["objective"] == "mean-rel-l2":
        return Bound(2.0, "triangle inequality, token by token", rounding=1e-12)
    return Bound(1 / p["floor"], "rms of each activation is 1, so a spread is at most 1", rounding=errors.gamma(264))


TARGET = Target(
    name="batch",
    summary="a batch of tokens through the chain on both paths: std-ratio, or mean drift",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate, screen),
    measure=lambda p: (
        "spread over the tokens, path A / path B or its inverse"
        if p["objective"] == "std-ratio"
        else "mean over the tokens of ||A - B||_2 / max(||A||_2, ||B||_2)"
    ),
    bound=bound,
    claim="a batch of tokens amplifies the drift",
    limit=lambda p: 5.0 if p["objective"] == "std-ratio" else p["steps"] * published.PUBLISHED_DRIFT,
    cost=16.0,
    starts=starts,
)
