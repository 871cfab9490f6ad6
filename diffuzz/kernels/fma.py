"""Fused multiply-add in float32: a * b + c with one rounding.

NumPy has no such function. The product of two float32 numbers is exact in float64 (48 bits of 53), but float64(product
+ c) is already rounded, and rounding it again to float32 is wrong where the first rounding gives the midpoint of two
float32 numbers. Rounding the first time *to odd* (an inexact result takes the neighbour whose last bit is 1) keeps the
information that the second rounding needs, because float64 has more than two bits to spare: Boldo and Melquiond,
Emulation of FMA and correctly rounded sums, IEEE Trans. Computers 57 (2008), theorem 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64


def fma(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Float32[np.ndarray, " ..."]:
    """``f32(a * b + c)``, elementwise with broadcasting: one rounding to nearest, ties to even.

    Subnormal results, signed zeros, overflow, infinities and NaN are as in IEEE 754, but not the payload of a NaN.

    Args:
        a, b, c: float32 arrays or scalars.
    """
    with np.errstate(all="ignore"):
        product = np.asarray(np.multiply(a, b, dtype=np.float64))
        return odd_sum(product, np.asarray(c, np.float64)).astype(np.float32)


def odd_sum(a: Float64[np.ndarray, " ..."], b: Float64[np.ndarray, " ..."]) -> Float64[np.ndarray, " ..."]:
    """``a + b`` in float64 rounded to odd, so that it can be rounded once more to fewer bits."""
    total = np.asarray(a + b)
    # Knuth's two-sum: total + error is the exact sum. Where total is infinite or NaN, error is NaN.
    virtual = total - a
    error = (a - (total - virtual)) + (b - virtual)
    above = error > 0
    inexact = above | (error < 0)
    bits = total.view(np.int64)
    # Towards zero where the rounding went away from it (one step of the bits is one ULP), then to the odd one of the
    # two neighbours.
    bits -= inexact & (above == (total < 0))
    bits |= inexact
    return total
