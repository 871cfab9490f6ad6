"""The float32 arithmetic of quantisers, in NumPy and, traced, in jax.numpy: quotients, roundings, conversions.

What a C program does with NaN and with numbers that its integers cannot hold is part of its bits. These functions
follow x86: the conversion to int32 answers -2^31 (cvtps2dq, cvttss2si), and a C cast to int8 keeps its lowest byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_LEAST = -(2**31)


def quotient(a: Any, b: Any, xp: Any) -> Any:
    """f32(a / b), rounded once.

    XLA multiplies by the reciprocal of a constant divisor, turns 1 / (a / b) into b / a, and divides float32 on a GPU
    to within 2 ULP, each of which moves the last bit. So it divides in float64, where that is enabled: a quotient of
    float32 numbers is never so close to a midpoint of two others that its first rounding, or one more, could matter (at
    least 2^-49 away, relatively). In float32 a divisor that seems to depend on the data stops the rewriting; NaN only
    ever stands where the quotient is NaN.
    """
    if xp is not np:
        wide = xp.asarray(a).astype(float) / xp.asarray(b).astype(float)
        if wide.dtype != xp.float32:
            return wide.astype(xp.float32)
    return a / xp.where((a == a) & (b == b), b, xp.float32(np.nan))


def through_half(x: Any, xp: Any) -> Any:
    """float32 rounded to f16 and back (ties to even; from 65520 on infinite)."""
    return x.astype(xp.float16).astype(xp.float32)


def round_half_away(x: Any, xp: Any) -> Any:
    """C's roundf: the nearest integer, an exact half away from zero."""
    whole = xp.trunc(x)
    size, least = xp.abs(x), xp.abs(whole)
    # Not x - whole >= 0.5: where x is a product, XLA would fuse the two and see the unrounded product.
    up = (size >= least + xp.float32(0.5)) & (size > least)
    return whole + xp.where(up, xp.where(x >= 0, 1, -1), 0).astype(xp.float32)


def to_int32(whole: Any, xp: Any) -> Any:
    """int32 of float32 integers; -2^31 for NaN and for what does not fit."""
    fits = (whole >= xp.float32(_LEAST)) & (whole < xp.float32(-_LEAST))
    return xp.where(fits, xp.where(fits, whole, 0).astype(xp.int32), xp.int32(_LEAST))


def to_int8(whole: Any, xp: Any) -> Any:
    """C's ``(int8_t) x`` of float32 integers, as int32 in -128..127: the lowest byte of ``to_int32``, so NaN is 0."""
    low = to_int32(whole, xp) & 255
    return low - ((low & 128) << 1)


def first_largest(values: Any, xp: Any) -> Any:
    """float32[b]: of each row the first element of largest magnitude, with its sign.

    NaN is passed over, as a C comparison does; +0 where no element is larger.
    """
    magnitude = xp.where(xp.isnan(values), xp.float32(-1), xp.abs(values))
    first = xp.argmax(magnitude, axis=1)[:, None]
    peak = xp.take_along_axis(values, first, axis=1)[:, 0]
    return xp.where(xp.abs(peak) > 0, peak, xp.float32(0))


def least_and_most(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32[b, 1] each: the least and the largest element of a row as C loops from FLT_MAX and -FLT_MAX find them.

    They pass over NaN, and keep the first of two zeros of different sign.
    """
    limit = np.finfo(np.float32).max
    low = np.where(values <= limit, values, limit)
    high = np.where(values >= -limit, values, -limit)
    return (
        np.take_along_axis(low, low.argmin(axis=1, keepdims=True), axis=1),
        np.take_along_axis(high, high.argmax(axis=1, keepdims=True), axis=1),
    )
