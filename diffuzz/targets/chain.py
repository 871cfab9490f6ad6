r"""Chain: does the drift of one quantised matvec compound over a chain of them?

    x_{t+1} = W_t x_t / max(rms(W_t x_t), 1e-9),   t = 0 .. steps-1,   rms(y) = sqrt(mean(y^2))

with W_t the published seed matrices (Q4_K, 256 x 256, row sb of tensor t is the seed block (sb, t)). Path A dequantises
the weights and folds float32 products from the left; path B quantises each x_t to Q8_K as aprender's GGUF path does and
takes the fused integer dot product. Both start from one x and each carries its own activation.

Published (FFN-GGUF-009, M95): "super-linear growth over 5 steps" from the ramp. It comes out at 0.44 %, 5.70 times the
0.077 % of one matvec; super-linear means more than ``steps`` times, and one input says nothing about others.

**Measure.** ||A - B||_2 / max(||A||_2, ||B||_2) of the final activations. Both paths end with the same norm, so this is
the published ||A - B|| / ||A|| to float32 rounding; dividing by the larger norm keeps it meaningful where a path ends
below the 1e-9.

**Limit.** ||A - B|| <= ||A|| + ||B|| <= 2 max(||A||, ||B||), so the limit is 2, whatever the rounding, reached by A =
-B.

**It is reached.** The product of the matrices is nearly of rank one (its second singular value is 2.7e-4 of the first,
sigma_1 u v^T): after five steps an activation is +u or -u, by the sign of v.x. So choose x nearly orthogonal to v, v.x
> 0 smaller than what the activation quantiser adds to it, which is up to max|x| ||v||_1 / 254 if every element sits at
the edge between two codes, where it errs most. Path A keeps the sign and path B loses it. In float32 path A is far from
any doubt about it: the error of its sums is a thousand times smaller than the quantiser's. Its distance from the same
path in float64 is the noise of a value.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from diffuzz import formats, measure, published
from diffuzz.formats import q8_k
from diffuzz.kernels import apr, gguf
from diffuzz.space import Dim, Space, TensorSpec
from diffuzz.target import Arrays, Bound, Drift, Outcome, Parameter, Params, Target

N = 256
FORMAT = "q4_K"
LEAST_RMS = 1e-9
# How far beside the edge between two codes a start sits, in codes: more than float32 rounding, less than anything else.
EDGE = 1e-5

PARAMETERS = (
    Parameter("steps", 5, "number of matvecs", low=1, high=16),
    Parameter("max_abs", 16.0, "largest |x|", low=1e-6, high=1e6),
)


def space(p: Params) -> Space:
    """The initial activation, with max|x| >= max_abs / 2^20."""
    top = p["max_abs"]
    return Space(
        (
            TensorSpec(
                "x",
                kind="activations",
                shape=(Dim("n", N, fixed=True),),
                low=-top,
                high=top,
                smallest_peak=top * 2.0**-20,
            ),
        )
    )


def normalised(y: np.ndarray) -> np.ndarray:
    """``y / max(rms(y), 1e-9)`` along the last axis; in float32 the squares are folded from the left, as in the
    published chain.
    """
    if y.dtype == np.float64:
        rms = np.sqrt((y * y).mean(axis=-1, keepdims=True))
        return np.asarray(y / np.maximum(rms, LEAST_RMS))
    return np.asarray(y / np.maximum(np.sqrt(apr.mean_square(y)), np.float32(LEAST_RMS)))


def run(matvec: Callable[[int, np.ndarray], np.ndarray], x: np.ndarray, steps: int) -> np.ndarray:
    """Final activations [b, 256] of one path, whose step t is ``matvec(t, x)``."""
    for t in range(steps):
        # Rows that lie in memory one after the other are summed alike however many there are.
        x = normalised(np.ascontiguousarray(matvec(t, x)))
    return x


def paths(x: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Final activations [b, 256] of path A (APR), of path B (GGUF), and of path A in float64, for float32[b, 256].

    Activations that occur more than once, as the tokens of a batch do, take each path once.
    """
    rows = np.ascontiguousarray(x).view(np.dtype((np.void, x.dtype.itemsize * N)))[:, 0]
    _, first, where = np.unique(rows, return_index=True, return_inverse=True)
    x = x[first]
    a = run(lambda t, x: apr.folds(seed_weights(t), x).T, x, steps)
    b = run(lambda t, x: gguf.fused(seed_sub_blocks(t), x, paired=False).T, x, steps)
    wide = run(lambda t, x: np.einsum("bk,mk->bm", x, exact_weights(t)), x.astype(np.float64), steps)
    return a[where], b[where], wide[where]


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """Final drift; noise is the distance of path A from itself in float64."""
    a, b, wide = paths(arrays["x"], p["steps"])
    return Outcome(
        measure.symmetric_l2(a, b), measure.symmetric_l2(wide, a), {"relative L2": measure.relative_l2(a, b)}
    )


