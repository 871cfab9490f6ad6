"""The mathematical functions in float64, which every other implementation is compared with.

Arguments are float32 or float64; float64 is for inputs that have moved by less than a float32 ULP. Results are within a
few float64 ULP of the exact value, and sums within n 2^-53 sum|terms|, unless a docstring says otherwise. They do not
depend on the batch that a row is in. All functions raise ValueError for wrong arguments. (Operations:
:mod:`diffuzz.kernels`.)
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from diffuzz import formats
from diffuzz.kernels import arguments

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int, UInt8

# The array module of code that takes a kernel module: numpy here, jax.numpy in diffuzz.kernels.xla.
xp = np

# exp(x) is 0 in float64 below this.
_LEAST_EXPONENT = -746.0
# Bits in each part of a frequency: a part times a position of at most 2^31 is exact in float64.
_PART_BITS, _PARTS = 22, 5
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


def dequantize(format: str, weights: UInt8[np.ndarray, "rows row_bytes"]) -> Float64[np.ndarray, "rows k"]:
    """``d * sub_scale * code - dmin * sub_minimum``, exact.

    An f16 scale has 11 significant bits, a sub-block scale at most 8, a code at most 8, and d sc q and dmin m lie on a
    common grid between 2^-24 and 2^29, so products and difference fit the 53 bits of float64. So does a power of two
    times a level.
    """
    rows, fmt = arguments.blocks(format, weights), formats.get(format)
    if not len(rows):
        return np.zeros((0, rows.shape[1] * fmt.block_size))
    parts = fmt.decode(rows.reshape(-1, rows.shape[2]))
    with np.errstate(invalid="ignore"):
        values = parts.d.astype(np.float64)[:, None] * (parts.sub_scale * parts.code)
        if parts.minimum is not None:
            values = values - parts.dmin.astype(np.float64)[:, None] * parts.sub_minimum
    return np.asarray(values).reshape(len(rows), -1)


def vec_dot(
    format: str, weights: UInt8[np.ndarray, "m row_bytes"], x: Float[np.ndarray, "b k"]
) -> Float64[np.ndarray, "m b"]:
    """``sum_k w[m, k] x[b, k]`` with the exact weights."""
    _, wide = arguments.dot(format, weights, x, paired=False, wide=True)
    with np.errstate(all="ignore"):
        return np.asarray(np.einsum("mk,bk->mb", dequantize(format, weights), wide.astype(np.float64)))


def vec_dot_rows(
    format: str, weights: UInt8[np.ndarray, "b row_bytes"], x: Float[np.ndarray, "b k"]
) -> Float64[np.ndarray, " b"]:
    """``sum_k w[b, k] x[b, k]`` with the exact weights."""
    _, wide = arguments.dot(format, weights, x, paired=True, wide=True)
    with np.errstate(all="ignore"):
        return np.asarray(np.einsum("bk,bk->b", dequantize(format, weights), wide.astype(np.float64)))


def rms_norm(
    x: Float[np.ndarray, "... n"], eps: float, weight: Float[np.ndarray, "... n"] | None = None
) -> Float64[np.ndarray, "... n"]:
    """``x / sqrt(mean(x^2) + eps) * weight`` along the last axis; a zero row with eps = 0 is NaN, as 0 / 0 is."""
    array, gain = arguments.norm(x, eps, weight, wide=True)
    wide = array.astype(np.float64)
    with np.errstate(all="ignore"):
        y = wide / np.sqrt((wide * wide).mean(axis=-1, keepdims=True) + eps)
        return np.asarray(y if gain is None else y * gain)


def soft_max(x: Float[np.ndarray, "... n"]) -> Float64[np.ndarray, "... n"]:
    """``exp(x - max x) / sum exp(x - max x)`` along the last axis; NaN where the maximum is infinite."""
    wide = arguments.vector("x", x, wide=True).astype(np.float64)
    with np.errstate(all="ignore"):
        e = np.exp(wide - wide.max(axis=-1, keepdims=True))
        return np.asarray(e / e.sum(axis=-1, keepdims=True))


def silu(x: Float[np.ndarray, " ..."]) -> Float64[np.ndarray, " ..."]:
    """``x / (1 + exp(-x))``, for x < 0 as ``x e^x / (1 + e^x)``, because e^-x overflows. -0 at minus infinity."""
    wide = arguments.real("x", x, wide=True).astype(np.float64)
    with np.errstate(all="ignore"):
        e = np.exp(-np.abs(wide))
        negative = np.maximum(wide, _LEAST_EXPONENT) * e
        return np.asarray(np.where(wide < 0, negative, wide) / (1 + e))


def swiglu(gate: Float[np.ndarray, " ..."], up: Float[np.ndarray, " ..."]) -> Float64[np.ndarray, " ..."]:
    """``silu(gate) * up``."""
    one, other = arguments.pair(gate, up, wide=True)
    with np.errstate(all="ignore"):
        return silu(one) * other.astype(np.float64)


def rope(
    x: Float[np.ndarray, "b heads d"], positions: Int[np.ndarray, " b"], base: float, mode: str
) -> Float64[np.ndarray, "b heads d"]:
    """Pair i of each head rotated by the angle ``position * base^(-2 i / d)``.

    ``mode`` "norm" pairs the elements (2i, 2i + 1), "neox" the elements (i, i + d/2). Angles are reduced exactly, so at
    every position up to 2^31 they are within 2^-50 of the exact angle modulo 2 pi. (In float64 arithmetic the error
    would be 2^-53 of the whole angle.)
    """
    array, where = arguments.rope(x, positions, base, mode, wide=True)
    # Products have at most 53 bits, so they are exact. Only the first two may exceed one turn; their fractions, which
    # have 44 bits, are added exactly.
    products = where[:, None, None].astype(np.float64) * _turns(float(base), array.shape[2])
    whole = (products[:, :2] - np.rint(products[:, :2])).sum(axis=1)
    turns = whole - np.rint(whole) + products[:, 2:].sum(axis=1)
    angle = (2 * math.pi * turns)[:, None, :]
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = arguments.halves(array.astype(np.float64), mode)
    with np.errstate(all="ignore"):
        return arguments.joined(first * cos - second * sin, first * sin + second * cos, mode)


# A candidate is called with a few bases and every head_dim. An entry takes at most 20 KiB, for heads of 1024.
@lru_cache(maxsize=512)
def _turns(base: float, d: int) -> Float64[np.ndarray, "5 d/2"]:
    """``base^(-2 i / d) / (2 pi)`` modulo 1, as a sum of five fixed-point parts of 22 bits; read-only."""
    parts = np.zeros((_PARTS, d // 2))
    with localcontext() as context:
        context.prec = 60
        for i in range(d // 2):
            rest = (Decimal(base) ** (Decimal(-2 * i) / d) / (2 * _PI)) % 1
            for part in range(_PARTS):
                scaled = rest * 2**_PART_BITS
                digits = int(scaled)
                parts[part, i] = math.ldexp(digits, -_PART_BITS * (part + 1))
                rest = scaled - digits
    parts.setflags(write=False)
    return parts
