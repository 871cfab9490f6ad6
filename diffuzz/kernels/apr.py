"""aprender's APR path: weights dequantised to float32, all arithmetic in float32, in the order of its source.

The operations, where f32() is one rounding and sums run from the left unless stated:

    vec_dot     dequantise, then order="fold": a left fold of f32 products; order="simd": the 8 lanes of ``dot_lanes``
    rms_norm    f32(f32(x / rms) * w), rms = f32 sqrt(f32(f32(S / n) + eps)), S a left fold of f32(x x)
    soft_max    e / sum e (a division each), e = expf(f32(x - max)), the sum a left fold
    rope        angle = f32(position * f32(1 / powf(base, 2 i / d))), then f32(f32(x0 cos) - f32(x1 sin)) and
                f32(f32(x0 sin) + f32(x1 cos)), nothing fused
    silu        f32(x / f32(1 + expf(-x)))

Source: paiml/aprender, crates/aprender-serve/src/apr_transformer, which was read and not run; this module reproduces
the bits that its tests publish (FFN-GGUF-006, 007, 008). The bits of ``rope`` depend on powf, sinf and cosf of the C
library; those of the other operations are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from diffuzz import formats
from diffuzz.kernels import arguments, libm
from diffuzz.kernels.fma import fma
from diffuzz.kernels.realizar import dequantize

if TYPE_CHECKING:
    from jaxtyping import Float32, Int, UInt8

__all__ = [
    "dequantize",
    "dot_fold",
    "dot_lanes",
    "exponentials",
    "folds",
    "matmul",
    "mean_square",
    "rms_norm",
    "rope",
    "silu",
    "simd",
    "soft_max",
    "swiglu",
    "vec_dot",
    "vec_dot_rows",
]

_LANES = 8
# From this number of results on, it is faster to advance all folds step by step than to run one fold after another.
_MANY = 4096
# Elements of the products held at a time in a batched dot product.
_CHUNK = 1 << 22
_ONE, _ZERO = np.float32(1), np.float32(0)


def dot_fold(a: Float32[np.ndarray, "... k"], b: Float32[np.ndarray, "... k"]) -> Float32[np.ndarray, " ..."]:
    """``f32(... f32(f32(a0 b0) + f32(a1 b1)) + ...)`` along the last axis; the other axes broadcast."""
    with np.errstate(all="ignore"):
        # Not sum(), which is pairwise. The source starts its fold at +0, this one at the first product; adding +0 at
        # the end makes the two agree where the sum is -0.
        total: Float32[np.ndarray, " ..."] = (
            np.add.accumulate(np.multiply(a, b, dtype=np.float32), axis=-1)[..., -1] + _ZERO
        )
        return total


def folds(w: Float32[np.ndarray, "m k"], x: Float32[np.ndarray, "b k"]) -> Float32[np.ndarray, "m b"]:
    """``dot_fold`` of every row of w with every row of x."""
    if len(w) * len(x) < _MANY:
        return dot_fold(w[:, None, :], x[None])
    w, x = np.ascontiguousarray(w.T)[:, :, None], np.ascontiguousarray(x.T)[:, None]
    with np.errstate(all="ignore"):
        total: Float32[np.ndarray, "m b"] = w[0] * x[0]
        product = np.empty_like(total)
        for one, other in zip(w[1:], x[1:], strict=True):
            np.multiply(one, other, out=product)
            total += product
        total += _ZERO
    return total


def dot_lanes(a: Float32[np.ndarray, "... k"], b: Float32[np.ndarray, "... k"]) -> Float32[np.ndarray, " ..."]:
    """The AVX2 dot product along the last axis; the other axes broadcast.

    Eight lanes acc_l = fma(a[8 j + l], b[8 j + l], acc_l), then r_i = f32(acc_i + acc_{i+4}), f32(f32(r0 + r1) + f32(r2
    + r3)), and the products of the last n mod 8 elements added one by one, each rounded. Below eight elements it is
    ``dot_fold``.
    """
    n = a.shape[-1]
    if n < _LANES:
        return dot_fold(a, b)
    acc = np.zeros((*np.broadcast_shapes(a.shape[:-1], b.shape[:-1]), _LANES), np.float32)
    for start in range(0, n - n % _LANES, _LANES):
        acc = fma(a[..., start : start + _LANES], b[..., start : start + _LANES], acc)
    with np.errstate(all="ignore"):
        r = acc[..., :4] + acc[..., 4:]
        total = (r[..., 0] + r[..., 1]) + (r[..., 2] + r[..., 3])
        for i in range(n - n % _LANES, n):
            total = total + a[..., i] * b[..., i]
        return np.asarray(total)


_DOTS = {"fold": dot_fold, "simd": dot_lanes}


def vec_dot(
    format: str, weights: UInt8[np.ndarray, "m row_bytes"], x: Float32[np.ndarray, "b k"], *, order: str = "fold"
) -> Float32[np.ndarray, "m b"]:
    """Every row with every x. ``order`` is "fold" (path A of the published claims) or "simd".

    Raises ValueError for wrong arguments.
    """
    rows, array = arguments.dot(format, weights, x, paired=False)
    return _product(_dequantised(format, rows), array, order)


def vec_dot_rows(
    format: str, weights: UInt8[np.ndarray, "b row_bytes"], x: Float32[np.ndarray, "b k"], *, order: str = "fold"
) -> Float32[np.ndarray, " b"]:
    """Row i with x i; ``order`` as in ``vec_dot``. Raises ValueError for wrong arguments."""
    rows, array = arguments.dot(format, weights, x, paired=True)
    return _dot(order)(_dequantised(format, rows), array)


# The variant "apr:simd" of diffuzz.kernels.get: dot products of the dequantised weights in eight lanes.
simd = SimpleNamespace(vec_dot=partial(vec_dot, order="simd"), vec_dot_rows=partial(vec_dot_rows, order="simd"))


def matmul(w: Float32[np.ndarray, "m k"], x: Float32[np.ndarray, "b k"]) -> Float32[np.ndarray, "m b"]:
    """``sum_k w[m, k] x[b, k]`` by ``dot_lanes``. Raises ValueError for wrong arguments."""
    one, other = arguments.vector("w", w), arguments.vector("x", x)
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise ValueError(f"w has shape {one.shape} and x {other.shape}: [m, k] and [b, k] are needed")
    return _product(one, other, "simd")


def rms_norm(
    x: Float32[np.ndarray, "... n"], eps: float, weight: Float32[np.ndarray, "... n"] | None = None
) -> Float32[np.ndarray, "... n"]:
    """``f32(f32(x / rms) * weight)``, the form that divides. Raises ValueError for wrong arguments."""
    array, gain = arguments.norm(x, eps, weight)
    with np.errstate(all="ignore"):
        rms = np.sqrt(mean_square(array) + np.float32(eps))
        y = array / rms
        return np.asarray(y if gain is None else y * gain)


def mean_square(x: Float32[np.ndarray, "... n"]) -> Float32[np.ndarray, "... 1"]:
    """``f32(S / n)``, S the left fold of the squares."""
    with np.errstate(all="ignore"):
        return np.asarray(dot_fold(x, x)[..., None] / np.float32(x.shape[-1]))


def soft_max(x: Float32[np.ndarray, "... n"]) -> Float32[np.ndarray, "... n"]:
    """``f32(e / sum e)``, the form that divides. Raises ValueError for wrong arguments."""
    e, total = exponentials(arguments.vector("x", x))
    with np.errstate(all="ignore"):
        return np.asarray(e / total)


def exponentials(
    x: Float32[np.ndarray, "... n"],
) -> tuple[Float32[np.ndarray, "... n"], Float32[np.ndarray, "... 1"]]:
    """(e = expf(f32(x - max)), their left fold); the maximum skips NaN, as Rust's f32::max does."""
    with np.errstate(all="ignore"):
        e = libm.expf(x - np.fmax.reduce(x, axis=-1, keepdims=True))
        return e, np.add.accumulate(e, axis=-1)[..., -1:]


