r"""A-priori error analysis: how far a correct implementation of a stated arithmetic may be from the exact result.

**Sums.** u = 2^-24 is the unit roundoff of float32. A float32 sum of n products, in any order, with or without fused
multiply-adds, is off by at most gamma_n sum|w_i x_i|, gamma_n = n u / (1 - n u) (Higham, Accuracy and Stability,
section 3.1). Dequantising a weight takes at most three roundings, each relative to a term of the weight (d sc q, or
dmin m), so it adds 3 to n.

**Activation codes.** A quantiser divides a block by d = max|x| / 127 and rounds: x_i = d (q_i + h_i), |h_i| <= 1/2,
|q_i| <= 127, and h_i = 0 for the largest element. It stores q_i and a scale s: s = d for q8_K (float32), s = f16(d) for
q8_0 and q8_1. The dot product uses the activation s q_i, and

    |s q_i - x_i| <= |h_i| d + |s - d| |q_i|,    |s - d| <= sigma(d) = min(d, max(2^-11 / (1 + 2^-11) d, 2^-25)):

rounding to f16 has a relative error of at most 2^-11 / (1 + 2^-11) where the result is normal, an absolute error of at
most 2^-25 where it is subnormal, and gives 0 (an error of d) below 2^-25. So, for M = max|x| >= P, the error relative
to M is at most

    1/254 + max over d >= P / 127 of sigma(d) / d          (the second term only for an f16 scale).          (1)

A row of several blocks may have a block whose peak is below P, while another block has max|x| = P. The error of such a
block is largest where its d is the last midpoint of the f16 grid below P / 127: it is then d / 2 + 127 * 2^-25.

The block sum s = f16(d sum q_i) of q8_1, by which a minimum m is multiplied, is off from sum x_i by at most sum |h_i| d
plus sigma's relative error of d sum|q_i| (or 2^-25, which is less than 2^-25 sum|q_i|): the sum over the block of the
same bounds.

**Relative to the whole vector.** The largest element of a block has |x_i| = 127 d and an error of 127 sigma; another
with code q >= 1 has |x_i| >= (q - 1/2) d and an error of at most d/2 + q sigma; one with code 0 has an error of |x_i|
<= d/2, which is no better than code 1. A ratio of sums is largest when each element maximises (its error^2 - ratio *
its square) by itself, so all codes are alike. With e = sigma / d and N elements in a block,

    ||s q - x||^2 / ||x||^2 <= rho^2 = max_q [(N - 1) (1/2 + q e)^2 + (127 e)^2] / [127^2 + (N - 1) (q - 1/2)^2].
    (2)

Blocks of a row with peaks below P have a larger e, but a small share of ||x||^2 >= P^2. Where their error^2 exceeds
rho^2 times their square, by at most G, they add (blocks - 1) G / P^2 to rho^2. G is the largest value, over d <= min(P
/ 127, 2^-14) and q, of

    (N - 1) (d/2 + q 2^-25)^2 + (127 * 2^-25)^2 - rho^2 d^2 (127^2 + (N - 1) (q - 1/2)^2).
    (3)

No block exceeds (2) with e = 1, and so neither does a row.

**Rounding of the codes.** x_i / d is computed as a float32 product with a rounded float32 reciprocal: it is off by at
most 4 u |x_i / d| <= 508 u codes, and so is the restored product. ROUNDING = 1024 u bounds both relative to half a
step.

**Underflow**, one rule for all bounds. A number that a kernel makes on its way (an argument that it loads, an
exponential, a product, a sum, a quotient, the result) and whose magnitude is below FLUSHED = 2^-125 may become any
number of the same sign that is below it, 0 included. So each such number has an absolute error of at most FLUSHED,
which later factors multiply. That covers processors that flush subnormal numbers (below 2^-126) to 0, an exponential
that ends at 2^-125.5, and one whose argument is clamped at -87 (e^-87 = 1.40 2^-126). A product with a factor of at
most 1 may be flushed like that factor's partner without a second error: both are below FLUSHED.

**Activations that are rounded.** x rounded to f16 is off by at most 2^-11 / (1 + 2^-11) |x| where it is normal and
2^-25 where it is subnormal, x rounded to bf16 by 2^-8 / (1 + 2^-8) |x| and 2^-134. Every element is rounded by itself,
so the bounds (1) and (2) are these numbers over P and, for the norm, sqrt(r^2 + n a^2 / P^2) with r the relative and a
the absolute one.

**A smaller range of codes.** Under the policy ``saturate`` a block of q8_K has d = max|x| / 128: the code of the
largest element is -128, and an element of the opposite sign whose quotient is above 127.5 gets 127 where 128 is
missing. Its error is up to one whole d.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from diffuzz import formats

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64

UNIT = 2.0**-24
HALF_RELATIVE = 2.0**-11 / (1 + 2.0**-11)
HALF_ABSOLUTE = 2.0**-25
LARGEST_CODE = 127
ROUNDING = 1024 * UNIT
FLUSHED = 2.0**-125
TINY_PEAK = 1e-10
# Relative and absolute error of a number rounded to such a format.
FLOATS = {"f16": (HALF_RELATIVE, HALF_ABSOLUTE), "bf16": (2.0**-8 / (1 + 2.0**-8), 2.0**-134)}

# Activation formats whose block scale is stored as f16.
_HALF_SCALE = ("q8_0", "q8_1")


def gamma(n: int, unit: float = UNIT) -> float:
    """``n u / (1 - n u)``: the relative error of n roundings. Raises ValueError unless 0 <= n u < 1."""
    if not 0 <= n * unit < 1:
        raise ValueError(f"n={n}: 0 <= n u < 1 is needed, and u = {unit:g}")
    return n * unit / (1 - n * unit)


def scale_error(activation: str, scale: ArrayLike) -> Float64[np.ndarray, " ..."]:
    """sigma: the largest error of a stored block scale; 0 for q8_K, whose scale is float32."""
    exact = np.asarray(scale, np.float64)
    if activation not in _HALF_SCALE:
        return np.zeros_like(exact)
    return np.minimum(exact, np.maximum(HALF_RELATIVE * exact, HALF_ABSOLUTE))


def largest_code_error(activation: str, smallest_peak: float, n: int) -> float:
    """(1): the largest error of a quantised activation relative to max|x|, over vectors of n elements with max|x| >=
    smallest_peak.
    """
    if activation in FLOATS:
        relative, absolute = FLOATS[activation]
        return max(relative, absolute / smallest_peak)
    step = 1 / (2 * LARGEST_CODE)
    own = step + _relative_scale_error(activation, smallest_peak)
    if activation not in _HALF_SCALE or n <= formats.get(activation).block_size:
        return own
    scale, grid = smallest_peak / LARGEST_CODE, 2 * HALF_ABSOLUTE
    below = (np.floor(scale / grid - 0.5) + 0.5) * grid
    if scale >= 2.0**-14 or below <= 0:
        return own
    return max(own, float((below / 2 + LARGEST_CODE * HALF_ABSOLUTE) / smallest_peak))


def largest_relative_error(activation: str, smallest_peak: float, n: int) -> float:
    """(2) and (3): the largest ``||x^ - x||_2 / ||x||_2`` over vectors of n elements with max|x| >= smallest_peak."""
    if activation in FLOATS:
        relative, absolute = FLOATS[activation]
        return float(np.sqrt(relative**2 + n * (absolute / smallest_peak) ** 2))
    size = formats.get(activation).block_size
    squared = _largest_ratio(size, _relative_scale_error(activation, smallest_peak))
    if activation in _HALF_SCALE:
        small = _excess_of_small_blocks(size, squared, smallest_peak) / smallest_peak**2
        squared = min(squared + (n // size - 1) * small, _largest_ratio(size, 1.0))
    return float(np.sqrt(squared))


def _largest_ratio(size: int, e: float) -> float:
    """(2) squared, for a relative error e of the scale."""
    q = np.arange(1.0, LARGEST_CODE + 1)
    errors = (size - 1) * (0.5 + q * e) ** 2 + (LARGEST_CODE * e) ** 2
    return float((errors / (LARGEST_CODE**2 + (size - 1) * (q - 0.5) ** 2)).max())


def _relative_scale_error(activation: str, smallest_peak: float) -> float:
    """The largest |s - d| / d over d >= smallest_peak / 127: at the least d, or at the first midpoint of the f16 grid
    above it.
    """
    if activation not in _HALF_SCALE:
        return 0.0
    scale = smallest_peak / LARGEST_CODE
    grid = 2 * HALF_ABSOLUTE
    here = abs(np.rint(scale / grid) * grid - scale) / scale
    midpoint = (np.ceil(scale / grid - 0.5) + 0.5) * grid
    return float(max(HALF_RELATIVE, HALF_ABSOLUTE / midpoint, here if scale < 2.0**-14 else 0.0))


def _excess_of_small_blocks(size: int, squared: float, smallest_peak: float) -> float:
    """G of (3): for each q a quadratic ``a d^2 + b d + c``, largest at the upper end or, if a < 0, at its vertex."""
    q = np.arange(1.0, LARGEST_CODE + 1)
    a = (size - 1) / 4 - squared * (LARGEST_CODE**2 + (size - 1) * (q - 0.5) ** 2)
    b = (size - 1) * q * HALF_ABSOLUTE
    c = ((size - 1) * q**2 + LARGEST_CODE**2) * HALF_ABSOLUTE**2
    end = min(smallest_peak / LARGEST_CODE, 2.0**-14)
    d = np.where(a < 0, np.clip(-b / (2 * np.where(a < 0, a, -1.0)), 0.0, end), end)
    return float((a * d**2 + b * d + c).max())


def quantisation(
    activation: str, x: Float32[np.ndarray, "b k"], *, saturate: bool = False
) -> Float64[np.ndarray, "b k"]:
    """The largest error of each quantised activation of these rows.

    ``|h_i| d + sigma(d) |q_i|`` with the distance |h_i| of x_i / d from the nearest whole number, plus the rounding of
    the codes. It holds for both rules for ties, for kernels that keep a float32 scale where the format has f16, and for
    kernels that do not quantise. It allows elements below 2^-27 of the row's peak, or below 1e-10, to become 0, because
    quantisers give up blocks whose peak is tiny (below 1e-10 or 3.7e-37).

    With ``saturate``, for q8_K, d = max|x| / 128, and elements whose sign is not that of the largest have no code 128.
    Where a block has its largest magnitude with both signs, either may be the one that a kernel takes.
    """
    if activation in FLOATS:
        relative, absolute = FLOATS[activation]
        size = np.abs(x.astype(np.float64))
        return np.asarray(np.minimum(size, np.maximum(relative * size, absolute)) * (1 + ROUNDING))
    b, k = x.shape
    signed = x.astype(np.float64).reshape(b, -1, formats.get(activation).block_size)
    wide = np.abs(signed)
    peak = wide.max(axis=2, keepdims=True)
    scale = peak / (LARGEST_CODE + saturate)
    codes = wide / np.where(scale > 0, scale, 1.0)
    distance = np.abs(codes - np.rint(codes))
    if saturate:
        up, down = (signed == peak).any(axis=2, keepdims=True), (signed == -peak).any(axis=2, keepdims=True)
        without = np.where(signed > 0, down, up) & (codes > LARGEST_CODE)
        distance = np.where(without, codes - LARGEST_CODE, distance)
    largest_codes = np.minimum(codes + 0.5, 2 * codes)
    error = distance * scale + scale_error(activation, scale) * largest_codes + ROUNDING * scale
    vanishing = np.minimum(wide, np.maximum(UNIT / 8 * wide.max(axis=(1, 2), keepdims=True), TINY_PEAK))
    return np.where(wide > 0, error + vanishing, 0.0).reshape(b, k)
