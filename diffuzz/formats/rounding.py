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
    to within 2 ULP, each of which moves the last bit. Where float64 is enabled, q = a (1 / b) and one correction by its
    remainder are rounded to float32 instead (not a / b: LLVM makes a float32 division of it): a quotient of float32
    numbers is no midpoint of two others, and at least 2^-49 from one, relatively. In float32 a divisor that seems to
    depend on the data stops the rewriting. A result that seems to depend on itself keeps its rounding where it is used
    in float64 again. NaN only ever stands where the quotient is NaN. (On a GPU the sign of 1 / -0 was seen to be lost.)
    """
    if xp is not np:
        inverse = 1 / xp.asarray(b).astype(float)
        if inverse.dtype != xp.float32:
            wide = xp.asarray(a).astype(float)
            q = wide * inverse
            rest = (wide - q * b) * inverse
            rounded = xp.where(xp.isfinite(rest) & (rest != 0), q + rest, q).astype(xp.float32)
            return xp.where(rounded == rounded, rounded, xp.float32(np.nan))
    return a / xp.where((a == a) & (b == b), b, xp.float32(np.nan))


def through_half(x: Any, xp: Any) -> Any:
    """float32 rounded to f16 and back (ties to even; from 65520 on infinite).

    Traced, in integers: XLA takes the two conversions for one that it may leave out, and on a GPU does.
    """
    if xp is np:
        return x.astype(np.float16).astype(np.float32)
    from jax import lax

    word = words(x, xp)
    # To 10 bits of mantissa; a carry goes into the exponent, as it should.
    rounded = (word + 0xFFF + ((word >> 13) & 1)) & ~0x1FFF
    normal = lax.bitcast_convert_type(rounded, xp.float32)
    subnormal = xp.round(x * xp.float32(2.0**24)) * xp.float32(2.0**-24)
    size = xp.abs(x)
    beyond = xp.where(x > 0, xp.float32(np.inf), xp.float32(-np.inf))
    finite = xp.where(size < xp.float32(2.0**-14), subnormal, xp.where(size >= 65520, beyond, normal))
    return xp.where(x == x, finite, xp.float32(np.nan))


def words(x: Any, xp: Any) -> Any:
    """The bits of float32, as int32."""
    if xp is np:
        return np.ascontiguousarray(x).view(np.int32)
    from jax import lax

    return lax.bitcast_convert_type(x, xp.int32)


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