def silu(x: Float32[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    """``f32(x / f32(1 + expf(-x)))``; NaN at minus infinity. Raises ValueError for wrong arguments."""
    array = arguments.real("x", x)
    with np.errstate(all="ignore"):
        return np.asarray(array / (_ONE + libm.expf(-array)))


def swiglu(gate: Float32[np.ndarray, " ..."], up: Float32[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    """``f32(silu(gate) * up)``. Raises ValueError for wrong arguments."""
    one, other = arguments.pair(gate, up)
    with np.errstate(all="ignore"):
        return np.asarray(silu(one) * other)


def rope(
    x: Float32[np.ndarray, "b heads d"], positions: Int[np.ndarray, " b"], base: float, mode: str
) -> Float32[np.ndarray, "b heads d"]:
    """Pair i rotated by ``f32(position * f32(1 / powf(base, f32(2 i / d))))``, without fused operations.

    Raises ValueError for wrong arguments.
    """
    array, where = arguments.rope(x, positions, base, mode)
    d = array.shape[2]
    exponents = np.arange(0, d, 2, dtype=np.float32) / np.float32(d)
    with np.errstate(all="ignore"):
        frequency = _ONE / libm.powf(base, exponents)
        angle = (where.astype(np.float32)[:, None] * frequency)[:, None, :]
        cos, sin = libm.cosf(angle), libm.sinf(angle)
        first, second = arguments.halves(array, mode)
        return arguments.joined(first * cos - second * sin, first * sin + second * cos, mode)


def _dequantised(format: str, rows: UInt8[np.ndarray, "m blocks type_size"]) -> Float32[np.ndarray, "m k"]:
    fmt = formats.get(format)
    if not len(rows):
        return np.zeros((0, rows.shape[1] * fmt.block_size), np.float32)
    return fmt.dequantize(rows.reshape(-1, rows.shape[2])).reshape(len(rows), -1)


def _dot(order: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    if order not in _DOTS:
        raise ValueError(f"order={order!r}: {' or '.join(_DOTS)} is needed")
    return _DOTS[order]


def _product(w: Float32[np.ndarray, "m k"], x: Float32[np.ndarray, "b k"], order: str) -> Float32[np.ndarray, "m b"]:
    dot = _dot(order)
    if dot is dot_fold and len(w) * len(x) >= _MANY:
        return folds(w, x)
    step = max(1, _CHUNK // max(1, x.size))
    parts = [dot(w[start : start + step, None, :], x[None]) for start in range(0, len(w), step)]
    return np.concatenate(parts) if parts else np.zeros((0, len(x)), np.float32)
