"""The float32 arithmetic of quantisers, in NumPy and, traced, in jax.numpy: quotients, roundings, conversions.

The bits of a quantiser include what C makes of NaN and of numbers that an integer type cannot hold. These functions
follow x86: a conversion to int32 then gives -2^31 (cvtps2dq, cvttss2si), and a C cast to int8 keeps its lowest byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats.arrays import AnyArray, ArrayModule

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32

_LEAST = -(2**31)


def quotient(a: Float32[AnyArray, " ..."], b: Float32[AnyArray, " ..."], xp: ArrayModule) -> Float32[AnyArray, " ..."]:
    """f32(a / b), rounded once.

    A plain division in JAX may be off in the last bit: XLA multiplies by the reciprocal of a constant divisor, turns
    1 / (a / b) into b / a, and on a GPU divides float32 to within 2 ULP only.

    Where JAX has float64, q = a (1 / b) is computed there, corrected once by its remainder, and rounded to float32.
    That is exact, because a quotient of two float32 numbers is never a midpoint of two others and differs from each by
    at least 2^-49, relatively. (a / b in float64 would not do: LLVM turns it into a float32 division.) Where JAX has
    float32 only, the divisor is made to look as if it depended on the data, which stops the rewriting; likewise a
    result that looks as if it depended on itself stays rounded when it is used in float64 again.

    The result is NaN only where the quotient is. On a GPU the sign of 1 / -0 was seen to be lost.
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


def through_half(x: Float32[AnyArray, " ..."], xp: ArrayModule) -> Float32[AnyArray, " ..."]:
    """x rounded to f16, as float32; ties to even, and infinite from 65520 on.

    In JAX this is integer arithmetic, because XLA on a GPU leaves out a conversion to f16 and back.
    """
    if xp is np:
        return x.astype(np.float16).astype(np.float32)
    from jax import lax

    word = words(x, xp)
    # Round to 10 bits of mantissa; a carry into the exponent is right, it makes the next power of two.
    rounded = (word + 0xFFF + ((word >> 13) & 1)) & ~0x1FFF
    normal = lax.bitcast_convert_type(rounded, xp.float32)
    subnormal = xp.round(x * xp.float32(2.0**24)) * xp.float32(2.0**-24)
    size = xp.abs(x)
    beyond = xp.where(x > 0, xp.float32(np.inf), xp.float32(-np.inf))
    finite = xp.where(size < xp.float32(2.0**-14), subnormal, xp.where(size >= 65520, beyond, normal))
    return xp.where(x == x, finite, xp.float32(np.nan))


def through_bfloat(x: Float32[AnyArray, " ..."], xp: ArrayModule) -> Float32[AnyArray, " ..."]:
    """x rounded to bf16, as float32; ties to even, and infinite beyond the largest bf16 number. In JAX as
    ``through_half``.
    """
    word = words(x, xp)
    rounded = (word + 0x7FFF + ((word >> 16) & 1)) & ~0xFFFF
    if xp is np:
        return np.where(x == x, np.ascontiguousarray(rounded).view(np.float32), np.float32(np.nan))
    from jax import lax

    return xp.where(x == x, lax.bitcast_convert_type(rounded, xp.float32), xp.float32(np.nan))


def words(x: Float32[AnyArray, " ..."], xp: ArrayModule) -> Int32[AnyArray, " ..."]:
    """The bits of float32 numbers, as int32."""
    if xp is np:
        return np.ascontiguousarray(x).view(np.int32)
    from jax import lax

    return lax.bitcast_convert_type(x, xp.int32)


def round_half_away(x: Float32[AnyArray, " ..."], xp: ArrayModule) -> Float32[AnyArray, " ..."]:
    """C's roundf: the nearest integer, halves away from zero."""
    whole = xp.trunc(x)
    size, least = xp.abs(x), xp.abs(whole)
    # Not ``x - whole >= 0.5``: where x is a product, XLA would fuse it with the subtraction and not round it.
    up = (size >= least + xp.float32(0.5)) & (size > least)
    return whole + xp.where(up, xp.where(x >= 0, 1, -1), 0).astype(xp.float32)


def to_int32(whole: Float32[AnyArray, " ..."], xp: ArrayModule) -> Int32[AnyArray, " ..."]:
    """int32 of whole float32 numbers; -2^31 for NaN and for numbers outside int32."""
    fits = (whole >= xp.float32(_LEAST)) & (whole < xp.float32(-_LEAST))
    return xp.where(fits, xp.where(fits, whole, 0).astype(xp.int32), xp.int32(_LEAST))


def to_int8(whole: Float32[AnyArray, " ..."], xp: ArrayModule) -> Int32[AnyArray, " ..."]:
    """C's ``(int8_t) x`` of whole float32 numbers, as int32: the lowest byte of ``to_int32``, so 0 for NaN."""
    low = to_int32(whole, xp) & 255
    return low - ((low & 128) << 1)


def first_largest(values: Float32[AnyArray, "b n"], xp: ArrayModule) -> Float32[AnyArray, " b"]:
    """The first element of largest magnitude of each row, with its sign.

    NaN is skipped, as a loop with a C comparison does; +0 for a row of zeros and NaN.
    """
    magnitude = xp.where(xp.isnan(values), xp.float32(-1), xp.abs(values))
    first = xp.argmax(magnitude, axis=1)[:, None]
    peak = xp.take_along_axis(values, first, axis=1)[:, 0]
    return xp.where(xp.abs(peak) > 0, peak, xp.float32(0))


def least_and_most(
    values: Float32[np.ndarray, "b n"],
) -> tuple[Float32[np.ndarray, "b 1"], Float32[np.ndarray, "b 1"]]:
    """The least and the largest element of each row, as C loops that start at FLT_MAX and -FLT_MAX find them.

    The loops skip NaN, and keep the first of two zeros of different sign.
    """
    limit = np.finfo(np.float32).max
    low = np.where(values <= limit, values, limit)
    high = np.where(values >= -limit, values, -limit)
    return (
        np.take_along_axis(low, low.argmin(axis=1, keepdims=True), axis=1),
        np.take_along_axis(high, high.argmax(axis=1, keepdims=True), axis=1),
    )
