"""Products of quantised rows with an activation: one correct form with a switch for each bug.

``matvec("q4_K", decode=WRONG["q6k-combine"])`` is a function ``f(weights: uint8[m, row_bytes], x: float32[k]) ->
float32[m]`` as the contract of matvec wants it. Without a switch it is correct: exact integer sums for each block and
float64 between blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffuzz import formats
from diffuzz.bench import wrong_blocks
from diffuzz.bench.wrong_blocks import Decoder
from diffuzz.formats import Parts

Matvec = Callable[[np.ndarray, np.ndarray], np.ndarray]
Quantiser = Callable[[np.ndarray, str], tuple[np.ndarray, np.ndarray]]


def round_half_away(q: np.ndarray) -> np.ndarray:
    """The nearest integer, halves away from zero."""
    return np.copysign(np.floor(np.abs(q) + 0.5), q)


def activation(
    rounding: Callable[[np.ndarray], np.ndarray] = np.rint,
    scale: Callable[[np.ndarray, str], np.ndarray] = lambda d, partner: d,
    levels: int = 127,
    peak: Callable[[np.ndarray], np.ndarray] = lambda x: np.abs(x).max(axis=1),
    wrap: bool = False,
) -> Quantiser:
    """``f(x float32[blocks, size], partner) -> (scale float64[blocks], codes int64[blocks, size])``.

    d = peak / levels; code = rounding(x / d), saturated to -127..127 or, with ``wrap``, to its lowest byte.
    """

    def quantise(x: np.ndarray, partner: str) -> tuple[np.ndarray, np.ndarray]:
        d = peak(x).astype(np.float64) / levels
        codes = rounding(x.astype(np.float64) / np.where(d != 0, d, 1.0)[:, None]) * (d != 0)[:, None]
        whole = codes.astype(np.int64)
        whole = (whole + 128) % 256 - 128 if wrap else np.clip(whole, -127, 127)
        return scale(d, partner), whole

    return quantise


def stored_scale(d: np.ndarray, partner: str) -> np.ndarray:
    """The scale as the format stores it: f16 but for q8_K."""
    return d if partner == "q8_K" else half(d, partner)


def half(d: np.ndarray, partner: str = "") -> np.ndarray:
    """Rounded to f16, without overflow's warning."""
    with np.errstate(over="ignore"):
        return d.astype(np.float16).astype(np.float64)


def half_flushed(d: np.ndarray, partner: str) -> np.ndarray:
    """f16 without subnormal numbers."""
    stored = half(d)
    return np.where(np.abs(stored) < wrong_blocks.SMALLEST_NORMAL_HALF, 0.0, stored)


def wrapped(bits: int) -> Callable[[np.ndarray], np.ndarray]:
    """Integers modulo 2^bits, signed."""
    return lambda sums: (sums + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def saturated(bits: int) -> Callable[[np.ndarray], np.ndarray]:
    """Integers saturated to a signed type."""
    return lambda sums: np.clip(sums, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _sub_blocks(parts: Parts) -> int:
    """Elements that share a sub-scale."""
    n = parts.code.shape[1]
    return n if n == 32 else 16


def matvec(
    format: str,
    *,
    decode: Decoder = wrong_blocks.right,
    quantise: Quantiser | None = None,
    sums: Callable[[np.ndarray], np.ndarray] = lambda sums: sums,
    group: int = 0,
    totals: Callable[[np.ndarray], np.ndarray] = lambda totals: totals,
    minimum_sums: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    blocks_used: Callable[[int], Any] = lambda count: slice(count),
    elements_used: int = 0,
    order: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
    add: Callable[[np.ndarray], np.ndarray] = lambda terms: terms.sum(axis=1),
) -> Matvec:
    """A matvec with a bug in one place.

    Args:
        quantise: of the activation, in blocks of the partner's size.
        sums: what becomes of the integer sums of code times code over ``group`` elements (one sub-scale's by default).
        totals: what becomes of the integer sums of a block, sub-scales and all.
        minimum_sums: of the activation's codes [blocks, sub-blocks, group] and values, what minimums meet.
        blocks_used: which blocks of a row count; ``elements_used``: how many elements of each block (0: all).
        order: from uint8[m, blocks, type_size] as stored to what is read.
        add: of the blocks' terms float64[m, blocks].
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
            return add(terms[:, blocks_used(count)]).astype(np.float32)

    return f


def float_matvec(
    format: str,
    *,
    decode: Decoder = wrong_blocks.right,
    weight: Callable[[np.ndarray], np.ndarray] = lambda w: w,
    value: Callable[[np.ndarray], np.ndarray] = lambda x: x,
    used: Callable[[int], Any] = lambda k: slice(k),
    order: Callable[[np.ndarray], np.ndarray] = lambda rows: rows,
    add: Callable[[np.ndarray], np.ndarray] = lambda terms: terms.astype(np.float64).sum(axis=1),
) -> Matvec:
    """A matvec without quantised activations: dequantised weights, products in float32, ``add`` of float32[m, k].

    Without a switch it is correct; ``weight`` and ``value`` change the dequantised weights and x.
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
    return flat[index]


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