def screen(p: Params) -> Callable[[Arrays], Any]:
    """The same in float64, as a JAX-traceable function."""
    from diffuzz.kernels import xla

    def value(arrays: Arrays) -> Any:
        a, b = screened_paths(arrays["x"], p["steps"])
        return measure.symmetric_l2(a, b, xla.xp)

    return value


def screened_paths(x: Any, steps: int) -> tuple[Any, Any]:
    """Final activations [b, 256] of both paths in float64, JAX-traceable."""
    from diffuzz.kernels import xla

    xp = xla.xp

    def normalise(y: Any) -> Any:
        return y / xp.maximum(xp.sqrt((y * y).mean(axis=-1, keepdims=True)), LEAST_RMS)

    a = b = x.astype(float)
    for t in range(steps):
        weights = xp.asarray(exact_weights(t).T)
        a = normalise(a @ weights)
        scale, codes = q8_k.quantise_realizar(b.astype(xp.float32), xp)
        b = normalise((scale.astype(float)[:, None] * codes) @ weights)
    return a, b


@cache
def seed_weights(t: int) -> np.ndarray:
    """Weight tensor t dequantised: float32[256, 256]."""
    return formats.get(FORMAT).dequantize(published.seed_matrix(t))


@cache
def seed_sub_blocks(t: int) -> gguf.SubBlocks:
    """The same as its fused integer kernel takes it."""
    return gguf.sub_blocks(FORMAT, published.seed_matrix(t)[:, None])


@cache
def exact_weights(t: int) -> np.ndarray:
    """Weight tensor t dequantised, as float64."""
    return seed_weights(t).astype(np.float64)


@cache
def kept_direction(steps: int) -> np.ndarray:
    """v: the unit vector that the product of the first ``steps`` matrices stretches most, float64[256]."""
    product = np.eye(N)
    for t in range(steps):
        product = exact_weights(t) @ product
        product /= np.abs(product).max()
    return np.asarray(np.linalg.svd(product)[2][0])


def edge_activations(steps: int, towards: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of activations [count, 256], max|x| = 1, that path A takes to one end, +-u by the sign ``towards`` [count],
    and path B to both.

    Every element but the largest sits just beside the edge between two codes; signs are chosen one by one so that v.x
    comes to half of what the errors of the codes can amount to. In the first of a pair all codes err against
    ``towards``, and path B turns round; in the second all err the other way.
    """
    v, count = kept_direction(steps), len(towards)
    step = 1 / 127
    sizes = -np.sort(-(rng.integers(0, 8, (count, N)) + 0.5), axis=1)
    sizes[:, 0] = 127
    place = rng.permuted(np.tile(np.arange(N), (count, 1)), axis=1)
    rows, x = np.arange(count), np.zeros((count, N))
    missing = towards * np.abs(v).sum() * step / 4
    for rank in range(N):
        gain = v[place[:, rank]] * step
        sign = np.where(missing * gain >= 0, 1.0, -1.0)
        x[rows, place[:, rank]] = sign * sizes[:, rank]
        missing = missing - sign * sizes[:, rank] * gain
    shift = EDGE * towards[:, None] * np.sign(v)[None, :] * (np.abs(x) < 127)
    return (x - shift) * step, (x + shift) * step


def starts(p: Params, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Activations of a random size that lose their sign on path B."""
    towards = np.where(rng.random(count) < 0.5, 1.0, -1.0)
    x, _ = edge_activations(p["steps"], towards, rng)
    size = p["max_abs"] * 2.0 ** -rng.uniform(0, 4, (count, 1))
    return {"x": (x * size).astype(np.float32)}


TARGET = Target(
    name="chain",
    summary="matvecs with a norm between, APR path against GGUF path: final drift",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate, screen),
    measure=lambda p: f"||A - B||_2 / max(||A||_2, ||B||_2) after {p['steps']} matvecs",
    bound=lambda p: Bound(2.0, "triangle inequality: ||A - B|| <= ||A|| + ||B||", rounding=1e-12),
    claim="the drift of one matvec grows more than linearly over a chain of them",
    limit=lambda p: p["steps"] * published.PUBLISHED_DRIFT,
    cost=16.0,
    starts=starts,
)
