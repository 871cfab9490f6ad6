"""ggml's fused dot product without the rounding of its sums: codes and scales are bit-exact, the sum is float64.

So its error is the effect of quantising the activations alone. Every function takes arrays of NumPy or jax.numpy, whose
module is ``xp``, and can be traced by JAX.

    B = sum_i code_i x^_i + sum_i constant_i y_i

A weight is ``code + constant`` with code = d sc q and constant = -dmin m. The quantised activation is x^ = s q, or x
rounded to f16 or bf16. The
factor y of a minimum is x^ too, except for q8_1: that format stores the sum s of each block of 32, and y = s / 32.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from diffuzz import formats
from diffuzz.formats import q8_0, q8_1, q8_k
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.rounding import through_bfloat, through_half

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, UInt8

ARITHMETICS = ("gguf", "apr")
# What activations are rounded to, one by one, by format.
ROUNDED = {"f16": through_half, "bf16": through_bfloat}


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
    offset of q6_K, w = d sc (q + 32) - 32 d sc. It subtracts those of the other formats from the integer codes. With
    ``offsets`` they all count as separate terms, for kernels that store or load every code as a number from 0 on and
    subtract the offset from the sum: see ``offset``.
    """
    code, constant = split(format, weights, xp)
    size = xp.abs(constant)
    if offsets or format == "q6_K":
        code, apart = _with_offset(format, weights, code, offset(format), xp)
        size = size + xp.abs(apart)
    return xp.abs(code) + size


def _with_offset(
    format: str, weights: UInt8[AnyArray, "b row_bytes"], code: AnyArray, offset: float, xp: ArrayModule
) -> tuple[AnyArray, AnyArray]:
    fmt = formats.get(format)
    parts = fmt.decode(weights.reshape(-1, fmt.type_size), xp)
    constant = (offset * parts.d.astype(float)[:, None] * parts.sub_scale).reshape(code.shape)
    return code + constant, constant


def offset(format: str) -> float:
    """What makes the least code of a format 0: 8 for q4_0, 128 for q8_0.

    It is 0 for a format without negative codes, and for one whose codes are levels of a table (iq4_nl, mxfp4): nobody
    stores those with an offset. Both are seen in the codes of sample blocks: levels leave numbers out.
    """
    return _offset(formats.get(format))


@cache
def _offset(fmt: formats.Format) -> float:
    codes = np.asarray(_samples(fmt).code)
    if codes.dtype.kind == "f":
        return 0.0
    least, span = int(codes.min()), int(codes.max()) - int(codes.min()) + 1
    # With so many samples for each number, one that never comes is none of the codes.
    levels = codes.size >= 32 * span and len(np.unique(codes)) < span
    return 0.0 if levels else max(0.0, -float(least))


def one_scale(format: str, count: int) -> bool:
    """Whether ``count`` elements that follow each other in a block, from a multiple of it on, share one scale."""
    return _one_scale(formats.get(format), count)


@cache
def _one_scale(fmt: formats.Format, count: int) -> bool:
    if fmt.block_size % count:
        return False
    sub_scale = np.asarray(_samples(fmt).sub_scale).reshape(-1, count)
    return bool((sub_scale == sub_scale[:, :1]).all())


def _samples(fmt: formats.Format) -> formats.Parts:
    """Decoded blocks: those whose bytes are all alike, which have the least code, and random ones."""
    alike = np.repeat(np.arange(256, dtype=np.uint8)[:, None], fmt.type_size, axis=1)
    random = np.random.default_rng(0).integers(0, 256, (64, fmt.type_size), np.uint8)
    return fmt.decode(fmt.canonical(np.concatenate([alike, random])))


def seen(
    activation: str, x: Float32[AnyArray, "b k"], xp: ArrayModule = np
) -> tuple[Float64[AnyArray, "b k"], Float64[AnyArray, "b k"]]:
    """(x^, y), the factors of codes and of minimums: x rounded to f16 or bf16, or by ggml's x86 quantiser of
    ``activation``: q8_K, q8_0 or q8_1.
    """
    if activation in ROUNDED:
        rounded = ROUNDED[activation](x.astype(xp.float32), xp).astype(float)
        return rounded, rounded
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
