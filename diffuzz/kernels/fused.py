"""ggml's fused dot product without the float32 rounding of its sums: its codes and scales to the bit, the sum in
float64.

What is left is what the quantisation of the activations does. Every function takes arrays of NumPy or of jax.numpy
(``xp``), and in JAX is traceable.

    B = sum_i code_i x^_i + sum_i constant_i y_i

A weight is ``code + constant`` with code = d sc q and constant = -dmin m; the activation x^ = s q is what its codes
stand for, and y, what a minimum is multiplied with, is x^ as well, except for q8_1, which stores the sum of each block
of 32 apart: y = s / 32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diffuzz import formats
from diffuzz.formats import q8_0, q8_1, q8_k

ARITHMETICS = ("gguf", "apr")
# What is taken off the stored code of a format.
_OFFSETS = {"q4_0": 8.0, "q5_0": 16.0, "q3_K": 4.0, "q6_K": 32.0}


def split(format: str, weights: Any, xp: Any = np) -> tuple[Any, Any]:
    """(code, constant) of each weight, exact: float64[b, k] each, for uint8[b, row_bytes]."""
    fmt = formats.get(format)
    parts = fmt.decode(weights.reshape(-1, fmt.type_size), xp)
    code = parts.d.astype(float)[:, None] * parts.sub_scale * parts.code
    shape = (weights.shape[0], -1)
    if parts.dmin is None:
        return code.reshape(shape), xp.zeros_like(code).reshape(shape)
    return code.reshape(shape), (-parts.dmin.astype(float)[:, None] * parts.sub_minimum).reshape(shape)


def terms(format: str, weights: Any, xp: Any = np, *, offsets: bool = False) -> Any:
    """Size of the terms of each weight, |d sc q| + |dmin m|: float64[b, k] for uint8[b, row_bytes].

    Kernels sum the two apart, so their errors are relative to this, which may be far above |w|: a row whose terms
    cancel to zero has errors, and relative to ||w|| they would be infinite. ggml takes the offset of q6_K apart as
    well, w = d sc (q + 32) - 32 d sc. The offsets of q4_0, q5_0 and q3_K are part of its integer codes; with
    ``offsets`` they are counted apart too, for kernels that do it otherwise.
    """
    code, constant = split(format, weights, xp)
    if format == "q6_K" or (offsets and format in _OFFSETS):
        fmt = formats.get(format)
        parts = fmt.decode(weights.reshape(-1, fmt.type_size), xp)
        constant = (_OFFSETS[format] * parts.d.astype(float)[:, None] * parts.sub_scale).reshape(code.shape)
        code = code + constant
    return xp.abs(code) + xp.abs(constant)


def seen(activation: str, x: Any, xp: Any = np) -> tuple[Any, Any]:
    """(x^, y): what codes and what minimums are multiplied with, float64[b, k] each, for float32[b, k].

    Args:
        activation: ``q8_K``, ``q8_0`` or ``q8_1``; ggml's quantiser on x86.
    """
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


def vec_dot_rows(format: str, weights: Any, x: Any, arithmetic: str = "gguf", xp: Any = np) -> Any:
    """Row i of the weights with row i of the activations: float64[b] for uint8[b, row_bytes] and float32[b, k].

    Args:
        arithmetic: ``gguf`` quantises x to the format's partner, ``apr`` takes it as it is.

    Raises:
        ValueError: an unknown arithmetic.
    """
    if arithmetic not in ARITHMETICS:
        raise ValueError(f"arithmetic={arithmetic!r}: {' or '.join(ARITHMETICS)} is needed")
    code, constant = split(format, weights, xp)
    if arithmetic == "apr":
        return ((code + constant) * x.astype(float)).sum(axis=1)
    values, shares = seen(formats.get(format).activation or "", x, xp)
    return (code * values + constant * shares).sum(axis=1)
