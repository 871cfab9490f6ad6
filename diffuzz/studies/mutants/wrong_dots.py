"""Products of quantised rows with an activation: one correct form with a switch for each bug.

``matvec("q4_K", decode=WRONG["q6k-combine"])`` is a function ``f(weights: uint8[m, row_bytes], x: float32[k]) ->
float32[m]``, as the contract of matvec requires. Without a switch it is correct: it sums exact integers in each block,
and float64 numbers over blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from diffuzz import formats
from diffuzz.formats import Parts
from diffuzz.kernels import fused
from diffuzz.studies.mutants import wrong_blocks
from diffuzz.studies.mutants.wrong_blocks import Change, Decoder

# (weights uint8[m, row_bytes], x float32[k]) -> float32[m].
Matvec: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
# (x float32[blocks, size], partner) -> (scale float64[blocks], codes int64[blocks, size]).
Quantiser: TypeAlias = Callable[[np.ndarray, str], tuple[np.ndarray, np.ndarray]]


def round_half_away(q: np.ndarray) -> np.ndarray:
    """The nearest integer, halves away from zero."""
    return np.asarray(np.copysign(np.floor(np.abs(q) + 0.5), q))


def activation(
    rounding: Change = np.rint,
    scale: Callable[[np.ndarray, str], np.ndarray] = lambda d, partner: d,
    levels: int = 127,
    peak: Change = lambda x: np.abs(x).max(axis=1),
    wrap: bool = False,
) -> Quantiser:
    """A quantiser of activations; ``partner`` is the activation format.

    d = peak / levels and code = rounding(x / d), which is saturated to -127..127 or, with ``wrap``, reduced to its
    lowest byte. ``scale(d, partner)`` is the scale that takes the place of d.
    """

    def quantise(x: np.ndarray, partner: str) -> tuple[np.ndarray, np.ndarray]:
        d = peak(x).astype(np.float64) / levels
        codes = rounding(x.astype(np.float64) / np.where(d != 0, d, 1.0)[:, None]) * (d != 0)[:, None]
        whole = codes.astype(np.int64)
        whole = (whole + 128) % 256 - 128 if wrap else np.clip(whole, -127, 127)
        return scale(d, partner), whole

    return quantise


def saturating(rounding: Change = round_half_away, wrap: bool = False) -> Quantiser:
    """The quantiser of older ggml, and of candle: -128 / max, where the code 128 becomes 127 (with ``wrap`` -128)."""

    def quantise(x: np.ndarray, partner: str) -> tuple[np.ndarray, np.ndarray]:
        d = x[np.arange(len(x)), np.abs(x).argmax(axis=1)].astype(np.float64) / -128
        codes = rounding(x.astype(np.float64) / np.where(d != 0, d, 1.0)[:, None])
        return d, np.where(codes > 127, -128 if wrap else 127, codes).astype(np.int64)

    return quantise


def stored_scale(d: np.ndarray, partner: str) -> np.ndarray:
    """The scale as the format stores it: as it is for q8_K, rounded to f16 for the others."""
    return d if partner == "q8_K" else half(d, partner)


def half(d: np.ndarray, partner: str = "") -> np.ndarray:
    """``d`` rounded to f16, without a warning for overflow."""
    with np.errstate(over="ignore"):
        return d.astype(np.float16).astype(np.float64)


def half_flushed(d: np.ndarray, partner: str) -> np.ndarray:
    """``d`` rounded to f16, with subnormal numbers replaced by 0."""
    stored = half(d)
    return np.where(np.abs(stored) < wrong_blocks.SMALLEST_NORMAL_HALF, 0.0, stored)


def wrapped(bits: int) -> Change:
    """Integers modulo 2^bits, signed."""
    return lambda sums: (sums + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def saturated(bits: int) -> Change:
    """Integers saturated to a signed type."""
    return lambda sums: np.clip(sums, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _sub_blocks(parts: Parts) -> int:
    """The largest number of elements that share a sub-scale in every format of this block size."""
    n = parts.code.shape[1]
    return n if n == 32 else 16


def matvec(
    format: str,
    *,
    decode: Decoder = wrong_blocks.right,
    quantise: Quantiser | None = None,
    sums: Change = lambda sums: sums,
    group: int = 0,
    totals: Change = lambda totals: totals,
    minimum_sums: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    blocks_used: Callable[[int], slice | list[int]] = lambda count: slice(count),
    elements_used: int = 0,
    order: Change = lambda rows: rows,
    add: Change = lambda terms: terms.sum(axis=1),
) -> Matvec:
    """A product with quantised activations, which is correct unless a switch is given.

    Args:
        decode: decodes the weights.
        quantise: quantises the activation, in blocks of the size of the weights' blocks.
        sums: changes the integer sums of code times code over ``group`` elements.
        group: number of elements in such a sum; 0 stands for those that share a sub-scale.
        totals: changes the integer sum of a block, sub-scales included.
        minimum_sums: changes the sums of the codes of the activation that minimums are multiplied with; its arguments
            are these sums [blocks, groups] and the scales [blocks].
        blocks_used: indices of the blocks of a row that are read, for a number of blocks.
        elements_used: how many elements of each block are read; 0 stands for all.
        order: maps the stored blocks uint8[m, blocks, type_size] to those that are read.
        add: adds the terms float64[m, blocks] of the blocks.
    """
    fmt = formats.get(format)
    partner = fmt.activation or ""
    quantise = quantise or activation(scale=stored_scale)

    def f(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
        m, size = len(weights), fmt.block_size
        rows = order(weights.reshape(m, -1, fmt.type_size))
        count = rows.shape[1]
        parts = decode(format, np.ascontiguousarray(rows).reshape(-1, fmt.type_size))
        inner = group or _sub_blocks(parts)
        scale, codes = quantise(x.reshape(count, size), partner)
        with np.errstate(all="ignore"):
            y = codes.reshape(count, -1, inner)
            w = parts.code.astype(np.int64).reshape(m, count, -1, inner)
            used = np.arange(size).reshape(-1, inner) < (elements_used or size)
            dots = sums((w * y * used).sum(axis=3))
            sub_scale = parts.sub_scale.reshape(m, count, -1, inner)[..., 0]
            terms = totals((dots * sub_scale).sum(axis=2)) * (parts.d.reshape(m, count).astype(np.float64) * scale)
            if parts.dmin is not None:
                code_sums = (y * used).sum(axis=2)
                if minimum_sums is not None:
                    code_sums = minimum_sums(code_sums, scale)
                sub_minimum = parts.sub_minimum.reshape(m, count, -1, inner)[..., 0]
                met = (sub_minimum * code_sums).sum(axis=2)
                terms = terms - met * (parts.dmin.reshape(m, count).astype(np.float64) * scale)
            return np.asarray(add(terms[:, blocks_used(count)])).astype(np.float32)

    return f


def blocks_of_32(
    format: str,
    *,
    quantise: Quantiser | None = None,
    sums: Change = lambda sums: sums,
    block_sum: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = lambda x, d, codes: half(x.sum(axis=1)),
) -> Matvec:
    """A product with activations in blocks of 32, as kernels of GPUs have it (q8_1); correct unless a switch is given.

    Where weights share scale and minimum over 32 elements, codes count from 0 on, and their offset and minimum are
    multiplied with ``block_sum(x, d, codes)``, by default the sum of x as an f16. Other minimums are multiplied with
    the sums of codes. ``quantise`` and ``sums`` are those of ``matvec``.
    """
    fmt, shift = formats.get(format), fused.offset(format)
    quantise = quantise or activation(scale=stored_scale)
    inner = 16 if format in ("q2_K", "q3_K", "q6_K") else 32

    def f(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
        parts = wrong_blocks.right(format, np.ascontiguousarray(weights).reshape(-1, fmt.type_size))
        shape = (len(weights), -1, inner)
        scale, codes = quantise(x.reshape(-1, 32), "q8_1")
        total = block_sum(x.reshape(-1, 32).astype(np.float64), scale, codes)
        apart = shift if inner == 32 else 0
        with np.errstate(all="ignore"):
            y = codes.reshape(1, -1, inner)
            per_group = np.repeat(scale, 32 // inner)
            met = total if inner == 32 else y[0].sum(axis=1) * per_group
            w = parts.code.astype(np.int64).reshape(shape) + int(apart)
            d = np.repeat(parts.d.astype(np.float64)[:, None], fmt.block_size, axis=1).reshape(shape)[..., 0]
            d = d * parts.sub_scale.reshape(shape)[..., 0]
            terms = sums((w * y).sum(axis=2)) * d * per_group - apart * d * met
            if parts.dmin is not None:
                dmin = np.repeat(parts.dmin.astype(np.float64)[:, None], fmt.block_size, axis=1).reshape(shape)[..., 0]
                terms = terms - dmin * parts.sub_minimum.reshape(shape)[..., 0] * met
            return np.asarray(forwards(terms))

    return f


def float_matvec(
    format: str,
    *,
    decode: Decoder = wrong_blocks.right,
    weight: Change = lambda w: w,
    value: Change = lambda x: x,
    used: Callable[[int], slice] = lambda k: slice(k),
    order: Change = lambda rows: rows,
    add: Change = lambda terms: terms.astype(np.float64).sum(axis=1),
) -> Matvec:
    """A product with float32 activations, which is correct unless a switch is given: the weights are dequantised,
    multiplied in float32, and ``add`` sums the products float32[m, k].

    ``weight`` and ``value`` change the dequantised weights and x, and ``used(k)`` are the columns that are read.
    ``decode`` and ``order`` are those of ``matvec``.
    """
    fmt = formats.get(format)
    dequantize = wrong_blocks.dequantiser(format, decode)

    def f(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
        m = len(weights)
        rows = np.ascontiguousarray(order(weights.reshape(m, -1, fmt.type_size)))
        with np.errstate(all="ignore"):
            w = weight(dequantize(rows.reshape(-1, fmt.type_size))).reshape(m, -1)
            terms = w * value(x)
            return np.asarray(add(terms[:, used(terms.shape[1])])).astype(np.float32)

    return f


def transposed(rows: np.ndarray) -> np.ndarray:
    """Blocks stored [m, n] read as [n, m]."""
    m, count, size = rows.shape
    return np.swapaxes(rows.reshape(count, m, size), 0, 1)


def next_row(rows: np.ndarray) -> np.ndarray:
    """The last row read one row early: an off-by-one in its address."""
    return np.concatenate([rows[:-1], rows[-2:-1]]) if len(rows) > 1 else rows


def block_short(rows: np.ndarray) -> np.ndarray:
    """Every row but the first begins a block early: a stride without the last block."""
    flat = rows.reshape(-1, rows.shape[2])
    m, count = rows.shape[:2]
    index = np.arange(m)[:, None] * count + np.arange(count) - np.minimum(np.arange(m), 1)[:, None]
    return np.asarray(flat[index])


def half_sums(terms: np.ndarray) -> np.ndarray:
    """A left fold in f16."""
    total = np.zeros(len(terms), np.float16)
    for column in terms.T:
        total = (total + column.astype(np.float16)).astype(np.float16)
    return total


def pairwise(terms: np.ndarray) -> np.ndarray:
    """Float32 sums of halves of halves."""
    narrow = terms.astype(np.float32)
    while narrow.shape[1] > 1:
        if narrow.shape[1] % 2:
            narrow = np.concatenate([narrow, np.zeros((len(narrow), 1), np.float32)], axis=1)
        narrow = narrow[:, ::2] + narrow[:, 1::2]
    return narrow[:, 0]


def backwards(terms: np.ndarray) -> np.ndarray:
    """A float32 left fold from the last to the first."""
    return np.add.accumulate(terms[:, ::-1].astype(np.float32), axis=1)[:, -1]


def forwards(terms: np.ndarray) -> np.ndarray:
    """A float32 left fold."""
    return np.add.accumulate(terms.astype(np.float32), axis=1)[:, -1]
