"""ggml's fused dot product without the rounding of its sums: codes and scales are bit-exact, the sum is float64.

So its error is the effect of quantising the activations alone. Every function takes arrays of NumPy or jax.numpy, whose
module is ``xp``, and can be traced by JAX.

    B = sum_i code_i x^_i + sum_i constant_i y_i

A weight is ``code + constant`` with code = d sc q and constant = -dmin m. The quantised activation is x^ = s q. The
factor y of a minimum is x^ too, except for q8_1: that format stores the sum s of each block of 32, and y = s / 32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz import formats
from diffuzz.formats import q8_0, q8_1, q8_k
from diffuzz.formats.arrays import AnyArray, ArrayModule

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, UInt8

ARITHMETICS = ("gguf", "apr")
# What a format subtracts from its stored codes.
_OFFSETS = {"q4_0": 8.0, "q5_0": 16.0, "q3_K": 4.0, "q6_K": 32.0}


def split(
    format: str, weights: UInt8[AnyArray, "b row_bytes"], xp: ArrayModule = np
) -> tuple[Float64[AnyArray, "b k"], Float64[AnyArray, "b k"]]:
    """(code, constant) of each weight, exact."""
    fmt = formats.get(format)
    parts = fmt.decode(weights.reshape(-1, fmt.type_size), xp)
    code = parts.d.astype(float)[:, None] * parts.sub_scale * parts.code
    shape = (weights.shape[0], -1)
    if parts.dmin is None:
        return code.reshape(shape), xp.zeros_like(code).reshape(shape)
    return code.reshape(shape), (-parts.dmin.astype(float)[:, None] * parts.sub_minimum).reshape(shape)


def terms(
    format: str, weights: UInt8[AnyArray, "b row_bytes"], xp: ArrayModule = np, *, offsets: bool = False
) -> Float64[AnyArray, "b k"]:
    """Size of the terms of each weight, ``|d sc q| + |dmin m|``.

    Kernels sum the two terms separately, so their errors are relative to this size, which may be far above |w|: a row
    whose terms cancel to zero still has errors, and relative to ||w|| they would be infinite. ggml also separates the
    offset of q6_K, w = d sc (q + 32) - 32 d sc. It subtracts the offsets of q4_0, q5_0 and q3_K from the integer codes;
    with ``offsets`` they count as separate terms too, for kernels that sum them separately. Of a format from elsewhere,
    what bytes of zero stand for is taken to be its offset.
    """
    code, constant = split(format, weights, xp)
    if format == "q6_K" or (offsets and format in _OFFSETS):
        code, constant = _with_offset(format, weights, code, _OFFSETS[format], xp)
    elif offsets and not formats.of_ggml(format):
        code, apart = _with_offset(format, weights, code, _offset_of_another(format), xp)
        constant = xp.abs(constant) + xp.abs(apart)
    return xp.abs(code) + xp.abs(constant)


def _with_offset(
    format: str, weights: UInt8[AnyArray, "b row_bytes"], code: AnyArray, offset: AnyArray, xp: ArrayModule
) -> tuple[AnyArray, AnyArray]:
    fmt = formats.get(format)
    parts = fmt.decode(weights.reshape(-1, fmt.type_size), xp)
    constant = (offset * parts.d.astype(float)[:, None] * parts.sub_scale).reshape(code.shape)
    return code + constant, constant


def _offset_of_another(format: str) -> Float64[np.ndarray, "1 block_size"]:
    fmt = formats.get(format)
    return -np.asarray(fmt.decode(np.zeros((1, fmt.type_size), np.uint8)).code).astype(float)


def seen(
    activation: str, x: Float32[AnyArray, "b k"], xp: ArrayModule = np
) -> tuple[Float64[AnyArray, "b k"], Float64[AnyArray, "b k"]]:
    """(x^, y), the factors of codes and of minimums, by ggml's x86 quantiser of ``activation``: q8_K, q8_0 or q8_1."""
    size = formats.get(activation).block_size
    blocks = x.astype(xp.float32).reshape(-1, size)
    # The reciprocal of a subnormal peak overflows; the codes of such a block are 0, or its stored scale is.
    with np.errstate(all="ignore"):
        if activation == "q8_K":
            scale, codes = q8_k.quantise_ggml(blocks, xp)
        elif activation == "q8_0":
            _, scale, codes = q8_0.quantise_x86(blocks, xp)
        else:
            scale, block_sum, codes = q8_1.quantise_x86(blocks, xp)
    values = (scale.astype(float)[:, None] * codes).reshape(x.shape)
    if activation != "q8_1":
        return values, values
    shares = xp.broadcast_to(block_sum.astype(float)[:, None] / size, codes.shape)
    return values, shares.reshape(x.shape)


def vec_dot_rows(
    format: str,
    weights: UInt8[AnyArray, "b row_bytes"],
    x: Float32[AnyArray, "b k"],
    arithmetic: str = "gguf",
    xp: ArrayModule = np,
) -> Float64[AnyArray, " b"]:
    """Row i of the weights with row i of the activations.

    ``arithmetic`` "gguf" quantises x to the activation format of the weights, "apr" leaves it in float32. Raises
    ValueError for an unknown arithmetic.
    """
    if arithmetic not in ARITHMETICS:
        raise ValueError(f"arithmetic={arithmetic!r}: {' or '.join(ARITHMETICS)} is needed")
    code, constant = split(format, weights, xp)
    if arithmetic == "apr":
        return ((code + constant) * x.astype(float)).sum(axis=1)
    values, shares = seen(formats.get(format).activation or "", x, xp)
    return (code * values + constant * shares).sum(axis=1)
