r"""Chain: does the drift of one quantised matvec compound over a chain of them?

    x_{t+1} = W_t x_t / max(rms(W_t x_t), 1e-9),   t = 0 .. steps-1,   rms(y) = sqrt(mean(y^2))

with W_t the published seed matrices (Q4_K, 256 x 256, row sb of tensor t is the seed block (sb, t)), or, with
weights=case, those of the case, such as the rows of a real model that ``search --weights`` takes. Path A dequantises
the weights and folds float32 products from the left; path B quantises each x_t to Q8_K as aprender's GGUF path does and
takes the fused integer dot product. Both paths start from the same x, and each continues with its own activation.

Published (FFN-GGUF-009, M95): "super-linear growth over 5 steps" for one input, the ramp. The drift is 0.44 %, 5.70
times the 0.077 % of one matvec. Super-linear means more than ``steps`` times; one input says nothing about others.

**Measure.** ||A - B||_2 / max(||A||_2, ||B||_2) of the final activations. Both paths end with the same norm, so this is
the published ||A - B|| / ||A|| up to float32 rounding. Dividing by the larger norm keeps it meaningful if a path ends
below the 1e-9.

**Bound.** ||A - B|| <= ||A|| + ||B|| <= 2 max(||A||, ||B||), so the bound is 2, whatever the rounding. A = -B reaches
it.

**It is reached.** The product of the matrices has nearly rank one (its second singular value is 2.7e-4 of the first,
sigma_1 u v^T): after five steps an activation is +u or -u, by the sign of v.x. So choose x nearly orthogonal to v, with
v.x > 0 smaller than what the activation quantiser adds to it. That is up to max|x| ||v||_1 / 254 if every element is at
the edge between two codes, where its error is largest. Path A keeps the sign and path B loses it. The float32 rounding
of path A does not matter: the error of its sums is a thousand times smaller than that of the quantiser. The noise of a
value is the distance of path A from the same path in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.formats import q8_k
from diffuzz.formats.arrays import AnyArray
from diffuzz.kernels import apr, fused, gguf
from diffuzz.targets import distances, published
from diffuzz.targets.drift import Drift
from diffuzz.targets.outcome import Arrays, Bound, Outcome
from diffuzz.targets.parameter import Parameter, Params
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, UInt8

# The final activations of path A, of path B, and of path A in float64.
Paths: TypeAlias = 'tuple[Float32[np.ndarray, "b 256"], Float32[np.ndarray, "b 256"], Float64[np.ndarray, "b 256"]]'

N = 256
FORMAT = "q4_K"
LEAST_RMS = 1e-9
# Distance of a start from the edge between two codes, in codes: above float32 rounding, too small to matter otherwise.
EDGE = 1e-5

PARAMETERS = (
    Parameter("steps", 5, "number of matvecs", low=1, high=16),
    Parameter("max_abs", 16.0, "largest |x|", low=1e-6, high=1e6),
    Parameter(
        "weights",
        "seed",
        "seed: the published matrices | case: those of the case, as search --weights takes from a model",
        choices=("seed", "case"),
        later=True,
    ),
)


def space(p: Params) -> Space:
    """The initial activation, with max|x| >= max_abs / 2^20, and the matrices, unless they are the published ones."""
    top, n = p["max_abs"], Dim("n", N, fixed=True)
    x = TensorSpec("x", kind="activations", shape=(n,), low=-top, high=top, smallest_peak=top * 2.0**-20)
    if p["weights"] == "seed":
        return Space((x,))
    shape = (Dim("steps", p["steps"], fixed=True), Dim("rows", N, fixed=True), n)
    return Space((TensorSpec("weights", kind="blocks", shape=shape, format=FORMAT), x))


def normalised(y: Float[np.ndarray, "b 256"]) -> Float[np.ndarray, "b 256"]:
    """``y / max(rms(y), 1e-9)`` along the last axis, in the dtype of y.

    In float32 the squares are summed from left to right, as in the published chain.
    """
    if y.dtype == np.float64:
        rms = np.sqrt((y * y).mean(axis=-1, keepdims=True))
        return np.asarray(y / np.maximum(rms, LEAST_RMS))
    return np.asarray(y / np.maximum(np.sqrt(apr.mean_square(y)), np.float32(LEAST_RMS)))


def run(
    matvec: Callable[[int, Float[np.ndarray, "b 256"]], Float[np.ndarray, "b 256"]],
    x: Float[np.ndarray, "b 256"],
    steps: int,
) -> Float[np.ndarray, "b 256"]:
    """The final activations of one path, whose step t is ``matvec(t, x)`` and a normalisation."""
    for t in range(steps):
        # NumPy sums contiguous rows in the same order, however many rows there are.
        x = normalised(np.ascontiguousarray(matvec(t, x)))
    return x


def paths(x: Float32[np.ndarray, "b 256"], steps: int) -> Paths:
    """The final activations of path A (APR), of path B (GGUF), and of path A in float64, with the published matrices.

    Equal activations, which the tokens of a batch may have, are computed once.
    """
    _, first, where = _distinct(x)
    a, b, wide = _paths(
        x[first], [_Matrix(seed_weights(t), seed_sub_blocks(t), exact_weights(t)) for t in range(steps)]
    )
    return a[where], b[where], wide[where]


def paths_of(weights: UInt8[np.ndarray, "b steps 256 144"], x: Float32[np.ndarray, "b 256"]) -> Paths:
    """The same with the matrices of each case. Those that several cases have are decoded once."""
    distinct, _, where = _distinct(weights.reshape(len(weights), -1))
    a, b, wide = np.empty_like(x), np.empty_like(x), np.empty(x.shape)
    for index in range(distinct):
        some = np.flatnonzero(where == index)
        a[some], b[some], wide[some] = _paths(x[some], [_matrix(one) for one in weights[some[0]]])
    return a, b, wide


@attrs.frozen(eq=False)
class _Matrix:
    """One matrix: dequantised, in the form that the fused integer kernel takes, and in float64."""

    values: Float32[np.ndarray, "256 256"]
    blocks: gguf.SubBlocks
    exact: Float64[np.ndarray, "256 256"]


def _matrix(blocks: UInt8[np.ndarray, "256 144"]) -> _Matrix:
    values = formats.get(FORMAT).dequantize(blocks)
    return _Matrix(values, gguf.sub_blocks(FORMAT, np.ascontiguousarray(blocks)[:, None]), values.astype(np.float64))


def _paths(x: Float32[np.ndarray, "b 256"], matrices: list[_Matrix]) -> Paths:
    a = run(lambda t, x: apr.folds(matrices[t].values, x).T, x, len(matrices))
    b = run(lambda t, x: gguf.fused(matrices[t].blocks, x, paired=False).T, x, len(matrices))
    wide = run(lambda t, x: np.einsum("bk,mk->bm", x, matrices[t].exact), x.astype(np.float64), len(matrices))
    return a, b, wide


def _distinct(rows: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """How many distinct rows there are by their bytes, where each is first, and which of them each row is."""
    flat = np.ascontiguousarray(rows)
    keys = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1])))[:, 0]
    _, first, where = np.unique(keys, return_index=True, return_inverse=True)
    return len(first), first, where


def _paths_by(p: Params, arrays: Arrays) -> Paths:
    if p["weights"] == "case":
        return paths_of(arrays["weights"], arrays["x"])
    return paths(arrays["x"], p["steps"])


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """The drift of the final activations. The noise is the distance of path A from the same path in float64."""
    a, b, wide = _paths_by(p, arrays)
    return Outcome(distances.symmetric_l2(a, b), distances.symmetric_l2(wide, a))


def explain(p: Params, arrays: Arrays) -> dict[str, Float64[np.ndarray, " b"]]:
    """The final drift relative to path A alone, which is the published measure."""
    a, b, _ = _paths_by(p, arrays)
    return {"relative L2": distances.relative_l2(a, b)}


def screen(p: Params) -> Callable[[Arrays], Float64[AnyArray, " b"]]:
    """The same drift with both paths in float64, as a function that JAX can trace."""
    from diffuzz.kernels import xla

    def value(arrays: Arrays) -> Float64[AnyArray, " b"]:
        weights = arrays["weights"] if p["weights"] == "case" else None
        a, b = screened_paths(arrays["x"], p["steps"], weights)
        return distances.symmetric_l2(a, b, xla.xp)

    return value


def screened_paths(
    x: Float32[AnyArray, "b 256"], steps: int, weights: UInt8[AnyArray, "b steps 256 144"] | None = None
) -> tuple[Float64[AnyArray, "b 256"], Float64[AnyArray, "b 256"]]:
    """The final activations of path A and path B in float64, by operations that JAX can trace; with the published
    matrices, or those of each case.
    """
    from diffuzz.kernels import xla

    xp = xla.xp

    def normalise(y: Float64[AnyArray, "b 256"]) -> Float64[AnyArray, "b 256"]:
        return y / xp.maximum(xp.sqrt((y * y).mean(axis=-1, keepdims=True)), LEAST_RMS)

    def times(t: int, x: Float64[AnyArray, "b 256"]) -> Float64[AnyArray, "b 256"]:
        if weights is None:
            return x @ xp.asarray(exact_weights(t).T)
        code, constant = fused.split(FORMAT, weights[:, t].reshape(-1, weights.shape[-1]), xp)
        return ((code + constant).reshape(-1, N, N) * x[:, None, :]).sum(axis=2)

    a = b = x.astype(float)
    for t in range(steps):
        a = normalise(times(t, a))
        scale, codes = q8_k.quantise_realizar(b.astype(xp.float32), xp)
        b = normalise(times(t, scale.astype(float)[:, None] * codes))
    return a, b


@cache
def seed_weights(t: int) -> Float32[np.ndarray, "256 256"]:
    """Weight tensor t, dequantised."""
    return formats.get(FORMAT).dequantize(published.seed_matrix(t))


@cache
def seed_sub_blocks(t: int) -> gguf.SubBlocks:
    """Weight tensor t, in the form that the fused integer kernel takes."""
    return gguf.sub_blocks(FORMAT, published.seed_matrix(t)[:, None])


@cache
def exact_weights(t: int) -> Float64[np.ndarray, "256 256"]:
    """Weight tensor t, dequantised and converted to float64."""
    return seed_weights(t).astype(np.float64)


@cache
def kept_direction(steps: int) -> Float64[np.ndarray, " 256"]:
    """v: the unit vector that the product of the first ``steps`` matrices stretches most."""
    product = np.eye(N)
    for t in range(steps):
        product = exact_weights(t) @ product
        product /= np.abs(product).max()
    return np.asarray(np.linalg.svd(product)[2][0])


def edge_activations(
    steps: int, towards: Float64[np.ndarray, " count"], rng: np.random.Generator
) -> tuple[Float64[np.ndarray, "count 256"], Float64[np.ndarray, "count 256"]]:
    """Pairs of activations with max|x| = 1. Path A maps both to ``towards`` u (towards is +1 or -1), and path B maps
    the first to -``towards`` u and the second to ``towards`` u.

    Every element except the largest is just beside the edge between two codes. The signs are chosen one by one so that
    v.x is half of what the errors of the codes can add up to. In the first activation of a pair all codes have errors
    against ``towards``, in the second all have errors in its direction.
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
    """Activations of random size whose sign is lost on path B, by the published matrices."""
    towards = np.where(rng.random(count) < 0.5, 1.0, -1.0)
    x, _ = edge_activations(p["steps"], towards, rng)
    size = p["max_abs"] * 2.0 ** -rng.uniform(0, 4, (count, 1))
    made = {"x": (x * size).astype(np.float32)}
    if p["weights"] == "seed":
        return made
    weights = np.stack([published.seed_matrix(t) for t in range(p["steps"])])
    return {"weights": np.repeat(weights[None], count, axis=0), **made}


TARGET = Target(
    name="chain",
    summary="a chain of normalised matvecs, APR path against GGUF path: final drift",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate, screen, explain=explain),
    measure=lambda p: f"||A - B||_2 / max(||A||_2, ||B||_2) after {p['steps']} matvecs",
    bound=lambda p: Bound(2.0, "triangle inequality: ||A - B|| <= ||A|| + ||B||", rounding=1e-12),
    claim="the drift of one matvec grows more than linearly over a chain of them",
    threshold=lambda p: p["steps"] * published.PUBLISHED_DRIFT,
    cost=16.0,
    starts=starts,
)
