"""q8_0: 32 numbers in 34 bytes; weights, and the activations that meet q4_0, q5_0 and q8_0 weights.

    field  width     meaning
    d      f16       scale
    qs     32 int8   codes

value = d code

Three quantisers of activations exist; they differ in how the scale is inverted and kept, and in ties:

    x86        d = f32(a / 127), id = f32(127 / a), code = round-half-even(f32(x id)), stored d = f16(d)    a = max|x|
    generic    id = f32(1 / d),                     code = round-half-away(f32(x id)), stored d = f16(d)
    realizar   d = f32(a / 127) or 1/127,           code = round-half-away(f32(x f32(1 / d))), d stays float32
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diffuzz.formats import bits, parts
from diffuzz.formats.format import Fields, Format, Parts, table
from diffuzz.formats.rounding import quotient, round_half_away, through_half, to_int8, to_int32

LAYOUT = table(34, d="<f2", qs=("i1", 32))


def decode(blocks: Any, xp: Any) -> Parts:
    """Codes as stored."""
    return parts.of_block(bits.half_at(blocks, 0, xp), None, bits.signed(blocks[:, 2:34], xp), xp)


def unpack(records: np.ndarray) -> Fields:
    """d float16[b], codes int32[b, 32] in -128..127."""
    return {"d": records["d"].copy(), "codes": records["qs"].astype(np.int32)}


def pack(fields: Fields) -> np.ndarray:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["qs"] = fields["d"], fields["codes"]
    return records


def _peak_x86(values: Any, xp: Any) -> Any:
    """max|x| of 32 numbers in the order of AVX2's lanes, float32[b].

    maxps(a, b) is b unless a > b: a NaN makes the lane forget what came before it, and is forgotten in its turn.
    """

    def maxps(a: Any, b: Any) -> Any:
        return xp.where(a > b, a, b)

    v = xp.abs(values).reshape(-1, 4, 8)
    lanes = maxps(maxps(maxps(v[:, 0], v[:, 1]), v[:, 2]), v[:, 3])
    four = maxps(lanes[:, 4:], lanes[:, :4])
    two = maxps(four[:, :2], four[:, 2:])
    return maxps(two[:, 0], two[:, 1])


def _peak_generic(values: Any, xp: Any) -> Any:
    """max|x| of a loop over ``MAX(peak, fabsf(x))``: of what follows the last NaN, and NaN if that is the last."""
    nan = xp.isnan(values)
    later = xp.flip(xp.cumsum(xp.flip(nan, axis=1), axis=1), axis=1)
    peak = xp.max(xp.where(later == 0, xp.abs(values), xp.float32(0)), axis=1)
    return xp.where(nan[:, -1], xp.float32(np.nan), peak)


def _inverse(numerator: float, x: Any, xp: Any) -> Any:
    """f32(numerator / x), and 0 where x = 0."""
    return xp.where(x != 0, quotient(xp.float32(numerator), xp.where(x != 0, x, xp.float32(1)), xp), xp.float32(0))


def integers_x86(values: Any, xp: Any = np) -> tuple[Any, Any]:
    """ggml's AVX2 quantiser before it saturates: (d float32[b], int32[b, 32]; -2^31 for NaN and what does not fit)."""
    peak = _peak_x86(values, xp)
    inverse = _inverse(127, peak, xp)
    return quotient(peak, xp.float32(127), xp), to_int32(xp.round(values * inverse[:, None]), xp)


def quantise_x86(values: Any, xp: Any = np) -> tuple[Any, Any, Any]:
    """ggml's AVX2 quantiser: (d float32[b] before rounding to f16, d float32[b] as stored, codes int32[b, 32]).

    ``values`` float32[b, 32]. A block with max|x| = 0 has codes 0; a NaN has code -128, beside a d that is finite
    unless the NaN is element 27, and that may be too small for the elements before it in its lane (index mod 8).
    """
    d, integers = integers_x86(values, xp)
    return d, through_half(d, xp), xp.clip(integers, -128, 127)


def quantise_generic(values: Any, xp: Any = np) -> tuple[Any, Any, Any]:
    """ggml's portable C quantiser, as ``quantise_x86``; NaN, and what an int8 cannot hold, as x86 compilers cast it."""
    d = quotient(_peak_generic(values, xp), xp.float32(127), xp)
    rounded = round_half_away(values * _inverse(1, d, xp)[:, None], xp)
    return d, through_half(d, xp), to_int8(rounded, xp)


def quantise_realizar(values: Any, xp: Any = np) -> tuple[Any, Any]:
    """aprender's quantiser: (d float32[b], codes int32[b, n]).

    d = max|x| / 127 where max|x| > 1e-10, else 1/127; codes are clamped to -128..127; NaN becomes 0 (a Rust cast).
    """
    peak = xp.max(xp.where(xp.isnan(values), xp.float32(0), xp.abs(values)), axis=1)
    d = quotient(xp.where(peak > xp.float32(1e-10), peak, xp.float32(1)), xp.float32(127), xp)
    rounded = round_half_away(values * quotient(xp.float32(1), d, xp)[:, None], xp)
    return d, xp.where(xp.isnan(rounded), 0, xp.clip(rounded, -128, 127)).astype(xp.int32)


def quantise(values: np.ndarray) -> np.ndarray:
    """ggml's x86 quantiser, bit-exact, NaN and infinities included (of a NaN d not the payload).

    The error on finite values is at most d / 2 plus the f16 rounding of d.
    """
    _, stored, codes = quantise_x86(values)
    return pack({"d": stored.astype(np.float16), "codes": codes}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("q8_0", 32, LAYOUT, "q8_0", ("d",), decode, unpack, pack, quantise)
