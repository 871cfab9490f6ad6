"""The mathematical functions, in float64: what every other semantics is measured against.

Float32 arguments are exact; float64 ones are accepted, so that an input moved by less than a float32 ULP can be passed.
Results are within a few float64 ULP of the exact value, sums within n 2^-53 sum|terms|, unless a docstring says
otherwise, and do not depend on the batch that a row is in. (Operations: :mod:`diffuzz.kernels`.)
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np

from diffuzz import formats
from diffuzz.kernels import arguments

# What code that is generic over array modules calls: kernels.xp is numpy here and jax.numpy in diffuzz.kernels.xla.
xp = np

# exp(x) is 0 in float64 below this.
_LEAST_EXPONENT = -746.0
# Bits in each part of a frequency: a part times a position of at most 2^31 is exact in float64.
_PART_BITS, _PARTS = 22, 5
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


def dequantize(format: str, weights: np.ndarray) -> np.ndarray:
    """``d * sub_scale * code - dmin * sub_minimum``, exact: float64[rows, k] for uint8[rows, row_bytes].

    An f16 scale has 11 significant bits, a sub-scale at most 8, a code at most 8, and d sc q and dmin m lie between
    2^-24 and 2^29 on a common grid: products and difference fit the 53 bits of float64. (So does a power of two
    times a level.)
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


def vec_dot(format: str, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """``sum_k w[m, k] x[b, k]`` with the exact weights: float64[m, b]."""
    _, wide = arguments.dot(format, weights, x, paired=False, wide=True)
    with np.errstate(all="ignore"):
        return np.einsum("mk,bk->mb", dequantize(format, weights), wide.astype(np.float64))


def vec_dot_rows(format: str, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """``sum_k w[b, k] x[b, k]`` with the exact weights: float64[b]."""
    _, wide = arguments.dot(format, weights, x, paired=True, wide=True)
    with np.errstate(all="ignore"):
        return np.einsum("bk,bk->b", dequantize(format, weights), wide.astype(np.float64))


def rms_norm(x: np.ndarray, eps: float, weight: np.ndarray | None = None) -> np.ndarray:
    """``x / sqrt(mean(x^2) + eps) * weight`` along the last axis; a zero row with eps = 0 is NaN, as 0 / 0 is."""
    array, gain = arguments.norm(x, eps, weight, wide=True)
    wide = array.astype(np.float64)
    with np.errstate(all="ignore"):
        y = wide / np.sqrt((wide * wide).mean(axis=-1, keepdims=True) + eps)
        return y if gain is None else y * gain


def soft_max(x: np.ndarray) -> np.ndarray:
    """``exp(x - max x) / sum exp(x - max x)`` along the last axis; NaN where the maximum is infinite."""
    wide = arguments.vector("x", x, wide=True).astype(np.float64)
    with np.errstate(all="ignore"):
        e = np.exp(wide - wide.max(axis=-1, keepdims=True))
        return np.asarray(e / e.sum(axis=-1, keepdims=True))


def silu(x: np.ndarray) -> np.ndarray:
    """``x / (1 + exp(-x))``; as ``x e^x / (1 + e^x)`` for x < 0, where e^-x would overflow. -0 at minus infinity."""
    wide = arguments.real("x", x, wide=True).astype(np.float64)
    with np.errstate(all="ignore"):
        e = np.exp(-np.abs(wide))
        negative = np.maximum(wide, _LEAST_EXPONENT) * e
        return np.asarray(np.where(wide < 0, negative, wide) / (1 + e))


def swiglu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """``silu(gate) * up``."""
    one, other = arguments.pair(gate, up, wide=True)
    with np.errstate(all="ignore"):
        return silu(one) * other.astype(np.float64)


def rope(x: np.ndarray, positions: np.ndarray, base: float, mode: str) -> np.ndarray:
    """Each pair i of each head turned by the angle ``position * base^(-2 i / d)``: float64[b, heads, d].

    ``mode``: ``"norm"`` pairs (2i, 2i + 1), ``"neox"`` pairs (i, i + d/2). Angles are reduced exactly, so they are as
    good at position 2^31 as at 1: within 2^-50 of the exact angle modulo 2 pi (in float64 arithmetic the error would be
    2^-53 of the whole angle).
    """
    array, where = arguments.rope(x, positions, base, mode, wide=True)
    # Products of at most 53 bits, so exact. The first two are above one turn, and what is left of them has 44 bits.
    products = where[:, None, None].astype(np.float64) * _turns(float(base), array.shape[2])
    whole = (products[:, :2] - np.rint(products[:, :2])).sum(axis=1)
    turns = whole - np.rint(whole) + products[:, 2:].sum(axis=1)
    angle = (2 * math.pi * turns)[:, None, :]
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = arguments.halves(array.astype(np.float64), mode)
    with np.errstate(all="ignore"):
        return arguments.joined(first * cos - second * sin, first * sin + second * cos, mode)


# A candidate is called with some bases and every head_dim: 20 KiB each at most, for heads of 1024.
@lru_cache(maxsize=512)
def _turns(base: float, d: int) -> np.ndarray:
    """``base^(-2 i / d) / (2 pi)`` modulo 1 as a sum of fixed-point parts of 22 bits: float64[5, d/2]."""
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
