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


def through_half(x: Any, xp: Any) -> Any:
    """float32 rounded to f16 and back (ties to even; beyond 65520 infinite)."""
    return x.astype(xp.float16).astype(xp.float32)


def round_half_away(x: Any, xp: Any) -> Any:
    """C's roundf: the nearest integer, an exact half away from zero."""
    whole = xp.trunc(x)
    return whole + xp.where(xp.abs(x - whole) >= 0.5, xp.where(x >= 0, 1, -1), 0).astype(xp.float32)


def _codes(rounded: Any, xp: Any) -> Any:
    """int32 codes; NaN, and what an int8 cannot hold, become -128 as x86's saturating conversion makes them."""
    fits = (rounded >= -128) & (rounded <= 127)
    return xp.where(fits, rounded, -128).astype(xp.int32)


def quantise_x86(values: Any, xp: Any = np) -> tuple[Any, Any, Any]:
    """ggml's AVX2 quantiser: (d float32[b] before rounding to f16, d float32[b] as stored, codes int32[b, 32]).

    ``values`` float32[b, 32]; finite ones. A block with max|x| = 0 has id = 0.
    """
    peak = xp.abs(values).max(axis=1)
    d = peak / xp.float32(127)
    inverse = xp.where(peak != 0, xp.float32(127) / xp.where(peak != 0, peak, xp.float32(1)), xp.float32(0))
    return d, through_half(d, xp), _codes(xp.round(values * inverse[:, None]), xp)


def quantise_generic(values: Any, xp: Any = np) -> tuple[Any, Any, Any]:
    """ggml's portable C quantiser, as ``quantise_x86``."""
    d = xp.abs(values).max(axis=1) / xp.float32(127)
    inverse = xp.where(d != 0, xp.float32(1) / xp.where(d != 0, d, xp.float32(1)), xp.float32(0))
    return d, through_half(d, xp), _codes(round_half_away(values * inverse[:, None], xp), xp)


def quantise_realizar(values: Any, xp: Any = np) -> tuple[Any, Any]:
    """aprender's quantiser: (d float32[b], codes int32[b, 32]).

    d = max|x| / 127 where max|x| > 1e-10, else 1/127; codes are clamped to -128..127; NaN becomes 0 (a Rust cast).
    """
    peak = xp.max(xp.where(xp.isnan(values), xp.float32(0), xp.abs(values)), axis=1)
    d = xp.where(peak > xp.float32(1e-10), peak / xp.float32(127), xp.float32(1) / xp.float32(127))
    rounded = round_half_away(values * (xp.float32(1) / d)[:, None], xp)
    return d, xp.where(xp.isnan(rounded), 0, xp.clip(rounded, -128, 127)).astype(xp.int32)


def quantise(values: np.ndarray) -> np.ndarray:
    """ggml's x86 quantiser, bit-exact on finite values: the error is at most d / 2 plus the f16 rounding of d."""
    _, stored, codes = quantise_x86(values)
    return pack({"d": stored.astype(np.float16), "codes": codes}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("q8_0", 32, LAYOUT, "q8_0", ("d",), decode, unpack, pack, quantise)
